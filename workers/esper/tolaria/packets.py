"""A run's state as the messages that travel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leyline.messages import CommandResult, SeedState, SystemStatePacket, TelemetryPacket
from leyline.v1 import seed_pb2, telemetry_pb2

if TYPE_CHECKING:
    from esper.kasmina import Seed
    from esper.tolaria.desk import Result
    from esper.tolaria.line import EpochStats
    from esper.tolaria.trainer import Trainer


def system_state(trainer: Trainer, stats: EpochStats, seconds: float) -> SystemStatePacket:
    """The run at the end of the epoch it has just observed; ``seconds`` is how long that took."""
    history, costs, spec = trainer.history, trainer.costs(), trainer.spec
    return SystemStatePacket(
        run=trainer.run.metadata.name,
        epoch=trainer.epoch,
        epochs=spec.training.epochs,
        step=trainer.line.step,
        train_loss=stats.loss,
        controller_loss=history.controller_losses[-1],
        controller_metrics={trainer.task.metric: history.controller_metrics[-1]},
        learning_rate=stats.learning_rate,
        gradient_norm=stats.gradient_norm,
        budget=telemetry_pb2.BudgetState(
            parameters_used=costs.parameters,
            parameters_limit=spec.budget.parameters or 0,
            flops_used=costs.spent,
            flops_limit=spec.budget.training_flops or 0,
            remaining_fraction=costs.remaining_fraction,
        ),
        slots=[
            seed_pb2.SlotState(slot=slot, **{**values, "count": int(values["count"])})
            for slot, values in sorted(trainer.statistics.items())
        ],
        seeds=[seed_state(trainer, seed) for seed in trainer.bank.seeds.values()],
        loss_spike=history.spike_epoch == trainer.epoch,
        epoch_seconds=seconds,
    )


def seed_state(trainer: Trainer, seed: Seed) -> SeedState:
    """One seed; a fault counts as health 0."""
    return SeedState(
        seed_id=seed.id,
        slot=seed.slot,
        stage=int(seed.stage),  # type: ignore[arg-type]  # the numbers are the same
        kernel_artifact_id=seed.artifact_id,
        blueprint=seed.blueprint,
        blend=f"BLEND_{seed.blend.value.upper()}",
        alpha=seed.alpha,
        health=0.0 if seed.fault else 1.0,
        last_update_epoch=seed.entered_epoch,
        exec_latency_us=min(round(seed.latency_us), 0xFFFF),
        is_ready_for_transition=seed.ready,
        run=trainer.run.metadata.name,
    )


def telemetry(trainer: Trainer) -> Iterator[TelemetryPacket]:
    """Measurements of each seed, for watching."""
    for seed in trainer.bank.seeds.values():
        numbers = {
            "alpha": (seed.alpha, "fraction"), "latency": (seed.latency_us, "us"),
            "output_scale": (min(seed.scale.ratio, 1e9), "ratio"), "epochs_in_stage": (seed.epochs_in_stage, "epochs"),
        }  # fmt: skip
        yield TelemetryPacket(
            run=trainer.run.metadata.name,
            seed_id=seed.id,
            epoch=trainer.epoch,
            step=trainer.line.step,
            measurements=[
                telemetry_pb2.Measurement(name=name, value=value, unit=unit, labels={"slot": seed.slot})
                for name, (value, unit) in numbers.items()
            ],
        )


def command_result(run: str, result: Result) -> CommandResult:
    """What became of a person's command."""
    return CommandResult(
        command_id=result.asked.command_id,
        run=run,
        applied=result.applied,
        reason=result.reason,
        error=result.error,
        epoch=result.epoch,
        step=result.step,
    )
