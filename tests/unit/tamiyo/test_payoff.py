"""The price of a trial against what it should bring, one property at a time."""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from esper.tamiyo.evidence import EARLY_ERROR, Belief
from esper.tamiyo.payoff import LEAST_EXPONENT, Payoff, Sight, exponent_of, settled, weigh

HOST_STEP = 3.0 * 20_000 * 100


def bill(t: SimpleNamespace, longer: int = 0, worth: float = 4000.0) -> tuple[Any, Any, Any]:
    """A view with so many host steps in its budget, the cost model, and the cost of a kernel twice the host's size."""
    limits = {"flops_used": 400 * HOST_STEP, "flops_limit": worth * HOST_STEP}
    view = t.view(10, 4000, losses=t.falling(10), budget=limits)
    costs = t.CostModel(t.spec())
    slot = next(iter(view.slots.values()))
    return view, costs, costs.germination(view, slot, t.kernel(flops=40_000), longer=longer)


def weighed(t: SimpleNamespace, belief: Belief | None = None, sight: Sight | None = None, **fields: Any) -> Payoff:
    view, costs, cost = bill(t, **fields)
    return weigh(view, costs, cost, 0.3, belief or Belief(), sight or Sight(0.01, 0.03))


def test_the_expectation_is_the_one_that_drawing_kappa_gives(t: SimpleNamespace) -> None:
    """Draw κ from the belief and what the judge measures around it, keep what is over the threshold, take the mean."""
    belief, sight, exponent = Belief(1.5, 1.2), Sight(0.02, 0.05), 0.3
    view, costs, cost = bill(t)
    found = weigh(view, costs, cost, exponent, belief, sight)
    size, draws = math.log1p(cost.step_ratio), random.Random(0)
    by_verdict = exponent * settled(cost.steps_to_verdict) * size
    kept, total, n = 0, 0.0, 40_000
    for _ in range(n):
        kappa = draws.gauss(belief.mean, belief.spread)
        seen = kappa + draws.gauss(0.0, EARLY_ERROR) + draws.gauss(0.0, sight.error / by_verdict)
        if seen * by_verdict > 0.05:
            kept += 1
            total += exponent * found.settled * size * kappa - found.if_kept
        else:
            total -= found.if_culled
    assert found.kept == pytest.approx(kept / n, abs=0.01)
    assert found.advantage == pytest.approx(total / n, abs=0.01)


def test_less_hope_means_less_chance_less_gain_and_a_worse_trial(t: SimpleNamespace) -> None:
    found = [weighed(t, Belief(mean, 1.0)) for mean in (3.0, 1.5, 0.0)]
    for better, worse in pairwise(found):
        assert better.kept > worse.kept
        assert better.gain > worse.gain
        assert better.advantage > worse.advantage
    assert found[-1].advantage < 0.0


def test_a_sure_failure_costs_the_trial_and_no_more(t: SimpleNamespace) -> None:
    found = weighed(t, Belief(-20.0, 0.1))
    assert found.kept == pytest.approx(0.0, abs=1e-6)
    assert found.advantage == pytest.approx(-found.if_culled)
    assert 0.0 < found.if_culled < found.if_kept


def test_doubt_is_worth_something_because_a_failure_is_called_off(t: SimpleNamespace) -> None:
    sure, unsure = weighed(t, Belief(0.8, 0.1)), weighed(t, Belief(0.8, 1.5))
    assert unsure.advantage > sure.advantage


def test_without_a_judge_all_is_kept(t: SimpleNamespace) -> None:
    found = weighed(t, Belief(-1.0, 1.0), Sight(0.01, None))
    assert found.kept == 1.0
    assert found.price == found.if_kept
    assert found.gain < 0.0


def test_a_longer_blending_shows_more_and_costs_more(t: SimpleNamespace) -> None:
    sight = Sight(0.04, 0.10)
    short, long = weighed(t, sight=sight), weighed(t, sight=sight, longer=4)
    assert long.kept > short.kept
    assert long.if_culled > short.if_culled
    assert long.grown_steps < short.grown_steps


@pytest.mark.parametrize("worth", [900.0, 1500.0, 4000.0, 20_000.0])
def test_a_trial_costs_a_smaller_share_of_a_longer_run(t: SimpleNamespace, worth: float) -> None:
    assert weighed(t, worth=worth).if_culled > weighed(t, worth=2 * worth).if_culled


def test_how_fine_the_judge_sees_follows_the_examples_and_then_his_verdicts(t: SimpleNamespace) -> None:
    judge = t.spec(judge={"minimum_effect": 0.01}).judge

    def sight(examples: float, resolution: float | None = None) -> Sight:
        places = t.slots(statistics={"count": examples * 20})  # the interface has 20 positions
        return Sight.of(judge, t.view(10, losses=[0.5] * 10, slot_views=places), resolution)

    assert sight(100.0).error == pytest.approx(0.07)
    assert sight(10_000.0).error == pytest.approx(0.007)
    assert sight(100.0, 0.002).error == 0.002
    threshold = sight(100.0).threshold
    assert threshold == pytest.approx(0.02 + 2.5758 * 0.07, rel=1e-3)
    off = dataclasses.replace(t.view(10), slots=t.slots())
    assert Sight.of(t.spec(judge={"mode": "Off"}).judge, off, None).threshold is None


def test_the_exponent_is_half_of_the_fall_so_far_and_never_below_the_least(t: SimpleNamespace) -> None:
    for short in ([], [2.0], [2.0, 3.0], [float("nan"), 1.0], [1.0, float("nan")], [-1.0, -2.0], t.flat(20)):
        assert exponent_of(short) == LEAST_EXPONENT
    assert exponent_of(t.falling(2, 0.8)) == pytest.approx(0.4)
    assert exponent_of(t.falling(40, 0.8)) == pytest.approx(0.4, rel=0.02)


def test_one_wild_loss_hardly_moves_the_exponent(t: SimpleNamespace) -> None:
    losses = t.falling(20, 0.6)
    wild = [*losses[:-1], 5.0 * losses[-1]]
    assert exponent_of(wild) == pytest.approx(exponent_of(losses), rel=0.05)
