"""From an arm to the manifest that runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .suites import ARMS, FIXED, Effort, Suite

TUNING_SEED = 1000
"""Seeds from here on are for tuning only; the report uses 0, 1, 2, …"""


@dataclass(frozen=True)
class Job:
    """One run: what it is told apart by."""

    task: str
    arm: str
    budget: float
    rate: float
    seed: int

    @property
    def tuning(self) -> bool:
        """Whether the run only serves to choose a learning rate."""
        return self.seed >= TUNING_SEED

    def key(self) -> dict[str, Any]:
        """The job as JSON values."""
        return asdict(self)


def growth_spec(suite: Suite, arm: str) -> dict[str, Any]:
    """The part of a run's spec in which the growth arms differ; budgets and tuning are the same for all."""
    # No least effect: what is compared is the recipe, and the judge's noise is part of what growth pays for.
    judged = {"judge": {"mode": "Once", "minimumEffect": 0.0}}
    bare: dict[str, Any] = {
        "judge": {"mode": "Off"},
        "seeds": {"graftingEpochs": 1, "stabilizationEpochs": 0, "fineTuningEpochs": 0},
    }
    match arm:
        case "heuristic":
            return {**judged, "controller": {"policy": "Heuristic"}}
        case "random-slot":
            return {**judged, "controller": {"policy": "Heuristic", "placement": "Random"}}
        case "random":
            return {**judged, "controller": {"policy": "Random"}}
        case "always":
            return {**bare, "controller": {"policy": "Always", "warmupEpochs": 1}}
        case "fixed":
            entry = {"epoch": 2, "slot": suite.first_slot, "blueprint": suite.blueprint}
            return {**bare, "controller": {"policy": "Fixed", "warmupEpochs": 0, "fixed": [entry]}}
        case _:
            raise ValueError(f"no growth arm {arm!r}; known are {', '.join(ARMS)}")


def manifest(suite: Suite, job: Job) -> dict[str, Any]:
    """The TrainingRun of a job, as plain values."""
    size: Mapping[str, Any] = suite.sizes[job.arm] if job.arm in FIXED else {}
    spec: dict[str, Any] = {
        "seed": job.seed,
        "task": {"ref": suite.ref, "params": {**suite.params, **size}},
        "slots": [{"path": "blocks.*"}],
        "training": {
            "epochs": suite.epochs(job.budget),
            "stepsPerEpoch": suite.steps_per_epoch(job.budget),
            "batchSize": suite.batch_size,
            "optimizer": {"learningRate": job.rate},
            "schedule": {"kind": "WarmupStableDecay", "warmupSteps": 50, "decayFraction": 0.3},
        },
        "budget": {"trainingFlops": job.budget},
        "kernels": {"blueprints": [suite.blueprint], "strategies": ["Fast"]},
        "checkpoints": {"everyEpochs": suite.epochs(job.budget)},
    }
    if job.arm in FIXED:
        spec["controller"] = {"policy": "Never"}
    else:
        spec |= growth_spec(suite, job.arm)
    name = f"{suite.name}-{job.arm}-{job.budget:.0f}-{job.seed}".lower()
    return {"apiVersion": "esper.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec}


def tuning_jobs(suite: Suite, effort: Effort, arms: tuple[str, ...]) -> Iterator[Job]:
    """Every arm at the tuned budgets with every learning rate, on seeds of their own; none if there is one rate."""
    rates = chosen_rates(suite, effort)
    if len(rates) < 2:
        return
    for budget in suite.tuned:
        for arm in arms:
            if arm == "random-slot":
                continue  # nothing but the slot differs from the heuristic: it takes that arm's rates
            for rate in rates:
                for number in range(effort.tuning_seeds):
                    yield Job(suite.name, arm, budget, rate, TUNING_SEED + number)


def report_jobs(
    suite: Suite, effort: Effort, arms: tuple[str, ...], rates: Mapping[tuple[str, float], float]
) -> Iterator[Job]:
    """Every arm at every budget with its tuned learning rate, seed by seed so that an interruption leaves pairs."""
    for seed in range(effort.seeds):
        for budget in chosen_budgets(suite, effort):
            for arm in arms:
                if arm == "random-slot" and budget != suite.budgets[-1]:
                    continue
                tuned = "heuristic" if arm == "random-slot" else arm
                yield Job(suite.name, arm, budget, rates[tuned, budget], seed)


def chosen_budgets(suite: Suite, effort: Effort) -> tuple[float, ...]:
    """The budgets of an effort, shortest first."""
    return suite.budgets[: effort.budgets]


def chosen_rates(suite: Suite, effort: Effort) -> tuple[float, ...]:
    """The learning rates of an effort: the middle ones first."""
    middle = len(suite.rates) // 2
    order = sorted(suite.rates, key=lambda rate: abs(suite.rates.index(rate) - middle))
    return tuple(sorted(order[: effort.rates]))
