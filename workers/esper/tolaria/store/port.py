"""What a place for checkpoints must do, and what a checkpoint looks like wherever it is.

A commit is a checkpoint, one line of the journal, and how much of the run's logs belongs to it. It is there whole or
not at all: a kill at any moment leaves what was committed before, or the new commit as well. A checkpoint's index holds
the SHA-256 of its files, so a damaged one is told from a good one before anything of it is used. Tensors are
safetensors, the rest is JSON; nothing in a checkpoint can run code.

A run has one owner: the trainer that claimed it last. What an earlier one commits after that is refused with
``RunTaken``, so two trainers of one run can't mix their work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load, save

from esper.errors import CheckpointMismatch

if TYPE_CHECKING:
    from torch import Tensor

    from esper.tolaria.store.journal import Journal

FORMAT = 2
TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by name and the JSON state."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Commit:
    """What is to be made durable.

    ``number`` counts the run's commits from 1; ``entry`` is the journal's line and holds it as ``commit``. ``files``
    are the checkpoint's, as bytes. ``logs`` says how many bytes of which file of the output directory belong to it.
    """

    number: int
    step: int
    files: Mapping[str, bytes] = field(repr=False)
    entry: Mapping[str, Any] = field(repr=False)
    logs: Mapping[str, int]

    @property
    def name(self) -> str:
        """The checkpoint's name; a later commit of the same step replaces it."""
        return f"step-{self.step:012d}"

    @property
    def size(self) -> int:
        """Bytes of the checkpoint."""
        return sum(map(len, self.files.values()))

    def index(self) -> dict[str, Any]:
        """What tells a whole checkpoint from a damaged one."""
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in self.files.items()
        }
        return {"format": FORMAT, "step": self.step, "commit": self.number, "files": files}


def pack(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    entry: Mapping[str, Any],
    logs: Mapping[str, int] | None = None,
) -> Commit:
    """A commit of tensors and JSON state; ``state`` and ``entry`` hold ``step`` and ``commit``."""
    files = {
        TENSORS: save({name: value.contiguous() for name, value in tensors.items()}, {"format": "pt"}),
        STATE: json.dumps(state, sort_keys=True, allow_nan=False).encode(),
    }
    return Commit(entry["commit"], entry["step"], files, entry, logs or {})


def unpack(place: str, name: str, index: Mapping[str, Any], read: Callable[[str], bytes]) -> Checkpoint:
    """The checkpoint of an index, verified; ``read`` gives the bytes of one of its files.

    Raises:
        CheckpointMismatch: a file is damaged or of an unknown format.
    """
    try:
        if index["format"] != FORMAT:
            raise CheckpointMismatch(f"checkpoint {place} has format {index['format']}; this version reads {FORMAT}")
        if name != f"step-{index['step']:012d}":
            raise CheckpointMismatch(f"checkpoint {place} says it is of step {index['step']}")
        data = {}
        for key, entry in index["files"].items():
            data[key] = read(key)
            if hashlib.sha256(data[key]).hexdigest() != entry["sha256"]:
                raise CheckpointMismatch(f"checkpoint {place}: {key} does not have the digest that was recorded")
        return Checkpoint(name, load(data[TENSORS]), json.loads(data[STATE]))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointMismatch(f"checkpoint {place} is damaged ({type(error).__name__}: {error})") from error


@runtime_checkable
class CheckpointStore(Protocol):
    """The port. Not thread-safe: one thread commits at a time."""

    place: str
    """Where it is, in words for people."""
    journal: Journal
    """The run's journal in the output directory, as far as it is committed; for reading."""

    def holds_run(self) -> bool:
        """Whether a run has begun here."""

    def claim(self) -> None:
        """Become the run's owner, and bring its logs into the output directory if they are not there.

        Raises:
            CheckpointMismatch: what is there is damaged beyond use.
        """

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies, and what was wrong with newer ones; what came after it is forgotten."""

    def commit(self, commit: Commit) -> None:
        """Make a commit durable; the same one may be tried again after a failure.

        Raises:
            RunTaken: another trainer has claimed the run; nothing was committed.
            StorageFull: no space is left; what was there before is untouched.
        """

    def leave(self, name: str, path: Path) -> None:
        """Keep a file of the output directory (``name`` relative to it) where the run's results are looked for."""

    def close(self) -> None:
        """Let go of connections."""
