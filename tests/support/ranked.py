"""What each rank runs in the tests of several ranks: ``torchrun tests/support/ranked.py FOLDER``.

``FOLDER/scenario.json`` lists runs; each rank leaves ``FOLDER/<run>.rank<n>.json`` with what it saw: a digest of every
bit of its state after each epoch, the seeds' moves with the step they came at, verdicts and rollbacks. A scenario may
name a mishap: what goes wrong, on which rank, in which epoch and step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from esper.cli.guard import explain
from esper.errors import EsperError
from esper.kasmina import wrap
from esper.kasmina.guard import GuardedKernel
from esper.tamiyo import TamiyoController
from esper.tasks import load_task
from esper.tolaria.line import Stopped
from esper.tolaria.ranks import Ranks
from esper.tolaria.recorder import Recorder
from esper.tolaria.state import tensors_digest
from esper.tolaria.trainer import Trainer
from esper.weatherlight.stopping import StopRequest
from leyline.resources import load
from shelves import Shelf


class Witness:
    """Writes down what a rank sees of a run."""

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.seen: dict[str, Any] = {"epochs": [], "moves": [], "rollbacks": [], "losses": []}
        commit, roll_back, settle = run.commit, run.roll_back, run.settler._consequence

        def committed(orders: Any, whole_epoch: bool = True) -> None:
            commit(orders, whole_epoch)
            state = run.state()
            self.seen["epochs"].append([run.epoch, tensors_digest(state.tensors)])

        def moved(event: Any) -> None:
            self.seen["moves"].append([run.epoch, run.line.step, event.seed, event.source.name, event.target.name])
            settle(event)

        def rolled(fault: Exception) -> None:
            roll_back(fault)
            self.seen["rollbacks"].append([str(fault), run.epoch])

        run.commit, run.roll_back, run.settler._consequence = committed, rolled, moved  # type: ignore[method-assign]

    def write(self, path: Path, ending: str) -> None:
        run = self.run
        self.seen |= {
            "ending": ending, "epoch": run.epoch, "step": run.line.step, "verdicts": run.history.verdicts,
            "controller": run.history.controller_losses, "train": run.history.train_losses,
            "best": vars(run.history.best) if run.history.best else None, "ledger": run.ledger.to_dict(),
            "statistics": run.statistics, "final": tensors_digest(run.state().tensors),
            "stages": {seed.id: seed.stage.name for seed in run.bank.seeds.values()},
            "reasons": {seed.id: [event.reason for event in seed.history] for seed in run.bank.seeds.values()},
            "fallbacks": {seed.id: [seed.reference_only, seed.switched_off] for seed in run.bank.seeds.values()},
            "host": {name: value.tolist() for name, value in run.bank.model.named_parameters()},
        }  # fmt: skip
        path.write_text(json.dumps(self.seen))


def arrange(mishap: dict[str, Any], run: Trainer, rank: int) -> None:
    """Make something go wrong once, on one rank, in an epoch and from a step of it on."""
    if rank != mishap["rank"]:
        return
    what, done = mishap["what"], [0]

    def due() -> bool:
        now = run.epoch + 1 == mishap["epoch"] and run.line.cursor.step_in_epoch >= mishap.get("index", 3)
        if not now or done[0] >= mishap.get("times", 1):
            return False
        done[0] += 1
        return True

    loss, kernel = run.line._loss, GuardedKernel.run

    def misbehave(inputs: Any, targets: Any) -> Any:
        found = loss(inputs, targets)
        if due():
            match what:
                case "nan":
                    return found * float("nan")
                case "sleep":
                    time.sleep(mishap["seconds"])
                case "raise":
                    raise ValueError("the data are torn")
                case "disagree":
                    with torch.no_grad():
                        next(run.line.model.parameters()).view(-1)[0] += 1.0
                case "corrupt":
                    run.bank.state.arrays["lifecycle"][0] = 3
                case _:
                    os.kill(os.getpid(), signal.Signals[what])
                    time.sleep(0.05)  # so that the signal is there before the step goes on
        return found

    def unreachable(artifact: str) -> Path:
        raise OSError("the store is away")

    def broken(self: GuardedKernel, u: Any) -> Any:
        if torch.is_grad_enabled() and due():
            raise RuntimeError("illegal instruction")
        return kernel(self, u)

    if what == "load":
        run.shelf.path = unreachable  # type: ignore[method-assign]
    elif what == "kernel":
        GuardedKernel.run = broken  # type: ignore[method-assign]
    else:
        run.line._loss = misbehave  # type: ignore[method-assign]


def one(scenario: dict[str, Any], ranks: Ranks, folder: Path, shelves: dict[str, Shelf]) -> None:
    """One run, from its start or its last checkpoint to wherever it gets."""
    manifest = load(scenario["manifest"])
    task = load_task(manifest.spec.task.ref, manifest.spec.task.params, manifest.spec.seed)
    sample, _ = task.train.batch(torch.arange(2))
    bank = wrap(task.model, manifest.spec.slots, sample, spec=manifest.spec)
    interfaces = {name: slot.interface for name, slot in bank.slots.items()}
    key = json.dumps([scenario["blueprints"], sorted(map(str, interfaces.values()))])
    shelf = shelves.setdefault(key, Shelf(interfaces, scenario["blueprints"]))
    shelf._new = sorted(shelf._paths)
    out = folder / scenario["name"] if ranks.first and scenario.get("keep") else None
    if out is not None:
        out.mkdir(exist_ok=True)
    run = Trainer(manifest, task, bank, TamiyoController(manifest.spec), shelf, Recorder(out), out, ranks=ranks)
    witness = Witness(run)
    offset = run.resume()
    run.recorder.open(task.metric, offset, run.line.step)
    if "mishap" in scenario:
        arrange(scenario["mishap"], run, ranks.rank)
    ending = "done"
    with StopRequest() as stop:
        try:
            run.train(stop)
        except Stopped:
            reason = ranks.reason_to_stop(stop)
            ending = f"stopped by {reason.name if reason else reason}"
        except EsperError as error:
            if ranks.lost or not scenario.get("fails"):
                raise
            ending = f"{type(error).__name__}: {error}"
    run.recorder.close()
    GuardedKernel.run = KERNEL_RUN  # type: ignore[method-assign]
    witness.write(folder / f"{scenario['name']}.rank{ranks.rank}.json", ending)


KERNEL_RUN = GuardedKernel.run


def main() -> int:
    folder = Path(sys.argv[1])
    scenarios = json.loads((folder / "scenario.json").read_text())
    ranks, shelves = Ranks(), {}
    try:
        ranks = Ranks.meet(load(scenarios[0]["manifest"]).spec)
        (folder / f"pid{ranks.rank}").write_text(str(os.getpid()))
        for scenario in scenarios:
            one(scenario, ranks, folder, shelves)
    except EsperError as error:
        code, text = explain(error)
        if not error.told:
            print(f"rank {ranks.rank}: {text}", file=sys.stderr, flush=True)
        return code
    finally:
        ranks.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
