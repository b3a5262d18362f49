"""How often the judge errs, on MNIST-1D through the real trainer, with the manifest's defaults for seeds and judge.

A trial restores a trained host, germinates one seed, lets the trainer take it to its verdict with its twin beside it,
and stops there: p < 0.005 on the controller split of 1,000. The cool-down before the verdict grows with the run (2 % of
its steps, from 50 to 200), so there are two kinds of run: one of 1,920 steps and one of 10,000, with the shortest and
the longest cool-down there is.

Null arms, in which a promotion is an error:

- ``aa-order``: the seed's branch is the host's activation times a map that is multiplied by 2⁻¹⁶, so that it never
  matters, and the twin visits the training examples in another order. All difference is run-to-run noise, more of it
  than the judge ever meets, because real twins share their batches.
- ``aa-rounding``: the same seed with shared batches: the noise is the growth of differences of rounding size, as for
  any seed that is of no use.
- ``useless``: a random linear map of the features, as large as half the activation, that can't learn (its learning rate
  is too small to change a bit). The next layer of the host is linear, so the branch adds no function the host did not
  have; it does change the host's training. Promised: at least 95 of 100 are culled.

Arms in which a promotion is right; they give power against effect size:

- the catalogue's ``conv_block`` in each slot, early and late in training; the same with an eighth of its width.

Every host has its own parameters, data order and trials, so trials of different hosts are independent. The twin's bits
depend on host and data order alone, so it is trained once for all arms of a host and remembered (held by a test).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tests.bench import common  # noqa: F401  (finds tests/support)
from tests.bench.analysis import Estimate, bootstrap, mean, wilson
from tests.bench.report import ABOVE, BELOW, Report, Row, bounded

from runs import manifest, merged, trainer  # isort: skip  (found through common)
from shelves import Shelf  # isort: skip

from esper.karn.catalogue import CATALOGUE
from esper.kasmina import Command
from esper.tolaria.line import EpochStats
from esper.tolaria.schedule import Progress
from esper.tolaria.state import RunState
from esper.tolaria.trainer import Trainer
from esper.tolaria.twin import Twin
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Layout
from leyline.resources.growth import JudgeSpec, SeedsSpec

EARLY, LATE = 8, 20
"""Epochs (of 40 steps) after which a seed germinates."""
SHORT, LONG = 48, 250
"""Epochs of a run."""
SPEC: dict[str, Any] = {
    "training": {
        "stepsPerEpoch": None,
        "optimizer": {"learningRate": 0.02}, "schedule": {"warmupSteps": 50, "decayFraction": 0.3},
    },
    "seeds": SeedsSpec().model_dump(mode="json", by_alias=True, exclude_none=True),
    "judge": JudgeSpec().model_dump(mode="json", by_alias=True, exclude_none=True),
}  # fmt: skip


def _net(nodes: Mapping[str, Any]) -> BlueprintIR:
    return BlueprintIR(nodes, list(nodes)[-1], (Layout.IMAGE1D,))


def blueprints() -> dict[str, BlueprintIR]:
    """The designs on trial by name."""
    narrow = [
        ("u", node("input")), ("first", node("conv1d", "u", out="w/8", kernel=3, bias=False)),
        ("norm", node("group_norm", "first", groups=1)), ("act", node("act", "norm", fn="relu")),
        ("out", node("conv1d", "act", out="w", kernel=3, bias=False, init="zeros")),
    ]  # fmt: skip
    linear = [("u", node("input")), ("map", node("linear", "u", out="w", bias=False))]
    return {
        "conv_block": CATALOGUE["conv_block"].ir,
        "narrow_block": _net(dict(narrow)),
        "nothing": _net(dict([*linear, ("out", node("scale", "map", log2=-16))])),
        "random_linear": _net(dict([*linear, ("out", node("scale", "map", log2=-1))])),
    }


@dataclass(frozen=True)
class Hosts:
    """How many hosts have trials in short runs, in long ones too, and with useful seeds as well."""

    short: int
    long: int
    power: int


FULL, QUICK = Hosts(100, 30, 20), Hosts(10, 4, 4)


@dataclass(frozen=True)
class Arm:
    """One kind of trial. ``frozen``: the seed can't learn; ``other_order``: the twin has a data order of its own."""

    name: str
    blueprint: str
    slot: str = "blocks.0"
    epoch: int = EARLY
    epochs: int = SHORT
    frozen: bool = False
    other_order: bool = False
    null: bool = False


NULL = (
    Arm("aa-order", "nothing", other_order=True, null=True),
    Arm("aa-rounding", "nothing", null=True),
    Arm("useless", "random_linear", frozen=True, null=True),
    Arm("aa-order, long run", "nothing", epochs=LONG, other_order=True, null=True),
    Arm("useless, long run", "random_linear", epochs=LONG, frozen=True, null=True),
)
POWER = (
    Arm("conv_block at blocks.0", "conv_block"),
    Arm("conv_block at blocks.1", "conv_block", "blocks.1"),
    Arm("conv_block at blocks.2", "conv_block", "blocks.2"),
    Arm("narrow block at blocks.0", "narrow_block"),
    Arm("narrow block at blocks.2", "narrow_block", "blocks.2"),
    Arm("conv_block at blocks.0, late", "conv_block", epoch=LATE),
    Arm("conv_block at blocks.0, long run", "conv_block", epochs=LONG),
    Arm("conv_block at blocks.2, long run", "conv_block", "blocks.2", epochs=LONG),
    Arm("narrow block at blocks.0, long run", "narrow_block", epochs=LONG),
)


class Remembered:
    """A twin that was trained before: the same host, order and epochs give the same bits."""

    def __init__(self, twin: Twin, memory: dict[tuple[Any, ...], Any]) -> None:
        self.seed, self._twin, self._memory = twin.seed, twin, memory
        self._done: list[tuple[int, Progress]] = []
        self._behind = 0

    def start_epoch(self, epoch: int, progress: Progress) -> None:
        """Note the epoch; it is trained when something unknown is asked for."""
        self._done.append((epoch, progress))

    def finish_epoch(
        self, stop: Callable[[], bool] = lambda: False, alive: Callable[[], None] = lambda: None
    ) -> EpochStats:
        """Nothing was asked of the epoch's numbers."""
        epoch, progress = self._done[-1]
        return EpochStats(epoch, progress.steps, 0.0, 0.0, 0.0, 0)

    def cool_down(self, epoch: int, replicate: int, steps: int) -> torch.Tensor:
        """Losses after a cool-down, trained once."""
        key = (tuple(self._done), epoch, replicate, steps)
        if key not in self._memory:
            self._catch_up()
            self._memory[key] = self._twin.cool_down(epoch, replicate, steps)
        return self._memory[key]

    def export_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The twin's state, when its seed was culled."""
        self._catch_up()
        return self._twin.export_state()

    def close(self) -> None:
        """Free the twin."""
        self._twin.close()

    def _catch_up(self) -> None:
        for epoch, progress in self._done[self._behind :]:
            self._twin.start_epoch(epoch, progress)
            self._twin.finish_epoch()
        self._behind = len(self._done)


class Host:
    """One host, trained once; trials begin from its state.

    Args:
        seed: of its parameters and its data order.
        shelf: the kernels; made when None.
        changes: to the manifest's spec.
    """

    def __init__(self, seed: int, shelf: Shelf | None = None, **changes: Any) -> None:
        run = manifest(**merged(merged(SPEC, {"seed": seed}), changes))
        if shelf is not None:
            shelf._new = sorted(shelf._paths)
        self.trainer: Trainer = trainer(run, blueprints=blueprints(), shelf=shelf)  # type: ignore[arg-type]
        self.spec = run.spec
        self.states: dict[int, RunState] = {0: self.trainer.state()}
        self.memory: dict[tuple[int, bool], dict[tuple[Any, ...], Any]] = {}

    def _step_epoch(self) -> None:
        trainer = self.trainer
        epoch, progress = next(iter(trainer.epochs()))
        stats = trainer.advance(epoch, progress, _NoDog())  # type: ignore[arg-type]
        trainer.observe(epoch, stats)

    def at(self, epoch: int) -> None:
        """Put the trainer at the end of an epoch of the host that was never grown."""
        known = max(e for e in self.states if e <= epoch)
        self.trainer.line.spec = self.spec
        self.trainer.restore(self.states[known])
        while self.trainer.epoch < epoch:
            self._step_epoch()
            self.trainer.settler.settle()
        self.states.setdefault(epoch, self.trainer.state())

    def trial(self, arm: Arm, remember: bool = True) -> dict[str, Any]:
        """Take one seed from germination to its verdict; returns the verdict's numbers and what decided them."""
        self.at(arm.epoch)
        trainer = self.trainer
        if arm.frozen:
            seeds = self.spec.seeds.model_copy(update={"learning_rate_scale": 1e-12})
            trainer.line.spec = self.spec.model_copy(update={"seeds": seeds})
        (artifact,) = (
            r.artifact_id for r in trainer.shelf.offers(trainer.shelf.catalogue)[arm.slot]  # type: ignore[attr-defined]
            if r.blueprint == arm.blueprint
        )  # fmt: skip
        answer = trainer.bank.order(Command.germinate(arm.slot, artifact, blueprint=arm.blueprint))
        seed = str(answer.seed)
        trainer.settler.settle()
        trainer.bank.boundary(trainer.epoch)  # the load is awaited here; in a run it takes the next epoch's time
        for _ in range(12):
            trainer.settler.settle()
            current = trainer.trials.current
            if current is not None and not isinstance(current.twin, Remembered) and remember:
                if arm.other_order:
                    line = current.twin.line  # type: ignore[attr-defined]
                    line.spec = line.spec.model_copy(update={"seed": line.spec.seed + 1_000_003})
                memory = self.memory.setdefault((arm.epoch, arm.other_order), {})
                current.twin = Remembered(current.twin, memory)
            if seed in trainer.history.verdicts:
                break
            self._step_epoch()
        (look,) = trainer.history.verdicts[seed]
        events = {event.target.name: event.epoch for event in trainer.bank.seeds[seed].history}
        return {
            "arm": arm.name, "host": self.spec.seed, "null": arm.null, "blueprint": arm.blueprint, "slot": arm.slot,
            "epoch": arm.epoch, "scale": trainer.bank.seeds[seed].scale.ratio, "verdict_epoch": events["EVALUATING"],
            "cooldown": trainer.costs().cooldown_steps,
            **{k: look[k] for k in ("passed", "effect", "standard_error", "t", "p_value", "host_loss", "twin_loss")},
        }  # fmt: skip


class _NoDog:
    """A watchdog is for runs nobody looks after."""

    def beat(self) -> None:
        """Nothing watches."""


def _work(job: tuple[Sequence[int], Hosts]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    seeds, hosts = job
    rows: list[dict[str, Any]] = []
    shelf = None
    for seed in seeds:
        arms = (*NULL, *(POWER if seed < hosts.power else ()))
        for epochs in (SHORT, LONG) if seed < hosts.long else (SHORT,):
            host = Host(seed, shelf, training={"epochs": epochs})
            shelf = host.trainer.shelf  # type: ignore[assignment]
            rows += [host.trial(arm) for arm in arms if arm.epochs == epochs]
    return rows


def collect(hosts: Hosts, workers: int) -> Iterator[list[dict[str, Any]]]:
    """The trials of so many hosts, a few hosts at a time, in order."""
    pieces = [(list(range(start, min(start + 2, hosts.short))), hosts) for start in range(0, hosts.short, 2)]
    if workers == 1:
        yield from map(_work, pieces)
        return
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        yield from pool.imap(_work, pieces)


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per arm: promotion rate, mean effect in nats, and how far the real spread exceeds the stated error."""
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    table = []
    for name, trials in arms.items():
        effects = [t["effect"] for t in trials]
        stated = float(np.sqrt(np.mean(np.square([t["standard_error"] for t in trials]))))
        spread = float(np.std(effects, ddof=1)) if len(trials) > 1 else float("nan")
        table.append(
            {
                "arm": name, "n": len(trials), "null": trials[0]["null"],
                "promoted": wilson(sum(t["passed"] for t in trials), len(trials)), "effect": mean(effects),
                "spread": spread, "stated_error": stated,
                "output_scale": float(np.median([t["scale"] for t in trials])),
            }
        )  # fmt: skip
    return table


def needed(rows: Sequence[Mapping[str, Any]], arm: str, share: float = 0.05) -> dict[str, Estimate]:
    """What would have held the error rate of a null arm: the smallest p-value limit and the least effect."""
    trials = [row for row in rows if row["arm"] == arm]
    return {
        "p_value": bootstrap([t["p_value"] for t in trials], lambda p: float(np.quantile(p, share))),
        "minimum_effect": bootstrap([t["effect"] for t in trials], lambda e: float(np.quantile(e, 1 - share))),
    }


def rows_of(table: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The promises' rows."""
    rows = []
    for line in table:
        rate: Estimate = line["promoted"]
        per_cent = Estimate(100 * rate.value, 100 * rate.low, 100 * rate.high, rate.n)
        note = (
            f"mean effect {line['effect'].value:+.4f} nats, spread {line['spread']:.4f}, "
            f"stated error {line['stated_error']:.4f}"
        )
        arm, _, length = line["arm"].partition(", long")
        words = "a long run" if length else "a short run"
        if arm == "aa-order":
            what = f"A/A twins on different data orders are told apart, {words}"
            rows.append(bounded(what, "<= 5 %", per_cent, "%", BELOW, 5.0, note))
        elif arm == "aa-rounding":
            what = f"A/A twins on shared batches are told apart, {words}"
            rows.append(bounded(what, "<= 5 %", per_cent, "%", BELOW, 5.0, note))
        elif arm == "useless":
            culled = Estimate(100 - per_cent.value, 100 - per_cent.high, 100 - per_cent.low, rate.n)
            what = f"a random block that can't learn is culled, {words}"
            rows.append(bounded(what, ">= 95 %", culled, "%", ABOVE, 95.0, note))
        else:
            rows.append(
                Row(
                    f"useful seed is promoted: {line['arm']}",
                    "",
                    per_cent.value,
                    "%",
                    rate.n,
                    per_cent.low,
                    per_cent.high,
                    None,
                    note,
                )
            )
    return rows


def run(quick: bool = False) -> Report:
    """Measure; the trials themselves are the report's details."""
    hosts = QUICK if quick else FULL
    rows: list[dict[str, Any]] = []
    for piece in collect(hosts, min(2, os.cpu_count() or 1)):
        rows += piece
        print(f"hosts {1 + piece[-1]['host']}/{hosts.short}", flush=True)
    return report_of(rows)


def report_of(rows: Sequence[Mapping[str, Any]]) -> Report:
    """The report of trials made earlier."""
    table = summarise(rows)
    details: dict[str, Any] = {
        "table": [{**line, "promoted": vars(line["promoted"]), "effect": vars(line["effect"])} for line in table],
        "needed": {arm.name: {k: vars(v) for k, v in needed(rows, arm.name).items()} for arm in NULL},
        "trials": list(rows),
    }
    return Report(rows_of(table), details)
