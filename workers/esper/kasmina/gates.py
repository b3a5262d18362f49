"""The gates G0 to G5: pure functions from measurements to a verdict with its numbers and its reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from esper.kasmina.snapshot import same_bits
from leyline.lifecycle import Gate
from leyline.resources.enums import Objective

_VANISHED = 1e-12
_EXPLODED = 1e4
_EXACT = 1e-12


@dataclass(frozen=True)
class GateResult:
    """Outcome of one gate: passed or not, why in words, and the numbers it looked at."""

    gate: Gate
    passed: bool
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON; numbers that are not finite become None."""
        numbers = {key: value if math.isfinite(value) else None for key, value in self.numbers.items()}
        return {"gate": str(self.gate), "passed": self.passed, "reason": self.reason, "numbers": numbers}


class Judged(Protocol):
    """A verdict of the judge: Tolaria's ``Verdict`` fits."""

    @property
    def passed(self) -> bool:
        """True if the seed helps."""

    def to_dict(self) -> dict[str, Any]:
        """The evidence as plain values."""


def sanity(
    *,
    built: bool,
    validated: bool,
    interface_fits: bool,
    parameters: int,
    parameters_used: int,
    parameters_limit: int | None,
    risk: float,
    max_risk: float,
    approved: bool,
) -> GateResult:
    """G0: both signatures hold, the kernel was built for this interface, it fits the budget, its risk is allowed."""
    numbers = {
        "parameters": float(parameters),
        "parameters_used": float(parameters_used),
        "risk": risk,
        "max_risk": max_risk,
    }
    if parameters_limit is not None:
        numbers["parameters_limit"] = float(parameters_limit)
    problem = ""
    if not built:
        problem = "the 'built' signature is missing or wrong"
    elif not validated:
        problem = "the 'validated' signature is missing or wrong"
    elif not interface_fits:
        problem = "the kernel was built for another interface than the slot's"
    elif parameters_limit is not None and parameters_used + parameters > parameters_limit:
        problem = f"{parameters_used} + {parameters} parameters exceed the budget of {parameters_limit}"
    elif not approved and math.isnan(risk):
        problem = "its report is missing or states no risk, and the blueprint is not approved"
    elif not approved and risk > max_risk:
        problem = f"risk {risk:.2f} is above {max_risk:.2f} and the blueprint is not approved"
    return GateResult(Gate.G0, not problem, problem or "signed twice, fits the slot, budget and risk", numbers)


def gradient_health(*, smallest: float, largest: float, last: float, nonfinite: int, steps: int) -> GateResult:
    """G1: norms of the seed's gradient were finite, the largest above 1e-12 and below 1e4."""
    numbers = {
        "smallest_norm": smallest,
        "largest_norm": largest,
        "last_norm": last,
        "nonfinite": float(nonfinite),
        "steps": float(steps),
    }
    if steps == 0:
        return GateResult(Gate.G1, False, "no gradient was measured", numbers)
    if nonfinite:
        return GateResult(Gate.G1, False, f"{nonfinite} of {steps} gradients were not finite", numbers)
    if largest > _EXPLODED:
        return GateResult(Gate.G1, False, f"a gradient norm of {largest:.3g} exceeds {_EXPLODED:g}", numbers)
    if largest < _VANISHED:
        return GateResult(Gate.G1, False, f"no gradient norm exceeded {_VANISHED:g}", numbers)
    return GateResult(Gate.G1, True, f"gradient norms between {smallest:.3g} and {largest:.3g}", numbers)


def isolated_learning(objective: Objective, *, first: float, last: float, nonfinite: int, steps: int) -> GateResult:
    """G2: the isolated loss is finite and lower at the end than at the start (means over up to ten steps each).

    Skipped (passed, with that reason) for objective ``None``: there was nothing to learn.
    """
    numbers = {"first_loss": first, "last_loss": last, "nonfinite": float(nonfinite), "steps": float(steps)}
    if objective is Objective.NONE:
        return GateResult(Gate.G2, True, "skipped: the seed has no isolated objective", {"steps": 0.0})
    if steps == 0:
        return GateResult(
            Gate.G2, False, "the seed took no isolated step: no activation or gradient reached it", numbers
        )
    if nonfinite or not math.isfinite(first) or not math.isfinite(last):
        return GateResult(Gate.G2, False, f"{nonfinite} of {steps} isolated losses were not finite", numbers)
    if last < first:
        return GateResult(Gate.G2, True, f"isolated loss fell from {first:.4g} to {last:.4g}", numbers)
    if objective is Objective.RECONSTRUCTION and last <= _EXACT:
        return GateResult(Gate.G2, True, "the reconstruction was exact from the start", numbers)
    return GateResult(Gate.G2, False, f"isolated loss went from {first:.4g} to {last:.4g}", numbers)


def interface_while_blending(*, alpha: float, scale: float, limit: float, measured: int, faults: int) -> GateResult:
    """G3: the ramp is done, every call kept shape and dtype, and rms of output over rms of input stays within the
    limit.
    """
    numbers = {
        "alpha": alpha,
        "output_scale": scale,
        "output_scale_limit": limit,
        "measured": float(measured),
        "faults": float(faults),
    }
    if faults:
        return GateResult(Gate.G3, False, f"{faults} calls broke the interface", numbers)
    if alpha != 1.0:
        return GateResult(Gate.G3, False, f"the ramp stands at alpha {alpha:.3f}, not at 1", numbers)
    if measured == 0:
        return GateResult(Gate.G3, False, "the seed's output was never measured while blending", numbers)
    if not math.isfinite(scale) or scale > limit:
        return GateResult(Gate.G3, False, f"output scale {scale:.3g} exceeds {limit:g} times the slot's", numbers)
    return GateResult(Gate.G3, True, f"output scale {scale:.3g} of at most {limit:g}", numbers)


def system_impact(verdict: Judged | None, *, judged: bool) -> GateResult:
    """G4: the judge found that the host with the seed beats its twin without; passed with that reason if judging is
    off.
    """
    if not judged:
        return GateResult(Gate.G4, True, "skipped: the manifest switches the judge off")
    if verdict is None:
        return GateResult(Gate.G4, False, "there is no verdict of the judge yet")
    numbers = {
        key: float(value)
        for key, value in verdict.to_dict().items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    reason = "the judge found an improvement over the twin" if verdict.passed else "no improvement over the twin"
    return GateResult(Gate.G4, bool(verdict.passed), reason, numbers)


def reset(
    host: Mapping[str, Tensor],
    reference: Mapping[str, Tensor] | None,
    *,
    seed_parameters: Iterable[Tensor],
    optimized: Collection[int],
    affected_host: bool,
    judged: bool = True,
) -> GateResult:
    """G5: after a reset the host equals, bit for bit, one that never had the seed, and the optimizer holds nothing of
    it.

    Args:
        host: the host's parameters and buffers by name.
        reference: the same of a host that never had the seed (the twin), or None.
        seed_parameters: what belonged to the seed.
        optimized: ``id`` of every parameter that an optimizer still holds.
        affected_host: the seed was grafted; then a reset without a reference can't be proven and does not pass.
        judged: False if the manifest switches the judge, and so the twin, off; then there is no reference.
    """
    left = sum(id(parameter) in optimized for parameter in seed_parameters)
    numbers = {"tensors": float(len(host)), "left_in_optimizer": float(left), "different": 0.0}
    if left:
        return GateResult(Gate.G5, False, f"{left} of the seed's parameters are still in an optimizer", numbers)
    if reference is None and affected_host and not judged:
        return GateResult(Gate.G5, True, "skipped: the judge is off, so no host without the seed exists", numbers)
    if reference is None and affected_host:
        return GateResult(
            Gate.G5, False, "the seed affected the host and there is no reference to compare with", numbers
        )
    if reference is None:
        return GateResult(Gate.G5, True, "the seed never affected the host; nothing to compare", numbers)
    different = sorted(set(host) ^ set(reference))
    different += [name for name in host if name in reference and not same_bits(host[name], reference[name])]
    numbers["different"] = float(len(different))
    if different:
        return GateResult(Gate.G5, False, f"{len(different)} tensors differ, the first is {different[0]!r}", numbers)
    return GateResult(Gate.G5, True, f"{len(host)} tensors equal those of a host without the seed", numbers)


def failures(results: Iterable[GateResult]) -> str:
    """The gates that did not pass, in words; empty if all did."""
    return "; ".join(f"gate {result.gate} failed: {result.reason}" for result in results if not result.passed)


def numbers_of(results: Iterable[GateResult]) -> dict[str, float]:
    """The numbers of several gates as ``<gate>_<name>``."""
    return {f"{str(result.gate).lower()}_{key}": value for result in results for key, value in result.numbers.items()}
