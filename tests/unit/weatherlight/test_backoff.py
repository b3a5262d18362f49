from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.weatherlight.backoff import Backoff


def test_doubles_up_to_the_longest_and_then_gives_up() -> None:
    backoff = Backoff(first=0.5, longest=3.0, tries=6)
    assert [backoff.wait(failures) for failures in range(1, 8)] == [0.5, 1.0, 2.0, 3.0, 3.0, None, None]


@given(
    first=st.floats(1e-3, 10),
    factor=st.floats(1, 1000),
    tries=st.integers(1, 10_000),
    failures=st.integers(1, 20_000),
)
def test_waits_never_shrink_and_stay_in_their_bounds(first: float, factor: float, tries: int, failures: int) -> None:
    backoff = Backoff(first=first, longest=first * factor, tries=tries)
    wait = backoff.wait(failures)
    assert (wait is None) == (failures >= tries)
    if wait is not None:
        assert first <= wait <= first * factor
        later = backoff.wait(failures + 1)
        assert later is None or later >= wait


@pytest.mark.parametrize(
    "settings", [{"first": 0.0}, {"first": -1.0}, {"first": 5.0, "longest": 1.0}, {"tries": 0}, {"healthy": -1.0}]
)
def test_senseless_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="backoff"):
        Backoff(**settings)  # type: ignore[arg-type]
