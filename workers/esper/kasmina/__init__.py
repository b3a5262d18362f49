"""Kasmina, the seed executor: slots in any model, seeds through their lifecycle, isolation, blending, gates, kernel
loading.
"""

from __future__ import annotations

from esper.kasmina.bank import SeedBank
from esper.kasmina.blending import AlphaSchedule, Blend
from esper.kasmina.commands import Applied, Command, CommandKind
from esper.kasmina.exchange import DeployedKernel, DeployedSlot
from esper.kasmina.flops import host_flops
from esper.kasmina.gates import GateResult, Judged
from esper.kasmina.loading import KernelReport, KernelSource
from esper.kasmina.seed import Seed, SeedEvent
from esper.kasmina.settings import SeedSettings
from esper.kasmina.slots import Slot, SlotSpec
from esper.kasmina.state_tensor import StateTensor
from esper.kasmina.statistics import SlotStatistics
from esper.kasmina.wrap import bank_of, unwrap, wrap

__all__ = [
    "AlphaSchedule",
    "Applied",
    "Blend",
    "Command",
    "CommandKind",
    "DeployedKernel",
    "DeployedSlot",
    "GateResult",
    "Judged",
    "KernelReport",
    "KernelSource",
    "Seed",
    "SeedBank",
    "SeedEvent",
    "SeedSettings",
    "Slot",
    "SlotSpec",
    "SlotStatistics",
    "StateTensor",
    "bank_of",
    "host_flops",
    "unwrap",
    "wrap",
]
