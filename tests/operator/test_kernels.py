"""Blueprints and kernel artifacts on a real control plane, with the library's real service behind the operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import libraries
import services
from clusters import CRDS, Kube, Operators, eventually
from esper.urza import SqlLibrary, State
from leyline.resources import load_blueprint


def sample(kind: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CRDS / f"samples/{kind}.yaml").read_text()))


def settled(kube: Kube, plural: str, name: str, reason: str) -> dict[str, Any]:
    """The status as soon as its condition has this reason."""

    def look() -> dict[str, Any] | None:
        status = kube.get(plural, name).get("status") or {}
        told = [each["reason"] for each in status.get("conditions", ())]
        assert told == [reason], f"{told}: {status.get('message')}"
        return dict(status)

    found = eventually(look)
    assert found is not None
    return found


def artifacts(kube: Kube) -> list[dict[str, Any]]:
    listing = kube.custom.list_namespaced_custom_object("esper.dev", "v1alpha1", kube.namespace, "kernelartifacts")
    return list(listing["items"])


def test_a_blueprint_is_registered_and_its_kernels_are_asked_for(
    kube: Kube, operators: Operators, library: SqlLibrary, told: dict[str, str], tmp_path: Path
) -> None:
    operators.start(**told)
    body = sample("blueprint")
    kube.create("blueprints", body)
    status = settled(kube, "blueprints", "conv-relu-conv", "Registered")
    assert status["digest"] == load_blueprint(body).spec.to_ir().digest() == library.blueprint("conv-relu-conv").digest
    (record,) = eventually(lambda: library.records([State.PENDING_BUILD])) or ()
    (child,) = artifacts(kube)
    settled(kube, "kernelartifacts", child["metadata"]["name"], "InPipeline")
    libraries.bring_to(library, tmp_path, record.artifact_id, State.VALIDATED, ratio_low=0.75, ratio_high=0.85)
    done = settled(kube, "kernelartifacts", child["metadata"]["name"], "Validated")
    assert done["artifactId"] == record.artifact_id
    assert done["ratioText"] == "0.80 (0.75–0.85)"
    eventually(lambda: kube.get("blueprints", "conv-relu-conv")["status"]["kernels"] == 1)
    kube.delete("blueprints", "conv-relu-conv")
    eventually(lambda: not artifacts(kube))


def test_a_rejected_kernel_says_why(
    kube: Kube, operators: Operators, library: SqlLibrary, told: dict[str, str], tmp_path: Path
) -> None:
    operators.start(**told)
    kube.create("kernelartifacts", sample("kernelartifact"))
    settled(kube, "kernelartifacts", "conv-relu-conv-8x9-fast", "BlueprintUnknown")
    body = sample("blueprint")
    body["spec"]["targets"] = []
    kube.create("blueprints", body)
    (record,) = eventually(lambda: library.records([State.PENDING_BUILD])) or ()
    libraries.bring_to(library, tmp_path, record.artifact_id, State.REJECTED)
    status = settled(kube, "kernelartifacts", "conv-relu-conv-8x9-fast", "Rejected")
    assert "wrong gradient" in status["message"]


def test_a_design_that_is_none_is_refused_with_the_place(
    kube: Kube, operators: Operators, library: SqlLibrary, told: dict[str, str]
) -> None:
    operators.start(**told)
    body = sample("blueprint")
    body["spec"]["graph"]["nodes"]["back"]["inputs"] = ["nowhere"]
    kube.create("blueprints", body)
    status = settled(kube, "blueprints", "conv-relu-conv", "InvalidSpec")
    assert "spec.graph" in status["message"]
    assert "nowhere" in status["message"]
    assert library.blueprints() == []


def test_without_a_library_it_says_so(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.create("blueprints", sample("blueprint"))
    assert "ESPER_OPERATOR_URZA_URL" in settled(kube, "blueprints", "conv-relu-conv", "NoLibrary")["message"]


def test_a_library_that_comes_back_is_used(
    kube: Kube, operators: Operators, library: SqlLibrary, told: dict[str, str], tmp_path: Path
) -> None:
    operators.start(**(told | {"urza_token_file": str(tmp_path / "late")}))
    kube.create("blueprints", sample("blueprint"))
    settled(kube, "blueprints", "conv-relu-conv", "LibraryAccessDenied")
    (tmp_path / "late").write_text(services.token("trainer"))
    settled(kube, "blueprints", "conv-relu-conv", "Registered")


def test_approving_takes_an_administrator(
    kube: Kube, operators: Operators, library: SqlLibrary, told: dict[str, str]
) -> None:
    operators.start(**told)
    body = sample("blueprint")
    body["spec"]["approved"] = True
    kube.create("blueprints", body)
    assert "admin" in settled(kube, "blueprints", "conv-relu-conv", "LibraryAccessDenied")["message"]
    Path(told["urza_token_file"]).write_text(services.token("admin"))
    settled(kube, "blueprints", "conv-relu-conv", "Registered")
    assert library.blueprint("conv-relu-conv").approved
