"""Geometry of the report's drawings: plain numbers in, plain numbers out; the templates turn them into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Points a curve keeps; more than the drawing has pixels for would only make the file bigger.
POINTS = 360

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Scale:
    """Maps a value to a coordinate, linearly or by its logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Coordinate of ``value``, to a tenth of a pixel; values outside are put on the edge."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """A label at a coordinate."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A vertical line at an event."""

    at: float
    css: str
    text: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its path, its dots (single points between gaps) and its last value."""

    name: str
    css: str
    path: str
    dots: list[tuple[float, float]]
    last: tuple[float, float, str] | None


@dataclass(frozen=True)
class Band:
    """An invisible column that answers the pointer with the values at its epoch."""

    left: float
    width: float
    middle: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart in a box of ``width`` by ``height``, its plot between the margins."""

    title: str
    description: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    xticks: list[Tick]
    yticks: list[Tick]
    curves: list[Curve]
    marks: list[Mark] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)


@dataclass(frozen=True)
class Box:
    """What charts on one axis share: epochs 0…``epochs`` across ``width`` pixels, less the margins."""

    epochs: float
    width: float
    left: float
    right: float


@dataclass(frozen=True)
class Line:
    """What to draw: points are (epoch, value or None)."""

    name: str
    css: str
    points: Sequence[Point]


def number(value: float | int | None, digits: int = 4) -> str:
    """Write a number for people: four significant digits, thousands separated, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (abs(value) >= 10**digits and abs(value) < 1e9):
        return f"{round(value):,}"
    if value and (abs(value) >= 1e9 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.{digits}g}"


def steps(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """At most about ``count`` round values from ``low`` to ``high`` (steps of 1, 2 or 5 times a power of ten)."""
    if not high - low > 1e-12 * max(abs(low), abs(high), 1e-280):  # closer than a label could tell
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def log_steps(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between ``low`` and ``high``, thinned to about six."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    values = [value for value in values if low <= value <= high]
    if len(values) > 6:
        values = [value for value in values if abs(math.log10(value) - round(math.log10(value))) < 1e-9]
    if len(values) > 6:
        values = values[:: math.ceil(len(values) / 6)]
    return values


def thin(points: Sequence[Point], limit: int = POINTS) -> list[Point]:
    """Keep at most ``limit`` points: of each stretch its lowest and highest, so that no spike is lost."""
    if len(points) <= limit:
        return list(points)
    kept: list[Point] = [points[0]]
    inner = points[1:-1]
    buckets = max(1, (limit - 2) // 2)
    for index in range(buckets):
        stretch = inner[index * len(inner) // buckets : (index + 1) * len(inner) // buckets]
        known = [place for place, point in enumerate(stretch) if point[1] is not None]
        if not known:
            kept.extend(stretch[:1])
            continue
        lowest = min(known, key=lambda place: stretch[place][1] or 0.0)
        highest = max(known, key=lambda place: stretch[place][1] or 0.0)
        kept.extend(stretch[place] for place in sorted({lowest, highest}))
    kept.append(points[-1])
    return kept


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    box: Box,
    *,
    marks: Sequence[tuple[float, str, str]] = (),
    height: float = 250,
    zero: bool = False,
    with_axis: bool = True,
) -> Chart:
    """Lay out ``lines`` in ``box``; a wide range of positive values gets a logarithmic axis."""
    epochs, width, left, right = box.epochs, box.width, box.left, box.right
    top, bottom = 12.0, height - (26.0 if with_axis else 8.0)
    values = [value for line in lines for _, value in line.points if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    log = bool(values) and low > 0 and high / low > 30 and not zero
    if not log:
        low = min(low, 0.0) if zero else low
        spread = (high - low) or abs(high) or 1.0
        low, high = (low if zero else low - 0.04 * spread), high + 0.04 * spread
    across = Scale(0.0, max(epochs, 1.0), left, width - right)
    up = Scale(low, high, bottom, top, log)
    curves = [_curve(line, across, up) for line in lines]
    return Chart(
        title,
        description,
        width,
        height,
        left,
        width - right,
        top,
        bottom,
        [Tick(across(value), number(int(value))) for value in steps(0, max(epochs, 1.0), 10, whole=True)],
        [Tick(up(value), number(value)) for value in (log_steps(low, high) if log else steps(low, high, 4))],
        _separate(curves, top, bottom),
        [Mark(across(at), css, text) for at, css, text in marks],
        _bands(lines, across),
    )


def _curve(line: Line, across: Scale, up: Scale) -> Curve:
    points = thin(line.points)
    commands: list[str] = []
    dots: list[tuple[float, float]] = []
    pen_down = False
    for index, (x, y) in enumerate(points):
        if y is None:
            pen_down = False
            continue
        at = (across(x), up(y))
        follows = index + 1 < len(points) and points[index + 1][1] is not None
        if not pen_down and not follows:
            dots.append(at)
        else:
            commands.append(f"{'L' if pen_down else 'M'}{at[0]:g} {at[1]:g}")
        pen_down = True
    known = [(x, y) for x, y in points if y is not None]
    last = (across(known[-1][0]), up(known[-1][1]), number(known[-1][1])) if known else None
    return Curve(line.name, line.css, "".join(commands), dots, last)


def _separate(curves: list[Curve], top: float, bottom: float, gap: float = 14.0) -> list[Curve]:
    """Move the labels at the curves' ends apart so that none covers another."""
    ends = sorted((curve.last[1], index) for index, curve in enumerate(curves) if curve.last)
    placed: dict[int, float] = {}
    floor = top
    for y, index in ends:
        placed[index] = max(y, floor)
        floor = placed[index] + gap
    ceiling = bottom
    for _, index in reversed(ends):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return [
        curve
        if not curve.last
        else Curve(
            curve.name, curve.css, curve.path, curve.dots, (curve.last[0], round(placed[index], 1), curve.last[2])
        )
        for index, curve in enumerate(curves)
    ]


def _bands(lines: Sequence[Line], across: Scale) -> list[Band]:
    epochs = sorted({x for line in lines for x, _ in line.points})
    if len(epochs) > POINTS:
        epochs = epochs[:: math.ceil(len(epochs) / POINTS)]
    tables = [(line.name, dict(line.points)) for line in lines]
    bands: list[Band] = []
    for index, epoch in enumerate(epochs):
        before = epochs[index - 1] if index else epoch - 1
        after = epochs[index + 1] if index + 1 < len(epochs) else epoch + 1
        left, right = across((before + epoch) / 2), across((epoch + after) / 2)
        values = [f"{name} {number(table[epoch])}" for name, table in tables if epoch in table]
        text = "\n".join([f"epoch {epoch:g}", *values])
        bands.append(Band(left, round(max(right - left, 0.1), 1), across(epoch), text))
    return bands
