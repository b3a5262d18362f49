"""What the measurement of the judge rests on."""

from __future__ import annotations

import pytest
import torch
from tests.bench.twin_error import NULL, POWER, Arm, Host, needed, report_of

QUICK = {"training": {"epochs": 48, "stepsPerEpoch": 6}, "judge": {"cooldownSteps": 5}}


def same(one, two):
    return all(one[key] == two[key] for key in ("effect", "p_value", "host_loss", "twin_loss"))


def test_a_remembered_twin_gives_the_verdict_of_one_that_is_trained():
    torch.set_num_threads(1)
    host = Host(0, **QUICK)
    grown = Arm("grown", "conv_block", epoch=2)
    other = Arm("other", "narrow_block", epoch=2)
    fresh = {arm.name: host.trial(arm, remember=False) for arm in (grown, other)}
    assert not same(fresh["grown"], fresh["other"])
    host.trial(grown)
    assert same(host.trial(other), fresh["other"])
    assert same(host.trial(grown), fresh["grown"])


def test_the_null_arms_are_what_they_say():
    torch.set_num_threads(1)
    host = Host(1, **QUICK)
    rounding = host.trial(Arm("rounding", "nothing", epoch=2, null=True))
    order = host.trial(Arm("order", "nothing", epoch=2, other_order=True, null=True))
    useless = host.trial(Arm("useless", "random_linear", epoch=2, frozen=True, null=True))
    assert rounding["host_loss"] == order["host_loss"]
    assert rounding["twin_loss"] != order["twin_loss"]
    assert rounding["scale"] < 1e-4 < 0.2 < useless["scale"]
    assert abs(rounding["effect"]) < abs(order["effect"])


def trial(arm: Arm, host: int, passed: bool) -> dict:
    return {
        "arm": arm.name, "host": host, "null": arm.null, "passed": passed, "effect": 0.01 * host + 0.1 * passed,
        "standard_error": 0.02, "scale": 0.5, "p_value": 0.001 if passed else 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(("wrong", "holds"), [(0, True), (5, True), (6, False)])
def test_the_promise_is_broken_by_the_sixth_error_of_a_hundred(wrong, holds):
    rows = [trial(arm, host, host < wrong) for arm in NULL for host in range(100)]
    rows += [trial(arm, host, True) for arm in POWER for host in range(20)]
    report = report_of(rows)
    promised = [row for row in report.rows if row.holds is not None]
    assert len(promised) == len(NULL)
    assert {row.holds for row in promised} == {holds}
    assert [row.value for row in report.rows if row.holds is None] == [100.0] * len(POWER)
    assert needed(rows, "useless")["p_value"].value == pytest.approx(0.001 if wrong > 5 else 0.5, abs=0.2)
