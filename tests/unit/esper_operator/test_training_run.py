"""The reconcile of a training run: what is made, what may change, how it ends, and that doing it again does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from api_server import SETTINGS, UID, ApiServer, ended, pod, run_object, started
from esper_operator.plan.actions import Adjust, Create, Delete
from esper_operator.plan.observed import Observed, Refusal
from esper_operator.plan.pod import environment, template
from esper_operator.plan.progress import Progress, SeedSeen, summary
from esper_operator.plan.reading import read_run
from esper_operator.plan.training_run import plan
from leyline.lifecycle import Stage
from leyline.resources import load


def test_a_new_run_of_several_ranks_gets_a_snapshot_a_service_and_a_job_of_its_own() -> None:
    server = ApiServer(run_object(parallelism=2))
    server.settle()
    assert sorted(server.created) == ["ConfigMap/grow-manifest", "Job/grow", "Service/grow"]
    for made in server.objects.values():
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("TrainingRun", UID, True)
        assert "finalizers" not in made["metadata"]


def test_the_snapshot_is_the_resolved_manifest_without_what_may_change() -> None:
    given_spec = {"seed": 7, "suspend": True, "activeDeadlineSeconds": 60, "priorityClassName": "low"}
    server = ApiServer(run_object(**given_spec))
    server.settle()
    config = server.objects["ConfigMap", "grow-manifest"]
    assert config["immutable"] is True
    resolved = load(config["data"]["manifest.yaml"]).spec
    asked = read_run(server.run).spec
    may_change = {"suspend": False, "active_deadline_seconds": None, "priority_class_name": None}
    assert resolved == asked.model_copy(update=may_change)
    assert yaml.safe_load(config["data"]["manifest.yaml"])["spec"]["training"]["batchSize"] == 100


def test_the_pod_runs_restricted_and_can_not_call_the_api_server() -> None:
    server = ApiServer(run_object())
    server.settle()
    template = server.objects["Job", "grow"]["spec"]["template"]["spec"]
    (container,) = template["containers"]
    assert template["automountServiceAccountToken"] is False
    assert template["securityContext"]["runAsNonRoot"] is True
    assert template["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    tokens = next(volume for volume in template["volumes"] if volume["name"] == "tokens")
    assert tokens["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "esper-urza"


def test_placement_of_the_spec_reaches_the_pod() -> None:
    spec = {
        "image": "registry.example/mine:2",
        "resources": {"limits": {"nvidia.com/gpu": 2, "memory": "4Gi"}},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "urgent",
    }
    template = started(**spec).objects["Job", "grow"]["spec"]["template"]["spec"]
    (container,) = template["containers"]
    assert container["image"] == "registry.example/mine:2"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2, "memory": "4Gi"}
    assert template["nodeSelector"] == {"gpu": "h100"}
    assert template["tolerations"] == spec["tolerations"]
    assert template["priorityClassName"] == "urgent"


def test_overrides_change_the_pod_but_not_what_ties_it_to_its_run() -> None:
    override = {
        "metadata": {"labels": {"team": "a", "esper.dev/training-run": "other"}, "annotations": {"note": "x"}},
        "spec": {
            "restartPolicy": "Always",
            "containers": [
                {"name": "trainer", "env": [{"name": "HOME", "value": "/home"}]},
                {"name": "side", "image": "registry.example/side:1"},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }
    template = started(podTemplate=override).objects["Job", "grow"]["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["labels"]["esper.dev/training-run"] == "grow"
    assert template["metadata"]["annotations"] == {"note": "x"}
    assert template["spec"]["restartPolicy"] == "Never"
    trainer, side = template["spec"]["containers"]
    assert trainer["command"][0] == "esper"
    assert [each["value"] for each in trainer["env"] if each["name"] == "HOME"] == ["/home"]
    assert side["name"] == "side"
    assert {"data", "manifest", "runs"} <= {volume["name"] for volume in template["spec"]["volumes"]}


def test_several_ranks_meet_at_the_first_pod_and_one_looks_for_nobody_by_name() -> None:
    alone = started()
    assert "Service/grow" not in alone.created
    assert "subdomain" not in alone.objects["Job", "grow"]["spec"]["template"]["spec"]
    job = started(parallelism=4).objects["Job", "grow"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    assert job["template"]["spec"]["subdomain"] == "grow"
    container = job["template"]["spec"]["containers"][0]
    told = {each["name"]: each for each in container["env"]}
    assert told["WORLD_SIZE"]["value"] == "4"
    assert (told["MASTER_ADDR"]["value"], told["MASTER_PORT"]["value"]) == ("grow-0.grow", "29400")
    assert "job-completion-index" in told["RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["command"][0] == "esper"


def test_a_run_of_several_ranks_may_fail_as_often_as_one_of_a_single_one() -> None:
    assert started(parallelism=4, backoffLimit=2).objects["Job", "grow"]["spec"]["backoffLimit"] == 11
    assert started(parallelism=1, backoffLimit=2).objects["Job", "grow"]["spec"]["backoffLimit"] == 2
    server = started(parallelism=4)
    server.job(failed=5)
    server.settle()
    assert server.run["status"]["restarts"] == 2


def test_each_run_keeps_its_checkpoints_in_a_place_of_its_own() -> None:
    run = read_run(run_object())
    settings = replace(SETTINGS, checkpoints_url="s3://runs/all/")
    told = {each["name"]: each.get("value") for each in environment(run, settings)}
    assert told["ESPER_CHECKPOINTS_URL"] == f"s3://runs/all/lab/{UID}"
    assert told["ESPER_LIBRARY_URL"] == "http://urza:8460"


def test_keys_are_mounted_where_the_trainer_is_told_they_are() -> None:
    run = read_run(run_object())
    settings = replace(SETTINGS, bus_key_secret="bus", bus_trust="trusted", kernel_keys="kernels")
    spec = template(run, settings)["spec"]
    (container,) = spec["containers"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    folders = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    sources = {each["name"]: each for each in spec["volumes"]}
    assert told["ESPER_TRAIN_BUS_KEY_FILE"] == f"{folders['bus-key']}/key.pem"
    assert told["ESPER_TRAIN_BUS_TRUST_DIR"] == folders["bus-trust"]
    assert told["ESPER_TRAIN_PUBLIC_KEYS_FILE"] == f"{folders['kernel-keys']}/public.json"
    assert sources["bus-key"]["secret"]["secretName"] == "bus"
    assert {sources[name]["configMap"]["name"] for name in ("bus-trust", "kernel-keys")} == {"trusted", "kernels"}
    assert "bus-key" not in {each["name"] for each in template(run, SETTINGS)["spec"]["volumes"]}


def test_a_trainer_that_obeys_a_signal_is_not_taken_for_one_that_is_done() -> None:
    job = started().objects["Job", "grow"]["spec"]
    command = job["template"]["spec"]["containers"][0]["command"]
    code = int(command[command.index("--suspended-exit") + 1])
    ignored = [rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert code != 0
    assert [code] in ignored


def test_a_running_run_says_so_once() -> None:
    server = started(resources={"limits": {"nvidia.com/gpu": 2}})
    status = server.run["status"]
    assert (status["phase"], status["reason"], status["gpus"]) == ("Running", "Training", 2)
    assert status["observedGeneration"] == 1
    assert all(each["observedGeneration"] == 1 for each in status["conditions"])
    assert server.notes == ["Training"]
    began = server.condition("Running")["lastTransitionTime"]
    server.wait(3600)
    server.run["metadata"]["generation"] = 2
    server.settle()
    assert server.condition("Running")["lastTransitionTime"] == began
    assert server.condition("Running")["observedGeneration"] == 2
    assert server.notes == ["Training"]


def test_suspending_and_resuming_changes_the_job_and_nothing_else() -> None:
    server = started()
    server.run["spec"]["suspend"] = True
    made = server.step()
    (action,) = made.actions
    assert isinstance(action, Adjust)
    assert action.patch == {"spec": {"suspend": True}}
    assert server.condition("Suspended")["reason"] == "Suspending"
    server.job(active=0, ready=0, startTime=None)
    server.pods = []
    server.settle()
    assert server.run["status"]["phase"] == "Suspended"
    assert "spec.suspend" in server.run["status"]["message"]
    server.run["spec"]["suspend"] = False
    server.settle()
    assert server.objects["Job", "grow"]["spec"]["suspend"] is False
    assert server.created.count("Job/grow") == 1


def test_a_run_created_suspended_has_a_suspended_job() -> None:
    server = ApiServer(run_object(suspend=True))
    server.settle()
    assert server.objects["Job", "grow"]["spec"]["suspend"] is True
    assert server.run["status"]["phase"] == "Suspended"


def test_a_deadline_may_be_changed_and_taken_away() -> None:
    server = started(activeDeadlineSeconds=60)
    assert server.objects["Job", "grow"]["spec"]["activeDeadlineSeconds"] == 60
    server.run["spec"]["activeDeadlineSeconds"] = 90
    server.settle()
    assert server.objects["Job", "grow"]["spec"]["activeDeadlineSeconds"] == 90
    del server.run["spec"]["activeDeadlineSeconds"]
    server.settle()
    assert "activeDeadlineSeconds" not in server.objects["Job", "grow"]["spec"]


def test_another_priority_waits_until_the_run_is_suspended() -> None:
    server = started(priorityClassName="low")
    server.run["spec"]["priorityClassName"] = "high"
    assert server.plan().actions == ()
    server.run["spec"]["suspend"] = True
    server.step()
    server.job(active=0, ready=0)
    server.pods = []
    assert any(isinstance(action, Delete) for action in server.plan().actions)
    server.settle()
    job = server.objects["Job", "grow"]["spec"]
    assert job["template"]["spec"]["priorityClassName"] == "high"
    assert job["suspend"] is True
    assert server.created.count("Job/grow") == 2


@pytest.mark.parametrize(
    ("job_reason", "reason"),
    [
        ("BackoffLimitExceeded", "BackoffLimitExceeded"),
        ("DeadlineExceeded", "DeadlineExceeded"),
        ("PodFailurePolicy", "BadInput"),
        ("SomethingNew", "JobFailed"),
    ],
)
def test_a_failed_job_is_a_failed_run_that_says_what_to_do(job_reason: str, reason: str) -> None:
    server = started()
    ended(server, "Failed", job_reason, "the words of the Job")
    server.settle()
    status = server.run["status"]
    assert (status["phase"], status["reason"]) == ("Failed", reason)
    assert "the words of the Job" in status["message"]
    assert server.condition("Failed")["status"] == "True"
    assert server.condition("Complete")["status"] == "False"
    assert status["finishedAt"] == "2026-01-01T01:00:00Z"
    assert server.notes[-1] == reason


def test_the_job_may_go_only_after_the_status_says_how_the_run_ended() -> None:
    server = started(ttlSecondsAfterFinished=5)
    assert "ttlSecondsAfterFinished" not in server.objects["Job", "grow"]["spec"]
    ended(server, "Complete")
    made = server.step()
    assert made.actions == ()
    assert server.run["status"]["phase"] == "Succeeded"
    server.step()
    assert server.objects["Job", "grow"]["spec"]["ttlSecondsAfterFinished"] == 5


@pytest.mark.parametrize("outcome", ["Complete", "Failed"])
def test_a_run_that_ended_is_never_begun_again(outcome: str) -> None:
    server = started()
    ended(server, outcome, "BackoffLimitExceeded")
    server.settle()
    before = server.run["status"]
    server.objects.clear()
    server.wait(1e6)
    assert server.settle().actions == ()
    assert server.run["status"] == before
    server.run["metadata"]["generation"] = 5
    server.settle()
    assert server.run["status"]["observedGeneration"] == 5
    assert server.created.count("Job/grow") == 1


def test_a_job_that_someone_deleted_is_made_again() -> None:
    server = started()
    server.pods = []
    del server.objects["Job", "grow"]
    server.settle()
    assert server.created.count("Job/grow") == 2


def test_a_service_that_someone_changed_is_put_right() -> None:
    server = started(parallelism=2)
    server.objects["Service", "grow"]["spec"]["selector"] = {"app": "another"}
    server.settle()
    assert server.objects["Service", "grow"]["spec"]["selector"]["esper.dev/training-run-uid"] == UID


def test_a_run_that_can_not_begin_in_time_fails_and_its_job_is_ended() -> None:
    server = ApiServer(run_object(preRunningDeadlineSeconds=60))
    server.settle()
    server.job(active=1, startTime="2026-01-01T00:00:00Z")
    stuck = pod(phase="Pending", ready=False, scheduled=False, problem="Unschedulable", problem_message="no GPU")
    server.pods = [stuck]
    server.wait(20)
    assert server.step().after == pytest.approx(40)
    assert server.run["status"]["reason"] == "Unschedulable"
    assert "no GPU" in server.run["status"]["message"]
    server.wait(41)
    server.settle()
    status = server.run["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "PreRunningDeadlineExceeded")
    assert "no GPU" in status["message"]
    assert server.objects["Job", "grow"]["spec"]["activeDeadlineSeconds"] == 1


def test_a_run_that_began_in_time_is_not_bound_by_that_deadline_later() -> None:
    server = started(preRunningDeadlineSeconds=60)
    server.wait(3600)
    server.pods = [pod(phase="Failed", ready=False, exit_code=1)]
    server.settle()
    assert server.run["status"]["reason"] == "Restarting"
    assert "exit code 1" in server.run["status"]["message"]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("ErrImagePull", "ImagePullFailed"),
        ("ImagePullBackOff", "ImagePullFailed"),
        ("InvalidImageName", "ImagePullFailed"),
        ("CreateContainerConfigError", "ContainerRefused"),
        ("ContainerCreating", "ContainersStarting"),
    ],
)
def test_what_keeps_a_container_from_starting_is_told(problem: str, reason: str) -> None:
    server = ApiServer(run_object())
    server.settle()
    server.job(active=1)
    server.pods = [pod(phase="Pending", ready=False, problem=problem, problem_message="why it did not")]
    server.settle()
    assert server.run["status"]["reason"] == reason
    if reason != "ContainersStarting":
        assert "why it did not" in server.run["status"]["message"]


def test_an_object_the_api_server_refused_is_told_and_nothing_is_made() -> None:
    server = ApiServer(run_object())
    made = server.step(refusal=Refusal("Job grow", "spec.template.spec.containers[0].image: Required value"))
    assert made.actions == ()
    assert server.run["status"]["reason"] == "Refused"
    assert server.condition("Ready")["status"] == "False"
    assert "containers[0].image" in server.run["status"]["message"]
    server.settle()
    assert server.condition("Ready")["status"] == "True"


def test_a_job_of_another_run_is_not_taken_for_its_own() -> None:
    server = ApiServer(run_object())
    server.settle()
    server.objects["Job", "grow"]["metadata"]["ownerReferences"][0]["uid"] = "the run before"
    (action,) = server.plan().actions
    assert isinstance(action, Create)


def test_a_job_left_to_another_controller_says_so() -> None:
    server = ApiServer(run_object(managedBy="kueue.x-k8s.io/multikueue"))
    server.settle()
    assert server.objects["Job", "grow"]["spec"]["managedBy"] == "kueue.x-k8s.io/multikueue"
    assert server.run["status"]["reason"] == "ExternallyManaged"


def said(epoch: int, value: float = 0.5, seconds: float = 10.0, **more: Any) -> Progress:
    """What a run says at the end of an epoch."""
    return Progress(epoch, 30, **({"metric": "accuracy"} | more), value=value, seconds=seconds, parameters=100,
                    flops=1e9, remaining=0.5)  # fmt: skip


def test_progress_is_told_and_never_goes_back() -> None:
    server = started()
    server.step(progress=said(3, 0.8))
    status = server.run["status"]
    assert (status["epoch"], status["progress"], status["eta"]) == (3, "10%", "2026-01-01T00:04:30Z")
    assert status["best"] == {"metric": "accuracy", "value": 0.8, "epoch": 3, "text": "accuracy=0.8"}
    assert status["budget"]["remainingFraction"] == 0.5
    assert server.step(progress=said(3, 0.9)).status is None
    server.step(progress=said(2, 0.9))
    assert server.run["status"]["epoch"] == 3
    server.step(progress=said(4, 0.7))
    assert server.run["status"]["best"]["epoch"] == 3
    server.step(progress=said(30, 0.9))
    assert server.run["status"]["progress"] == "100%"
    assert "eta" not in server.run["status"]
    server.step()
    assert server.run["status"]["best"]["text"] == "accuracy=0.9", "a new operator has not heard and keeps what is told"


def test_a_small_loss_is_the_best() -> None:
    server = started()
    for epoch, value in ((1, 2.0), (2, 1.5), (3, 1.7)):
        server.step(progress=said(epoch, value, metric="bits_per_character"))
    assert server.run["status"]["best"]["epoch"] == 2


def test_seeds_are_counted_and_the_active_come_first() -> None:
    stages = [Stage.DORMANT] * 3 + [Stage.CULLED] * 30 + [Stage.FOSSILIZED] * 2 + [Stage.GRAFTING, Stage.TRAINING]
    seeds = tuple(SeedSeen(f"blocks.0/{number}", stage, "conv", 0.5) for number, stage in enumerate(stages))
    found = summary(seeds)
    assert found.text == "2/2/30"
    assert found.by_stage == {"DORMANT": 3, "CULLED": 30, "FOSSILIZED": 2, "GRAFTING": 1, "TRAINING": 1}
    assert len(found.entries) == 16
    assert [each.stage for each in found.entries[:4]] == ["GRAFTING", "TRAINING", "FOSSILIZED", "FOSSILIZED"]


def test_a_status_has_nothing_empty_in_it() -> None:
    server = started()
    server.step(progress=said(1))
    assert server.run["status"]["seeds"] == {"text": "0/0/0"}
    assert server.settle().status is None


def test_how_a_run_ended_keeps_what_it_had_reached() -> None:
    server = started()
    server.step(progress=said(30, 0.9))
    ended(server, "Complete")
    server.settle()
    assert (server.run["status"]["phase"], server.run["status"]["epoch"]) == ("Succeeded", 30)


specs = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "suspend": st.booleans(),
        "parallelism": st.sampled_from([1, 2, 4, 5, 10]),  # of a batch of 100
        "activeDeadlineSeconds": st.integers(1, 10**6),
        "preRunningDeadlineSeconds": st.integers(1, 10**6),
        "ttlSecondsAfterFinished": st.integers(0, 10**6),
        "backoffLimit": st.integers(0, 20),
        "priorityClassName": st.sampled_from(["low", "high"]),
        "podTemplate": st.sampled_from([{}, {"spec": {"hostNetwork": False}}, {"metadata": {"labels": {"a": "b"}}}]),
    },
)
pods = st.lists(
    st.builds(
        pod,
        index=st.integers(0, 8),
        phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
        ready=st.booleans(),
        leaving=st.booleans(),
        scheduled=st.booleans(),
        problem=st.sampled_from(["", "Unschedulable", "ErrImagePull", "CreateContainerError", "ContainerCreating"]),
        exit_code=st.sampled_from([None, 0, 1, 2, 137]),
    ),
    max_size=8,
)
outcomes = st.sampled_from(["", "Complete", "Failed"])


@settings(max_examples=150, deadline=None)
@given(specs, pods, outcomes, st.integers(0, 8), st.floats(0, 1e7), st.sampled_from(["low", "high", None]))
def test_what_is_planned_and_done_leaves_nothing_to_plan(
    spec: dict[str, object], seen: list[object], outcome: str, active: int, later: float, other: str | None
) -> None:
    server = ApiServer(run_object(**spec))
    server.settle()
    server.job(active=active, ready=0, startTime="2026-01-01T00:00:00Z")
    server.pods = seen  # type: ignore[assignment]
    if outcome:
        server.job(conditions=[{"type": outcome, "status": "True", "reason": "X", "lastTransitionTime": "t"}])
    server.wait(later)
    server.run["spec"]["priorityClassName"] = other
    last = server.settle()
    assert last.actions == ()
    assert last.status is None
    assert server.plan() == last


@settings(max_examples=60, deadline=None)
@given(specs, pods)
def test_a_plan_depends_on_nothing_but_what_it_is_given(spec: dict[str, object], seen: list[object]) -> None:
    run = read_run(run_object(**spec))
    server = ApiServer(run_object(**spec))
    observed = Observed(pods=tuple(seen))  # type: ignore[arg-type]
    first = plan(run, observed, SETTINGS, server.now)
    assert first == plan(run, observed, SETTINGS, server.now)
