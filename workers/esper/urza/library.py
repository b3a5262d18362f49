"""The port of the kernel library: what is kept, how an artifact gets from wanted to usable, and what may be asked.

An artifact's life, each step a compare-and-set so that two workers cannot both take it:

    PENDING_BUILD ─► BUILT ─► PENDING_BENCHMARK ─► VALIDATED ─► RETIRED
                                  ▲        ├─► NOISY ────────────► RETIRED   (NOISY may be queued again)
                                  └────────┘
    (any of the first three, or NOISY) ─► REJECTED ─► RETIRED                (REJECTED may be retried by a person)

Every step may be repeated: a redelivered message that asks for what already happened changes nothing and is told the
state as it is. A step that would skip one raises ``StateConflict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from leyline.blueprint import BlueprintIR
from leyline.identity import ArtifactId
from leyline.interface import Interface
from leyline.resources.enums import KernelPhase as State

__all__ = [
    "SOURCES",
    "STEPS",
    "ArtifactFile",
    "BlueprintRecord",
    "Change",
    "Count",
    "FieldReport",
    "KernelQuery",
    "KernelRecord",
    "Lease",
    "Library",
    "Lineage",
    "Report",
    "State",
    "Swept",
]

STEPS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.PENDING_BUILD: frozenset({State.BUILT, State.REJECTED}),
        State.BUILT: frozenset({State.PENDING_BENCHMARK, State.REJECTED}),
        State.PENDING_BENCHMARK: frozenset({State.VALIDATED, State.REJECTED, State.NOISY}),
        State.VALIDATED: frozenset({State.RETIRED}),
        State.NOISY: frozenset({State.PENDING_BENCHMARK, State.REJECTED, State.RETIRED}),
        State.REJECTED: frozenset({State.RETIRED, State.PENDING_BUILD}),
        State.RETIRED: frozenset(),
    }
)
"""Where an artifact may go from each state."""
SOURCES: Mapping[State, frozenset[State]] = MappingProxyType(
    {target: frozenset(source for source, targets in STEPS.items() if target in targets) for target in State}
)
"""The same table read backwards: from where a state may be entered."""


@dataclass(frozen=True, slots=True)
class KernelQuery:
    """What a slot needs. ``strategies`` empty and ``toolchain`` or ``blueprints`` of ``None`` leave the choice open.

    ``tags`` must all be there; ``max_risk`` is inclusive; ``toolchain`` is the hash (its first 8 digits count).
    """

    interface: Interface
    hardware: str
    tags: Sequence[str] = ()
    max_risk: float = 1.0
    strategies: Sequence[str] = ()
    toolchain: str | None = None
    blueprints: Sequence[str] | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """One artifact as the library knows it.

    ``ratio`` is latency against the ``fast`` artifact (below 1 is faster), ``latency_ms`` the mean, ``memory_mb`` the
    peak; ``None`` where nothing was measured. ``flops`` is forward FLOPs per sample, ``report`` the one that decided.
    ``approved`` is the blueprint's: a person allowed it whatever its risk.
    """

    artifact_id: str
    blueprint: str
    strategy: str
    state: State
    ratio: float | None
    latency_ms: float | None
    memory_mb: float | None
    tags: tuple[str, ...]
    risk: float
    flops: int
    parameters: int
    report: Mapping[str, Any] = field(default_factory=dict)
    hardware: str = ""
    toolchain: str = ""
    cause: str = ""
    approved: bool = False
    blueprint_digest: str = ""


@dataclass(frozen=True, slots=True)
class BlueprintRecord:
    """A design under one of its names; ``parents`` are digests."""

    name: str
    digest: str
    ir: BlueprintIR
    risk: float
    approved: bool
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lineage:
    """Digests of every design this one comes from and that came from it, nearest first, each once."""

    digest: str
    ancestors: tuple[str, ...]
    descendants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One validation report, as it was stored. ``digest`` is the one that is signed."""

    artifact_id: str
    verdict: State
    digest: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of an artifact's state; ``source`` is ``None`` for its beginning. ``at``: seconds since 1970."""

    artifact_id: str
    source: State | None
    target: State
    cause: str
    at: float


@dataclass(frozen=True, slots=True)
class Count:
    """How many artifacts there are of one state, strategy and hardware; never 0."""

    state: State
    strategy: str
    hardware: str
    artifacts: int


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact: path inside its directory, digest and size in bytes."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class FieldReport:
    """How one seed did in one run. ``message_id`` names the report: a second one with the same id is the same."""

    message_id: str
    run: str
    seed: str
    blueprint: str
    artifact_id: str
    outcome: str
    pre_metric: float | None = None
    post_metric: float | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """A run uses an artifact until ``expires_at``, in seconds since 1970."""

    run: str
    artifact_id: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed: blobs, their bytes, and how many artifacts lost their files (their records stay)."""

    blobs: int
    bytes: int
    artifacts: int = 0


@runtime_checkable
class Library(Protocol):
    """The port. All methods are safe to call from any thread, and raise ``LibraryError`` and its kinds only.

    Ids are taken as text or ``ArtifactId`` and are always parsed strictly.
    """

    def register_blueprint(
        self, name: str, ir: BlueprintIR, risk: float, approved: bool = False, parents: Iterable[str] = ()
    ) -> str:
        """Store a design under a name and return its digest; ``parents`` are names or digests known already.

        Repeating it updates the risk; a name given to another design moves there. ``approved`` only ever adds an
        approval: taking one back is ``approve(name, False)``.
        """

    def approve(self, blueprint: str, approved: bool = True) -> None:
        """Allow a design whatever its risk, or take that back; raises ``UnknownBlueprint``."""

    def blueprint(self, blueprint: str) -> BlueprintRecord:
        """One design, by name or digest; raises ``UnknownBlueprint``."""

    def blueprints(self) -> list[BlueprintRecord]:
        """Every name with its design, sorted by name."""

    def lineage(self, blueprint: str) -> Lineage:
        """Where a design comes from and what came from it; raises ``UnknownBlueprint``."""

    def begin(
        self,
        artifact_id: str | ArtifactId,
        blueprint: str,
        interface: Interface,
        strategy: str,
        hardware: str,
        toolchain: str,
    ) -> State:
        """Enter a wanted artifact as PENDING_BUILD, unless it is known; returns its state.

        Raises ``InvalidEntry`` when the id does not follow from the rest, ``UnknownBlueprint``.
        """

    def built(self, artifact_id: str | ArtifactId, directory: Path | str) -> State:
        """Take the artifact's files and go from PENDING_BUILD to BUILT.

        Raises ``InvalidEntry`` for a directory that is not this artifact's, has links, devices or odd names;
        ``ContentConflict`` when the artifact was built already, of other bytes.
        """

    def begin_benchmark(self, artifact_id: str | ArtifactId) -> State:
        """BUILT or NOISY to PENDING_BENCHMARK."""

    def certify(self, artifact_id: str | ArtifactId, report: Mapping[str, Any], directory: Path | str) -> State:
        """PENDING_BENCHMARK to VALIDATED, with the report, and the signatures that ``directory`` has by now.

        The report's ``ratio``, ``latency_ms_mean``, ``memory_mb_peak``, ``tags`` and ``risk`` are what queries see.
        Raises ``InvalidEntry`` when anything but signatures and report changed since it was built.
        """

    def reject(self, artifact_id: str | ArtifactId, cause: str, report: Mapping[str, Any] | None = None) -> State:
        """To REJECTED, for good (on this hardware and toolchain) unless a person retries it."""

    def noisy(self, artifact_id: str | ArtifactId, cause: str, report: Mapping[str, Any] | None = None) -> State:
        """PENDING_BENCHMARK to NOISY: the machine was too restless for a verdict."""

    def retire(self, artifact_id: str | ArtifactId, cause: str) -> State:
        """Take a finished artifact out of use; it is not offered and not built again."""

    def retry(self, artifact_id: str | ArtifactId, cause: str) -> State:
        """REJECTED back to PENDING_BUILD, on a person's word; its files are forgotten."""

    def record(self, artifact_id: str | ArtifactId) -> KernelRecord:
        """One artifact in whatever state; raises ``UnknownArtifact``."""

    def interface(self, artifact_id: str | ArtifactId) -> Interface:
        """What an artifact takes and gives; raises ``UnknownArtifact``."""

    def records(self, states: Iterable[State] = ()) -> list[KernelRecord]:
        """Artifacts in some states (none named: in all), by id."""

    def counts(self, states: Iterable[State] = ()) -> list[Count]:
        """How many artifacts there are in some states (none named: in all), by state, strategy and hardware.

        In the order of these texts. One question to the database, however many artifacts there are.
        """

    def query(self, query: KernelQuery) -> list[KernelRecord]:
        """VALIDATED artifacts that fit, by blueprint name, strategy and id: the same library gives the same list."""

    def files(self, artifact_id: str | ArtifactId) -> list[ArtifactFile]:
        """What an artifact consists of, by name; empty before it is built."""

    def fetch(self, artifact_id: str | ArtifactId, into: Path | str) -> Path:
        """Copy an artifact to ``<into>/<artifact id>``, every byte verified, and return that directory.

        A complete copy that is there already stays. Raises ``UnknownArtifact`` when it is not built yet,
        ``BlobMissing``, ``BlobCorrupt``.
        """

    def reports(self, artifact_id: str | ArtifactId) -> list[Report]:
        """Every report of an artifact, oldest first."""

    def history(self, artifact_id: str | ArtifactId) -> list[Change]:
        """Every change of an artifact's state, oldest first."""

    def field_report(self, report: FieldReport) -> bool:
        """Append a field report; ``False`` when its message id is known."""

    def field_reports(self, run: str | None = None, blueprint: str | None = None) -> list[FieldReport]:
        """Field reports, oldest first, of a run or blueprint or of all."""

    def lease(self, run: str, artifacts: Iterable[str | ArtifactId], seconds: float) -> float:
        """Hold artifacts for a run, so that no sweep takes their files; all of them or none.

        Returns when the lease ends, in seconds since 1970. Leasing again moves the end, never to an earlier time.
        Raises ``UnknownArtifact`` for one that has no files (any more), ``InvalidEntry``.
        """

    def release(self, run: str, artifacts: Iterable[str | ArtifactId] | None = None) -> int:
        """Give up a run's leases, or those on some artifacts; returns how many there were."""

    def leases(self, run: str | None = None) -> list[Lease]:
        """Leases that have not ended, of a run or of all, by run and artifact."""

    def sweep(self, older_than_seconds: float = 86_400.0) -> Swept:
        """Collect what nobody needs: a grace period protects whatever is younger.

        Forgets the files of artifacts that were rejected or retired so long ago and that no run leases, then removes
        the blobs that no artifact names and that were put so long ago.
        """

    def close(self) -> None:
        """Release connections; closing twice is harmless."""
