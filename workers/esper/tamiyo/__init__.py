"""Tamiyo: the controller. It watches the run and decides, with reasons, whether, where and with what it should grow."""

from esper.tamiyo.controller import Kernels, TamiyoController, policy_for
from esper.tamiyo.decisions import DecisionLog
from esper.tamiyo.policy import Choice, Options, Policy, Proposal
from esper.tamiyo.reports import FieldReport, FieldReportLog
from esper.tamiyo.views import (
    BudgetView,
    Candidate,
    Decision,
    Order,
    OrderKind,
    ProbeResult,
    RunView,
    SeedView,
    SlotView,
    Verdict,
)

__all__ = [
    "BudgetView",
    "Candidate",
    "Choice",
    "Decision",
    "DecisionLog",
    "FieldReport",
    "FieldReportLog",
    "Kernels",
    "Options",
    "Order",
    "OrderKind",
    "Policy",
    "ProbeResult",
    "Proposal",
    "RunView",
    "SeedView",
    "SlotView",
    "TamiyoController",
    "Verdict",
    "policy_for",
]
