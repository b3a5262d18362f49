"""The analysis on made-up rows whose answers are known."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from tests.bench.growth.analysis import Results, tuned_rates
from tests.bench.growth.arms import TUNING_SEED
from tests.bench.growth.chart import chart
from tests.bench.growth.claims import claims
from tests.bench.growth.report import write
from tests.bench.growth.suites import SUITES

SUITE = SUITES["mnist1d"]
SHORT, MIDDLE, LONG = SUITE.budgets
LEVELS = {
    # small wins short, large wins long; growth follows both
    "never": (0.80, 0.85, 0.86),
    "between-1": (0.74, 0.86, 0.89),
    "between-2": (0.70, 0.87, 0.92),
    "final": (0.50, 0.80, 0.94),
    "heuristic": (0.80, 0.875, 0.94),
    "random-slot": (0.79, 0.85, 0.90),
    "random": (0.70, 0.80, 0.85),
    "always": (0.50, 0.80, 0.90),
    "fixed": (0.75, 0.87, 0.94),
}


def row(arm, budget, seed, metric, rate=0.02, **more):
    return {
        "task": "mnist1d", "arm": arm, "budget": budget, "rate": rate, "seed": seed, "metric": metric,
        "loss": 1 - metric, "controller_metric": metric, "controller_loss": 1 - metric, "parameters": 586,
        "flops": budget, "flops_twins": 0.1 * budget, "flops_culled": 0.0, "flops_probes": 0.05 * budget,
        "steps": 10, "rollbacks": 0, "grown": [], "seconds": 1.0, "cpu": 1.0, **more,
    }  # fmt: skip


GREW = [{"slot": "blocks.0", "blueprint": "conv_block", "stage": "FOSSILIZED", "epoch": 2, "effect": 0.1, "p": 0.0}]


def rows(levels=LEVELS, seeds=10):
    """Seeds differ by a lot, and alike in every arm: only paired differences can see the truth."""
    return [
        row(
            arm,
            budget,
            seed,
            level + 0.01 * (seed - (seeds - 1) / 2) + 0.0005 * ((seed + index) % 3 - 1),
            grown=GREW if arm in ("heuristic", "random-slot") else [],
        )
        for index, (arm, values) in enumerate(levels.items())
        for budget, level in zip(SUITE.budgets, values, strict=True)
        for seed in range(seeds)
    ]


@pytest.fixture
def results() -> Results:
    return Results.of(SUITE, rows())


def test_the_envelope_changes_its_size_with_the_budget(results):
    assert [results.best_fixed(budget) for budget in results.budgets] == ["never", "between-2", "final"]


def test_the_shortfall_is_paired_and_zero_for_the_best_itself(results):
    assert set(results.shortfall("never", SHORT).values()) == {0.0}
    found = results.versus("heuristic", "never", LONG)
    assert found.mean == pytest.approx(0.08, abs=0.001)
    assert found.half < 0.001


def test_anytime_regret_is_the_worst_budget(results):
    assert results.regret("never").mean == pytest.approx(0.08, abs=0.001)
    assert results.regret("final").mean == pytest.approx(0.30, abs=0.001)
    assert results.regret("heuristic").mean == pytest.approx(0.0, abs=0.001)
    assert results.regret("always").mean == pytest.approx(0.30, abs=0.001)


def test_less_is_better_turns_the_signs():
    suite = SUITE.__class__(**{**SUITE.__dict__, "higher_is_better": False})
    flipped = Results.of(suite, [{**r, "metric": 1 - r["metric"]} for r in rows()])
    assert [flipped.best_fixed(budget) for budget in flipped.budgets] == ["never", "between-2", "final"]
    assert flipped.versus("heuristic", "never", LONG).mean == pytest.approx(0.08, abs=0.001)
    assert flipped.regret("never").mean == pytest.approx(0.08, abs=0.001)
    assert flipped.compute_to("never", 1 - 0.82) == pytest.approx(results_cost(0.82), rel=0.02)


def results_cost(level):
    return SHORT * (MIDDLE / SHORT) ** ((level - 0.80) / 0.05)


def test_compute_to_a_level_is_interpolated_in_the_logarithm(results):
    assert results.compute_to("never", 0.82) == pytest.approx(results_cost(0.82), rel=0.02)
    assert results.compute_to("never", 0.99) is None
    assert results.compute_to("never", 0.10) == SHORT
    # the sweep trains all four sizes until the first is there
    assert results.sweep_to(0.82) == pytest.approx(4 * results_cost(0.82), rel=0.02)
    assert results.sweep_to(0.99) is None


def test_rates_are_tuned_on_the_controller_split_of_tuning_runs_alone():
    found = tuned_rates(
        [
            row("never", SHORT, TUNING_SEED, 0.5, rate=0.01),
            row("never", SHORT, TUNING_SEED + 1, 0.9, rate=0.01),
            row("never", SHORT, TUNING_SEED, 0.8, rate=0.02),
            row("never", SHORT, TUNING_SEED + 1, 0.8, rate=0.02),
            row("never", SHORT, TUNING_SEED, 1.0, rate=0.04, controller_loss=None),
            row("never", SHORT, 3, 1.0, rate=0.04),
        ],
        0.5,
    )
    assert found["never", SHORT] == 0.02
    assert found["never", LONG] == 0.02  # the nearest budget that was tuned
    assert found["final", LONG] == 0.5


def test_tuning_runs_and_other_tasks_are_no_results():
    found = Results.of(
        SUITE,
        [*rows(seeds=2), row("never", SHORT, TUNING_SEED, 9.0), {**row("never", SHORT, 0, 9.0), "task": "vector"}],
    )
    assert max(found.curve("never", SHORT).values()) < 1.0


def test_what_growth_did_is_counted():
    kept = {"slot": "blocks.0", "blueprint": "conv_block", "stage": "FOSSILIZED", "epoch": 2, "effect": 0.1, "p": 0.0}
    culled = {**kept, "slot": "blocks.1", "stage": "DORMANT", "epoch": 9, "effect": 0.0, "p": 0.9}
    grown = [kept, culled]
    found = Results.of(SUITE, [row("heuristic", LONG, 0, 0.9, grown=grown), row("heuristic", LONG, 1, 0.9)])
    assert found.kept("heuristic", LONG) == (1, 2)
    assert found.same_first_slot("heuristic", "heuristic", LONG) == (2, 2)
    assert found.slots("heuristic", LONG) == {"blocks.0": 1, "none": 1}
    assert found.overhead("heuristic", LONG).mean == pytest.approx(0.15)


REGRET = "the anytime regret is smaller than that of every fixed size"
PLACEMENT = "its placement is better than a random slot, at the longest budget"
BOTH = "never worse than both the host never grown and the final architecture from scratch, at any budget"


def test_claims_hold_where_they_should_and_only_there(results):
    held = {claim.text: claim.holds for claim in claims(results)}
    # at the longest budget growth is as good as the final architecture from scratch, not better
    assert held.pop("better than the final architecture from scratch, at the longest budget") is False
    assert all(held.values()), held
    poor = {claim.text: claim.holds for claim in claims(results, "always")}
    assert not poor[REGRET]
    assert not poor[PLACEMENT]
    assert poor[BOTH]  # it is as good as "final" at the shorter budgets and better than "never" at the longest


def test_a_slot_can_only_be_better_than_another_where_one_was_chosen():
    idle = [{**r, "grown": []} for r in rows()]
    (placement,) = [claim for claim in claims(Results.of(SUITE, idle)) if claim.text == PLACEMENT]
    assert placement.holds is None
    assert "no seed germinated" in placement.figures


def test_worse_than_both_at_one_budget_is_enough():
    levels = {**LEVELS, "heuristic": (0.80, 0.79, 0.94)}
    held = {claim.text: claim.holds for claim in claims(Results.of(SUITE, rows(levels)))}
    assert not held[BOTH]


def test_a_difference_within_the_noise_proves_nothing():
    noisy = [
        {**r, "metric": r["metric"] + (0.4 if (r["seed"] + (r["arm"] == "heuristic")) % 2 else 0.0)} for r in rows()
    ]
    held = {claim.text: claim.holds for claim in claims(Results.of(SUITE, noisy))}
    assert not held[REGRET]
    assert not held[PLACEMENT]


def test_a_level_that_costs_more_than_the_share_of_a_sweep_is_no_saving():
    late = {**LEVELS, "heuristic": (0.30, 0.31, 0.94)}
    held = {claim.text: claim.holds for claim in claims(Results.of(SUITE, rows(late)))}
    assert not next(holds for text, holds in held.items() if "of a sweep" in text)


def test_missing_runs_are_said_to_be_missing(results):
    few = Results.of(SUITE, [r for r in results.rows if r["arm"] not in ("random-slot", "final")])
    unknown = [claim.text for claim in claims(few) if claim.holds is None]
    assert len(unknown) == 4
    none = Results.of(SUITE, [r for r in results.rows if r["arm"] != "heuristic"])
    assert [claim.holds for claim in claims(none)] == [None]


def test_the_report_says_what_does_not_hold(results):
    text = write(list(results.rows), [results])
    assert "**holds**" in text
    assert "**does not hold**" in text
    assert "## Limits" in text
    assert "| `never`: the host, never grown | **80.00" in text
    assert "anytime regret" in text
    assert "never |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_the_chart_has_a_panel_for_each_task_with_runs(results):
    root = ElementTree.fromstring(chart([results, Results.of(SUITE, [])]))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 5
    assert ElementTree.fromstring(chart([])) is not None


def test_the_report_copes_with_few_runs():
    few = Results.of(SUITE, [row("never", SHORT, 0, 0.5)])
    assert "| `never`" in write([], [few])
    assert "No runs yet" in write([], [Results.of(SUITE, [])])
