"""What every kernel library must do. A new adapter joins by one entry in ``ADAPTERS``."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from esper.errors import LibraryError
from esper.urza import (
    FieldReport,
    InvalidEntry,
    KernelQuery,
    Library,
    SqlLibrary,
    State,
    StateConflict,
    UnknownArtifact,
    UnknownBlueprint,
)
from leyline import canonical
from leyline.blueprint import BlueprintIR, node
from leyline.identity import ArtifactId
from leyline.interface import Interface, Layout

Opener = Callable[[Path], Library]
ADAPTERS: dict[str, Opener] = {"sqlite": lambda tmp: SqlLibrary.open(tmp / "library")}

VECTOR = Interface(Layout.VECTOR, 16)
OTHER = Interface(Layout.VECTOR, 32)
HARDWARE = "x86_64-avx2"
TOOLCHAIN = "0123456789abcdef"


def design(factor: int = 1) -> BlueprintIR:
    return BlueprintIR(
        {"x": node("input"), "up": node("linear", "x", out=f"{factor}w"), "down": node("linear", "up", out="w")},
        "down",
        (Layout.VECTOR,),
    )


def artifact_id(ir: BlueprintIR, interface: Interface = VECTOR, strategy: str = "fast", **other: str) -> str:
    hardware, toolchain = other.get("hardware", HARDWARE), other.get("toolchain", TOOLCHAIN)
    return str(ArtifactId.make(ir.digest(), interface, hardware, strategy, toolchain))


def write_artifact(root: Path, identity: str, content: bytes = b"forward half") -> Path:
    """The shape of an artifact directory; what is in it is not the library's business."""
    directory = root / identity
    (directory / "blobs").mkdir(parents=True, exist_ok=True)
    (directory / "signatures").mkdir(exist_ok=True)
    blob = hashlib.sha256(content).hexdigest()
    (directory / "blobs" / blob).write_bytes(content)
    (directory / "manifest.json").write_bytes(canonical.dumps({"id": identity, "blobs": [blob]}))
    (directory / "signatures" / "built.json").write_bytes(b'{"purpose":"built"}')
    return directory


def a_report(**values: Any) -> dict[str, Any]:
    return {"ratio": 0.8, "latency_ms_mean": 1.5, "memory_mb_peak": 3.0, "tags": ["high_speed"], "risk": 0.2} | values


def validate(directory: Path, report: Mapping[str, Any]) -> None:
    (directory / "signatures" / "validated.json").write_bytes(b'{"purpose":"validated"}')
    (directory / "report.json").write_bytes(canonical.dumps(dict(report)))


def enter(library: Library, name: str, ir: BlueprintIR, interface: Interface = VECTOR, strategy: str = "fast") -> str:
    identity = artifact_id(ir, interface, strategy)
    library.begin(identity, name, interface, strategy, HARDWARE, TOOLCHAIN)
    return identity


def bring_to(library: Library, tmp: Path, identity: str, state: State, **report: Any) -> Path:
    """Take an artifact from PENDING_BUILD to ``state`` by the way a worker would."""
    directory = write_artifact(tmp / "work", identity)
    if state is State.PENDING_BUILD:
        return directory
    library.built(identity, directory)
    if state is State.BUILT:
        return directory
    library.begin_benchmark(identity)
    if state is State.NOISY:
        library.noisy(identity, "restless machine")
    elif state is State.REJECTED:
        library.reject(identity, "wrong gradient")
    elif state in (State.VALIDATED, State.RETIRED):
        validate(directory, a_report(**report))
        library.certify(identity, a_report(**report), directory)
        if state is State.RETIRED:
            library.retire(identity, "raised at run time")
    return directory


@pytest.fixture(params=sorted(ADAPTERS))
def opener(request: pytest.FixtureRequest) -> Opener:
    return ADAPTERS[request.param]


@pytest.fixture
def library(opener: Opener, tmp_path: Path) -> Iterator[Library]:
    opened = opener(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def wanted(library: Library) -> str:
    """The id of an artifact in PENDING_BUILD."""
    library.register_blueprint("mlp", design(), 0.3)
    return enter(library, "mlp", design())


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


# Files


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("state", [State.BUILT, State.VALIDATED])
def test_fetch_gives_the_same_files_back(library: Library, wanted: str, tmp_path: Path, state: State) -> None:
    directory = bring_to(library, tmp_path, wanted, state)
    fetched = library.fetch(wanted, tmp_path / "cache")
    assert fetched == tmp_path / "cache" / wanted
    assert contents(fetched) == contents(directory)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [wanted]
    assert {file.name: file.size for file in library.files(wanted)} == {
        name: len(data) for name, data in contents(directory).items()
    }


def test_an_artifact_without_blobs_keeps_its_empty_folders(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = write_artifact(tmp_path / "work", wanted)
    for blob in (directory / "blobs").iterdir():
        blob.unlink()
    library.built(wanted, directory)
    fetched = library.fetch(wanted, tmp_path / "cache")
    assert (fetched / "blobs").is_dir()
    assert contents(fetched) == contents(directory)


def test_fetch_repairs_a_damaged_copy_and_keeps_a_good_one(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.VALIDATED)
    fetched = library.fetch(wanted, tmp_path / "cache")
    inode = fetched.stat().st_ino
    assert library.fetch(wanted, tmp_path / "cache").stat().st_ino == inode
    for damage in (
        lambda: (fetched / "manifest.json").write_bytes(b"{}"),
        lambda: (fetched / "extra").write_bytes(b""),
        lambda: (fetched / "report.json").unlink(),
        lambda: (fetched / "link").symlink_to("/etc/passwd"),
    ):
        damage()
        assert contents(library.fetch(wanted, tmp_path / "cache")) == contents(directory)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [wanted]


def test_fetch_brings_a_copy_from_before_the_verdict_up_to_date(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.BUILT)
    library.fetch(wanted, tmp_path / "cache")
    library.begin_benchmark(wanted)
    validate(directory, a_report())
    library.certify(wanted, a_report(), directory)
    assert contents(library.fetch(wanted, tmp_path / "cache")) == contents(directory)


def test_many_fetches_at_once_give_one_directory(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.VALIDATED)
    found: list[dict[str, bytes]] = []
    errors: list[BaseException] = []

    def fetch() -> None:
        try:
            for _ in range(5):
                found.append(contents(library.fetch(wanted, tmp_path / "cache")))
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [contents(directory)] * 20


def test_nothing_to_fetch_before_it_is_built(library: Library, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownArtifact, match="PendingBuild"):
        library.fetch(wanted, tmp_path / "cache")


def spoil_link(directory: Path) -> None:
    (directory / "blobs" / "link").symlink_to("/etc/passwd")


def spoil_directory_link(directory: Path) -> None:
    (directory / "more").symlink_to("/etc")


def spoil_pipe(directory: Path) -> None:
    os.mkfifo(directory / "blobs" / "pipe")


def spoil_name(directory: Path) -> None:
    (directory / "blobs" / "..hidden").write_bytes(b"")


def spoil_dotfile(directory: Path) -> None:
    (directory / ".manifest.tmp").write_bytes(b"")


def spoil_depth(directory: Path) -> None:
    (directory / "a" / "b" / "c" / "d").mkdir(parents=True)


def spoil_count(directory: Path) -> None:
    for number in range(200):
        (directory / "blobs" / f"f{number}").write_bytes(b"")


def spoil_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def spoil_identity(directory: Path) -> None:
    (directory / "manifest.json").write_bytes(json.dumps({"id": artifact_id(design(3))}).encode())


def spoil_json(directory: Path) -> None:
    (directory / "manifest.json").write_bytes(b"[" * 100_000)


@pytest.mark.parametrize("spoil", [
    spoil_link, spoil_directory_link, spoil_pipe, spoil_name, spoil_dotfile, spoil_depth, spoil_count, spoil_manifest,
    spoil_identity, spoil_json,
])  # fmt: skip
def test_hostile_artifact_directories_are_refused(
    library: Library, wanted: str, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    directory = write_artifact(tmp_path / "work", wanted)
    spoil(directory)
    with pytest.raises(InvalidEntry):
        library.built(wanted, directory)
    assert library.record(wanted).state is State.PENDING_BUILD
    assert library.files(wanted) == []


def test_a_directory_that_is_not_there_is_an_error_with_its_name(library: Library, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="nowhere"):
        library.built(wanted, tmp_path / "nowhere")


def test_content_cannot_change_between_build_and_verdict(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.PENDING_BENCHMARK)
    other = write_artifact(tmp_path / "other", wanted, b"another half")
    validate(other, a_report())
    with pytest.raises(InvalidEntry, match="changed after it was built"):
        library.certify(wanted, a_report(), other)
    assert library.record(wanted).state is State.PENDING_BENCHMARK


def test_the_report_inside_must_be_the_one_handed_in(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.PENDING_BENCHMARK)
    validate(directory, a_report(ratio=0.1))
    with pytest.raises(InvalidEntry, match=r"report\.json"):
        library.certify(wanted, a_report(ratio=0.9), directory)
    assert library.record(wanted).state is State.PENDING_BENCHMARK


def test_sweep_takes_only_what_no_artifact_names(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.BUILT)
    library.reject(wanted, "wrong")
    library.retry(wanted, "again")
    directory = write_artifact(tmp_path / "again", wanted, b"another build")
    library.built(wanted, directory)
    assert library.sweep().blobs == 0, "what was stored a moment ago may still be waiting for its row"
    swept = library.sweep(older_than_seconds=-60)
    assert swept.blobs == 2, "the first build's blob and manifest"
    assert swept.bytes > 0
    assert contents(library.fetch(wanted, tmp_path / "cache")) == contents(directory)
    assert library.sweep(older_than_seconds=-60).blobs == 0


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
    opened = ADAPTERS[request.param](tmp)
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
