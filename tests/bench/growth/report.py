"""The Markdown report: what holds, what does not, and the figures behind both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

from .analysis import Results
from .arms import TUNING_SEED
from .claims import claims, signed
from .figures import estimate
from .store import Row
from .suites import ARMS, FIXED, GROWTH

WORDS = {
    "never": "the host, never grown",
    "between-1": "fixed size, a little larger",
    "between-2": "fixed size, larger",
    "final": "the final architecture from scratch",
    "heuristic": "the heuristic, every seed judged by its twin",
    "unjudged": "the heuristic, no judge and no twin",
    "random-slot": "the heuristic, slot drawn at random",
    "random": "moment, slot and kernel drawn at random, judged",
    "always": "grows wherever it may from the first epoch, no judge",
    "fixed": "one kernel in the first slot after epoch 2, no judge",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def write(all_rows: Sequence[Row], every: Sequence[Results]) -> str:
    """The whole report."""
    lines = [
        "# Growth against tuned fixed sizes",
        "",
        "Written by `make bench-growth` from the raw rows beside this file. Every arm runs through the engine; its "
        "learning rate is tuned on other seeds, for each budget, on the controller split. Figures are on the report "
        "split, which no decision sees. A budget counts training FLOPs (three forward passes a sample) with twins, "
        "probes and culled seeds included. ± is the 95 % interval over seeds; differences are paired by seed.",
        "",
    ]
    for results in every:
        lines += ["", *_suite(all_rows, results)]
    return "\n".join(lines) + "\n"


def _suite(all_rows: Sequence[Row], results: Results) -> list[str]:
    suite = results.suite
    if not results.rows:
        return [f"## {suite.name}", "", "No runs yet."]
    seeds = max(len(results.curve(arm, results.budgets[0])) for arm in results.arms())
    lines = [
        f"## {suite.name}",
        "",
        f"Host: `{suite.ref}`, {suite.host_flops:,} forward FLOPs a sample; blueprint `{suite.blueprint}`; batch "
        f"{suite.batch_size}; {seeds} seeds.",
        "",
        "### What holds and what does not",
        "",
    ]
    verdict = {True: "**holds**", False: "**does not hold**", None: "not measured"}
    for title, arm in (("judged", "heuristic"), ("without judge", "unjudged")):
        if arm in results.arms():
            lines += [f"Heuristic, {title}:", ""]
            lines += table(
                ("claim", "", "figures"),
                ((claim.text, verdict[claim.holds], claim.figures) for claim in claims(results, arm)),
            )
            lines.append("")
    lines += ["### Metric on the report split", "", *_metric(results), ""]
    lines += ["### Shortfall against the best fixed size of each budget, in points", "", *_shortfall(results), ""]
    lines += ["### Compute to reach a level", "", *_levels(results), ""]
    lines += ["### What growth did", "", *_deeds(results), ""]
    lines += ["### Learning rates", "", *_rates(all_rows, results), ""]
    return lines


def _known(results: Results) -> list[str]:
    return [arm for arm in ARMS if arm in results.arms()]


def _heads(results: Results) -> list[str]:
    return [f"{budget:.2g} FLOPs" for budget in results.budgets]


def _metric(results: Results) -> list[str]:
    rows = []
    for arm in _known(results):
        cells = [f"`{arm}`: {WORDS[arm]}"]
        for budget in results.budgets:
            values = list(results.curve(arm, budget).values())
            if not values:
                cells.append("–")
                continue
            value = estimate(values)
            text = f"{100 * value.mean:.2f} ± {100 * value.half:.2f}"
            cells.append(f"**{text}**" if arm == results.best_fixed(budget) else text)
        rows.append(cells)
    return table(("arm", *_heads(results)), rows)


def _shortfall(results: Results) -> list[str]:
    rows = []
    for arm in _known(results):
        if not results.complete(arm):
            continue
        cells = [f"`{arm}`"]
        for budget in results.budgets:
            cells.append(
                "0"
                if arm == results.best_fixed(budget)
                else signed(estimate(list(results.shortfall(arm, budget).values())))
            )
        worst = results.regret(arm)
        cells.append(f"{100 * worst.mean:.2f} ({100 * worst.low:.2f} to {100 * worst.high:.2f})")
        rows.append(cells)
    return table(("arm", *_heads(results), "largest (anytime regret)"), rows)


def _levels(results: Results) -> list[str]:
    shortest, longest = results.budgets[0], results.budgets[-1]
    low = mean(results.curve(results.best_fixed(shortest), shortest).values())
    high = mean(results.curve(results.best_fixed(longest), longest).values())
    levels = [low + share * (high - low) for share in (0.25, 0.5, 0.75, 0.9)]
    rows = []
    for arm in _known(results):
        costs = [results.compute_to(arm, level) for level in levels]
        rows.append([f"`{arm}`", *("never" if cost is None else f"{cost:.2e}" for cost in costs)])
    sweep = [results.sweep_to(level) for level in levels]
    rows.append([f"sweep over {len(FIXED)} sizes", *("never" if cost is None else f"{cost:.2e}" for cost in sweep)])
    return table(("FLOPs to reach", *(f"{level:.4f}" for level in levels)), rows)


def _deeds(results: Results) -> list[str]:
    rows = []
    for arm in GROWTH:
        for budget in results.budgets:
            if not results.curve(arm, budget):
                continue
            kept, germinated = results.kept(arm, budget)
            slots = ", ".join(f"{slot} {count}" for slot, count in sorted(results.slots(arm, budget).items()))
            price = results.overhead(arm, budget)
            rows.append([f"`{arm}`", f"{budget:.2g}", f"{kept} of {germinated}", slots, f"{100 * price.mean:.1f} %"])
    return table(
        ("arm", "budget", "seeds kept", "first seed went to (runs)", "FLOPs for twins, probes and culled seeds"), rows
    )


def _rates(all_rows: Sequence[Row], results: Results) -> list[str]:
    used = {(row["arm"], row["budget"]): row["rate"] for row in results.rows}
    tuning = sum(row["task"] == results.suite.name and row["seed"] >= TUNING_SEED for row in all_rows)
    rows = [
        [f"`{arm}`", *(f"{used[arm, budget]:g}" if (arm, budget) in used else "–" for budget in results.budgets)]
        for arm in _known(results)
    ]
    tried = ", ".join(f"{rate:g}" for rate in results.suite.rates)
    return [*table(("arm", *_heads(results)), rows), "", f"Tried: {tried}; {tuning} tuning runs."]
