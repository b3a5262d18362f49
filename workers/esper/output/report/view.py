"""From a run's record to what the templates show: every value a text or a coordinate, every list bounded."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from esper.output.readers import RunRecord
from esper.output.report.charts import Box, Chart, Line, Point, line_chart, number, thin
from esper.output.report.figures import budget, forest, kernel_rows, timeline
from esper.output.report.texts import ROWS, Rows, as_float, bounded, cut, duration, flops
from esper.output.report.words import verdict
from esper.output.summary import CurvePoint, Summary

WIDTH, LEFT, RIGHT = 1040.0, 160.0, 150.0
MANIFEST = 40_000

_MARKED = {"GRAFTING": "grafted", "FOSSILIZED": "kept", "CULLED": "culled", "ROLLED_BACK": "rolled back"}


@dataclass(frozen=True)
class Tile:
    """A figure of the header."""

    label: str
    value: str
    note: str = ""


def build(record: RunRecord) -> dict[str, Any]:
    """Everything the page shows, by the names the templates use."""
    summary = record.summary
    epochs = max([record.last_epoch, *(point.epoch for point in _control(summary))], default=0)
    box = Box(float(epochs), WIDTH, LEFT, RIGHT)
    return {
        "box": box,
        "name": cut(record.name),
        "phase": record.phase,
        "verdict": verdict(record),
        "when": _when(record),
        "tiles": _tiles(record),
        "charts": _charts(record, box),
        "epochs": _epoch_rows(record),
        "has_control": bool(_control(summary)),
        "timeline": timeline(record.seeds, box, record.last_epoch),
        "seeds": bounded(record.seeds),
        "forest": forest(record.verdicts, box),
        "gates": bounded(record.gates),
        "kernels": kernel_rows(record),
        "unavailable": summary.strategies_unavailable if summary else {},
        "decisions": bounded(record.decisions),
        "budget": budget(record, box),
        "rollbacks": bounded(record.rollbacks),
        "warnings": bounded(record.warnings),
        "manifest": _manifest(record.manifest),
        "versions": dict(sorted((summary.versions if summary else record.started.get("versions") or {}).items())),
    }


def _control(summary: Summary | None) -> list[CurvePoint]:
    return summary.control.curve if summary and summary.control else []


def _when(record: RunRecord) -> str:
    began, ended = record.started.get("t"), record.finished.get("t")
    if not began:
        return ""
    text = datetime.datetime.fromtimestamp(float(began), datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    if record.summary:
        text += f" · {duration(record.summary.wall_seconds)}"
    elif ended:
        text += f" · {duration(float(ended) - float(began))}"
    if record.resumes:
        text += f" · resumed {record.resumes}×"
    return text


def _tiles(record: RunRecord) -> list[Tile]:
    summary = record.summary
    if summary is None:
        last = record.epochs[-1] if record.epochs else {}
        return [
            Tile("epochs", number(record.last_epoch)),
            Tile("train loss", number(last.get("train_loss"))),
            Tile("controller loss", number(last.get("controller_loss"))),
            Tile(f"controller {record.metric}", number(last.get("controller_metric"))),
            Tile("parameters", number(last.get("parameters"))),
        ]
    final, best = summary.report.final, summary.controller.best
    kept = sum(seed.stage == "FOSSILIZED" for seed in summary.seeds)
    growth = summary.parameters / summary.host_parameters if summary.host_parameters else 1.0
    step = f"median step {number(summary.median_step_ms, 3)} ms, longest {number(summary.longest_step_ms, 3)} ms"
    return [
        Tile(
            f"report {summary.metric}",
            number(final.metric if final else None),
            f"loss {number(final.loss)}" if final else "not evaluated",
        ),
        Tile(
            f"best controller {summary.metric}",
            number(best.metric if best else None),
            f"epoch {best.epoch}" if best else "",
        ),
        Tile(
            "parameters",
            number(summary.parameters),
            f"{number(growth, 3)}× the host's {number(summary.host_parameters)}",
        ),
        Tile("seeds kept", f"{kept} of {len(summary.seeds)}", f"{summary.rollbacks} rollbacks"),
        Tile("training compute", flops(summary.training_flops), f"{number(summary.steps)} steps"),
        Tile("wall time", duration(summary.wall_seconds), step),
    ]


def _charts(record: RunRecord, box: Box) -> list[Chart]:
    if not record.epochs:
        return []
    control = _control(record.summary)
    marks = _marks(record)
    name = record.summary.control.name if record.summary and record.summary.control else "never grown"

    def of(field: str) -> list[Point]:
        return [(float(stats["epoch"]), as_float(stats.get(field))) for stats in record.epochs]

    loss = [Line("train", "train", of("train_loss")), Line("controller", "controller", of("controller_loss"))]
    metric = [Line("controller", "controller", of("controller_metric"))]
    if any(point.controller_loss is not None for point in control):
        loss.append(Line(name, "control", [(point.epoch, point.controller_loss) for point in control]))
    if any(point.controller_metric is not None for point in control):
        metric.append(Line(name, "control", [(point.epoch, point.controller_metric) for point in control]))
    return [
        line_chart(
            "Loss", "Mean loss after each epoch on the train and controller splits.", loss, marks=marks, box=box
        ),
        line_chart(
            cut(record.metric.replace("_", " ").capitalize(), 60),
            f"{record.metric} after each epoch on the controller split.",
            metric,
            marks=marks,
            height=210,
            box=box,
        ),
        line_chart(
            "Learning rate",
            "Learning rate at the end of each epoch.",
            [Line("rate", "rate", of("learning_rate"))],
            height=92,
            zero=True,
            box=box,
        ),
    ]


def _marks(record: RunRecord) -> list[tuple[float, str, str]]:
    marks = [
        (
            float(span.start),
            f"mark-{span.stage.lower()}",
            f"{life.label} {_MARKED[span.stage]} after epoch {span.start}",
        )
        for life in record.seeds
        for span in life.spans
        if span.stage in _MARKED
    ]
    marks += [
        (float(event.get("to_epoch", 0)), "mark-rolled_back", f"rolled back to epoch {event.get('to_epoch')}")
        for event in record.rollbacks
    ]
    return marks[-ROWS:]


def _epoch_rows(record: RunRecord) -> Rows:
    control = {point.epoch: point for point in _control(record.summary)}
    numbers = [(float(stats["epoch"]), float(index)) for index, stats in enumerate(record.epochs)]
    rows = []
    for _, index in thin(numbers, ROWS):
        stats = record.epochs[int(index or 0)]
        against = control.get(int(stats["epoch"]))
        rows.append(
            [
                number(int(stats["epoch"])),
                *(number(as_float(stats.get(name))) for name in ("train_loss", "controller_loss", "controller_metric")),
                number(against.controller_loss if against else None),
                number(against.controller_metric if against else None),
                number(as_float(stats.get("learning_rate"))),
                number(stats.get("parameters")),
            ]
        )
    return Rows(rows, len(record.epochs) - len(rows))


def _manifest(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return ""
    text: str = yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True, width=110)
    return cut(text, MANIFEST)
