"""How long one decision takes with ten thousand seeds.

Three views, each the dearest of its kind: all slots open so that the policy is asked and every slot is ranked; a full
network of which one seed in ten is in flight and wants something; the same with a decision log and a memory that have
seen all of it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from tests.bench.analysis import median, percentile
from tests.bench.report import BELOW, Report, bounded

from esper.tamiyo import BudgetView, RunView, SeedView, SlotView, TamiyoController
from esper.urza.library import KernelRecord, State
from leyline.interface import Interface, Layout
from leyline.lifecycle import Stage
from leyline.resources import TrainingRunSpec

LIMIT_MS = 100.0
SEEDS = 10_000
STAGES = (
    Stage.GERMINATED, Stage.LOADING, Stage.TRAINING, Stage.TRAINING, Stage.TRAINING, Stage.TRAINING,
    Stage.FINE_TUNING, Stage.FINE_TUNING, Stage.FINE_TUNING, Stage.ERROR_RECOVERY,
)  # fmt: skip


def spec(seeds: int) -> TrainingRunSpec:
    """A manifest with room for that many seeds."""
    return TrainingRunSpec.model_validate(
        {
            "task": {"ref": "tasks:large"},
            "slots": [{"path": "blocks.**"}],
            "training": {"epochs": 1000},
            "seeds": {"maxActive": min(1024, seeds), "maxPerSlot": 2},
            "budget": {"parameters": 10**12, "trainingFlops": 10**22},
            "controller": {"placement": "Earliest"},
        }
    )


def kernels(count: int = 24) -> list[KernelRecord]:
    """Certified kernels for one interface."""
    return [
        KernelRecord(
            f"{i:016x}-x86_64-avx512-fast-00000000", f"b{i}", "fast", State.VALIDATED, 1.0, 0.5 + 0.1 * i, 1.0 + i, (),
            0.02 * i, 200_000_000 * (i + 1), 1000 * (i + 1),
        )
        for i in range(count)
    ]  # fmt: skip


def run_view(seeds: dict[str, SeedView], slots: int, epoch: int) -> RunView:
    """A large network after some epochs; sixteen interfaces, each with its own list of kernels per slot."""
    interfaces = [Interface(Layout.VECTOR, 64 + i) for i in range(16)]
    offered = kernels()
    places = {f"blocks.{i}": SlotView(f"blocks.{i}", interfaces[i % 16]) for i in range(slots)}
    return RunView(
        epoch=epoch,
        epochs=1000,
        step=epoch * 1000,
        budget=BudgetView(10**9, 1e18, 1e12, 1.0 - epoch / 1000, 10**12, 1e22, 1000, 100),
        controller_losses=[2.0 * (i + 1.0) ** -0.05 for i in range(epoch)],
        slots=places,
        seeds=seeds,
        kernels={name: list(offered) for name in places},
        train_losses=[2.0 * (i + 1.0) ** -0.06 for i in range(epoch)],
    )


def open_slots(count: int, epoch: int) -> RunView:
    """All seeds dormant: every slot is weighed and the policy asked."""
    seeds = {f"blocks.{i}/0": SeedView(f"blocks.{i}/0", f"blocks.{i}", Stage.DORMANT) for i in range(count)}
    return run_view(seeds, count, epoch)


def in_flight(count: int, epoch: int) -> RunView:
    """One seed in ten in flight and ready, the others part of the host."""
    seeds = {}
    for i in range(count):
        stage = STAGES[(i // 10) % len(STAGES)] if i % 10 == 0 else Stage.FOSSILIZED
        name = f"blocks.{i}/0"
        seeds[name] = SeedView(name, f"blocks.{i}", stage, i % 3 == 0, epoch - 1, "b1", kernels(2)[1].artifact_id)
    return run_view(seeds, count, epoch)


def measure(build: Callable[[int, int], RunView], count: int, repeats: int, keep: bool) -> tuple[list[float], int]:
    """Milliseconds of each decision, and the orders of the last; ``keep`` asks one controller again and again, as a
    run does.
    """
    times, orders = [], 0
    controller = TamiyoController(spec(count))
    for i in range(repeats):
        view = build(count, 300 + i % 100)
        if not keep:
            controller = TamiyoController(spec(count))
        gc.collect()
        began = time.perf_counter()
        orders = len(controller.decide(view))
        times.append((time.perf_counter() - began) * 1e3)
    return times, orders


def run(quick: bool = False) -> Report:
    """Measure the three views."""
    report = Report()
    repeats = 15 if quick else 100
    for name, build, keep in (
        ("all slots open", open_slots, False),
        ("a tenth in flight", in_flight, False),
        ("the same run asked again", in_flight, True),
    ):
        times, orders = measure(build, SEEDS, repeats, keep)
        p90 = percentile(times, 0.9)
        note = f"slowest {max(times):.3g} ms" + (f", 90th percentile {p90:.3g} ms" if p90 is not None else "")
        report.rows.append(
            bounded(
                f"one decision with {SEEDS:,} seeds, {name}", f"<= {LIMIT_MS:g} ms", median(times), "ms", BELOW,
                LIMIT_MS, f"{note}; {orders} orders",
            )
        )  # fmt: skip
        report.details[name] = times
        print(f"{name}: done", flush=True)
    return report
