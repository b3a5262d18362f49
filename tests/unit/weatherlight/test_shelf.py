from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.karn.catalogue import CATALOGUE
from esper.kernel import PublicKeys, SigningKey
from esper.urza import AccessDenied, InvalidEntry, KernelQuery, KernelRecord, LibraryUnavailable, State
from esper.weatherlight.shelf import RunShelf
from leyline.interface import Interface, Layout
from leyline.resources import TrainingRunSpec
from runs import manifest

NARROW, WIDE = Interface(Layout.VECTOR, 4), Interface(Layout.VECTOR, 8)
SLOTS = {"blocks.0": NARROW, "blocks.1": WIDE, "blocks.2": NARROW}
SPEC: TrainingRunSpec = manifest().spec


def record(artifact: str, ratio: float = 1.0) -> KernelRecord:
    return KernelRecord(artifact, "mlp", "fast", State.VALIDATED, ratio, 0.1, 1.0, (), 0.1, 10, 20)


class Shop:
    """What a library answers, by width; and what it was asked."""

    def __init__(self) -> None:
        self.records: dict[int, list[KernelRecord]] = {4: [], 8: []}
        self.asked: list[KernelQuery] = []

    def query(self, query: KernelQuery) -> list[KernelRecord]:
        self.asked.append(query)
        return list(self.records[query.interface.width])


class Source:
    keys = PublicKeys.of([SigningKey.generate()], [SigningKey.generate()])

    def path(self, artifact_id: str) -> Path:
        return Path("/kernels") / artifact_id


@pytest.fixture
def shop() -> Shop:
    return Shop()


def shelf(shop: Any, spec: TrainingRunSpec = SPEC) -> RunShelf:
    return RunShelf(shop, Source(), SLOTS, spec, "x86_64", "0" * 8)


def test_each_kernel_arrives_once_and_is_offered_where_it_fits(shop):
    one = shelf(shop)
    assert one.arrivals() == []
    shop.records[4] = [record("b"), record("a")]
    assert one.arrivals() == ["a", "b"]
    assert one.arrivals() == []
    shop.records[8] = [record("c")]
    assert one.arrivals() == ["c"]
    offered = one.offers({"a": 1, "c": 2})
    assert {slot: [r.artifact_id for r in records] for slot, records in offered.items()} == {
        "blocks.0": ["a"], "blocks.1": ["c"], "blocks.2": ["a"],
    }  # fmt: skip
    assert one.path("a") == Path("/kernels/a")


def test_a_resumed_run_decides_on_the_numbers_it_saw_first(shop):
    shop.records[4] = [record("a", ratio=0.5)]
    first = shelf(shop)
    first.arrivals()
    shop.records[4] = [replace(record("a", ratio=0.9), tags=("low_memory",))]
    again = shelf(shop)
    again.load(json.loads(json.dumps(first.to_dict())))
    assert again.arrivals() == []
    assert again.records() == first.records()
    assert again.records()[0].ratio == 0.5
    assert again.offers({"a": 0}) == first.offers({"a": 0})


def test_what_arrived_after_the_restored_state_arrives_again(shop):
    one = shelf(shop)
    shop.records[4] = [record("a")]
    one.arrivals()
    state = one.to_dict()
    shop.records[8] = [record("c")]
    assert one.arrivals() == ["c"]
    one.load(state)
    assert one.arrivals() == ["c"]
    assert [r.artifact_id for r in one.records()] == ["a", "c"]


def test_a_query_asks_for_what_the_manifest_allows(shop):
    shelf(shop).arrivals()
    assert {query.interface for query in shop.asked} == {NARROW, WIDE}
    query = shop.asked[0]
    assert query.strategies == tuple(str(strategy).lower() for strategy in SPEC.kernels.strategies)
    assert query.max_risk == SPEC.controller.max_risk
    assert (query.hardware, query.toolchain) == ("x86_64", "0" * 8)

    named = sorted(CATALOGUE)[:2]
    changed = SPEC.model_copy(
        update={
            "kernels": SPEC.kernels.model_copy(update={"blueprints": named}),
            "controller": SPEC.controller.model_copy(update={"approved": [named[0]]}),
        }
    )
    shelf(shop, changed).arrivals()
    assert shop.asked[-1].blueprints == tuple(named)
    assert shop.asked[-1].max_risk == 1.0  # the controller lets an approved one pass, whatever its risk


@pytest.mark.parametrize("error", [LibraryUnavailable("away"), AccessDenied("the token has run out")])
def test_a_library_that_is_away_has_nothing_new_where_that_is_told(shop, error):
    shop.records[8] = [record("w")]
    told: list[Exception] = []
    patient = RunShelf(shop, Source(), SLOTS, SPEC, "x86_64", "0" * 8, away=told.append)
    query, calls = shop.query, []

    def breaks(asked: KernelQuery) -> list[KernelRecord]:
        calls.append(asked)
        if len(calls) == 3:
            raise error
        return query(asked)

    shop.query = breaks
    assert patient.arrivals() == ["w"], "what came before the library went stays"
    assert told == [error]
    shop.records[4] = [record("n")]
    assert patient.arrivals() == ["n"]
    assert told == [error]
    calls.clear()
    calls += [None, None]
    with pytest.raises(type(error)):
        shelf(shop).arrivals()


def test_other_errors_of_the_library_are_errors(shop):
    def wrong(asked: KernelQuery) -> list[KernelRecord]:
        raise InvalidEntry("no")

    shop.query = wrong
    with pytest.raises(InvalidEntry):
        RunShelf(shop, Source(), SLOTS, SPEC, "x86_64", "0" * 8, away=lambda _: None).arrivals()
