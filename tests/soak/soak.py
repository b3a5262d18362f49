"""Load, harm, and the reckoning afterwards."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.soak import verify
from tests.soak.demand import Demand
from tests.soak.faults import Faults
from tests.soak.report import Report
from tests.soak.runs import Runs
from tests.soak.watch import Watch

from esper.oona.pulsar import PulsarBus, load_settings
from stack import PROGRAMS, Stack

SETTLE_SECONDS = 240.0
"""How long the last verdicts may take once nothing is killed any more."""
TELL_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """How long harm is done, seconds between kills, how long the broker is stopped, and what is drawn from."""

    seconds: float
    gap: float
    pause: float
    seed: int


def soak(plan: Plan, folder: Path, tell: Callable[[str], object]) -> Report:
    """Start a stack below ``folder``, do it harm, and see what is left."""
    # the broker's client says a line for every attempt to reach a broker that was just killed
    logging.basicConfig(filename=folder / "soak.log", level=logging.WARNING, force=True)
    stack = Stack(folder / "stack")
    problems: list[str] = []
    try:
        tell(f"stack ready after {stack.up(tell):.0f} s; seed {plan.seed}")
        demand = Demand(stack, folder, seed=plan.seed, gap=2.5)
        watch = Watch(stack, PROGRAMS, {"who asks": os.getpid()})
        faults = Faults(stack, PROGRAMS, seed=plan.seed, gap=plan.gap, pause=plan.pause)
        runs = Runs(stack, folder, seed=plan.seed, gap=3 * plan.gap)
        for part in (demand, watch, faults, runs):
            part.start()
        end = time.monotonic() + plan.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(TELL_SECONDS, left))
            tell(f"{sum(faults.kills.values())} kills; {len(demand.asked)} kernels asked for; {left:.0f} s to go")
        faults.stop()
        demand.stop()
        tell("no more harm; waiting for the last verdicts and the last run")
        began = time.monotonic()
        lost = demand.settle(SETTLE_SECONDS)
        settled = time.monotonic() - began
        runs.stop()
        watch.stop()
        memory = watch.seen()
        problems += [f"{artifact}: without a verdict: {state}" for artifact, state in lost.items()]
        verdicts, wrong = verify.artifacts(stack, demand.asked)
        problems += [*wrong, *verify.rows(stack)]
        problems += [problem for part in (demand, watch, faults, runs) for problem in part.problems]
        problems += [*verify.field_reports(stack, runs.finished)]
        letters = dead_letters(stack)
        demand.close()
    finally:
        stack.down()
    return Report(
        plan.seconds, plan.seed, datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), dict(faults.kills), faults.paused,
        faults.down, len(demand.asked), dict(verdicts), settled, demand.failures,
        {
            "finished": len(runs.finished), "kills of their process": runs.kills,
            "starts refused while a part was away": runs.refused,
        },
        memory={name: asdict(seen) for name, seen in memory.items()}, dead_letters=letters, problems=problems,
    )  # fmt: skip


def dead_letters(stack: Stack) -> int:
    """How many messages the bus gave up on."""
    bus = PulsarBus(load_settings(stack.settings("pulsar")))
    try:
        return len(bus.dead_letters())
    finally:
        bus.close()
