"""Which modules of a host carry seeds, and what flows there: globs resolved to modules, one sample pass to find
interfaces.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from esper.errors import SlotError
from esper.kasmina.sample import Observation, Sample, observe
from leyline.interface import Interface, Layout


class SlotLike(Protocol):
    """What describes slots: the manifest's ``SlotSpec`` and :class:`SlotSpec` both fit."""

    @property
    def path(self) -> str:
        """Glob over module paths."""

    @property
    def chunks(self) -> int:
        """Feature chunks of each module."""


@dataclass(frozen=True)
class SlotSpec:
    """Modules to carry seeds: a glob over module paths (``*`` within one name, ``**`` across dots), feature chunks,
    and the layout where it should not be inferred.
    """

    path: str
    chunks: int = 1
    layout: Layout | None = None


@dataclass(frozen=True)
class Slot:
    """A place for seeds: the output of a module, or one chunk of its features.

    ``calls`` is how often the module runs in one forward pass; ``aliases`` are other paths of the same module.
    """

    id: str
    interface: Interface
    module_path: str
    calls: int
    aliases: tuple[str, ...]
    chunk: int
    chunks: int
    order: int


@dataclass(frozen=True)
class _Wanted:
    path: str
    aliases: tuple[str, ...]
    chunks: int
    layout: Layout | None


def find(model: nn.Module, specs: Iterable[SlotLike | str]) -> list[_Wanted]:
    """The modules the specs name, each once, in the order of the model's own modules.

    Raises:
        SlotError: a glob matches nothing, or one module is asked for with two different chunk counts.
    """
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if path:
            paths.setdefault(id(module), []).append(path)
    names = [path for group in paths.values() for path in group]
    wanted: dict[int, _Wanted] = {}
    given = [specs] if isinstance(specs, str) else specs
    listed = [SlotSpec(spec) if isinstance(spec, str) else spec for spec in given]
    if not listed:
        raise SlotError("no slots were given; name at least one module path, such as 'blocks.*'")
    for spec in listed:
        pattern = _pattern(spec.path)
        hits = {identity: group for identity, group in paths.items() if any(pattern.fullmatch(p) for p in group)}
        if not hits:
            raise SlotError(
                f"slot {spec.path!r} matches no module of {type(model).__name__}; {_nearest(spec.path, names)}"
            )
        for identity, group in hits.items():
            first = next(p for p in group if pattern.fullmatch(p))
            entry = _Wanted(first, tuple(p for p in group if p != first), spec.chunks, getattr(spec, "layout", None))
            known = wanted.get(identity)
            if known is not None and known.chunks != entry.chunks:
                raise SlotError(
                    f"slot {first!r} is asked for with {known.chunks} and with {entry.chunks} chunks; keep one"
                )
            wanted.setdefault(identity, entry)
    return [wanted[identity] for identity in paths if identity in wanted]


def measure(model: nn.Module, specs: Iterable[SlotLike | str], sample: Sample) -> tuple[dict[str, Slot], int]:
    """Resolve the specs, run the sample once, and return the slots in forward order and the host's forward FLOPs per
    sample.

    Raises:
        SlotError: see :func:`find`; or a module did not run, returned something other than one floating-point tensor,
            changed its output's shape between calls, does not keep the batch first, or has features that don't divide
            into chunks.
    """
    wanted = find(model, specs)
    seen, flops = observe(model, sample)
    usable = [path for path, entry in seen.items() if path and not entry.problem]
    entries = []
    for entry in wanted:
        observation = seen[entry.path] if entry.path in seen else _by_alias(seen, entry)
        if observation is None:
            raise SlotError(
                f"slot {entry.path!r}: its module did not run in the sample's pass; {_nearest(entry.path, usable)}"
            )
        if observation.problem:
            others = [path for path in usable if path != entry.path]
            raise SlotError(f"slot {entry.path!r}: {observation.problem}; {_nearest(entry.path, others)}")
        entries.append((observation.order, entry, observation))
    slots: dict[str, Slot] = {}
    for order, entry, observation in sorted(entries, key=lambda item: item[0]):
        for slot in _slots(entry, observation, order):
            slots[slot.id] = slot
    return slots, flops


def _by_alias(seen: Mapping[str, Observation], entry: _Wanted) -> Observation | None:
    return next((seen[alias] for alias in entry.aliases if alias in seen), None)


def _slots(entry: _Wanted, observation: Observation, order: int) -> list[Slot]:
    layout = entry.layout or observation.layout
    if layout is None:
        raise SlotError(
            f"slot {entry.path!r}: an output of shape {observation.shape} from {observation.kind} is neither (B,C), "
            f"(B,T,C), (B,C,L) nor (B,C,H,W); choose another module or name the layout"
        )
    try:
        whole = Interface.of_shape(layout, observation.shape, observation.dtype)
    except Exception as error:
        raise SlotError(f"slot {entry.path!r}: {error}") from error
    if entry.chunks < 1 or whole.width % entry.chunks:
        raise SlotError(
            f"slot {entry.path!r}: {whole.width} features don't divide into {entry.chunks} chunks; "
            f"choose a divisor of {whole.width}"
        )
    interface = Interface(
        layout=whole.layout,
        width=whole.width // entry.chunks,
        trailing=whole.trailing,
        dtype=whole.dtype,
        batch=whole.batch,
    )
    return [
        Slot(
            id=entry.path if entry.chunks == 1 else f"{entry.path}#{chunk}",
            interface=interface,
            module_path=entry.path,
            calls=observation.calls,
            aliases=entry.aliases,
            chunk=chunk,
            chunks=entry.chunks,
            order=order,
        )
        for chunk in range(entry.chunks)
    ]


def _pattern(glob: str) -> re.Pattern[str]:
    pieces = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    text = ""
    for token in re.findall(r"\*\*|\*|\?|\[[^\]]*\]|.", glob):
        if token.startswith("[") and len(token) > 2:
            negated, inside = token[1] == "!", token[1:-1].removeprefix("!")
            text += ("[^" if negated else "[") + re.sub(r"([\[\]\\^&~|])", r"\\\1", inside) + "]"
        else:
            text += pieces.get(token, re.escape(token))
    try:
        return re.compile(text)
    except re.error as error:
        raise SlotError(f"slot {glob!r} is not a glob: {error}") from error


def _nearest(name: str, names: Sequence[str]) -> str:
    """The closest names in words, for a message."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or list(names)[:3]
    if not close:
        return "the model has no module that could carry a seed"
    return "did you mean " + " or ".join(repr(path) for path in close) + "?"


def pick_module(model: nn.Module, slot: Slot) -> nn.Module:
    """The module whose output the slot is."""
    return model.get_submodule(slot.module_path)
