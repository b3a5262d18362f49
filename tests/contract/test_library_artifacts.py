"""Blueprints and the steps of an artifact, in every kernel library."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from esper.urza import (
    InvalidEntry,
    Library,
    State,
    StateConflict,
    UnknownArtifact,
    UnknownBlueprint,
)
from leyline import canonical
from leyline.blueprint import BlueprintIR, node
from leyline.identity import ArtifactId
from leyline.interface import Interface, Layout
from libraries import (
    HARDWARE,
    OTHER,
    TOOLCHAIN,
    VECTOR,
    Opener,
    a_report,
    artifact_id,
    bring_to,
    design,
    enter,
    validate,
    write_artifact,
)


def test_is_a_library(library: Library) -> None:
    assert isinstance(library, Library)


# Blueprints


def test_a_blueprint_comes_back_as_it_was_registered(library: Library) -> None:
    digest = library.register_blueprint("mlp", design(2), 0.25)
    assert digest == design(2).digest()
    for key in ("mlp", digest):
        record = library.blueprint(key)
        assert (record.name, record.digest, record.risk, record.approved) == ("mlp", digest, 0.25, False)
        assert record.ir == design(2)
        assert record.ir.to_dict() == design(2).to_dict(), "also what its author called the nodes"


def test_registering_again_changes_the_risk_and_never_takes_an_approval_back(library: Library) -> None:
    library.register_blueprint("mlp", design(), 0.9)
    library.approve("mlp")
    library.register_blueprint("mlp", design(), 0.4)
    assert (library.blueprint("mlp").risk, library.blueprint("mlp").approved) == (0.4, True)
    library.approve("mlp", False)
    assert library.blueprint("mlp").approved is False
    library.register_blueprint("mlp", design(), 0.4, True)
    assert library.blueprint("mlp").approved is True


def test_blueprints_are_listed_by_name_also_when_two_names_mean_one_design(library: Library) -> None:
    library.register_blueprint("b", design(), 0.1)
    library.register_blueprint("a", design(), 0.1)
    library.register_blueprint("c", design(2), 0.1)
    assert [record.name for record in library.blueprints()] == ["a", "b", "c"]
    assert library.blueprint("a").digest == library.blueprint("b").digest


def test_a_name_moves_to_the_newest_design_and_the_older_one_stays(library: Library) -> None:
    old = library.register_blueprint("mlp", design(1), 0.1)
    new = library.register_blueprint("mlp", design(2), 0.1)
    assert library.blueprint("mlp").digest == new
    assert library.blueprint(old).ir == design(1)


def test_lineage_goes_both_ways_nearest_first(library: Library) -> None:
    digests = [library.register_blueprint("g0", design(1), 0.1)]
    for generation in range(1, 4):
        parents = [f"g{generation - 1}"] if generation < 3 else ["g2", digests[0]]
        digests.append(library.register_blueprint(f"g{generation}", design(generation + 1), 0.1, parents=parents))
    assert set(library.lineage("g3").ancestors) == set(digests[:3])
    assert library.lineage("g3").ancestors[-1] == digests[1]
    assert library.lineage("g1").descendants == (digests[2], digests[3])
    assert library.lineage(digests[0]).ancestors == ()
    assert library.blueprint("g3").parents == tuple(sorted([digests[2], digests[0]]))


def test_lineage_has_no_circles_and_no_strangers(library: Library) -> None:
    library.register_blueprint("a", design(1), 0.1)
    library.register_blueprint("b", design(2), 0.1, parents=["a"])
    with pytest.raises(InvalidEntry, match="descend"):
        library.register_blueprint("a", design(1), 0.1, parents=["b"])
    with pytest.raises(InvalidEntry, match="descend"):
        library.register_blueprint("b", design(2), 0.1, parents=["b"])
    with pytest.raises(UnknownBlueprint, match="nobody"):
        library.register_blueprint("c", design(3), 0.1, parents=["nobody"])
    assert [record.name for record in library.blueprints()] == ["a", "b"], "what failed left nothing"


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "/abs", "-x", "a b", "x" * 129, "naïve", "a\0", "a\n", "'; --"])
def test_hostile_blueprint_names_are_refused(library: Library, name: str) -> None:
    with pytest.raises(InvalidEntry, match="blueprint name"):
        library.register_blueprint(name, design(), 0.1)
    with pytest.raises(InvalidEntry, match="blueprint name"):
        library.blueprint(name)


@pytest.mark.parametrize("risk", [-0.1, 1.1, math.nan, math.inf, "0.5", True, None])
def test_risks_outside_their_range_are_refused(library: Library, risk: Any) -> None:
    with pytest.raises(InvalidEntry, match="risk"):
        library.register_blueprint("mlp", design(), risk)
    assert library.blueprints() == []


def test_an_artifact_s_interface_comes_back(library: Library) -> None:
    wide = Interface(Layout.SEQUENCE, 16, (5,), "bfloat16", (2, 64))
    ir = BlueprintIR({"x": node("input"), "y": node("linear", "x", out="w")}, "y", (Layout.VECTOR, Layout.SEQUENCE))
    library.register_blueprint("line", ir, 0.1)
    for interface in (VECTOR, wide):
        identity = ArtifactId.make(ir.digest(), interface, HARDWARE, "fast", TOOLCHAIN)
        library.begin(identity, "line", interface, "fast", HARDWARE, TOOLCHAIN)
        assert library.interface(str(identity)) == interface
    with pytest.raises(UnknownArtifact):
        library.interface(artifact_id(design(4)))
    with pytest.raises(InvalidEntry):
        library.interface("../x")


def test_unknown_blueprints_are_named_with_those_there_are(library: Library) -> None:
    library.register_blueprint("mlp", design(), 0.1)
    for ask in (library.blueprint, library.approve, library.lineage):
        with pytest.raises(UnknownBlueprint, match=r"mpl.*mlp"):
            ask("mpl")


# An artifact's steps


def test_the_whole_way(library: Library, wanted: str, tmp_path: Path) -> None:
    assert library.record(wanted).state is State.PENDING_BUILD
    directory = write_artifact(tmp_path / "work", wanted)
    assert library.built(wanted, directory) is State.BUILT
    assert library.begin_benchmark(wanted) is State.PENDING_BENCHMARK
    validate(directory, a_report())
    assert library.certify(wanted, a_report(), directory) is State.VALIDATED
    record = library.record(wanted)
    assert (record.artifact_id, record.blueprint, record.strategy) == (wanted, "mlp", "fast")
    assert (record.hardware, record.toolchain) == (HARDWARE, TOOLCHAIN[:8])
    assert (record.ratio, record.latency_ms, record.memory_mb) == (0.8, 1.5, 3.0)
    assert (record.tags, record.risk) == (("high_speed",), 0.2)
    assert (record.flops, record.parameters) == (design().flops(VECTOR), design().parameter_count(VECTOR))
    assert record.report == a_report()
    assert library.retire(wanted, "raised at run time") is State.RETIRED
    assert library.record(wanted).cause == "raised at run time"
    steps = [(change.source, change.target) for change in library.history(wanted)]
    assert steps == [
        (None, State.PENDING_BUILD),
        (State.PENDING_BUILD, State.BUILT),
        (State.BUILT, State.PENDING_BENCHMARK),
        (State.PENDING_BENCHMARK, State.VALIDATED),
        (State.VALIDATED, State.RETIRED),
    ]
    times = [change.at for change in library.history(wanted)]
    assert times == sorted(times)


def test_what_was_written_is_there_after_reopening(
    opener: Opener, library: Library, wanted: str, tmp_path: Path
) -> None:
    bring_to(library, tmp_path, wanted, State.VALIDATED)
    before = library.record(wanted)
    library.close()
    again = opener(tmp_path)
    assert again.record(wanted) == before
    assert again.fetch(wanted, tmp_path / "cache").name == wanted
    again.close()


def test_asking_for_the_same_twice_is_one_artifact(library: Library, wanted: str) -> None:
    assert enter(library, "mlp", design()) == wanted
    assert [record.artifact_id for record in library.records()] == [wanted]
    assert len(library.history(wanted)) == 1


def test_a_risk_not_measured_yet_is_the_blueprints(library: Library, wanted: str, tmp_path: Path) -> None:
    assert library.record(wanted).risk == 0.3
    bring_to(library, tmp_path, wanted, State.VALIDATED, risk=None)
    assert library.record(wanted).risk == 0.3


@pytest.mark.parametrize(("strategy", "hardware", "toolchain"), [
    ("standard", HARDWARE, TOOLCHAIN),
    ("fast", "x86_64-avx512", TOOLCHAIN),
    ("fast", HARDWARE, "f" * 16),
    ("sneaky", HARDWARE, TOOLCHAIN),
    ("fast", "../etc", TOOLCHAIN),
    ("fast", HARDWARE, "no hash"),
])  # fmt: skip
def test_an_id_that_does_not_follow_from_the_rest_is_refused(
    library: Library, strategy: str, hardware: str, toolchain: str
) -> None:
    library.register_blueprint("mlp", design(), 0.1)
    with pytest.raises(InvalidEntry):
        library.begin(artifact_id(design()), "mlp", VECTOR, strategy, hardware, toolchain)
    with pytest.raises(InvalidEntry):
        library.begin(artifact_id(design(), OTHER), "mlp", VECTOR, "fast", HARDWARE, TOOLCHAIN)
    assert library.records() == []


def test_an_artifact_needs_a_known_blueprint_that_fits(library: Library) -> None:
    with pytest.raises(UnknownBlueprint):
        enter(library, "mlp", design())
    library.register_blueprint("mlp", design(), 0.1)
    sequence = Interface(Layout.SEQUENCE, 16, (8,))
    with pytest.raises(InvalidEntry, match="does not fit"):
        enter(library, "mlp", design(), sequence)
    assert library.records() == []


@pytest.mark.parametrize("identity", [
    "", "x", "../../etc/passwd", "0" * 16, "a" * 16 + "-x86_64-fast", "A" * 16 + "-x86_64-fast-01234567",
    "a" * 16 + "-x86_64-fast-01234567\n", "a" * 16 + "-x/86-fast-01234567", "a" * 5000, "a\0b",
])  # fmt: skip
def test_hostile_ids_are_refused_everywhere(library: Library, identity: str, tmp_path: Path) -> None:
    library.register_blueprint("mlp", design(), 0.1)
    for action in (
        lambda: library.begin(identity, "mlp", VECTOR, "fast", HARDWARE, TOOLCHAIN),
        lambda: library.built(identity, tmp_path),
        lambda: library.begin_benchmark(identity),
        lambda: library.certify(identity, a_report(), tmp_path),
        lambda: library.reject(identity, "no"),
        lambda: library.noisy(identity, "no"),
        lambda: library.retire(identity, "no"),
        lambda: library.retry(identity, "no"),
        lambda: library.record(identity),
        lambda: library.files(identity),
        lambda: library.fetch(identity, tmp_path / "cache"),
        lambda: library.reports(identity),
        lambda: library.history(identity),
    ):
        with pytest.raises(InvalidEntry, match="artifact id"):
            action()
    assert not (tmp_path / "cache").exists()


def test_unknown_artifacts_say_so(library: Library, tmp_path: Path) -> None:
    identity = artifact_id(design())
    directory = write_artifact(tmp_path / "work", identity)
    for action in (
        lambda: library.built(identity, directory),
        lambda: library.begin_benchmark(identity),
        lambda: library.certify(identity, a_report(), directory),
        lambda: library.reject(identity, "no"),
        lambda: library.noisy(identity, "no"),
        lambda: library.retire(identity, "no"),
        lambda: library.retry(identity, "no"),
        lambda: library.record(identity),
        lambda: library.files(identity),
        lambda: library.fetch(identity, tmp_path / "cache"),
        lambda: library.reports(identity),
        lambda: library.history(identity),
    ):
        with pytest.raises(UnknownArtifact, match=identity):
            action()


@pytest.mark.parametrize(("start", "step"), [
    (State.PENDING_BUILD, "begin_benchmark"),
    (State.PENDING_BUILD, "certify"),
    (State.BUILT, "certify"),
    (State.PENDING_BUILD, "noisy"),
    (State.BUILT, "noisy"),
    (State.PENDING_BUILD, "retire"),
    (State.BUILT, "retire"),
    (State.PENDING_BENCHMARK, "retire"),
    (State.VALIDATED, "retry"),
    (State.RETIRED, "retry"),
    (State.BUILT, "retry"),
])  # fmt: skip
def test_steps_cannot_be_skipped(library: Library, wanted: str, tmp_path: Path, start: State, step: str) -> None:
    directory = bring_to(library, tmp_path, wanted, start)
    before = library.history(wanted)
    with pytest.raises(StateConflict, match=start.value):
        take(library, wanted, step, directory)
    assert library.record(wanted).state is start
    assert library.history(wanted) == before
    assert library.reports(wanted) == [] or start is not State.PENDING_BUILD


def take(library: Library, identity: str, step: str, directory: Path) -> State:
    match step:
        case "built":
            return library.built(identity, directory)
        case "begin_benchmark":
            return library.begin_benchmark(identity)
        case "certify":
            validate(directory, a_report())
            return library.certify(identity, a_report(), directory)
    return getattr(library, step)(identity, "because")  # type: ignore[no-any-return]


@pytest.mark.parametrize(("state", "step"), [
    (State.BUILT, "built"),
    (State.VALIDATED, "built"),
    (State.REJECTED, "built"),
    (State.PENDING_BENCHMARK, "begin_benchmark"),
    (State.VALIDATED, "begin_benchmark"),
    (State.VALIDATED, "certify"),
    (State.REJECTED, "certify"),
    (State.NOISY, "certify"),
    (State.REJECTED, "reject"),
    (State.VALIDATED, "reject"),
    (State.NOISY, "noisy"),
    (State.VALIDATED, "noisy"),
    (State.RETIRED, "retire"),
    (State.RETIRED, "reject"),
])  # fmt: skip
def test_a_redelivered_step_changes_nothing(
    library: Library, wanted: str, tmp_path: Path, state: State, step: str
) -> None:
    directory = bring_to(library, tmp_path, wanted, state)
    record, history, reports = library.record(wanted), library.history(wanted), library.reports(wanted)
    assert take(library, wanted, step, directory) is state
    assert (library.record(wanted), library.history(wanted), library.reports(wanted)) == (record, history, reports)


@pytest.mark.parametrize("state", [State.PENDING_BUILD, State.BUILT, State.PENDING_BENCHMARK, State.NOISY])
def test_rejected_from_anywhere_before_the_verdict_with_its_cause(
    library: Library, wanted: str, tmp_path: Path, state: State
) -> None:
    bring_to(library, tmp_path, wanted, state)
    assert library.reject(wanted, "killed 4 times\x1b[31m") is State.REJECTED
    assert library.record(wanted).cause == "killed 4 times\N{REPLACEMENT CHARACTER}[31m"


def test_noisy_can_be_queued_again_and_keeps_every_report(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.PENDING_BENCHMARK)
    assert library.noisy(wanted, "± 9 %", a_report(ratio=1.0)) is State.NOISY
    assert library.begin_benchmark(wanted) is State.PENDING_BENCHMARK
    validate(directory, a_report(ratio=0.9))
    assert library.certify(wanted, a_report(ratio=0.9), directory) is State.VALIDATED
    assert [(report.verdict, report.body["ratio"]) for report in library.reports(wanted)] == [
        (State.NOISY, 1.0),
        (State.VALIDATED, 0.9),
    ]
    assert library.record(wanted).report["ratio"] == 0.9


def test_a_rejected_one_can_be_retried_from_the_start(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.BUILT)
    library.reject(wanted, "out of memory", a_report())
    assert library.retry(wanted, "more memory now") is State.PENDING_BUILD
    assert library.retry(wanted, "more memory now") is State.PENDING_BUILD
    assert library.files(wanted) == []
    directory = write_artifact(tmp_path / "second", wanted, b"another build")
    library.built(wanted, directory)
    assert library.record(wanted).state is State.BUILT
    assert len(library.reports(wanted)) == 1, "what was reported before stays"


def test_causes_must_say_something_and_are_cut(library: Library, wanted: str) -> None:
    with pytest.raises(InvalidEntry, match="cause"):
        library.reject(wanted, "  \n ")
    library.reject(wanted, "start" + "x" * 1_000_000 + "end")
    cause = library.record(wanted).cause
    assert len(cause) < 10_000
    assert cause.startswith("start")
    assert cause.endswith("end")


def test_reports_carry_the_digest_that_is_signed(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.VALIDATED)
    (report,) = library.reports(wanted)
    assert report.digest == canonical.digest(a_report())
    assert report.body == a_report()


@pytest.mark.parametrize("values", [
    {"ratio": math.nan}, {"ratio": -1.0}, {"latency_ms_mean": "fast"}, {"memory_mb_peak": math.inf}, {"risk": 1.5},
    {"tags": ["Bad Tag"]}, {"tags": "high_speed"}, {"tags": ["x" * 65]}, {"tags": ["../up"]}, {"tags": ["a\0"]},
    {"tags": [f"t{n}" for n in range(33)]}, {"object": object()}, {1: "number"}, {"big": "x" * (1 << 20)},
])  # fmt: skip
def test_malformed_reports_are_refused(library: Library, wanted: str, tmp_path: Path, values: dict[Any, Any]) -> None:
    directory = bring_to(library, tmp_path, wanted, State.PENDING_BENCHMARK)
    with pytest.raises(InvalidEntry, match=r"report|tag"):
        library.certify(wanted, a_report() | values, directory)
    assert library.record(wanted).state is State.PENDING_BENCHMARK
    assert library.reports(wanted) == []
