"""What a run says of itself after each epoch, as the part of its status that people watch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from esper_operator.plan.times import rfc3339
from leyline.lifecycle import STAGES, Stage
from leyline.messages import SystemStatePacket
from leyline.resources import TrainingRunStatus
from leyline.resources.status import BestMetric, BudgetSummary, SeedEntry, SeedSummary

MOST_SEEDS = 16
LOWER_IS_BETTER = ("loss", "error", "perplexity", "bits")
"""A metric whose name has one of these words in it is best when it is small."""


@dataclass(frozen=True)
class SeedSeen:
    """One seed."""

    id: str
    stage: Stage
    blueprint: str
    alpha: float

    @property
    def active(self) -> bool:
        """It is somewhere between asked for and settled."""
        return not STAGES[self.stage].terminal and self.stage not in (Stage.DORMANT, Stage.CULLED, Stage.CANCELLED)


@dataclass(frozen=True)
class Progress:
    """The run at the end of an epoch; ``seconds`` is how long that took, ``best`` of this epoch and those before."""

    epoch: int
    epochs: int
    metric: str
    value: float
    seconds: float
    parameters: int
    flops: float
    remaining: float
    seeds: tuple[SeedSeen, ...] = ()
    best: BestMetric | None = None


def progress_of(packet: SystemStatePacket) -> Progress:
    """What counts for a status of all that a run says."""
    metric, value = next(iter(sorted(packet.controller_metrics.items())), ("loss", packet.controller_loss))
    return Progress(
        packet.epoch, packet.epochs, metric, value, packet.epoch_seconds, packet.budget.parameters_used,
        packet.budget.flops_used, packet.budget.remaining_fraction,
        tuple(SeedSeen(seed.seed_id, Stage(seed.stage), seed.blueprint, seed.alpha) for seed in packet.seeds),
    )  # fmt: skip


def following(before: Progress, said: Progress) -> Progress:
    """What is said after something else: not every word becomes a status, but the best of them must be in the next."""
    return replace(said, best=best(before.best or peak(before), said))


def stages(said: Progress) -> dict[str, Stage]:
    """Where each seed is."""
    return {seed.id: seed.stage for seed in said.seeds}


def told(old: TrainingRunStatus, said: Progress | None, now: datetime) -> dict[str, Any]:
    """The fields of a status that follow from what the run said last; none for what it said before.

    Of its last epoch a run may speak twice: the second time its seeds are settled.
    """
    if said is None or (old.epoch is not None and said.epoch < old.epoch):
        return {}
    if said.epoch == old.epoch and summary(said.seeds) == old.seeds:
        return {}
    share = min(1.0, said.epoch / max(said.epochs, 1))
    left = timedelta(seconds=said.seconds * max(0, said.epochs - said.epoch))
    return {
        "epoch": said.epoch,
        "progress": f"{share:.0%}",
        "eta": rfc3339(now + left) if left else None,
        "best": best(old.best, said),
        "seeds": summary(said.seeds),
        "budget": BudgetSummary(
            parameters=said.parameters, training_flops=said.flops, remaining_fraction=min(1.0, max(0.0, said.remaining))
        ),
    }


def best(old: BestMetric | None, said: Progress) -> BestMetric:
    """The better of what was best and what is said."""
    new = said.best or peak(said)
    if old is None or old.metric != new.metric:
        return new
    lower = any(word in new.metric.lower() for word in LOWER_IS_BETTER)
    beaten = new.value < old.value if lower else new.value > old.value
    return new if beaten else old


def peak(said: Progress) -> BestMetric:
    """One epoch's metric."""
    text = f"{said.metric}={said.value:.4g}"
    return BestMetric(metric=said.metric[:256], value=said.value, epoch=said.epoch, text=text[:256])


def summary(seeds: tuple[SeedSeen, ...]) -> SeedSummary:
    """Counts of all seeds, and a line for the active and then the newest others."""
    counts = Counter(seed.stage for seed in seeds)
    active = [seed for seed in seeds if seed.active]
    others = [seed for seed in reversed(seeds) if not seed.active]
    entries = [
        SeedEntry(
            id=seed.id, stage=seed.stage.name, blueprint=seed.blueprint or None, alpha=min(1.0, max(0.0, seed.alpha))
        )
        for seed in [*active, *others][:MOST_SEEDS]
    ]
    return SeedSummary(
        text=f"{counts[Stage.FOSSILIZED]}/{len(active)}/{counts[Stage.CULLED]}",
        by_stage={stage.name: count for stage, count in sorted(counts.items())},
        entries=entries,
    )
