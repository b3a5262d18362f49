"""``kubectl esper`` against a real control plane: what it asks for, what it changes, and what it says when it can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from clusters import Kube, Operators, eventually


def esper(kube: Kube, *words: str, module: str = "app", config: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from esper_operator.kubectl.{module} import main; main()", *words],
        capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"KUBECONFIG": config or kube.kubeconfig, "COLUMNS": "200"},
    )  # fmt: skip


def said(kube: Kube, *words: str) -> str:
    done = esper(kube, *words, "-n", kube.namespace)
    assert done.returncode == 0, done.stderr
    return done.stdout


def data(kube: Kube, *words: str) -> Any:
    return json.loads(said(kube, *words, "-o", "json"))


def test_a_run_that_no_node_can_take_is_shown_and_explained(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run()
    kube.reason("Unschedulable")
    view = data(kube, "status", "grow")
    assert view["run"]["Phase"] == "Pending"
    (job,) = [each for each in view["tree"]["children"] if each["name"] == "job/grow"]
    (pod,) = job["children"]
    assert (pod["state"], pod["fares"]) == ("Pending", "bad")
    assert pod["note"].startswith("Unschedulable: ")
    text = said(kube, "why", "grow")
    assert text.startswith("Pending (Unschedulable): No node can take a pod")
    assert "event on pod/grow-0-" in text
    assert "FailedScheduling" in text
    assert "\x1b" not in text


def test_suspend_and_resume_change_that_field_and_nothing_else(kube: Kube) -> None:
    kube.run()
    before = kube.get("trainingruns", "grow")["spec"]
    assert "suspended" in said(kube, "suspend", "grow")
    assert kube.get("trainingruns", "grow")["spec"] == before | {"suspend": True}
    version = kube.get("trainingruns", "grow")["metadata"]["resourceVersion"]
    assert "already" in said(kube, "suspend", "grow")
    assert kube.get("trainingruns", "grow")["metadata"]["resourceVersion"] == version
    assert "resumed" in said(kube, "resume", "grow")
    assert kube.get("trainingruns", "grow")["spec"] == before | {"suspend": False}


def test_watching_ends_with_the_run_and_tells_each_change_once(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run("short", activeDeadlineSeconds=2)
    text = said(kube, "status", "short", "-w", "-o", "yaml")
    phases = [each["run"]["Phase"] for each in yaml.safe_load_all(text) if each]
    assert phases[-1] == "Failed"
    again = data(kube, "status", "short")
    assert "kubectl esper why short" in again["advice"]
    refused = esper(kube, "suspend", "short", "-n", kube.namespace)
    assert (refused.returncode, "has ended" in refused.stderr) == (2, True)


def test_all_runs_and_seeds_and_kernels(kube: Kube) -> None:
    kube.run("one")
    kube.run("two")
    rows = data(kube, "status")
    assert [(each["run"], each["phase"]) for each in rows] == [("one", "Unseen"), ("two", "Unseen")]
    everywhere = esper(kube, "status", "-A", "-o", "json")
    assert {kube.namespace} <= {each["namespace"] for each in json.loads(everywhere.stdout)}
    assert said(kube, "seeds", "one").strip() == "the status names no seeds"
    interface = {"layout": "vector", "width": 8}
    kube.create("kernelartifacts", {
        "apiVersion": "esper.dev/v1alpha1", "kind": "KernelArtifact", "metadata": {"name": "k"},
        "spec": {"blueprint": "glu", "interface": interface},
    })  # fmt: skip
    (kernel,) = data(kube, "kernels")
    assert (kernel["kernel"], kernel["blueprint"], kernel["phase"]) == ("k", "glu", "Unseen")


def test_what_is_not_there_or_not_allowed_is_named(kube: Kube, tmp_path: Path) -> None:
    missing = esper(kube, "status", "nothing", "-n", kube.namespace)
    assert missing.returncode == 2
    assert missing.stderr == f"kubectl-esper: training run nothing in namespace {kube.namespace}: not found\n"
    both = esper(kube, "status", "nothing", "-A")
    assert (both.returncode, "--all-namespaces" in both.stderr) == (2, True)
    kube.run()
    no_pod = esper(kube, "logs", "grow", "-n", kube.namespace)
    assert (no_pod.returncode, "no pod of rank 0" in no_pod.stderr) == (2, True)
    # An account without rights, and a cluster that is not there.
    kube.core.create_namespaced_service_account(kube.namespace, {"metadata": {"name": "nobody"}})
    made = eventually(lambda: kube.core.create_namespaced_service_account_token("nobody", kube.namespace, {"spec": {}}))
    config = yaml.safe_load(Path(kube.kubeconfig).read_text())
    config["users"][0]["user"] = {"token": made.status.token}
    limited = tmp_path / "limited"
    limited.write_text(yaml.safe_dump(config))
    refused = esper(kube, "status", "grow", "-n", kube.namespace, config=str(limited))
    assert (refused.returncode, "does not allow" in refused.stderr) == (2, True)
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    limited.write_text(yaml.safe_dump(config))
    gone = esper(kube, "status", "grow", "-n", kube.namespace, config=str(limited))
    assert gone.returncode == 3
    assert "does not answer" in gone.stderr
    assert "Traceback" not in gone.stderr
    nowhere = esper(kube, "status", config=str(tmp_path / "missing"))
    assert (nowhere.returncode, "no cluster is configured" in nowhere.stderr) == (3, True)


def test_kubectl_is_told_what_may_be_typed_next(kube: Kube) -> None:
    kube.run()
    offered = esper(kube, "status", "-n", kube.namespace, "g", module="completing").stdout.splitlines()
    assert offered == ["grow\tUnseen", ":4"]
    commands = esper(kube, "", module="completing").stdout.splitlines()
    assert [line.partition("\t")[0] for line in commands] == [
        "kernels", "logs", "resume", "seeds", "status", "suspend", "why", ":4",
    ]  # fmt: skip
