"""Giving a model slots, finding its bank again, and taking the slots away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from esper.errors import SlotError
from esper.kasmina.bank import BANKS, SeedBank
from esper.kasmina.loading import KernelSource
from esper.kasmina.sample import Sample
from esper.kasmina.settings import SeedSettings
from esper.kasmina.slots import SlotLike

if TYPE_CHECKING:
    from leyline.resources import TrainingRunSpec


def wrap(
    model: nn.Module,
    slots: str | SlotLike | Iterable[SlotLike | str],
    sample: Sample | None = None,
    *,
    spec: TrainingRunSpec | None = None,
    settings: SeedSettings | None = None,
    source: KernelSource | None = None,
) -> SeedBank:
    """Give a model slots and return its bank. The model itself, its class and its ``state_dict`` stay as they are.

    Args:
        model: any module. The bank does not keep it alive.
        slots: globs over module paths (``"blocks.*"``), or specs with feature chunks.
        sample: a batch to find the slots' interfaces with: one tensor, a tuple of arguments or a dict of keyword
            arguments. Without it the model's first forward pass is used.
        spec: the manifest the settings are taken from.
        settings: settings given directly; they win over ``spec``.
        source: where kernels come from.

    Raises:
        SlotError: the model is wrapped already; a glob matches nothing; a module can't carry a seed.
    """
    if model in BANKS:
        raise SlotError(f"this {type(model).__name__} is wrapped already; use bank_of(model), or unwrap(model) first")
    listed: list[SlotLike | str]
    if isinstance(slots, str) or hasattr(slots, "path"):
        listed = [slots]  # type: ignore[list-item]
    else:
        listed = list(slots)
    if settings is None:
        settings = SeedSettings.from_spec(spec) if spec is not None else SeedSettings()
    bank = SeedBank(model, listed, settings, source)
    if sample is not None:
        bank.measure(sample)
    else:
        _measure_at_first_call(model, bank)
    BANKS[model] = bank
    return bank


def bank_of(model: nn.Module) -> SeedBank:
    """The bank of a wrapped model.

    Raises:
        SlotError: it is not wrapped.
    """
    bank = BANKS.get(model)
    if bank is None:
        raise SlotError(f"this {type(model).__name__} is not wrapped; call esper.wrap(model, slots) first")
    return bank


def unwrap(model: nn.Module) -> nn.Module:
    """Take the slots away again and return the model.

    Raises:
        SlotError: it is not wrapped, or seeds affect it: without them it would compute something else.
    """
    bank = bank_of(model)
    grown = [seed.id for seed in bank.seeds.values() if seed.affects_host]
    if grown:
        raise SlotError(f"seeds {', '.join(grown)} affect the model; cull them or save it with esper.save_model")
    bank.remove_hooks()
    del BANKS[model]
    return model


def _measure_at_first_call(model: nn.Module, bank: SeedBank) -> None:
    def first_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # a copy of the model carries this hook too, and must leave the original's alone
        if BANKS.get(module) is not bank:
            return
        handle.remove()
        if not bank.slots:
            bank.measure(kwargs if kwargs and not args else args)

    handle = model.register_forward_pre_hook(first_call, with_kwargs=True)
