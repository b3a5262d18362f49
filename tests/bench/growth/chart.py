"""A picture of the shortfall: how far each arm is from the best fixed size at each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from xml.sax.saxutils import escape

from .analysis import Results

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 340, 300, 52, 44, 46, 14
COLOURS = {
    "never": "#8c8c8c",
    "between-1": "#c08f4f",
    "between-2": "#4f86c0",
    "final": "#8f5fb0",
    "heuristic": "#c0392b",
}


def chart(every: Sequence[Results]) -> str:
    """One panel for each task that has runs, as SVG text; less is better in each."""
    panels = [results for results in every if results.rows]
    parts = [_panel(results, index * WIDTH) for index, results in enumerate(panels)]
    legend = _legend(len(panels) * WIDTH)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(1, len(panels)) * WIDTH} {HEIGHT + 26}" '
        f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([*parts, legend])
        + "\n</svg>\n"
    )


def _panel(results: Results, offset: int) -> str:
    budgets = results.budgets
    lines = {
        arm: [100 * mean(results.shortfall(arm, budget).values()) for budget in budgets]
        for arm in COLOURS
        if results.complete(arm)
    }
    low = min(0.0, *(value for values in lines.values() for value in values)) if lines else 0.0
    high = max(1.0, *(value for values in lines.values() for value in values)) if lines else 1.0

    def x(budget: float) -> float:
        span = math.log(budgets[-1] / budgets[0]) or 1.0
        return offset + LEFT + (WIDTH - LEFT - RIGHT) * math.log(budget / budgets[0]) / span

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    title = f"{results.suite.name}: shortfall, {results.suite.unit}"
    out = [f'<text x="{offset + LEFT}" y="20" font-size="13">{escape(title)}</text>']
    for value in (high, high / 2, 0.0):
        out.append(
            f'<line x1="{offset + LEFT}" x2="{offset + WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#dddddd"/>'
            f'<text x="{offset + LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>'
        )
    for budget in budgets:
        out.append(f'<text x="{x(budget):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{budget:.1e}</text>')
    out.append(
        f'<text x="{offset + (WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">training FLOPs</text>'
    )
    for arm, values in lines.items():
        points = [(x(budget), y(value)) for budget, value in zip(budgets, values, strict=True)]
        width = 2.5 if arm == "heuristic" else 1.5
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[arm]}" stroke-width="{width}"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLOURS[arm]}"/>' for a, b in points]
    return "\n".join(out)


def _legend(width: int) -> str:
    step = max(90, width // max(1, len(COLOURS)))
    return "\n".join(
        f'<rect x="{LEFT + index * step}" y="{HEIGHT + 6}" width="12" height="4" fill="{colour}"/>'
        f'<text x="{LEFT + 16 + index * step}" y="{HEIGHT + 12}">{arm}</text>'
        for index, (arm, colour) in enumerate(COLOURS.items())
    )
