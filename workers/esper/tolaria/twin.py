"""The twin: the same training without the seed on trial, in this process or in another one, with the same bits.

The twin is forked when a seed first touches the host. It trains on the same batches and random numbers; at the
verdict both lines cool down on the side and are compared. The loser is dropped: when the seed is culled the twin's
state becomes the host's, so that the host is bit for bit the one that never had the seed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from esper.errors import TwinError
from esper.tolaria.judge import cool_down
from esper.tolaria.line import EpochStats, Line
from esper.tolaria.schedule import Progress

if TYPE_CHECKING:
    from esper.kasmina import KernelSource
    from esper.tolaria.meeting import Place
    from leyline.resources import TrainingRun


class Twin(Protocol):
    """A line that trains beside the run's own, wherever it lives."""

    seed: str

    def start_epoch(self, epoch: int, progress: Progress) -> None:
        """Begin an epoch; a twin in another process trains while the caller goes on."""

    def finish_epoch(
        self, stop: Callable[[], bool] = lambda: False, alive: Callable[[], None] = lambda: None
    ) -> EpochStats:
        """Wait until the epoch begun last is done; ``alive`` is called as its steps are done."""

    def cool_down(self, epoch: int, replicate: int, steps: int) -> Tensor:
        """Losses on the controller split after a cool-down on the side (see :func:`esper.tolaria.judge.cool_down`)."""

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the twin's future bits."""

    def close(self) -> None:
        """Free what the twin holds; safe to call twice."""


class LocalTwin:
    """A twin in this process: it trains after the host, step for step the same."""

    def __init__(self, seed: str, line: Line) -> None:
        self.seed, self.line = seed, line
        self._pending: tuple[int, Progress] | None = None

    def start_epoch(self, epoch: int, progress: Progress) -> None:
        """Remember the epoch; the work is done in :meth:`finish_epoch`."""
        self._pending = (epoch, progress)

    def finish_epoch(
        self, stop: Callable[[], bool] = lambda: False, alive: Callable[[], None] = lambda: None
    ) -> EpochStats:
        """Train the epoch."""
        if self._pending is None:
            raise TwinError("the twin has no epoch to finish")
        epoch, progress = self._pending
        stats = self.line.train_epoch(epoch, progress, stop, lambda *_: alive())
        self._pending = None
        return stats

    def cool_down(self, epoch: int, replicate: int, steps: int) -> Tensor:
        """See :class:`Twin`."""
        return cool_down(self.line, epoch, replicate, steps)

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See :class:`Twin`."""
        return self.line.export_state()

    def close(self) -> None:
        """Nothing outside this object is held."""
        self._pending = None


class ProcessTwin:
    """A twin in a process of its own, which trains while the host trains.

    The child builds task and model from the manifest and takes the forked state from a file; orders and answers are
    JSON lines, tensors travel as safetensors files in a private directory. With several ranks each has such a child;
    ``place`` is where the children meet.
    """

    def __init__(
        self,
        seed: str,
        manifest: TrainingRun,
        state: tuple[Mapping[str, Tensor], Mapping[str, Any]],
        source: KernelSource,
        artifacts: Mapping[str, Path],
        place: Place | None = None,
    ) -> None:
        self.seed = seed
        self._training = False
        self._folder = tempfile.TemporaryDirectory(prefix="esper-twin-")
        root = Path(self._folder.name)
        tensors, meta = state
        save_file({name: value.contiguous() for name, value in tensors.items()}, root / "fork.safetensors")
        (root / "fork.json").write_text(json.dumps(meta))
        (root / "place.json").write_text(json.dumps(asdict(place) if place is not None else None))
        (root / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
        (root / "artifacts.json").write_text(
            json.dumps({"paths": {k: str(v) for k, v in artifacts.items()}, "keys": source.keys.to_dict()})
        )
        self._root = root
        self._child = subprocess.Popen(
            [sys.executable, "-m", "esper.tolaria.twin_process", str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._answer("start")

    def _order(self, **order: Any) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
        except OSError as error:
            raise TwinError(f"the twin's process for seed {self.seed} is gone ({error})") from error

    def _answer(self, what: str, alive: Callable[[], None] = lambda: None) -> dict[str, Any]:
        assert self._child.stdout is not None
        answer: dict[str, Any] = {"step": 0}
        while "step" in answer:
            line = self._child.stdout.readline()
            if not line:
                code = self._child.wait()
                raise TwinError(f"the twin's process for seed {self.seed} died during {what!r} (exit status {code})")
            answer = json.loads(line)
            alive()
        if "error" in answer:
            raise TwinError(f"the twin for seed {self.seed} failed during {what!r}: {answer['error']}")
        return answer

    def start_epoch(self, epoch: int, progress: Progress) -> None:
        """See :class:`Twin`."""
        self._order(do="train", epoch=epoch, progress=[progress.start, progress.stop, progress.steps])
        self._training = True

    def finish_epoch(
        self, stop: Callable[[], bool] = lambda: False, alive: Callable[[], None] = lambda: None
    ) -> EpochStats:
        """See :class:`Twin`. The child always finishes its epoch; ``stop`` is for twins that share the process."""
        self._training = False
        return EpochStats(**self._answer("train", alive))

    def cool_down(self, epoch: int, replicate: int, steps: int) -> Tensor:
        """See :class:`Twin`."""
        self._order(do="cool_down", epoch=epoch, replicate=replicate, steps=steps)
        self._answer("cool_down")
        return load_file(self._root / "losses.safetensors")["losses"]

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See :class:`Twin`. A run that is stopped inside an epoch finds the child in the middle of it."""
        if self._training:
            self.finish_epoch()
        self._order(do="export")
        self._answer("export")
        return load_file(self._root / "state.safetensors"), json.loads((self._root / "state.json").read_text())

    def close(self) -> None:
        """End the child and remove its directory."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        self._folder.cleanup()
