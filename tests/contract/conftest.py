"""The contract suites run the same tests on every adapter: a new one joins by one entry in its ``ADAPTERS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import buses
import libraries
from esper.oona import Bus
from esper.urza import Library


@pytest.fixture(params=sorted(buses.ADAPTERS))
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    opened = buses.ADAPTERS[request.param].open()
    yield opened
    opened.close()


@pytest.fixture(params=sorted(buses.ADAPTERS))
def stalled(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[buses.Stalled]]:
    """Opens a bus that can't pass on what is published on a topic."""
    return buses.ADAPTERS[request.param].stalled


@pytest.fixture(params=sorted(libraries.ADAPTERS))
def opener(request: pytest.FixtureRequest) -> Iterator[libraries.Opener]:
    with libraries.ADAPTERS[request.param]() as opening:
        yield opening


@pytest.fixture
def library(opener: libraries.Opener, tmp_path: Path) -> Iterator[Library]:
    opened = opener(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def wanted(library: Library) -> str:
    """The id of an artifact in PENDING_BUILD."""
    library.register_blueprint("mlp", libraries.design(), 0.3)
    return libraries.enter(library, "mlp", libraries.design())
