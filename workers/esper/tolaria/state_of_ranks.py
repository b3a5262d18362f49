"""A run's state on several ranks.

At the end of an epoch all ranks hold the same state and one copy is enough. Inside an epoch a rank's own part of it
(buffers, what was measured of a branch) differs: a checkpoint made there has the first rank's state, and for each other
rank what is different.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from esper.tolaria.ranks import Ranks
from esper.tolaria.state import RunState, tensors_digest

_RANK = "rank{}/"


def collected(ranks: Ranks, state: RunState) -> RunState:
    """The first rank's state with what is different on the others; every rank calls it, the first one's is whole."""
    if ranks.alone:
        return state
    mine = {name: tensors_digest({name: tensor}) for name, tensor in state.tensors.items()}
    first = ranks.share(lambda: mine)
    own = {
        name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items() if mine[name] != first[name]
    }
    lines = ranks.gather({key: state.meta[key] for key in ("main", "twin")})
    parts = ranks.gather_bytes(save(own) if own else b"")
    tensors: dict[str, Tensor] = dict(state.tensors)
    for rank, data in enumerate(parts):
        tensors.update({_RANK.format(rank) + name: tensor for name, tensor in (load(data) if data else {}).items()})
    return RunState(tensors, {**state.meta, "ranks": lines})


def of_rank(state: RunState, rank: int) -> RunState:
    """The state as one rank had it."""
    lines: list[dict[str, Any]] | None = state.meta.get("ranks")
    if lines is None:
        return state
    prefix = _RANK.format(rank)
    return RunState(
        {**state.tensors, **state.part(prefix)},
        {**state.meta, **lines[rank]},
    )


def shared(ranks: Ranks, read: Callable[[], RunState | None]) -> RunState | None:
    """A state the first rank has read, on every rank.

    Raises:
        EsperError: whatever reading it raised, on every rank.
    """
    if ranks.alone:
        return read()
    found: list[RunState | None] = []

    def meta() -> dict[str, Any] | None:
        found.append(read())
        return found[0].meta if found[0] is not None else None

    known = ranks.share(meta)
    if known is None:
        return None
    return RunState(ranks.share_tensors(found[0].tensors if found and found[0] is not None else {}), known)
