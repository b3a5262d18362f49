"""What a run came to, as ``summary.json`` says it."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from esper.output import Control, Score, SplitResult, Summary
from esper.output.summary import CurvePoint, KernelSummary, SeedSummary
from esper.tolaria.evaluation import evaluate
from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from esper.kasmina import Seed
    from esper.tolaria.trainer import Trainer
    from esper.urza import KernelRecord


def versions() -> dict[str, str]:
    """Versions of what decides a run's bits."""
    from importlib.metadata import version

    return {
        "esper": version("esper-train"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def split_results(trainer: Trainer) -> tuple[SplitResult, SplitResult]:
    """Best and final results on the controller and the report split; evaluates the model as it is now, on this rank
    alone: the others may be gone.
    """
    task, history = trainer.task, trainer.history
    if trainer.epoch == 0:
        return SplitResult(), SplitResult()
    model, device = trainer.line.model, trainer.device
    controller, report = (evaluate(model, task, split, device) for split in (task.controller, task.report))
    final_controller = Score(epoch=trainer.epoch, loss=controller.loss, metric=controller.metrics[task.metric])
    final_report = Score(epoch=trainer.epoch, loss=report.loss, metric=report.metrics[task.metric])
    best = history.best
    if best is None:
        return SplitResult(final=final_controller), SplitResult(final=final_report)
    return (
        SplitResult(
            best=Score(epoch=best.epoch, loss=best.controller_loss, metric=best.controller_metric),
            final=final_controller,
        ),
        SplitResult(best=Score(epoch=best.epoch, loss=best.report_loss, metric=best.report_metric), final=final_report),
    )


def summarise(
    trainer: Trainer, *, phase: str, reason: str, wall_seconds: float, records: Sequence[KernelRecord],
    unavailable: Mapping[str, str], control: Control | None = None,
) -> Summary:  # fmt: skip
    """Build the summary of a run that is over, for whatever reason."""
    run, task = trainer.run, trainer.task
    controller, report = split_results(trainer)
    purposes = trainer.flops_by_purpose()
    return Summary(
        phase=phase, reason=reason, name=run.metadata.name, task=run.spec.task.ref, seed=run.spec.seed,
        epochs=trainer.epoch, steps=trainer.line.step, metric=task.metric, higher_is_better=task.higher_is_better,
        controller=controller, report=report,
        host_parameters=sum(p.numel() for p in trainer.line.model.parameters()),
        parameters=trainer.line.parameters, trainable_parameters=_trainable(trainer),
        training_flops=trainer.ledger.total, flops_on_culled_seeds=purposes["culled"],
        flops_on_twins=purposes["twin"], flops_on_probes=purposes["probes"],
        seeds_by_stage=dict(Counter(final_stage(seed).name for seed in trainer.bank.seeds.values())),
        seeds=[_seed(trainer, seed) for seed in trainer.bank.seeds.values()],
        kernels=[kernel_summary(record) for record in records],
        strategies_unavailable=dict(unavailable), longest_step_ms=trainer.clock.longest_ms,
        median_step_ms=trainer.clock.median_ms, wall_seconds=wall_seconds,
        kernel_wait_seconds=trainer.shelf.wait_seconds, rollbacks=trainer.history.rollbacks, control=control,
        versions=versions(),
    )  # fmt: skip


def control_summary(trainer: Trainer) -> Control:
    """The same run with growth switched off, to stand beside the one that grew."""
    controller, report = split_results(trainer)
    history = trainer.history
    curve = [
        CurvePoint(epoch=epoch, train_loss=train, controller_loss=loss, controller_metric=metric)
        for epoch, (train, loss, metric) in enumerate(
            zip(history.train_losses, history.controller_losses, history.controller_metrics, strict=True), 1
        )
    ]
    return Control(
        parameters=trainer.line.parameters, training_flops=trainer.ledger.total, epochs=trainer.epoch,
        controller=controller, report=report, curve=curve,
    )  # fmt: skip


def final_stage(seed: Seed) -> Stage:
    """The stage a seed's story ended in: CULLED for one whose place has since been reset to dormant."""
    if seed.stage is Stage.DORMANT and seed.history:
        return seed.history[-1].source
    return seed.stage


def kernel_summary(record: KernelRecord) -> KernelSummary:
    """A kernel and what was measured of it."""
    interval = record.report.get("interval")
    return KernelSummary(
        id=record.artifact_id, blueprint=record.blueprint, strategy=record.strategy, state=str(record.state),
        ratio=record.ratio, interval=tuple(interval) if interval else None, latency_ms=record.latency_ms,
        memory_mb=record.memory_mb, tags=list(record.tags), cause=record.cause,
    )  # fmt: skip


def _trainable(trainer: Trainer) -> int:
    host = sum(p.numel() for p in trainer.line.model.parameters() if p.requires_grad)
    grafted = trainer.bank.grafted_parameters().values()
    return host + sum(p.numel() for named in grafted for _, p in named if p.requires_grad)


def _seed(trainer: Trainer, seed: Seed) -> SeedSummary:
    history: list[Any] = list(seed.history)
    looks = trainer.history.verdicts.get(seed.id, [])
    stage = final_stage(seed)
    over = stage in (Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK)
    ended = next((event.epoch for event in history if event.target is stage), None) if over else None
    return SeedSummary(
        id=seed.id, slot=seed.slot, blueprint=seed.blueprint, kernel=seed.artifact_id,
        strategy=trainer.strategy_of(seed.artifact_id), stage=stage.name,
        germinated_epoch=history[0].epoch if history else 0, finished_epoch=ended,
        verdict=looks[-1] if looks else {}, reasons=[event.reason for event in history if event.reason],
    )  # fmt: skip
