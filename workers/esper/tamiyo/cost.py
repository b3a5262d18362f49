"""What growing costs, in training FLOPs and parameters, told before anything is spent.

A training step is counted as three forward passes (forward once, backward twice), as in Kaplan et al. 2020 (arXiv
2001.08361, section 2.1). A germination pays for the probe that chose it, the seed's isolation, the twin that judges it,
the judge's learning-rate cool-down on both sides, and the kernel's own share of every step until the run ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.tamiyo.views import RunView, SlotView
    from esper.urza.library import KernelRecord
    from leyline.resources import JudgeSpec, TrainingRunSpec

STEP_PER_FORWARD = 3.0
#: Epochs from the order to germinate until the kernel is in: it is loaded while the next epoch trains.
LOADING_EPOCHS = 1
#: A cool-down takes this share of the steps the host alone would make in the run, but not fewer than so many: shorter
#: ones have no power, longer ones eat up what growing brings in a short run.
COOLDOWN_SHARE = 0.02
SHORTEST_COOLDOWN = 50
#: Steps that measuring a gradient norm takes.
GRADIENT_STEPS = 4


def cooldown_length(judge: JudgeSpec, run_steps: float) -> int:
    """Steps of one cool-down: a share of the run's, never more than ``judge.cooldownSteps``."""
    return min(judge.cooldown_steps, max(SHORTEST_COOLDOWN, int(COOLDOWN_SHARE * run_steps)))


@dataclass(frozen=True, slots=True)
class Calendar:
    """How long a seed takes, in epochs, and how many epochs and controller looks its twin is needed for."""

    isolation: int
    until_verdict: int
    until_fossilized: int
    twin: int
    looks: int

    @classmethod
    def of(cls, spec: TrainingRunSpec) -> Calendar:
        """Read the durations of the stages from the manifest."""
        seeds = spec.seeds
        judged, twice = spec.judge.mode != "Off", spec.judge.mode == "Twice"
        isolation = 0 if seeds.objective == "None" else seeds.isolation_epochs
        blending = seeds.grafting_epochs + seeds.stabilization_epochs
        verdict = LOADING_EPOCHS + isolation + blending
        return cls(
            isolation=isolation,
            until_verdict=verdict,
            until_fossilized=verdict + seeds.fine_tuning_epochs,
            twin=blending + (seeds.fine_tuning_epochs if twice else 0) if judged else 0,
            looks=(2 if twice else 1) if judged else 0,
        )


@dataclass(frozen=True, slots=True)
class GrowthCost:
    """The bill of one germination, in training FLOPs except where named otherwise.

    ``once`` is spent whether or not the seed is kept; ``trial`` is ``once`` plus what host and kernel together cost
    until the seed is fossilized: a budget that holds less can't afford the seed. ``total`` is ``once`` plus the
    kernel's share of every step until the run ends. ``steps_without``, ``steps_with`` and ``steps_culled`` are the
    optimizer steps the run still makes without the seed, with it, and if it is tried and culled: bound by the epochs,
    and by the FLOPs limit if there is one; ``spent_…`` is the compute of each. ``steps_to_verdict`` are those that the
    kernel is in the network before the judge compares, his cool-down included.
    """

    parameters: int
    kernel_step: float
    step_ratio: float
    probe: float
    isolation: float
    twin: float
    judging: float
    once: float
    trial: float
    total: float
    steps_without: float
    steps_with: float
    steps_culled: float
    steps_to_verdict: float
    spent_without: float
    spent_with: float
    spent_culled: float

    def numbers(self) -> dict[str, float]:
        """The figures that go with an order."""
        return {
            "cost_total_flops": self.total,
            "cost_once_flops": self.once,
            "cost_twin_flops": self.twin,
            "cost_probe_flops": self.probe,
            "kernel_parameters": float(self.parameters),
            "step_ratio": self.step_ratio,
            "steps_without": self.steps_without,
            "steps_with": self.steps_with,
            "steps_culled": self.steps_culled,
            "steps_to_verdict": self.steps_to_verdict,
        }


class CostModel:
    """Prices germinations for one manifest."""

    def __init__(self, spec: TrainingRunSpec) -> None:
        self.calendar = Calendar.of(spec)
        self._samples = spec.training.batch_size * spec.training.gradient_accumulation
        self._judge = spec.judge
        self._shadow = spec.seeds.objective == "Shadow"
        # No placement but these two asks the trainer for anything.
        steps = {"Probe": spec.controller.probe_steps, "GradientNorm": GRADIENT_STEPS}
        self._probe_steps = steps.get(str(spec.controller.placement), 0)

    def steps_per_epoch(self, view: RunView) -> float:
        """Optimizer steps of one epoch; from the steps done so far if the view does not say. 0 if unknown."""
        if view.budget.steps_per_epoch > 0:
            return float(view.budget.steps_per_epoch)
        return view.step / view.epoch if view.epoch > 0 else 0.0

    def available(self, view: RunView) -> float:
        """Training FLOPs that may still be spent; infinite without a limit."""
        limit = view.budget.flops_limit
        return math.inf if limit is None else max(0.0, limit - view.budget.flops_used)

    def cooldown(self, view: RunView) -> int:
        """Steps of one cool-down of the judge in this run."""
        run_steps = view.epochs * self.steps_per_epoch(view)
        return view.budget.cooldown_steps or cooldown_length(self._judge, run_steps)

    def kernel_step(self, view: RunView, slot: SlotView, record: KernelRecord) -> float:
        """Training FLOPs that the kernel adds to one optimizer step."""
        samples = view.budget.samples_per_step or self._samples
        return STEP_PER_FORWARD * float(record.flops) * samples * slot.calls

    def probe(self, view: RunView, candidates: int, kernel: float) -> float:
        """Training FLOPs of probing ``candidates`` kernels that add ``kernel`` FLOPs to a step each."""
        return candidates * self._probe_steps * (view.budget.step_flops + kernel)

    def germination(
        self,
        view: RunView,
        slot: SlotView,
        record: KernelRecord,
        *,
        probed: int = 0,
        reserved: float = 0.0,
        longer: int = 0,
    ) -> GrowthCost:
        """The bill for growing ``record`` in ``slot`` now, after probing ``probed`` candidates.

        ``reserved`` FLOPs are already promised to other seeds. ``longer`` epochs are added to the blending before the
        judge looks.
        """
        calendar, per_epoch, host = self.calendar, self.steps_per_epoch(view), view.budget.step_flops
        kernel = self.kernel_step(view, slot, record)
        probe = self.probe(view, probed, kernel)
        isolation = calendar.isolation * per_epoch * (kernel + (host if self._shadow else 0.0))
        judged = calendar.looks > 0
        twin = (calendar.twin + longer * judged) * per_epoch * host
        looks = self._judge.replicates * calendar.looks
        judging = looks * self.cooldown(view) * (2.0 * host + kernel)
        once = probe + isolation + twin + judging
        alone = (LOADING_EPOCHS + calendar.isolation) * per_epoch
        lead = (calendar.until_fossilized + longer) * per_epoch
        blended = (calendar.until_verdict + longer) * per_epoch - alone
        by_epochs = max(0, view.epochs - view.epoch) * per_epoch
        free = self.available(view) - reserved
        steps_without = _affordable(by_epochs, free, host)
        # The kernel costs nothing extra before it is blended in, so the first steps are cheap and the rest dearer.
        steps_with = _affordable(by_epochs, free - once + alone * kernel, host + kernel)
        steps_culled = _affordable(by_epochs, free - once - blended * kernel, host)
        shared = max(0.0, steps_with - alone) * kernel
        return GrowthCost(
            parameters=int(record.parameters),
            kernel_step=kernel,
            step_ratio=kernel / host if host > 0 else 0.0,
            probe=probe,
            isolation=isolation,
            twin=twin,
            judging=judging,
            once=once,
            trial=once + lead * host + (lead - alone) * kernel,
            total=once + shared,
            steps_without=steps_without,
            steps_with=steps_with,
            steps_culled=steps_culled,
            steps_to_verdict=blended + (self.cooldown(view) if judged else 0.0),
            spent_without=steps_without * host,
            spent_with=once + steps_with * host + shared,
            spent_culled=once + steps_culled * host + blended * kernel,
        )


def _affordable(by_epochs: float, flops: float, step: float) -> float:
    if step <= 0 or math.isinf(flops):
        return by_epochs
    return min(by_epochs, max(0.0, flops) / step)
