"""The reconciles of blueprints and kernel artifacts: what is entered in the library, made, and told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_operator.plan import blueprint, kernel_artifact
from esper_operator.plan.actions import Begin, Create, Delete, Plan, Register
from esper_operator.plan.blueprint import BlueprintSeen, ChildSeen, Entry
from esper_operator.plan.kernel_artifact import Known, Pools, wanted
from esper_operator.plan.observed import Refusal
from esper_operator.plan.reading import read_blueprint, read_kernel_artifact
from esper_operator.reasons import Reason
from leyline.identity import ArtifactId
from leyline.resources.enums import KernelPhase

SAMPLES = Path(__file__).resolve().parents[3] / "crds/samples"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POOLS = Pools("x86_64-avx2", "0123456789abcdef")
AWAY = Refusal("library", "connection refused", Reason.LIBRARY_AWAY)


def sample(kind: str, **spec: Any) -> dict[str, Any]:
    """A sample as the API server would show it."""
    raw = yaml.safe_load((SAMPLES / f"{kind}.yaml").read_text())
    raw["metadata"] |= {"namespace": "lab", "uid": "u-1", "generation": 1, "resourceVersion": "1"}
    raw["spec"] |= spec
    return dict(raw)


class Library:
    """The library as far as a blueprint's plan can tell, and the blueprint it is about."""

    def __init__(self, **spec: Any) -> None:
        self.raw = sample("blueprint", **spec)
        self.entry: Entry | None = None
        self.children: dict[str, ChildSeen] = {}
        self.entered = 0

    @property
    def digest(self) -> str:
        return read_blueprint(self.raw).spec.to_ir().digest()

    def step(self, refusal: Refusal | None = None) -> Plan:
        seen = BlueprintSeen(self.entry, tuple(self.children.values()), refusal)
        made = blueprint.plan(read_blueprint(self.raw), seen, NOW)
        for action in made.actions:
            if isinstance(action, Register):
                self.entry = Entry(action.ir.digest(), action.risk, action.approved)
                self.entered += 1
            elif isinstance(action, Create):
                name = action.object["metadata"]["name"]
                self.children[name] = ChildSeen(name, f"uid of {name}", "u-1", "")
            elif isinstance(action, Delete):
                del self.children[action.name]
        if made.status is not None:
            self.raw = {**self.raw, "status": made.status}
        return made

    def settle(self) -> Plan:
        for _ in range(6):
            made = self.step()
            if not made.actions and made.status is None:
                return made
        raise AssertionError(f"still not settled: {made}")

    @property
    def condition(self) -> dict[str, Any]:
        (only,) = self.raw["status"]["conditions"]
        return dict(only)


def test_a_blueprint_is_registered_once_and_its_targets_become_kernel_artifacts() -> None:
    library = Library()
    library.settle()
    assert library.entered == 1
    assert library.entry == Entry(library.digest, 0.2, False)
    assert len(library.children) == 1
    status = library.raw["status"]
    assert (status["digest"], status["tier"], status["kernels"]) == (library.digest, "Trusted", 0)
    assert (library.condition["status"], library.condition["reason"]) == ("True", "Registered")
    assert status["observedGeneration"] == 1


def test_a_child_is_a_kernel_artifact_the_models_accept() -> None:
    design = read_blueprint(sample("blueprint"))
    (made,) = [each.object for each in blueprint.children(design, ()) if isinstance(each, Create)]
    made["metadata"] |= {"uid": "x", "generation": 1}
    artifact = read_kernel_artifact(made)
    assert artifact.spec.blueprint == "conv-relu-conv"
    assert artifact.spec.interface == design.spec.targets[0].interface
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Blueprint", "u-1", True)


def test_the_longest_name_still_gives_its_children_a_name() -> None:
    raw = sample("blueprint")
    raw["metadata"]["name"] = "a" * 40 + "-" + "b" * 9
    (made,) = blueprint.children(read_blueprint(raw), ())
    assert isinstance(made, Create)
    read_kernel_artifact(made.object | {"metadata": made.object["metadata"] | {"uid": "x"}})


def test_another_risk_is_registered_when_the_spec_says_so_and_not_otherwise() -> None:
    library = Library()
    library.settle()
    library.entry = Entry(library.digest, 0.9, True)  # somebody measured and approved
    library.settle()
    assert library.entered == 1
    library.raw["spec"]["risk"] = 0.6
    library.raw["metadata"]["generation"] = 2
    library.settle()
    assert library.entered == 2
    assert library.raw["status"]["tier"] == "Experimental"
    assert library.raw["status"]["observedGeneration"] == 2


def test_a_name_that_somebody_took_is_told_and_not_fought_over() -> None:
    library = Library()
    library.settle()
    library.entry = Entry("f" * 64, 0.1, False)
    library.settle()
    assert library.entered == 1
    assert (library.condition["status"], library.condition["reason"]) == ("False", "NameMoved")
    library.settle()
    assert library.entered == 1


def test_a_library_that_forgot_is_told_again() -> None:
    library = Library()
    library.settle()
    library.entry = None
    library.settle()
    assert library.entered == 2


def test_children_follow_the_targets() -> None:
    library = Library()
    library.settle()
    first = set(library.children)
    other = {"interface": {"layout": "image1d", "width": 16, "trailing": [9]}, "strategy": "Fast"}
    library.raw["spec"]["targets"] = [other]
    library.raw["metadata"]["generation"] = 2
    library.settle()
    assert len(library.children) == 1
    assert set(library.children) != first


def test_a_child_of_another_owner_is_not_deleted() -> None:
    library = Library(targets=[])
    library.children["other"] = ChildSeen("other", "uid", "somebody", "Validated")
    library.settle()
    assert "other" in library.children
    assert library.raw["status"]["kernels"] == 0


def test_validated_children_are_counted() -> None:
    library = Library()
    library.settle()
    library.children = {name: replace(child, phase="Validated") for name, child in library.children.items()}
    library.settle()
    assert library.raw["status"]["kernels"] == 1


def test_a_library_that_is_away_is_told_and_changes_nothing() -> None:
    library = Library()
    assert library.step(AWAY).actions == ()
    assert (library.condition["status"], library.condition["reason"]) == ("Unknown", "LibraryUnavailable")
    assert "connection refused" in library.condition["message"]
    library.settle()
    assert library.condition["status"] == "True"


risks = st.sampled_from([0.0, 0.2, 0.6, 1.0])
entries = st.none() | st.builds(Entry, st.sampled_from(["own", "f" * 64]), risks, st.booleans())


@settings(max_examples=100, deadline=None)
@given(entries, risks, st.booleans(), st.lists(st.sampled_from([8, 16, 32]), max_size=3, unique=True), entries)
def test_a_blueprint_always_settles(
    first: Entry | None, risk: float, approved: bool, widths: list[int], later: Entry | None
) -> None:
    targets = [{"interface": {"layout": "image1d", "width": width, "trailing": [9]}} for width in widths]
    library = Library(risk=risk, approved=approved, targets=targets)

    def own(entry: Entry | None) -> Entry | None:
        return replace(entry, digest=library.digest) if entry is not None and entry.digest == "own" else entry

    library.entry = own(first)
    library.settle()
    assert library.entry is not None
    assert (library.entry.digest, library.entry.risk) == (library.digest, risk)
    assert library.entry.approved or not approved
    library.entry = own(later)
    library.settle()
    assert len(library.children) == len(widths)


def known(state: KernelPhase, **more: Any) -> Known:
    return Known(state, "x86_64-avx2", None, None, None, (), 0.3, **({"cause": ""} | more))


def artifact_step(raw: dict[str, Any], seen: Known | None, **more: Any) -> Plan:
    """Plan for a kernel artifact whose blueprint the library has, and write the status."""
    artifact = read_kernel_artifact(raw)
    want = more.get("want") or wanted(artifact, "ab" * 32, more.get("pools", POOLS)) or Reason.POOLS_UNKNOWN
    made = kernel_artifact.plan(artifact, want, seen, more.get("refusal"), more.get("now", NOW))
    if made.status is not None:
        raw["status"] = made.status
    return made


def test_a_kernel_artifact_is_entered_under_the_id_that_follows_from_it() -> None:
    raw = sample("kernelartifact")
    (entry,) = artifact_step(raw, None).actions
    assert isinstance(entry, Begin)
    interface = read_kernel_artifact(raw).spec.interface.to_interface()
    assert entry.artifact_id == str(ArtifactId.make("ab" * 32, interface, "x86_64-avx2", "fast", POOLS.toolchain))
    assert raw["status"]["artifactId"] == entry.artifact_id
    assert raw["status"]["phase"] == "PendingBuild"


def test_hardware_of_the_spec_goes_before_the_pools_own() -> None:
    raw = sample("kernelartifact", hardware="cuda-sm90")
    artifact_step(raw, None)
    assert "-cuda-sm90-" in raw["status"]["artifactId"]


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (KernelPhase.PENDING_BUILD, "Unknown", "InPipeline"),
        (KernelPhase.BUILT, "Unknown", "InPipeline"),
        (KernelPhase.PENDING_BENCHMARK, "Unknown", "InPipeline"),
        (KernelPhase.NOISY, "Unknown", "MachineRestless"),
        (KernelPhase.VALIDATED, "True", "Validated"),
        (KernelPhase.REJECTED, "False", "Rejected"),
        (KernelPhase.RETIRED, "False", "Retired"),
    ],
)
def test_what_the_library_says_is_told(state: KernelPhase, status: str, reason: str) -> None:
    raw = sample("kernelartifact")
    made = artifact_step(raw, known(state, cause="gradient off by 3"))
    assert made.actions == ()
    (condition,) = raw["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == (status, reason)
    assert raw["status"]["phase"] == state.value
    if reason in ("Rejected", "Retired", "MachineRestless"):
        assert "gradient off by 3" in raw["status"]["message"]
    assert made.after is not None
    later = artifact_step(raw, known(state, cause="gradient off by 3"), now=NOW + timedelta(hours=1))
    assert later.status is None
    assert later.notes == ()


def test_one_that_no_pool_takes_says_so_and_goes_on_by_itself() -> None:
    raw = sample("kernelartifact")
    artifact = read_kernel_artifact(raw)
    want = wanted(artifact, "ab" * 32, POOLS)
    assert want is not None
    seen = known(KernelPhase.PENDING_BUILD)
    made = kernel_artifact.plan(artifact, want, seen, None, NOW, served=False)
    assert made.status is not None
    (condition,) = made.status["conditions"]
    assert (condition["status"], condition["reason"]) == ("Unknown", "NoPoolForHardware")
    assert "x86_64-avx2: PendingBuild" in made.status["message"]
    assert [note.reason for note in made.notes] == [Reason.NO_POOL]
    assert made.after is not None
    raw["status"] = made.status
    artifact_step(raw, seen)
    assert raw["status"]["conditions"][0]["reason"] == "InPipeline"


def test_measurements_are_shown() -> None:
    raw = sample("kernelartifact")
    tags = ("high_speed", "low_power")
    seen = Known(KernelPhase.VALIDATED, "x86_64-avx2", 0.81, 0.78, 0.84, tags, 0.1, "", "5e" * 32)
    artifact_step(raw, seen)
    status = raw["status"]
    assert (status["ratioText"], status["tagsText"], status["risk"], status["digest"]) == (
        "0.81 (0.78–0.84)",
        "high_speed,low_power",
        0.1,
        "5e" * 32,
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"want": Reason.BLUEPRINT_UNKNOWN}, "BlueprintUnknown"),
        ({"pools": Pools()}, "PoolsUnknown"),
        ({"refusal": AWAY}, "LibraryUnavailable"),
    ],
)
def test_what_keeps_it_from_being_entered_is_told(more: dict[str, Any], reason: str) -> None:
    raw = sample("kernelartifact")
    made = artifact_step(raw, None, **more)
    assert made.actions == ()
    (condition,) = raw["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("Unknown", reason)
    assert [note.reason.value for note in made.notes] == [reason]
