"""Tamiyo: the controller. It watches the run and decides, with reasons, whether, where and with what it should grow."""

from esper.tamiyo.controller import TamiyoController, policy_for
from esper.tamiyo.decisions import DecisionLog
from esper.tamiyo.messages import command_message, report_message
from esper.tamiyo.offers import Kernels
from esper.tamiyo.policy import Choice, Options, Policy, Proposal
from esper.tamiyo.reports import FieldReport, FieldReportLog, deliver
from esper.tamiyo.sealing import Sealer
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
    "Sealer",
    "SeedView",
    "SlotView",
    "TamiyoController",
    "Verdict",
    "command_message",
    "deliver",
    "policy_for",
    "report_message",
]
