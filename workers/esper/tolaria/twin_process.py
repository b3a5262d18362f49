"""The child of :class:`esper.tolaria.twin.ProcessTwin`: ``python -m esper.tolaria.twin_process DIR``.

Reads orders from standard input and answers on standard output, a JSON object a line each. It opens nothing but the
files its parent wrote into the directory and the kernel artifacts named there, which it verifies again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from esper.errors import EsperError
from esper.kasmina import wrap
from esper.kernel.signing import PublicKeys
from esper.tasks import load_task
from esper.tolaria.device import pick_device, set_threads
from esper.tolaria.judge import cool_down
from esper.tolaria.line import Line
from esper.tolaria.meeting import Place
from esper.tolaria.ranks import ALONE, Ranks
from esper.tolaria.schedule import Progress
from leyline.resources import TrainingRun

EVERY_SECONDS = 1.0
"""How often a training twin says that it goes on, if its steps are that quick."""


class _Artifacts:
    """Kernels by path, with the keys they must be signed by (a KernelSource)."""

    def __init__(self, root: Path) -> None:
        data = json.loads((root / "artifacts.json").read_text())
        self._paths = {name: Path(path) for name, path in data["paths"].items()}
        self.keys = PublicKeys.from_dict(data["keys"])

    def path(self, artifact_id: str) -> Path:
        return self._paths[artifact_id]


def build_line(root: Path) -> Line:
    """The line as its parent forked it."""
    run = TrainingRun.model_validate_json((root / "manifest.json").read_text())
    spec = run.spec
    set_threads(spec.training.threads)
    task = load_task(spec.task.ref, spec.task.params, spec.seed)
    device = pick_device(spec.training.device)
    task.model.to(device)
    sample, _ = task.train.batch(torch.arange(2))
    bank = wrap(task.model, spec.slots, sample.to(device), spec=spec)
    place = json.loads((root / "place.json").read_text())
    line = Line(task, bank, spec, device, Ranks.join(Place(**place)) if place is not None else ALONE)
    line.import_state(
        load_file(root / "fork.safetensors"), json.loads((root / "fork.json").read_text()), _Artifacts(root)
    )
    return line


def answer(line: Line, root: Path, order: dict[str, Any], say: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Carry out one order; ``say`` sends word while it takes long."""
    match order["do"]:
        case "train":
            start, stop, steps = order["progress"]
            said = time.monotonic()

            def check(step: int, loss: float) -> None:
                nonlocal said
                if time.monotonic() - said >= EVERY_SECONDS:
                    said = time.monotonic()
                    say({"step": step})

            return asdict(line.train_epoch(order["epoch"], Progress(start, stop, steps), check=check))
        case "cool_down":
            losses = cool_down(line, order["epoch"], order["replicate"], order["steps"])
            save_file({"losses": losses}, root / "losses.safetensors")
            return {"examples": len(losses)}
        case "export":
            tensors, meta = line.export_state()
            save_file({name: value.contiguous() for name, value in tensors.items()}, root / "state.safetensors")
            (root / "state.json").write_text(json.dumps(meta))
            return {"tensors": len(tensors)}
        case other:
            return {"error": f"unknown order {other!r}"}


def main() -> int:
    """Serve orders until standard input ends, which it does when the parent dies."""
    root = Path(sys.argv[1])
    # a task may print; what the parent reads must hold answers only
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(words: dict[str, Any]) -> None:
        answers.write(json.dumps(words) + "\n")

    try:
        line = build_line(root)
        say({"ready": True})
        for text in sys.stdin:
            say(answer(line, root, json.loads(text), say))
    except (EsperError, RuntimeError, ValueError, OSError) as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
