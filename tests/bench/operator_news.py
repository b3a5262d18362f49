"""How soon what runs say on a real broker is in their status: an operator, an API server, and runs that only talk.

First each epoch brings a seed to another stage, which is told at once: runs take turns, so that none says anything new
before its last word is told. Then all runs talk each second and no seed moves: a status is written at most every five
seconds, and its epoch may be that old.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.analysis import single
from tests.bench.kube_load import JOBS, MADE_BY_OPERATOR, NAMESPACE, RUNS, Replica, Server, control_plane, told_times
from tests.bench.report import BELOW, Report, bounded

import parts
from brokers import pulsar_bus
from clusters import program, training_run
from leyline.messages import SeedState
from telling import Trainer, following

GOAL_PATCHES = 0.2
"""Writes of a run's status a second, at most; see ``progress_seconds`` of the operator."""
A_SECOND = 20
PATIENCE_SECONDS = 120.0
STAGES = ("STAGE_TRAINING", "STAGE_GRAFTING")


@dataclass
class Said:
    """When each epoch of each run was said, and when a status first had it."""

    at: dict[tuple[str, int], float] = field(default_factory=dict)
    told: dict[tuple[str, int], float] = field(default_factory=dict)

    def milliseconds(self) -> list[float]:
        """From word to status, of each that was told."""
        return [(when - self.at[key]) * 1e3 for key, when in self.told.items() if key in self.at]


class Talk:
    """So many runs, each with a seed."""

    def __init__(self, server: Server, trainer: Trainer, runs: int) -> None:
        self._server, self._trainer = server, trainer
        self.names = [f"run-{number}" for number in range(runs)]
        self.epoch = dict.fromkeys(self.names, 0)
        self.said = Said()

    async def begin(self) -> None:
        """Make the runs, and wait until each has its Job."""
        for name in self.names:
            await self._server.write("POST", RUNS, training_run(name, training={"epochs": 10_000}))
        left = set(self.names)
        async for job in self._server.changes(JOBS, MADE_BY_OPERATOR):
            left.discard(job["metadata"]["name"])
            if not left:
                return

    async def watch(self) -> None:
        """Note each epoch that a status has."""
        async for run in self._server.changes(RUNS):
            key = run["metadata"]["name"], (run.get("status") or {}).get("epoch", 0)
            self.said.told.setdefault(key, time.perf_counter())

    async def say(self, name: str, stage: str) -> None:
        """The next epoch of a run, with its seed in this stage."""
        self.epoch[name] += 1
        epoch = self.epoch[name]
        seed = SeedState(seed_id="blocks.0/0", slot="blocks.0", stage=stage, blueprint="conv_block")
        self.said.at[name, epoch] = time.perf_counter()
        await asyncio.to_thread(self._trainer.say, name, epoch, 0.5, epochs=10_000, flush=False, seeds=[seed])

    async def told(self) -> None:
        """Wait until the last epoch of each run is."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any((name, epoch) not in self.said.told for name, epoch in self.epoch.items()):
                await asyncio.sleep(0.05)


async def _measure(report: Report, runs: int, changes: int, seconds: int) -> None:
    bus = pulsar_bus()
    with parts.private("scale") as home, tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        trainer = Trainer(bus, Path(folder), "trainer")
        os.environ.update(following(bus, Path(folder)))
        async with control_plane(home) as (server, kubeconfig):
            with program(kubeconfig, NAMESPACE, Path(folder) / "log", log_level="warning") as started:
                await Replica(started).leads()
                talk = Talk(server, trainer, runs)
                await talk.begin()
                watching = asyncio.create_task(talk.watch())
                try:
                    await _moves(talk, changes)
                    moves, talk.said = talk.said.milliseconds(), Said(told=dict(talk.said.told))
                    before = await server.requests()
                    lasted = await _chatter(talk, seconds)
                    after = await server.requests()
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
    bus.close()
    written = ("APPLY", "trainingruns/status")
    # Writes that are five seconds apart are one more than the five seconds that lie between them.
    often = ((after[written] - before.get(written, 0.0)) / runs - 1) / lasted
    of = f"{runs} runs on a real broker"
    told_times(
        report, f"a seed at another stage, from a run's word to its status, {of}, {A_SECOND} words a second", moves
    )
    told_times(
        report, f"an epoch, from a run's word to its status, {of}, each says one a second", talk.said.milliseconds()
    )
    report.rows.append(
        bounded(
            "writes of a run's status for its news, a second", f"<= {GOAL_PATCHES:g}", single(often),
            "", BELOW, GOAL_PATCHES, f"{of}, each says an epoch a second for {seconds} s, and no seed moves",
        )
    )  # fmt: skip
    report.details |= {"moves": moves, "chatter": talk.said.milliseconds()}


async def _moves(talk: Talk, changes: int) -> None:
    """Each run in turn says that its seed is at another stage."""
    began = time.perf_counter()
    for number in range(changes):
        name = talk.names[number % len(talk.names)]
        await talk.say(name, STAGES[talk.epoch[name] % 2])
        await asyncio.sleep(max(0.0, began + (number + 1) / A_SECOND - time.perf_counter()))
    await talk.told()


async def _chatter(talk: Talk, seconds: int) -> float:
    """All say an epoch a second and no seed moves; returns how long it took until all was told."""
    began = time.perf_counter()
    stages = {name: STAGES[(epoch - 1) % 2] for name, epoch in talk.epoch.items()}
    for second in range(seconds):
        for number, name in enumerate(talk.names):
            await talk.say(name, stages[name])
            due = began + second + (number + 1) / len(talk.names)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await talk.told()
    return time.perf_counter() - began


def run(quick: bool = False) -> Report:
    """Measure."""
    report = Report()
    arguments: Any = (20, 100, 10) if quick else (50, 1_000, 60)
    asyncio.run(_measure(report, *arguments))
    return report
