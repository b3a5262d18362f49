"""What ``helm test`` runs, against a real control plane; the test plays the operator."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from clusters import GROUP, VERSION, Kube, eventually, training_run


def begun(kube: Kube) -> str:
    """The name of the only run, as soon as it is there."""

    def look() -> str:
        found = kube.custom.list_namespaced_custom_object(GROUP, VERSION, kube.namespace, "trainingruns")["items"]
        return str(found[0]["metadata"]["name"]) if found else ""

    return eventually(look, patience=100)


def say(kube: Kube, **status: Any) -> None:
    """Write a status as the operator would."""
    kube.custom.patch_namespaced_custom_object_status(
        GROUP, VERSION, kube.namespace, "trainingruns", begun(kube), {"status": status}
    )


def trying(
    kube: Kube, folder: Path, manifest: dict[str, Any] | None = None, seconds: str = "120"
) -> subprocess.CompletedProcess[str]:
    if manifest is None:
        manifest = training_run("unused") | {"metadata": {"generateName": "esper-test-"}}
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return subprocess.run(
        [sys.executable, "-m", "esper_operator.trying", str(file), kube.namespace],
        capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"KUBECONFIG": kube.kubeconfig, "ESPER_TRY_SECONDS": seconds},
    )  # fmt: skip


def test_a_run_that_ends_well_passes_and_is_removed(kube: Kube, tmp_path: Path) -> None:
    def operator() -> None:
        say(kube, phase="Running", reason="Training", message="Every pod runs.")
        say(kube, phase="Succeeded", reason="TrainingComplete", message="Every pod ended well.")

    playing = threading.Thread(target=operator)
    playing.start()
    done = trying(kube, tmp_path)
    playing.join()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Succeeded (TrainingComplete): Every pod ended well."
    assert not kube.custom.list_namespaced_custom_object(GROUP, VERSION, kube.namespace, "trainingruns")["items"]


def test_a_run_that_fails_is_left_to_be_looked_at(kube: Kube, tmp_path: Path) -> None:
    playing = threading.Thread(target=say, args=(kube,), kwargs={"phase": "Failed", "reason": "BadInput"})
    playing.start()
    done = trying(kube, tmp_path)
    playing.join()
    assert done.returncode == 3
    assert f"kubectl esper why {begun(kube)} -n {kube.namespace}" in done.stdout


def test_without_an_operator_it_does_not_wait_for_ever(kube: Kube, tmp_path: Path) -> None:
    done = trying(kube, tmp_path, seconds="1")
    assert done.returncode == 3
    assert "No operator has looked at it" in done.stdout
    assert "not within 1 s" in done.stdout


def test_what_the_cluster_refuses_is_said(kube: Kube, tmp_path: Path) -> None:
    wrong = training_run("wrong")
    wrong["spec"]["training"]["epochs"] = -1
    done = trying(kube, tmp_path, wrong)
    assert done.returncode == 3
    assert "spec.training.epochs" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ApiException):
        kube.get("trainingruns", "wrong")
