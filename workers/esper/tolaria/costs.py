"""What one optimizer step costs now, and what is left to spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.tamiyo.cost import cooldown_length
from esper.tolaria.budget import TRAINING_PASSES, Ledger, Limits
from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from esper.kasmina import Seed
    from esper.tolaria.line import Line

_FROZEN = frozenset({Stage.STABILIZATION, Stage.EVALUATING})
_AFFECTS = frozenset({Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILIZED})


@dataclass(frozen=True)
class Costs:
    """Training FLOPs of one optimizer step by (category, seed), and the budget's state.

    Attributes:
        step: of the network as it is, without the twin.
        charges: everything one step is charged for, twin and isolation included.
        twin_step: of the network without the seed on trial.
        spent: all training FLOPs so far.
        cooldown_steps: length of one cool-down of the judge in this run.
    """

    step: int
    charges: Mapping[tuple[str, str | None], int]
    twin_step: int
    parameters: int
    spent: int
    remaining_fraction: float
    steps_per_epoch: int
    samples_per_step: int
    cooldown_steps: int

    @property
    def step_total(self) -> int:
        """FLOPs of one step with everything that comes with it."""
        return sum(self.charges.values())

    def charge(self, ledger: Ledger, steps: int) -> None:
        """Book an epoch of this many steps."""
        for (category, seed), flops in self.charges.items():
            ledger.charge(category, flops * steps, seed)


def costs_now(line: Line, ledger: Ledger, limits: Limits, epochs_done: int, trial: str | None) -> Costs:
    """The costs of the next step, given the seeds' stages and the seed that has a twin."""
    samples = line.spec.training.batch_size * line.spec.training.gradient_accumulation
    host = TRAINING_PASSES * line.bank.host_flops * samples
    charges: dict[tuple[str, str | None], int] = {("host", None): host}
    twin = host
    network = host
    for seed in line.bank.seeds.values():
        if seed.kernel is None:
            continue
        own = TRAINING_PASSES * seed.kernel.flops_per_sample * line.bank.slots[seed.slot].calls * samples
        if seed.stage in _AFFECTS:
            # a frozen kernel still passes gradients on to the host: two of the three passes
            paid = own * 2 // 3 if seed.stage in _FROZEN else own
            charges["seeds", seed.id] = paid
            network += paid
            if seed.id != trial:
                twin += paid
        elif seed.stage is Stage.TRAINING:
            charges["isolation", seed.id] = isolation_flops(seed, own, host)
    if trial is not None:
        charges["twin", trial] = twin
    return Costs(
        step=network,
        charges={key: value for key, value in charges.items() if value},
        twin_step=twin,
        parameters=line.parameters,
        spent=ledger.total,
        remaining_fraction=1.0 - limits.fraction(epochs_done, ledger.total),
        steps_per_epoch=line.steps_per_epoch,
        samples_per_step=samples,
        cooldown_steps=cooldown_length(line.spec.judge, limits.steps(host, line.steps_per_epoch)),
    )


def isolation_flops(seed: Seed, own: int, host: int) -> int:
    """Training FLOPs a step of isolated learning adds."""
    match str(seed.objective):
        case "None":
            return 0
        case "Shadow":
            return own + host
        case _:
            return own


def cooldown_flops(costs: Costs, replicates: int) -> int:
    """What one look of the judge costs: both lines cool down, as often as there are replicates."""
    return (costs.step + costs.twin_step) * costs.cooldown_steps * replicates
