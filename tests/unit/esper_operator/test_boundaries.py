"""What the operator must not bring along, and tables that must be whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from esper_operator.plan.merge import merged
from esper_operator.reasons import TABLE, Reason


def test_the_operator_loads_no_torch_and_no_database() -> None:
    heavy = "torch", "numpy", "sqlalchemy", "boto3", "pulsar"
    program = f"import sys, esper_operator.main; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"


def test_every_reason_is_explained() -> None:
    assert TABLE.keys() == set(Reason)
    assert all(entry.event in ("", "Normal", "Warning") for entry in TABLE.values())
    silent = {reason for reason, entry in TABLE.items() if entry.event == "Warning" and not entry.advice}
    assert silent == {Reason.RETIRED}, "a warning says what to do"


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"command": ["a", "b"]}, {"command": ["c"]}, {"command": ["c"]}),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
        ),
        (
            {"tolerations": [{"key": "a"}]},
            {"tolerations": [{"key": "a"}, {"key": "b"}]},
            {"tolerations": [{"key": "a"}, {"key": "b"}]},
        ),
    ],
)
def test_overrides_are_laid_over_as_kubectl_would(
    base: dict[str, object], over: dict[str, object], result: dict[str, object]
) -> None:
    before = repr(base)
    assert merged(base, over) == result
    assert repr(base) == before
