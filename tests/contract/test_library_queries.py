"""Queries, field reports and many at once, in every kernel library."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.urza import (
    Count,
    FieldReport,
    InvalidEntry,
    KernelQuery,
    Library,
    State,
)
from leyline.interface import Interface, Layout
from libraries import (
    ADAPTERS,
    HARDWARE,
    OTHER,
    TOOLCHAIN,
    VECTOR,
    a_report,
    artifact_id,
    bring_to,
    design,
    enter,
    validate,
    write_artifact,
)

# Queries


def stock_up(library: Library, tmp_path: Path) -> dict[str, str]:
    """Six artifacts with different properties: ids by a short name."""
    ids: dict[str, str] = {}
    stock = [
        ("small", 1, VECTOR, "fast", {"risk": 0.1, "tags": ["high_speed", "low_memory"]}),
        ("small-compiled", 1, VECTOR, "standard", {"risk": 0.1, "tags": ["high_speed"]}),
        ("medium", 2, VECTOR, "fast", {"risk": 0.5, "tags": []}),
        ("large", 4, VECTOR, "fast", {"risk": 0.9, "tags": ["low_memory"]}),
        ("elsewhere", 1, OTHER, "fast", {"risk": 0.1, "tags": ["high_speed"]}),
    ]
    for name, factor, interface, strategy, report in stock:
        library.register_blueprint(f"mlp{factor}", design(factor), 0.1)
        ids[name] = enter(library, f"mlp{factor}", design(factor), interface, strategy)
        bring_to(library, tmp_path, ids[name], State.VALIDATED, **report)
    library.register_blueprint("mlp8", design(8), 0.1)
    enter(library, "mlp8", design(8))
    return ids


@pytest.fixture
def stocked(library: Library, tmp_path: Path) -> dict[str, str]:
    return stock_up(library, tmp_path)


@pytest.fixture(scope="module", params=sorted(ADAPTERS))
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Library, dict[str, str]]]:
    """A stocked library for tests that only ask."""
    tmp = tmp_path_factory.mktemp("shop")
    with ADAPTERS[request.param](own=True) as opener:
        opened = opener(tmp)
        yield opened, stock_up(opened, tmp)
        opened.close()


@pytest.mark.parametrize(("question", "answer"), [
    ({}, ["small", "small-compiled", "medium", "large"]),
    ({"interface": OTHER}, ["elsewhere"]),
    ({"interface": Interface(Layout.VECTOR, 16, batch=(1, 2))}, []),
    ({"hardware": "x86_64-avx512"}, []),
    ({"toolchain": TOOLCHAIN}, ["small", "small-compiled", "medium", "large"]),
    ({"toolchain": TOOLCHAIN[:8]}, ["small", "small-compiled", "medium", "large"]),
    ({"toolchain": "f" * 8}, []),
    ({"max_risk": 0.5}, ["small", "small-compiled", "medium"]),
    ({"max_risk": 0.0}, []),
    ({"strategies": ("standard",)}, ["small-compiled"]),
    ({"strategies": ("fast", "standard")}, ["small", "small-compiled", "medium", "large"]),
    ({"strategies": ("aggressive",)}, []),
    ({"tags": ("high_speed",)}, ["small", "small-compiled"]),
    ({"tags": ("low_memory", "high_speed")}, ["small"]),
    ({"tags": ("low_power",)}, []),
    ({"blueprints": ("mlp2", "mlp4")}, ["medium", "large"]),
    ({"blueprints": ("mlp8", "unheard of")}, []),
    ({"blueprints": ()}, []),
    ({"limit": 2}, ["small", "small-compiled"]),
    ({"limit": 0}, []),
    ({"tags": ("low_memory",), "max_risk": 0.5, "strategies": ("fast",), "blueprints": ("mlp1",)}, ["small"]),
])  # fmt: skip
def test_query_finds_what_fits_in_a_fixed_order(
    shop: tuple[Library, dict[str, str]], question: dict[str, Any], answer: list[str]
) -> None:
    library, stocked = shop
    query = KernelQuery(**{"interface": VECTOR, "hardware": HARDWARE, **question})
    assert [record.artifact_id for record in library.query(query)] == [stocked[name] for name in answer]


def test_query_gives_whole_records(shop: tuple[Library, dict[str, str]]) -> None:
    library, _ = shop
    for record in library.query(KernelQuery(VECTOR, HARDWARE)):
        assert record == library.record(record.artifact_id)
        assert record.state is State.VALIDATED


def test_query_leaves_retired_ones_out(library: Library, stocked: dict[str, str]) -> None:
    library.retire(stocked["small"], "raised at run time")
    found = [record.artifact_id for record in library.query(KernelQuery(VECTOR, HARDWARE))]
    assert found == [stocked[name] for name in ("small-compiled", "medium", "large")]


def test_a_design_with_two_names_is_found_by_either_and_once(library: Library, stocked: dict[str, str]) -> None:
    library.register_blueprint("alias", design(1), 0.1)
    for names, expected in [(("mlp1",), "mlp1"), (("alias",), "alias"), (("mlp1", "alias"), "alias"), (None, "alias")]:
        query = KernelQuery(VECTOR, HARDWARE, strategies=("standard",), blueprints=names)
        assert [(r.artifact_id, r.blueprint) for r in library.query(query)] == [(stocked["small-compiled"], expected)]


def test_query_tells_whether_a_person_approved(library: Library, stocked: dict[str, str]) -> None:
    library.approve("mlp4")
    approved = {r.blueprint: r.approved for r in library.query(KernelQuery(VECTOR, HARDWARE))}
    assert approved == {"mlp1": False, "mlp2": False, "mlp4": True}


@pytest.mark.parametrize("question", [
    {"tags": ("Bad Tag",)}, {"tags": ("' OR 1=1 --",)}, {"max_risk": math.nan}, {"max_risk": 2.0}, {"limit": -1},
    {"strategies": ("quick",)}, {"hardware": ""}, {"hardware": "x" * 1000},
])  # fmt: skip
def test_senseless_queries_are_refused(shop: tuple[Library, dict[str, str]], question: dict[str, Any]) -> None:
    library, _ = shop
    with pytest.raises(InvalidEntry):
        library.query(KernelQuery(**{"interface": VECTOR, "hardware": HARDWARE, **question}))


def test_records_are_listed_by_state(shop: tuple[Library, dict[str, str]]) -> None:
    library, _ = shop
    everything = library.records()
    assert [r.artifact_id for r in everything] == sorted(r.artifact_id for r in everything)
    assert len(everything) == 6
    assert [r.blueprint for r in library.records([State.PENDING_BUILD])] == ["mlp8"]
    assert len(library.records([State.PENDING_BUILD, State.VALIDATED])) == 6
    assert library.records([State.NOISY]) == []


def test_artifacts_are_counted_by_state_strategy_and_hardware(shop: tuple[Library, dict[str, str]]) -> None:
    library, _ = shop
    assert library.counts() == [
        Count(State.PENDING_BUILD, "fast", HARDWARE, 1),
        Count(State.VALIDATED, "fast", HARDWARE, 4),
        Count(State.VALIDATED, "standard", HARDWARE, 1),
    ]
    assert library.counts([State.PENDING_BUILD]) == [Count(State.PENDING_BUILD, "fast", HARDWARE, 1)]
    assert library.counts([State.NOISY, State.REJECTED]) == []
    assert sum(each.artifacts for each in library.counts(State)) == len(library.records())


def test_counts_follow_an_artifact_and_know_other_hardware(library: Library, tmp_path: Path) -> None:
    library.register_blueprint("mlp", design(), 0.1)
    identity = enter(library, "mlp", design())
    library.begin(artifact_id(design(), hardware="gpu-sm90"), "mlp", VECTOR, "fast", "gpu-sm90", TOOLCHAIN)
    first, second = library.counts()
    assert (first.hardware, second.hardware) == ("gpu-sm90", HARDWARE)
    bring_to(library, tmp_path, identity, State.BUILT)
    assert library.counts([State.BUILT]) == [Count(State.BUILT, "fast", HARDWARE, 1)]
    assert [each.hardware for each in library.counts([State.PENDING_BUILD])] == ["gpu-sm90"]


# Field reports


def a_field_report(number: int = 1, **values: Any) -> FieldReport:
    fields = {
        "message_id": f"m{number}",
        "run": "run-1",
        "seed": "blocks.0/1",
        "blueprint": "mlp",
        "artifact_id": artifact_id(design()),
        "outcome": "FOSSILIZED",
        "pre_metric": 0.5,
        "post_metric": None,
        "measurements": {"effect": -0.25, "p_value": 1e-4},
    }
    return FieldReport(**(fields | values))


def test_field_reports_are_kept_in_order_each_once(library: Library) -> None:
    reports = [a_field_report(n, run=f"run-{n % 2}", blueprint=f"b{n % 3}") for n in range(6)]
    assert all(library.field_report(report) for report in reports)
    assert not any(library.field_report(report) for report in reports)
    assert library.field_reports() == reports
    assert library.field_reports(run="run-1") == [r for r in reports if r.run == "run-1"]
    assert library.field_reports(run="run-1", blueprint="b1") == [reports[1]]
    assert library.field_reports(run="nobody's") == []


def test_a_field_report_may_be_about_an_artifact_of_another_library(library: Library) -> None:
    assert library.records() == []
    assert library.field_report(a_field_report())


@pytest.mark.parametrize("values", [
    {"message_id": ""}, {"message_id": "x" * 129}, {"run": ""}, {"run": "a\0b"}, {"seed": "x" * 257}, {"outcome": ""},
    {"blueprint": "../x"}, {"artifact_id": "nonsense"}, {"pre_metric": math.nan}, {"post_metric": "good"},
    {"measurements": {"x": math.inf}}, {"measurements": {"x": None}}, {"measurements": {1: 2.0}},
])  # fmt: skip
def test_malformed_field_reports_are_refused(library: Library, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidEntry):
        library.field_report(a_field_report(**values))
    assert library.field_reports() == []


# Many at once


def test_many_threads_enter_and_decide_each_artifact_once(library: Library, tmp_path: Path) -> None:
    factors = (1, 2, 3)
    for factor in factors:
        library.register_blueprint(f"mlp{factor}", design(factor), 0.1)
    numbers = itertools.count()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            mine = tmp_path / f"worker{next(numbers)}"
            for factor in factors:
                identity = enter(library, f"mlp{factor}", design(factor))
                directory = write_artifact(mine, identity)
                library.built(identity, directory)
                library.begin_benchmark(identity)
                validate(directory, a_report())
                library.certify(identity, a_report(), directory)
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    records = library.records()
    assert [record.state for record in records] == [State.VALIDATED] * len(factors)
    for record in records:
        assert len(library.history(record.artifact_id)) == 4
        assert len(library.reports(record.artifact_id)) == 1
