"""Leases, and a collector that takes nothing anybody needs, in every kernel library."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from esper.urza import ContentConflict, InvalidEntry, Library, RemoteLibrary, State, UnknownArtifact
from libraries import artifact_id, bring_to, design, enter, write_artifact

EVERYTHING = 0.0


@pytest.mark.parametrize("state", [State.BUILT, State.PENDING_BENCHMARK, State.NOISY, State.VALIDATED])
def test_what_can_still_be_used_stays(library: Library, wanted: str, tmp_path: Path, state: State) -> None:
    bring_to(library, tmp_path, wanted, state)
    swept = library.sweep(EVERYTHING)
    assert (swept.artifacts, swept.blobs) == (0, 0)
    assert library.fetch(wanted, tmp_path / "cache").is_dir()


@pytest.mark.parametrize("state", [State.REJECTED, State.RETIRED])
def test_files_of_what_has_ended_go_and_its_record_stays(
    library: Library, wanted: str, tmp_path: Path, state: State
) -> None:
    bring_to(library, tmp_path, wanted, state)
    before = (library.record(wanted), library.history(wanted), library.reports(wanted))
    count = len({file.digest for file in library.files(wanted)})
    assert library.sweep(3600).artifacts == 0, "it has just ended"
    swept = library.sweep(EVERYTHING)
    assert (swept.artifacts, swept.blobs) == (1, count)
    assert swept.bytes > 0
    assert library.files(wanted) == []
    assert (library.record(wanted), library.history(wanted), library.reports(wanted)) == before
    with pytest.raises(UnknownArtifact, match=state.value):
        library.fetch(wanted, tmp_path / "cache")
    assert library.sweep(EVERYTHING) == type(swept)(0, 0, 0)


def test_a_lease_holds_what_a_run_uses(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.VALIDATED)
    until = library.lease("run-1", [wanted], 600)
    library.lease("run-2", [wanted, wanted], 600)
    assert time.time() + 500 < until < time.time() + 700
    library.retire(wanted, "raised at run time")
    assert library.sweep(EVERYTHING).artifacts == 0
    assert library.release("run-1") == 1
    assert library.release("run-1") == 0
    assert [lease.run for lease in library.leases()] == ["run-2"]
    assert library.sweep(EVERYTHING).artifacts == 0
    assert library.fetch(wanted, tmp_path / "cache").is_dir()
    assert library.release("run-2", [wanted]) == 1
    assert library.leases() == []
    assert library.sweep(EVERYTHING).artifacts == 1


def test_a_lease_ends_by_itself_and_only_ever_moves_on(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.RETIRED)
    library.lease("run", [wanted], 0.3)
    later = library.lease("run", [wanted], 600)
    library.lease("run", [wanted], 0.3)
    (lease,) = library.leases("run")
    assert lease.artifact_id == wanted
    assert lease.expires_at == pytest.approx(later, abs=1e-3)
    library.release("run")
    library.lease("run", [wanted], 0.3)
    assert library.sweep(EVERYTHING).artifacts == 0
    time.sleep(0.5)
    assert library.leases() == []
    assert library.sweep(EVERYTHING).artifacts == 1


def test_nothing_can_be_leased_that_is_not_there_and_then_nothing_is(
    library: Library, wanted: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownArtifact, match=wanted):
        library.lease("run", [wanted], 60)
    bring_to(library, tmp_path, wanted, State.RETIRED)
    with pytest.raises(UnknownArtifact):
        library.lease("run", [wanted, artifact_id(design(7))], 60)
    assert library.leases() == []
    library.sweep(EVERYTHING)
    with pytest.raises(UnknownArtifact, match="has no files"):
        library.lease("run", [wanted], 60)


@pytest.mark.parametrize("values", [
    {"run": ""}, {"run": "a\0"}, {"run": "x" * 129}, {"artifacts": ["../x"]}, {"seconds": 0}, {"seconds": -1},
    {"seconds": math.nan}, {"seconds": math.inf}, {"seconds": 1e9}, {"seconds": True}, {"seconds": 10**400},
])  # fmt: skip
def test_malformed_leases_are_refused(library: Library, wanted: str, tmp_path: Path, values: dict[str, Any]) -> None:
    bring_to(library, tmp_path, wanted, State.BUILT)
    with pytest.raises(InvalidEntry):
        library.lease(**({"run": "run", "artifacts": [wanted], "seconds": 60} | values))
    assert library.leases() == []


def test_other_bytes_under_the_same_id_are_refused(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.VALIDATED)
    before = (library.record(wanted), library.history(wanted), library.files(wanted))
    other = write_artifact(tmp_path / "other", wanted, b"other bytes")
    with pytest.raises(ContentConflict, match="other bytes"):
        library.built(wanted, other)
    assert (library.record(wanted), library.history(wanted), library.files(wanted)) == before


def test_writers_beside_a_busy_collector_lose_nothing(library: Library, tmp_path: Path) -> None:
    """Every artifact shares its blob with what was rejected before: the collector and the writers want the same."""
    stop = threading.Event()
    errors: list[BaseException] = []
    # A client uploads and then says what for: in between only the grace period protects what it sent.
    grace = 5.0 if isinstance(library, RemoteLibrary) else EVERYTHING

    def collect() -> None:
        try:
            while not stop.is_set():
                library.sweep(grace)
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    collector = threading.Thread(target=collect)
    collector.start()
    identities = []
    try:
        for factor in range(1, 7):
            library.register_blueprint(f"mlp{factor}", design(factor), 0.1)
            identity = enter(library, f"mlp{factor}", design(factor))
            bring_to(library, tmp_path, identity, State.REJECTED if factor % 2 else State.VALIDATED)
            if factor % 2:
                library.retry(identity, "again")
                library.built(identity, tmp_path / "work" / identity)
            identities.append(identity)
    finally:
        stop.set()
        collector.join()
    assert errors == []
    for identity in identities:
        assert library.fetch(identity, tmp_path / "cache").is_dir()
