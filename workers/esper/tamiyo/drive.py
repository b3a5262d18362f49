"""Taking seeds in flight through their stages: the part of a decision that no policy may change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from esper.tamiyo.views import IN_FLIGHT, Numbers, Order, OrderKind, RunView, SeedView
from leyline.lifecycle import Actor, Stage, check

if TYPE_CHECKING:
    from leyline.resources import TrainingRunSpec

#: Stages in which a seed has not touched the host and can be called off without a trace.
BEFORE_EFFECT = frozenset({Stage.GERMINATED, Stage.TRAINING})
#: Stages in which the twin is needed.
JUDGED = frozenset({Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING})


def order_for(seed: SeedView, kind: OrderKind, target: Stage, reason: str, numbers: Numbers | None = None) -> Order:
    """An order to a seed, checked against the lifecycle (``LifecycleError`` if the controller erred)."""
    check(seed.stage, target, Actor.TAMIYO, trainable=seed.trainable)
    return Order(
        kind,
        seed.slot,
        target,
        reason,
        seed=seed.id,
        artifact_id=seed.artifact_id,
        blueprint=seed.blueprint,
        numbers=dict(numbers or {}),
    )


def twin_holder(spec: TrainingRunSpec, seeds: Iterable[SeedView], fixed: Collection[str] = ()) -> SeedView | None:
    """The seed that has or is about to take the twin by itself, if the judge uses one.

    A kernel without parameters (the seeds in ``fixed``) goes from LOADING straight to GRAFTING, so it holds the twin
    from its germination.
    """
    if spec.judge.mode == "Off":
        return None
    for seed in seeds:
        soon = (not seed.trainable or seed.id in fixed) and seed.stage in (Stage.GERMINATED, Stage.LOADING)
        again = spec.judge.mode == "Twice" and seed.stage is Stage.FINE_TUNING
        if seed.stage in JUDGED or soon or again:
            return seed
    return None


def drive(
    spec: TrainingRunSpec,
    view: RunView,
    *,
    conservative: bool,
    fixed: Collection[str] = (),
    longer: Mapping[str, int] | None = None,
) -> tuple[list[Order], list[str]]:
    """Orders to the seeds in flight, and why some of them wait although they are ready.

    ``longer`` epochs a seed goes on training at full blend, decided when it germinated, so that the judge, who looks
    once, can see what it brings. In conservative mode seeds that have not touched the host are cancelled, and none
    begins to.
    """
    flying = [seed for seed in view.seeds.values() if seed.stage in IN_FLIGHT]
    holder = twin_holder(spec, flying, fixed)
    orders: list[Order] = []
    waiting: list[str] = []
    # Seeds that want the twin take turns, the longest waiting first.
    for seed in sorted(flying, key=lambda one: (one.entered_epoch, one.id)):
        if conservative and seed.stage in BEFORE_EFFECT:
            reason = "loss spike: seeds that have not touched the host are called off"
            orders.append(order_for(seed, OrderKind.CANCEL, Stage.CANCELLED, reason))
        elif seed.stage is Stage.TRAINING and seed.ready:
            if holder is not None:
                waiting.append(f"{seed.id} is ready but {holder.id} is being judged: one twin at a time")
                continue
            orders.append(order_for(seed, OrderKind.ADVANCE, Stage.GRAFTING, "isolation is done"))
            holder = seed if spec.judge.mode != "Off" else None
        elif seed.stage is Stage.GRAFTING and seed.ready:
            until = seed.entered_epoch + spec.seeds.grafting_epochs + (longer or {}).get(seed.id, 0)
            if view.epoch < until:
                waiting.append(f"{seed.id} trains at full blend until epoch {until}: the judge could not see less")
                continue
            orders.append(order_for(seed, OrderKind.ADVANCE, Stage.STABILIZATION, "the blend is complete"))
        elif seed.stage is Stage.STABILIZATION and seed.ready:
            orders.append(order_for(seed, OrderKind.ADVANCE, Stage.EVALUATING, "the host has settled"))
        elif seed.stage in (Stage.EVALUATING, Stage.FINE_TUNING):
            _judged(spec, seed, orders, waiting)
    return orders, waiting


def _judged(spec: TrainingRunSpec, seed: SeedView, orders: list[Order], waiting: list[str]) -> None:
    first = seed.stage is Stage.EVALUATING
    target = Stage.FINE_TUNING if first and seed.trainable else Stage.FOSSILIZED
    asked = spec.judge.mode != "Off" if first else spec.judge.mode == "Twice"
    if not asked:
        if seed.ready:
            done = "no judge was asked for" if first else "fine-tuning is done"
            orders.append(order_for(seed, OrderKind.ADVANCE, target, done))
        return
    verdict = seed.verdict if seed.verdict is not None and seed.verdict.stage is seed.stage else None
    if verdict is None:
        if seed.ready:
            waiting.append(f"{seed.id} is ready in {seed.stage.name} but has no verdict yet")
    elif not verdict.promoted:
        reason = f"verdict: {verdict.reason}" if verdict.reason else "the twin without the seed does as well"
        orders.append(order_for(seed, OrderKind.CULL, Stage.CULLED, reason, verdict.numbers))
    elif seed.ready:
        reason = f"verdict: {verdict.reason}" if verdict.reason else "better than the twin without it"
        orders.append(order_for(seed, OrderKind.ADVANCE, target, reason, verdict.numbers))
