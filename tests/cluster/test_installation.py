"""An installation on a real cluster, in real pods: runs, undisturbed, killed, suspended and by two, and its pools.

Every run but that of two ranks must end with the bits of the first, and that with those of one process on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.watch import Watch

import bursts
import charts
import leftovers
import real_installation
from clusters import GROUP, VERSION, Kube, eventually
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.output.events import read_events
from installed import Installed, installation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "mnist1d.yaml"
ESPER = Path(sys.executable).with_name("esper")
LONG = 600.0
EPOCHS = 24
BLUEPRINTS = int(os.environ.get("ESPER_BURST", "4"))
"""Sound designs of the burst, each for two targets."""
BURST_RECORD = os.environ.get("ESPER_BURST_RECORD", "")
"""File for what was seen of the burst."""
WANTED = 2 * BLUEPRINTS + 2
POOLS = {part: {"max": 3, "perPod": {"fast": 8}} for part in bursts.POOLS}
"""A pod for each eight kernels: one for those of a run, several for a burst."""
COMPILED = "gated"
"""A blueprint whose kernel is compiled while the first run trains."""


@pytest.fixture(scope="module")
def esper() -> Iterator[Installed]:
    with real_installation.site() as site, installation(site, POOLS) as made:
        yield made


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    """The example that people run first, shorter, and with seeds that are judged; compiling kernels takes minutes."""
    body = dict(yaml.safe_load(EXAMPLE.read_text()))
    body["metadata"] = {"name": name}
    body["spec"]["training"]["epochs"] = EPOCHS
    body["spec"]["kernels"]["strategies"] = ["Fast"]
    body["spec"]["controller"] = {"policy": "Always"}
    body["spec"] |= spec
    return body


def complete(esper: Installed, name: str) -> dict[str, Any]:
    return esper.reason("TrainingComplete", name, LONG)


def model(folder: Path) -> tuple[dict[str, bytes], Any]:
    """Tensors, and what became of slots: everything but the run's name and the versions of what made it."""
    files = {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}
    lineage = json.loads(files.pop("lineage.json"))
    return files, (lineage["files"], lineage["slots"])


def jobs(esper: Kube, name: str) -> list[str]:
    found = esper.batch.list_namespaced_job(esper.namespace, label_selector=f"esper.dev/training-run={name}").items
    return [job.metadata.uid for job in found]


class Seen:
    """What ``kubectl get trainingrun -w`` shows of a run, from now to its end."""

    def __init__(self, esper: Installed, name: str) -> None:
        self.statuses: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._look, args=(esper, name), daemon=True)
        self._thread.start()

    def stages(self) -> set[str]:
        """Stages of seeds in any of the statuses."""
        return {stage for status in self.statuses for stage in status.get("seeds", {}).get("byStage", {})}

    def epochs(self) -> list[int]:
        """Epochs, in the order they were told."""
        return [status["epoch"] for status in self.statuses if "epoch" in status]

    def ended(self) -> None:
        """Wait until the end was seen."""
        self._thread.join(60.0)
        assert not self._thread.is_alive(), self.statuses[-1:]

    def _look(self, esper: Installed, name: str) -> None:
        listing = esper.custom.list_namespaced_custom_object
        for event in Watch().stream(
            listing, GROUP, VERSION, esper.namespace, "trainingruns", timeout_seconds=int(LONG),
            field_selector=f"metadata.name={name}",
        ):  # fmt: skip
            self.statuses.append(event["object"].get("status") or {})
            if self.statuses[-1].get("phase") in ("Succeeded", "Failed"):
                return


@pytest.fixture(scope="module")
def first(esper: Installed) -> Seen:
    """An undisturbed run, complete."""
    seen = Seen(esper, "first")
    esper.create("trainingruns", manifest("first"))
    at_epoch(esper, "first", 1)
    # Its own kernels are there: what takes the pools a minute is begun here and looked at later.
    esper.create("blueprints", bursts.compiled(COMPILED))
    complete(esper, "first")
    seen.ended()
    return seen


def test_a_run_goes_from_its_manifest_to_its_model_and_is_seen_to_grow(esper: Installed, first: Seen) -> None:
    status, summary = esper.status("first"), esper.summary("first")
    assert (status["phase"], status["epoch"], status["restarts"]) == ("Succeeded", EPOCHS, 0)
    assert {"TRAINING", "GRAFTING", "FOSSILIZED"} <= first.stages(), first.stages()
    assert first.epochs() == sorted(first.epochs())
    assert len(set(first.epochs())) > 6, "progress is told while it happens"
    assert status["best"]["value"] == summary["controller"]["best"]["metric"]
    assert status["budget"]["parameters"] == summary["parameters"] > summary["host_parameters"]
    assert status["seeds"]["byStage"]["FOSSILIZED"] == summary["seeds_by_stage"]["FOSSILIZED"]
    assert len(jobs(esper, "first")) == 1
    assert (esper.output("first") / "report.html").stat().st_size > 10_000


def test_the_same_manifest_on_this_machine_gives_the_same_model(esper: Installed, first: Seen, tmp_path: Path) -> None:
    library = esper.library_copy(tmp_path / "library")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(manifest("first")))
    done = subprocess.run(
        [ESPER, "run", tmp_path / "run.yaml", "-o", tmp_path / "here", "--library", library, "--plain"],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert model(tmp_path / "here") == model(esper.output("first"))


def test_a_compiled_kernel_goes_through_the_pools_and_a_run_grows_by_it(esper: Installed, first: Seen) -> None:
    def validated() -> dict[str, Any]:
        (status,) = bursts.artifacts(esper, COMPILED).values()
        assert status.get("phase") == "Validated", f"{status.get('phase')}: {status.get('message')}"
        return status

    status = eventually(validated, LONG, 0.5)
    assert status is not None
    kernel = status["artifactId"]
    assert kernel.endswith(f"-{hardware_target()}-standard-{toolchain_hash()}")
    assert 0 < status["ratio"] < 1, "no convolution: the compiled pair is the faster one"
    assert status["ratioText"].startswith(f"{status['ratio']:.2f} (")
    assert {"numerically_stable", "faster_than_eager"} <= set(status["tags"])

    esper.create("trainingruns", {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainingRun",
                                  "metadata": {"name": "compiled"}, "spec": {
        "task": {"ref": "esper.tasks.vector:task"}, "slots": [{"path": "blocks.*"}],
        "training": {"epochs": 16, "batchSize": 100, "optimizer": {"name": "AdamW", "learningRate": 0.01}},
        "controller": {"policy": "Always"}, "judge": {"cooldownSteps": 20},
        "kernels": {"blueprints": [COMPILED], "strategies": ["Standard"]},
    }})  # fmt: skip
    complete(esper, "compiled")
    summary = esper.summary("compiled")
    assert summary["strategies_unavailable"] == {}
    assert summary["seeds_by_stage"]["FOSSILIZED"] > 0
    assert {(seed["kernel"], seed["strategy"]) for seed in summary["seeds"]} == {(kernel, "standard")}
    (listed,) = [each for each in summary["kernels"] if each["id"] == kernel]
    assert (listed["state"], listed["ratio"], listed["tags"]) == ("Validated", status["ratio"], status["tags"])
    with esper.library() as library:
        assert library.record(kernel).report["manifest"] == status["digest"]
        made = {record.artifact_id for record in library.records() if record.blueprint == COMPILED}
    assert made == {kernel, kernel.replace("standard", "fast")}, "the run had nothing built that was not there"


def test_pools_are_gone_when_nothing_waits(esper: Installed, first: Seen) -> None:
    assert esper.summary("first")["seeds"], "kernels were made for it"
    bursts.idle(esper)


def test_a_run_whose_every_part_is_killed_ends_as_if_nothing_had_been(esper: Installed, first: Seen) -> None:
    seen = Seen(esper, "killed")
    esper.create("trainingruns", manifest("killed"))
    at_epoch(esper, "killed", 2)
    for part in ("operator", "urza"):
        for pod in esper.of(part):
            kill_pod(esper, pod.metadata.name)
    # Nobody may be there to tell its status, so the run's own files say how far it is.
    eventually(lambda: trained(esper, "killed") >= 4, LONG, 0.1)
    (pod,) = [each for each in esper.pods("killed") if each.status.phase == "Running"]
    kill_pod(esper, pod.metadata.name)
    esper.site.kill("pulsar")
    time.sleep(2.0)
    esper.site.start_broker()
    at_epoch(esper, "killed", 8)
    for pod in esper.of("operator"):
        kill_pod(esper, pod.metadata.name)
    status = complete(esper, "killed")
    seen.ended()
    assert model(esper.output("killed")) == model(esper.output("first"))
    assert len(jobs(esper, "killed")) == 1, "no second Job"
    assert status["restarts"] == 1
    assert status["epoch"] == EPOCHS
    assert esper.summary("killed")["report"] == esper.summary("first")["report"]
    esper.ready("operator", "urza", "dispatcher")


def test_a_node_whose_kubelet_hangs_for_a_minute_keeps_the_run(esper: Installed, first: Seen) -> None:
    esper.create("trainingruns", manifest("hung"))
    at_epoch(esper, "hung", 1)
    with esper.site.stopped("kubelet"):
        time.sleep(60.0)
    status = complete(esper, "hung")
    assert status["restarts"] == 0
    assert model(esper.output("hung")) == model(esper.output("first"))
    assert len(jobs(esper, "hung")) == 1


def test_a_run_suspended_while_it_grafts_goes_on_with_the_same_bits(esper: Installed, first: Seen) -> None:
    esper.create("trainingruns", manifest("paused"))

    def grafting() -> bool:
        return "GRAFTING" in esper.status("paused").get("seeds", {}).get("byStage", {})

    eventually(grafting, LONG, 0.05)
    esper.patch("trainingruns", "paused", {"spec": {"suspend": True}})
    status = esper.reason("Suspended", "paused", 120)
    assert not [pod for pod in esper.pods("paused") if pod.status.phase == "Running"]
    assert status["epoch"] < EPOCHS
    esper.patch("trainingruns", "paused", {"spec": {"suspend": False}})
    complete(esper, "paused")
    assert model(esper.output("paused")) == model(esper.output("first"))


def test_an_upgrade_leaves_pods_of_runs_alone(esper: Installed, first: Seen) -> None:
    esper.create("trainingruns", manifest("upgraded"))
    at_epoch(esper, "upgraded", 1)
    before = {pod.metadata.uid for pod in esper.pods("upgraded")}
    operators = {pod.metadata.uid for pod in esper.of("operator")}
    esper.install(POOLS, {"operator": {"workers": 4, "podAnnotations": {"why": "upgrade"}}}, verb="upgrade")
    esper.ready("operator", "urza", "dispatcher")
    eventually(lambda: not operators & {pod.metadata.uid for pod in esper.of("operator")}, 60)
    status = complete(esper, "upgraded")
    assert {pod.metadata.uid for pod in esper.pods("upgraded")} == before
    assert status["restarts"] == 0
    assert model(esper.output("upgraded")) == model(esper.output("first"))


def test_two_pods_train_one_network(esper: Installed, first: Seen) -> None:
    esper.create("trainingruns", manifest("two", parallelism=2))
    status = complete(esper, "two")
    assert len(esper.pods("two")) == 2
    summary, alone = esper.summary("two"), esper.summary("first")
    assert status["best"]["value"] == summary["controller"]["best"]["metric"]
    assert summary["seeds"]
    assert abs(summary["report"]["final"]["metric"] - alone["report"]["final"]["metric"]) < 0.1


@pytest.mark.timeout(1200 + 30 * WANTED)
def test_a_burst_of_blueprints_is_worked_off_and_a_wrong_one_holds_up_nobody(esper: Installed) -> None:
    bursts.idle(esper)
    # The wrong one first: everything else waits behind it.
    burst = bursts.Burst(esper, [bursts.overflowing("overflows"), *bursts.sound(BLUEPRINTS)])
    phases = burst.follow(240 + 30 * WANTED)
    assert len(phases) == WANTED
    wrong = {name for name, phase in phases.items() if phase == "Rejected"}
    assert wrong == {name for name in phases if name.startswith("overflows")}, phases
    told = bursts.artifacts(esper, "overflows").values()
    assert all("output is off by" in status["message"] for status in told), told
    # How many measure depends on how fast the others build.
    assert burst.pods["tezzeret"] > 1, f"{burst.pods}: pools came from nothing, and with several pods"
    assert all(1 <= most <= 3 for most in burst.pods.values()), f"{burst.pods}: as many as they may"
    assert not burst.redelivered(), "nothing failed on the way"
    if BURST_RECORD:
        burst.write(Path(BURST_RECORD))
    bursts.idle(esper)


def test_helms_own_test_trains_a_network(esper: Installed) -> None:
    said = charts.run("test", "esper", "--namespace", esper.namespace, "--timeout", "10m",
                      environment={"KUBECONFIG": esper.kubeconfig})  # fmt: skip
    assert "Phase:          Succeeded" in said, said


def test_nothing_is_wedged_once_the_release_is_gone(esper: Installed) -> None:
    """The operator went in the middle of everything; what belongs to something is collected without it."""
    esper.create("trainingruns", manifest("left", training={"epochs": 500, "batchSize": 100}))
    esper.create("blueprints", bursts.convolutions("left", [7, 7, 7], "silu"))
    at_epoch(esper, "left", 1)
    eventually(lambda: bursts.artifacts(esper, "left"), 60)
    before = {pod.metadata.uid for pod in esper.pods("left")}
    esper.uninstall()

    def only_the_run() -> bool:
        left = {each.metadata.name for each in esper.core.list_namespaced_pod(esper.namespace).items
                if each.status.phase not in ("Succeeded", "Failed")}  # fmt: skip
        assert left == {pod.metadata.name for pod in esper.pods("left")}, left
        return True

    eventually(only_the_run, 120, 0.5)
    assert {each.kind for each in leftovers.everything(esper) if each.release} == {"Secret"}, "keys alone are kept"
    assert leftovers.held(esper) == []
    (pod,) = esper.pods("left")
    assert (pod.metadata.uid in before, pod.status.phase) == (True, "Running"), "runs go on"

    esper.delete("trainingruns", "left")
    esper.delete("blueprints", "left")
    eventually(lambda: not (esper.pods("left") or jobs(esper, "left") or bursts.artifacts(esper, "left")), 90, 0.5)
    assert not [name for name in esper.owned() if name.split("/")[1].startswith("left")]
    esper.core.delete_namespace(esper.namespace)
    eventually(
        lambda: esper.namespace not in {each.metadata.name for each in esper.core.list_namespace().items}, 180, 0.5
    )


def at_epoch(esper: Installed, name: str, epoch: int) -> None:
    """Wait until a run has told of this epoch."""
    look: Callable[[], bool] = lambda: esper.status(name).get("epoch", 0) >= epoch  # noqa: E731
    eventually(look, LONG, 0.1)


def trained(esper: Installed, name: str) -> int:
    """The newest epoch that a run's own files tell of."""
    events = read_events(esper.output(name) / "events.jsonl")
    return max((each["epoch"] for each in events if each["kind"] == "epoch"), default=0)


def kill_pod(esper: Installed, name: str) -> None:
    """As a node that is switched off: nobody is asked, nothing is waited for."""
    esper.core.delete_namespaced_pod(name, esper.namespace, grace_period_seconds=0)
