"""The page's other drawings: seed timeline, comparison with the twin, kernel ratios, budget bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.output.readers import Event, RunRecord, SeedHistory
from esper.output.report.charts import Box, Scale, Tick, number, steps
from esper.output.report.texts import Rows, as_float, bounded, cut, flops, tail

NAME = 22  # letters of a name that fit into the left margin

STAGES = (
    "GERMINATED",
    "LOADING",
    "TRAINING",
    "GRAFTING",
    "STABILIZATION",
    "EVALUATING",
    "FINE_TUNING",
    "FOSSILIZED",
    "CULLED",
    "CANCELLED",
    "ERROR_RECOVERY",
    "ROLLED_BACK",
)


@dataclass(frozen=True)
class Bar:
    """A stretch of the timeline, or a share of the budget."""

    left: float
    width: float
    css: str
    text: str
    title: str


@dataclass(frozen=True)
class TimelineRow:
    """One life of a seed."""

    label: str
    full: str
    sub: str
    y: float
    bars: list[Bar]
    end: tuple[float, str, str] | None


@dataclass(frozen=True)
class Timeline:
    """The Gantt chart of the seeds, over the same axis as the curves."""

    height: float
    rows: list[TimelineRow]
    xticks: list[Tick]
    stages: list[str]
    hidden: int


@dataclass(frozen=True)
class Interval:
    """A value with its interval drawn on a shared scale."""

    label: str
    full: str
    sub: str
    y: float
    low: float | None
    high: float | None
    at: float | None
    css: str
    text: str
    note: str


@dataclass(frozen=True)
class Forest:
    """Intervals under each other with a line at the value of no effect."""

    height: float
    none_at: float
    xticks: list[Tick]
    rows: list[Interval]
    hidden: int


def timeline(lives: Sequence[SeedHistory], box: Box, last_epoch: int) -> Timeline:
    """One row a life, the last sixty; a stage that lasts goes on to the run's ``last_epoch``, not to the control's."""
    epochs = box.epochs
    shown = bounded(lives, 60)
    across = Scale(0.0, max(epochs, 1.0), box.left, box.width - box.right)
    rows: list[TimelineRow] = []
    seen: set[str] = set()
    for index, life in enumerate(shown.rows):
        bars: list[Bar] = []
        end: tuple[float, str, str] | None = None
        for span in life.spans:
            seen.add(span.stage)
            left, until = across(span.start), span.end if span.end is not None else last_epoch
            title = f"{span.stage}: epoch {span.start} to {until}. {span.reason}"
            if span.stage in ("CULLED", "CANCELLED", "ROLLED_BACK"):
                end = (left, span.stage.lower(), cut(f"{span.stage} after epoch {span.start}. {span.reason}"))
                continue
            width = round(across(until) - left, 1)
            if width <= 0:
                continue
            text = _short(span.stage, width)
            bars.append(Bar(left, width, span.stage.lower(), text, cut(title)))
        rows.append(
            TimelineRow(tail(life.label, NAME), cut(life.label), cut(life.blueprint, NAME), 10 + index * 34, bars, end)
        )
    ticks = [Tick(across(value), number(int(value))) for value in steps(0, max(epochs, 1), 10, whole=True)]
    return Timeline(34 * len(rows) + 40, rows, ticks, [stage for stage in STAGES if stage in seen], shown.hidden)


def _short(stage: str, width: float) -> str:
    """The stage's name where it fits into ``width`` pixels at about 6.2 a letter, nothing where it does not."""
    name = stage.lower().replace("_", " ")
    return name if len(name) * 6.2 + 8 <= width else ""


def forest(verdicts: Sequence[Event], box: Box) -> Forest | None:
    """One row a comparison with the twin; None where there was none."""
    shown = bounded([event for event in verdicts if as_float(event.get("difference")) is not None], 40)
    if not shown.rows:
        return None
    values = [
        value
        for event in shown.rows
        for value in (as_float(event.get(name)) for name in ("difference", "low", "high"))
        if value is not None
    ]
    low, high = min(0.0, *values), max(0.0, *values)
    pad = 0.06 * ((high - low) or 1.0)
    low, high = low - pad, high + pad
    across = Scale(low, high, box.left, box.width - 300)
    rows = []
    for index, event in enumerate(shown.rows):
        edges = [as_float(event.get("low")), as_float(event.get("high"))]
        rows.append(
            Interval(
                tail(event.get("seed"), NAME),
                cut(event.get("seed")),
                f"epoch {event['epoch']}",
                24 + index * 38,
                across(edges[0]) if edges[0] is not None else None,
                across(edges[1]) if edges[1] is not None else None,
                across(float(event["difference"])),
                "passed" if event.get("passed") else "failed",
                f"{number(as_float(event['difference']), 3)}"
                + (f" [{number(edges[0], 3)}, {number(edges[1], 3)}]" if None not in edges else ""),
                f"p {number(as_float(event.get('p_value')), 3)} against {number(as_float(event.get('threshold')), 3)}",
            )
        )
    ticks = [Tick(across(value), number(value, 3)) for value in steps(low, high, 7)]
    return Forest(38 * len(rows) + 44, across(0.0), ticks, rows, shown.hidden)


def kernel_rows(record: RunRecord) -> Rows:
    """Rows for the kernel table; the ratio's interval is drawn in a box of 150 by 18 on a scale shared by all."""
    kernels: list[dict[str, Any]]
    if record.summary and record.summary.kernels:
        kernels = [kernel.model_dump() for kernel in record.summary.kernels]
    else:
        kernels = [{**event, "id": event.get("kernel")} for event in record.kernels]
    shown = bounded(kernels)
    known = [
        value
        for kernel in shown.rows
        for value in (as_float(kernel.get("ratio")), *(_pair(kernel.get("interval")) or ()))
        if value is not None
    ]
    low, high = min([0.9, *known]), max([1.1, *known])
    across = Scale(low, high, 4.0, 146.0)
    rows = []
    for kernel in shown.rows:
        ratio, interval = as_float(kernel.get("ratio")), _pair(kernel.get("interval"))
        drawn = None
        if ratio is not None:
            edges = (across(interval[0]), across(interval[1])) if interval else (across(ratio), across(ratio))
            css = "passed" if interval and interval[1] < 1 else "failed" if interval and interval[0] > 1 else "even"
            drawn = {"low": edges[0], "high": edges[1], "at": across(ratio), "one": across(1.0), "css": css}
        text = (
            "reference"
            if kernel.get("strategy") == "fast"
            else number(ratio, 3) + (f" [{number(interval[0], 3)}, {number(interval[1], 3)}]" if interval else "")
        )
        rows.append({**kernel, "drawn": drawn, "ratio_text": text})
    return Rows(rows, shown.hidden)


def _pair(value: Any) -> tuple[float, float] | None:
    edges = [as_float(edge) for edge in value or ()]
    return (edges[0], edges[1]) if len(edges) == 2 and edges[0] is not None and edges[1] is not None else None


def budget(record: RunRecord, box: Box) -> dict[str, Any] | None:
    """Training FLOPs by purpose as one bar, with the limit where there is one; None before the first step."""
    summary, last = record.summary, record.epochs[-1] if record.epochs else {}
    by = {str(name): as_float(value) or 0.0 for name, value in (last.get("flops") or {}).items()}
    if not by and summary:
        by = {
            "culled": summary.flops_on_culled_seeds,
            "twin": summary.flops_on_twins,
            "probes": summary.flops_on_probes,
        }
        by = {"host": max(0.0, summary.training_flops - sum(by.values())), **by}
    total = sum(by.values())
    if total <= 0:
        return None
    spec = record.manifest.get("spec")
    bounds = spec.get("budget") if isinstance(spec, Mapping) else None
    limit = as_float(bounds.get("trainingFlops")) if isinstance(bounds, Mapping) else None
    scale = Scale(0.0, max(total, limit or 0.0), 0.0, box.width)
    names = {"host": "host", "grown": "grown parts", "twin": "twins", "culled": "dropped seeds", "probes": "probes"}
    bars: list[Bar] = []
    at = 0.0
    for key in [*names, *(key for key in by if key not in names)]:
        amount = by.get(key, 0.0)
        if amount > 0:
            share = f"{number(100 * amount / total, 3)} %"
            left, right = scale(at), scale(at + amount)
            css = key if key in names else "other"
            title = f"{names.get(key, cut(key, 40))}: {flops(amount)}, {share}"
            bars.append(Bar(left, round(right - left, 1), css, share, title))
            at += amount
    return {
        "bars": bars,
        "total": flops(total),
        "limit": flops(limit) if limit else "",
        "limit_at": scale(limit or 0.0),
    }
