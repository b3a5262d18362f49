from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import BudgetTooSmall
from esper.tolaria.budget import CATEGORIES, Ledger, Limits

charges = st.lists(
    st.tuples(st.sampled_from(CATEGORIES), st.integers(0, 10**12), st.sampled_from([None, "a/0", "b/0"])), max_size=40
)


@given(charges, st.sets(st.sampled_from(["a/0", "b/0"])))
def test_purposes_add_up_to_the_total(items, culled):
    ledger = Ledger()
    for category, flops, seed in items:
        # the host and the probes are nobody's; the rest is always some seed's
        owner = None if category in ("host", "probe") else (seed or "a/0")
        ledger.charge(category, flops, owner)
    assert sum(ledger.by_purpose(culled).values()) == ledger.total == sum(flops for _, flops, _ in items)


@given(charges)
def test_ledger_survives_json(items):
    ledger = Ledger()
    for item in items:
        ledger.charge(*item)
    assert Ledger.from_dict(ledger.to_dict()) == ledger


def test_what_was_spent_on_culled_seeds_includes_their_twin():
    ledger = Ledger()
    ledger.charge("host", 100)
    ledger.charge("seeds", 7, "a/0")
    ledger.charge("twin", 100, "a/0")
    ledger.charge("cooldown", 20, "a/0")
    ledger.charge("seeds", 9, "b/0")
    assert ledger.by_purpose({"a/0"}) == {"host": 100, "grown": 9, "twin": 0, "culled": 127, "probes": 0}


@pytest.mark.parametrize(("category", "flops"), [("coffee", 1), ("host", -1)])
def test_nonsense_charges_are_refused(category, flops):
    with pytest.raises(ValueError, match=r"coffee|negative"):
        Ledger().charge(category, flops)


def test_a_budget_below_the_hosts_own_size_is_refused_with_both_numbers():
    with pytest.raises(BudgetTooSmall, match=r"spec\.budget\.parameters is 500 but the host alone has 586"):
        Limits(10, 500, None).check_host(586, 1)
    with pytest.raises(BudgetTooSmall, match=r"spec\.budget\.trainingFlops"):
        Limits(10, None, 99).check_host(586, 100)
    Limits(10, 586, 100).check_host(586, 100)


def test_progress_is_the_limit_that_is_nearer():
    limits = Limits(10, None, 1000)
    assert limits.fraction(1, 500) == 0.5
    assert limits.fraction(9, 500) == 0.9
    assert limits.fraction(1, 5000) == 1.0
