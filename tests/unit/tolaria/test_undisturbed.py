"""Collections and thread switches while steps are made."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from esper.tolaria.undisturbed import EVERY, SWITCH_SECONDS, collect_young, undisturbed


class Knot:
    """A cycle that only a collection frees."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def restored():
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    (gc.enable if collecting else gc.disable)()


@pytest.mark.parametrize("collecting", [True, False])
def test_what_was_set_before_is_set_again_also_after_an_error(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    sys.setswitchinterval(0.003)
    inside = []

    def fail() -> None:
        with undisturbed():
            inside.append((gc.isenabled(), sys.getswitchinterval()))
            raise KeyError("a step failed")

    with pytest.raises(KeyError):
        fail()
    assert inside == [(False, pytest.approx(SWITCH_SECONDS))]
    assert gc.isenabled() is collecting
    assert sys.getswitchinterval() == pytest.approx(0.003)


def test_young_cycles_are_freed_between_steps_and_only_now_and_then() -> None:
    with undisturbed():
        knot = weakref.ref(Knot())
        for step in range(1, EVERY):
            collect_young(step)
        assert knot() is not None
        collect_young(EVERY)
        assert knot() is None
