"""Every gate at and beyond its limits."""

from __future__ import annotations

import math

import pytest
import torch

from esper.kasmina import gates
from leyline.lifecycle import Gate
from leyline.resources.enums import Objective

SANE = {
    "built": True, "validated": True, "interface_fits": True, "parameters": 10, "parameters_used": 90,
    "parameters_limit": 100, "risk": 0.6, "max_risk": 0.6, "approved": False,
}  # fmt: skip


def test_sanity_passes_at_the_limits():
    assert gates.sanity(**SANE).passed
    assert gates.sanity(**{**SANE, "risk": 0.9, "approved": True}).passed
    assert gates.sanity(**{**SANE, "parameters": 10**9, "parameters_limit": None}).passed


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"built": False}, "built"), ({"validated": False}, "validated"), ({"interface_fits": False}, "interface"),
        ({"parameters": 11}, "budget"), ({"risk": 0.61}, "risk"), ({"risk": math.nan}, "risk"),
    ],
)  # fmt: skip
def test_sanity_names_what_is_wrong(change, word):
    result = gates.sanity(**{**SANE, **change})
    assert not result.passed
    assert word in result.reason


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True), ({"steps": 0}, False), ({"nonfinite": 1}, False), ({"largest": 2e4}, False),
        ({"smallest": 0.0, "largest": 0.0}, False), ({"smallest": 0.0}, True),
    ],
)  # fmt: skip
def test_gradient_health(change, passed):
    numbers = {"smallest": 0.1, "largest": 2.0, "last": 0.5, "nonfinite": 0, "steps": 10, **change}
    assert gates.gradient_health(**numbers).passed is passed


@pytest.mark.parametrize(
    ("objective", "first", "last", "nonfinite", "steps", "passed"),
    [
        (Objective.NONE, math.nan, math.nan, 0, 0, True),
        (Objective.SHADOW, 1.0, 0.5, 0, 10, True),
        (Objective.SHADOW, 1.0, 1.0, 0, 10, False),
        (Objective.TASK, 0.0, -0.1, 0, 10, True),
        (Objective.TASK, 0.0, -0.1, 2, 10, False),
        (Objective.SHADOW, math.nan, math.nan, 0, 0, False),
        (Objective.RECONSTRUCTION, 0.0, 0.0, 0, 10, True),
        (Objective.SHADOW, 0.0, 0.0, 0, 10, False),
        (Objective.RECONSTRUCTION, math.inf, 0.1, 0, 10, False),
    ],
)
def test_isolated_learning(objective, first, last, nonfinite, steps, passed):
    result = gates.isolated_learning(objective, first=first, last=last, nonfinite=nonfinite, steps=steps)
    assert result.passed is passed
    assert ("skipped" in result.reason) is (objective is Objective.NONE)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True), ({"alpha": 0.999}, False), ({"scale": 4.01}, False), ({"scale": math.inf}, False),
        ({"scale": math.nan}, False), ({"measured": 0}, False), ({"faults": 1}, False),
    ],
)  # fmt: skip
def test_interface_while_blending(change, passed):
    numbers = {"alpha": 1.0, "scale": 4.0, "limit": 4.0, "measured": 3, "faults": 0, **change}
    assert gates.interface_while_blending(**numbers).passed is passed


def test_system_impact_follows_the_judge(verdict):
    assert gates.system_impact(verdict(True), judged=True).passed
    assert not gates.system_impact(verdict(False), judged=True).passed
    assert not gates.system_impact(None, judged=True).passed
    off = gates.system_impact(None, judged=False)
    assert off.passed
    assert "off" in off.reason
    assert gates.system_impact(verdict(True), judged=True).numbers == {"effect": 0.1, "p_value": 0.001}


def test_reset_compares_bit_for_bit():
    host = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([math.nan])}
    mine = [torch.zeros(2)]
    free = {"seed_parameters": mine, "optimized": set(), "affected_host": True}
    assert gates.reset(host, {k: v.clone() for k, v in host.items()}, **free).passed
    minus = {"a": torch.tensor([-0.0, 1.0]), "b": host["b"]}
    found = gates.reset(host, minus, **free)
    assert not found.passed
    assert "'a'" in found.reason
    assert not gates.reset(host, {"a": host["a"]}, **free).passed
    assert not gates.reset(host, None, **free).passed
    assert gates.reset(host, None, **free, judged=False).passed
    assert gates.reset(host, None, **{**free, "affected_host": False}).passed
    held = gates.reset(host, dict(host), **{**free, "optimized": {id(mine[0])}})
    assert not held.passed
    assert "optimizer" in held.reason


def test_results_are_json_even_with_infinite_numbers():
    result = gates.GateResult(Gate.G4, True, "fine", {"t": math.inf, "n": 3.0})
    assert result.to_dict() == {"gate": "G4", "passed": True, "reason": "fine", "numbers": {"t": None, "n": 3.0}}
