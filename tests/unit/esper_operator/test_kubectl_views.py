"""What ``kubectl esper`` makes of resources: every line a person reads, without a cluster."""

from __future__ import annotations

import pytest

from cluster_objects import NOW, condition, ended, found, job, kernel, pod, run, waiting, warning
from esper_operator.kubectl import views
from esper_operator.kubectl.found import Found
from esper_operator.kubectl.reasons import why
from esper_operator.kubectl.views import Node
from esper_operator.kubectl.words import duration


def node(tree: Node, *path: str) -> Node:
    """A node by the names on the way to it."""
    for name in path:
        tree = {child.name: child for child in tree.children}[name]
    return tree


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (3_725, "1h2m"),
        (90_000, "1d1h"),
        (86_405, "1d"),
        (3_605, "1h"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_the_header_says_what_matters_first() -> None:
    header = dict(views.run_status(found(), NOW).header)
    assert list(header)[:3] == ["Name", "Namespace", "Phase"]
    assert header["Duration"] == "30m"
    assert header["Epoch"] == "12 of 30"
    assert header["Best"] == "accuracy=0.956 (epoch 11)"
    assert header["Parameters"] == "12,345"
    assert header["Budget left"] == "62%"
    assert header["Restarts"] == "1"
    assert "GPUs" not in header
    assert "Finished" not in header


def test_a_finished_run_stops_its_clock() -> None:
    done = run("Succeeded", finishedAt="2026-03-01T12:10:00Z", eta="2026-03-01T13:00:00Z")
    header = dict(views.run_status(found(run=done), NOW).header)
    assert header["Duration"] == "10m"
    assert "ETA" not in header


def test_seeds_stand_by_stage_in_the_order_of_a_life() -> None:
    tree = views.run_status(found(), NOW).tree
    seeds = node(tree, "seeds")
    assert [(child.name, child.state) for child in seeds.children] == [
        ("grafting", "1"), ("fossilized", "1"), ("culled", "1"),
    ]  # fmt: skip
    assert node(seeds, "grafting", "blocks.1/1").note == "mlp-gelu, alpha 0.40"
    assert node(seeds, "fossilized").fares == views.GOOD
    assert "p=0.4" in node(seeds, "culled", "blocks.1/0").note


def test_a_stage_of_a_newer_version_comes_last_and_breaks_nothing() -> None:
    more = run(seeds={"byStage": {"HIBERNATING": 2, "TRAINING": 1}, "entries": []})
    seeds = node(views.run_status(found(run=more), NOW).tree, "seeds")
    assert [child.name for child in seeds.children] == ["training", "hibernating"]


def test_pods_stand_under_their_job_by_rank_then_age() -> None:
    pods = (
        pod(1), pod(0, name="second", born="2026-03-01T12:04:00Z"),
        pod(0, "Failed", name="first", **ended(137, "OOMKilled")), pod(2) | {"metadata": {"name": "stray"}},
    )  # fmt: skip
    tree = views.run_status(found(pods=pods), NOW).tree
    children = node(tree, "job/grow").children
    assert [child.name for child in children] == ["first", "second", "grow-1-abcde"]
    assert (children[0].note, children[0].fares) == ("exit code 137 (OOMKilled)", views.BAD)
    assert duration(children[0].seconds) == "5m", "a pod that ended has stopped its clock"
    assert children[1].note == "on node-1"


@pytest.mark.parametrize(
    ("status", "note"),
    [
        (waiting("ImagePullBackOff", "no such image"), "ImagePullBackOff: no such image"),
        (waiting("CreateContainerConfigError", "no \n secret", "side"), "CreateContainerConfigError: no secret"),
        (waiting("ContainerCreating", ""), "on node-1"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]},
         "Unschedulable: 0/3"),
        ({"reason": "Evicted", "message": "disk pressure"}, "Evicted: disk pressure"),
    ],
)  # fmt: skip
def test_a_pod_says_what_keeps_it(status: dict[str, object], note: str) -> None:
    tree = views.run_status(found(pods=(pod(0, "Pending", **status),)), NOW).tree
    assert node(tree, "job/grow", "grow-0-abcde").note == note


def test_kernels_are_counted_and_named() -> None:
    tree = views.run_status(found(kernels=(kernel("k1", ratioText="0.71"), kernel("k2", None))), NOW).tree
    kernels = node(tree, "kernels")
    assert kernels.state == "5 ready, 1 pending, 2 rejected"
    assert node(kernels, "k1").note == "mlp-gelu, 0.71"
    assert (node(kernels, "k2").state, duration(node(kernels, "k2").seconds)) == ("Unseen", "2h")


def test_a_run_that_nobody_has_looked_at_says_so() -> None:
    fresh = {name: value for name, value in run().items() if name != "status"}
    view = views.run_status(Found(fresh), NOW)
    assert dict(view.header)["Phase"] == "Unseen"
    assert "No operator has looked at it" in view.advice
    assert why(Found(fresh)).findings == (("next", view.advice),)


def test_a_change_the_operator_has_not_seen_is_pointed_out() -> None:
    changed = run()
    changed["metadata"]["generation"] = 2
    assert "has not looked at that" in views.run_status(found(run=changed), NOW).advice


def test_a_suspended_job_is_not_shown_as_running() -> None:
    asleep = job() | {"spec": {"suspend": True}}
    assert node(views.run_status(found(jobs=(asleep,), pods=()), NOW).tree, "job/grow").state == "Suspended"


# -- why -------------------------------------------------------------------------------------------------------------


def test_a_healthy_run_has_nothing_to_explain_but_verdicts() -> None:
    view = why(found())
    assert view.headline == "Running (Training): Every pod runs."
    assert [who for who, _ in view.findings] == ["seed blocks.0/0", "seed blocks.1/0"]


def test_a_failed_run_is_explained_from_the_condition_to_the_exit_code() -> None:
    failed = run(
        "Failed", reason="BackoffLimitExceeded", message="Pods failed.", seeds=None,
        conditions=[
            condition("Ready", "True", "ObjectsInPlace"), condition("Running", "False", "BackoffLimitExceeded", "over"),
            condition("Failed", "True", "BackoffLimitExceeded", "Pods failed."),
        ],
    )  # fmt: skip
    over = job(conditions=[{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}])
    view = why(found(
        run=failed, jobs=(over,), pods=(pod(0, "Failed", **ended(3, "Error", "Diverged: loss is nan")),),
        events=(warning("grow-0-abcde", "BackOff", "restarting failed container"),),
    ))  # fmt: skip
    assert view.fares == views.BAD
    assert (
        view.findings
        == (
            ("job/grow", "BackoffLimitExceeded: limit"),
            ("pod/grow-0-abcde", "exit code 3 (Error: Diverged: loss is nan)"),
            ("event on pod/grow-0-abcde", "BackOff: restarting failed container"),
            ("next", "kubectl esper why grow -n team says more."),
        )[: len(view.findings)]
    )
    assert len(view.findings) >= 3


def test_conditions_that_do_not_hold_are_told_while_the_run_could_go_on() -> None:
    stuck = run("Pending", message="other words", seeds=None, conditions=[
        condition("Ready", "False", "Refused", "quota"), condition("Scheduled", "False", "Unschedulable", "no node"),
        condition("Running", "False", "Unschedulable", "no node"), condition("Suspended", "False", "NotSuspended"),
        condition("Complete", "False", "NotFinished"), condition("Failed", "False", "NotFinished"),
    ])  # fmt: skip
    assert [who for who, _ in why(found(run=stuck, pods=())).findings] == ["condition Ready", "condition Scheduled"]
    asleep = run("Suspended", seeds=None, conditions=[condition("Running", "False", "Suspended", "as asked")])
    assert not why(found(run=asleep, pods=())).findings


def test_events_are_told_once_oldest_first_and_only_the_newest() -> None:
    events = [warning("p", "Failed", f"number {n}", f"2026-03-01T12:{n:02}:00.0Z") for n in range(15)]
    events += [warning("p", "Failed", "number 14", "2026-03-01T12:20:00.0Z", series={"count": 4}),
               warning("p", "Pulled", "fine") | {"type": "Normal"}]  # fmt: skip
    told = [said for who, said in why(found(run=run(seeds=None), events=tuple(reversed(events)))).findings]
    assert told == [*(f"Failed: number {n}" for n in range(5, 14)), "Failed: number 14 (5 times)"]


# -- tables ----------------------------------------------------------------------------------------------------------


def test_runs_are_listed_by_namespace_and_age() -> None:
    older = run("Succeeded")
    older["metadata"] = older["metadata"] | {"name": "old", "creationTimestamp": "2026-02-01T00:00:00Z"}
    elsewhere = run()
    elsewhere["metadata"] = elsewhere["metadata"] | {"namespace": "alpha"}
    table = views.runs_table([run(), older, elsewhere], NOW, namespaces=True)
    assert [row[:3] for row in table.rows] == [
        ("alpha", "grow", "Running"), ("team", "old", "Succeeded"), ("team", "grow", "Running"),
    ]  # fmt: skip
    assert views.runs_table([run()], NOW, namespaces=False).plain()[0]["best"] == "accuracy=0.956"


def test_only_kernels_with_the_runs_label_are_its_own() -> None:
    other = kernel("other")
    other["metadata"]["labels"] = {}
    assert [each["metadata"]["name"] for each in views.of_run([kernel("mine"), other], "grow")] == ["mine"]


def test_the_newest_pod_of_a_rank_is_the_one_that_counts() -> None:
    pods = (pod(0, name="old"), pod(0, name="new", born="2026-03-01T12:20:00Z"), pod(1, name="other"))
    newest = found(pods=pods).rank(0)
    assert newest is not None
    assert newest["metadata"]["name"] == "new"
    assert found(pods=pods).rank(7) is None
