"""Orders and field reports as the protobuf messages that travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.tamiyo.views import Order, OrderKind
from leyline.v1 import control_pb2, telemetry_pb2

if TYPE_CHECKING:
    from esper.tamiyo.reports import FieldReport


def command_message(
    order: Order, run: str, epoch: int, command_id: str, *, objective: str = "", schedule: str = ""
) -> control_pb2.AdaptationCommand:
    """An order as the command it is; ``epoch`` is the number of finished epochs.

    ``objective`` and ``schedule`` are the manifest's words; left empty they mean what the executor is set to.
    """
    command = control_pb2.AdaptationCommand(
        command_id=command_id,
        run=run,
        epoch=epoch,
        actor=control_pb2.ACTOR_TAMIYO,
        reason=order.reason,
        numbers=dict(order.numbers),
    )
    seed_id = order.seed or ""
    match order.kind:
        case OrderKind.GERMINATE:
            command.germinate.CopyFrom(
                control_pb2.Germinate(
                    slot=order.slot,
                    kernel_artifact_id=order.artifact_id,
                    blueprint=order.blueprint,
                    blend=_word("BLEND", order.blend),
                    objective=_word("OBJECTIVE", objective),
                    alpha_schedule=_word("ALPHA_SCHEDULE", schedule),
                )
            )
        case OrderKind.ADVANCE:
            command.advance.CopyFrom(control_pb2.Advance(seed_id=seed_id, target=_word("STAGE", order.target.name)))
        case OrderKind.CANCEL:
            command.cancel.CopyFrom(control_pb2.Cancel(seed_id=seed_id))
        case OrderKind.CULL:
            command.cull.CopyFrom(control_pb2.Cull(seed_id=seed_id))
    return command


def report_message(report: FieldReport, *, hardware: str = "", metric: str = "") -> telemetry_pb2.FieldReport:
    """A field report as the message it is; ``metric`` names what the metrics measure.

    Where there is no metric, or it was not taken, the message holds the controller loss; where that was not taken
    either, it names no metric.
    """
    measured = bool(metric) and report.pre_metric is not None and report.post_metric is not None
    before, after = (report.pre_metric, report.post_metric) if measured else (report.pre_loss, report.post_loss)
    named = metric if measured else "" if before is None or after is None else "controller_loss"
    message = telemetry_pb2.FieldReport(
        report_id=report.id,
        run=report.run,
        seed_id=report.seed,
        slot=report.slot,
        blueprint=report.blueprint,
        kernel_artifact_id=report.artifact_id,
        hardware=hardware,
        outcome=f"OUTCOME_{report.outcome}",
        reason=report.reason,
        germinated_epoch=report.germinated_epoch,
        finished_epoch=report.finished_epoch,
        metric=named,
        metric_before=before or 0.0,
        metric_after=after or 0.0,
        measurements=dict(report.measurements),
    )
    if "effect" in report.measurements:
        message.effect = report.measurements["effect"]
    if "p_value" in report.measurements:
        message.p_value = report.measurements["p_value"]
    return message


def _word(prefix: str, name: str) -> str:
    return f"{prefix}_{name.upper() if name else 'UNSPECIFIED'}"
