"""Which states of a training run are written down, and when: at once what somebody waits for, the rest if it lasts."""

from __future__ import annotations

import pytest

from api_server import ended, new_run, pod


def test_what_passes_by_is_no_status_and_what_lasts_is() -> None:
    server = new_run()
    made = server.step()
    assert server.created == ["ConfigMap/grow-manifest", "Job/grow"]
    assert (made.status, made.after) == (None, 2.0)
    server.wait(1.5)
    assert (server.step().status, server.plan().after) == (None, 0.5)
    server.wait(0.5)
    server.step()
    assert (server.run["status"]["phase"], server.run["status"]["reason"]) == ("Pending", "WaitingForPods")
    server.pods = [pod(phase="Pending", ready=False, created_at="2026-01-01T00:00:02Z")]
    assert server.step().status is None
    assert server.plan().after == 5.0
    server.wait(5)
    server.step()
    assert (server.run["status"]["phase"], server.run["status"]["reason"]) == ("Preparing", "ContainersStarting")


def test_a_run_that_waited_for_an_operator_has_no_status_before_its_job() -> None:
    server = new_run()
    server.wait(3600)
    assert (server.step().status, server.created[-1]) == (None, "Job/grow")
    server.step()
    assert server.run["status"]["reason"] == "WaitingForPods"


def test_what_somebody_waits_for_is_told_at_once() -> None:
    server = new_run()
    server.step()
    server.pods = [pod(created_at="2026-01-01T00:00:00Z")]
    server.step()
    assert server.run["status"]["reason"] == "Training"
    server.pods = [pod(phase="Pending", ready=False, scheduled=False, problem="Unschedulable", problem_message="no GPU",
                       created_at="2026-01-01T00:00:00Z")]  # fmt: skip
    server.step()
    assert server.run["status"]["reason"] == "Unschedulable"


def test_a_run_that_is_over_before_anything_lasts_says_only_that() -> None:
    server = new_run()
    server.step()
    ended(server, "Complete")
    server.step()
    assert server.run["status"]["phase"] == "Succeeded"
    assert server.notes == ["TrainingComplete"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_whose_pods_are_done_does_not_go_back_to_waiting_for_them(ranks: int) -> None:
    server = new_run(parallelism=ranks, resources={"limits": {"nvidia.com/gpu": 1}})
    server.step()
    server.pods = [pod(index) for index in range(ranks)]
    server.job(active=ranks, ready=ranks, startTime="2026-01-01T00:00:00Z")
    server.step()
    before = server.run["status"]
    for done in range(ranks):
        server.pods[done] = pod(done, phase="Succeeded", ready=False, exit_code=0)
        server.job(active=ranks - done - 1, ready=ranks - done - 1)
        server.wait(60)
        assert server.step().status is None
    assert (before["phase"], before["gpus"]) == ("Running", ranks)
    ended(server, "Complete")
    server.settle()
    assert server.notes == ["Training", "TrainingComplete"]


def test_a_run_too_short_to_be_seen_training_does_not_say_that_it_does() -> None:
    server = new_run()
    server.step()
    server.pods = [pod(phase="Succeeded", ready=False, exit_code=0)]
    server.job(active=0, ready=0, startTime="2026-01-01T00:00:00Z")
    assert server.step().status is None
    ended(server, "Complete")
    server.settle()
    assert server.notes == ["TrainingComplete"]


def test_that_a_changed_spec_was_noted_is_told_at_once() -> None:
    server = new_run()
    server.wait(3)
    server.settle()
    server.step()
    server.pods = [pod(phase="Pending", ready=False, created_at="2026-01-01T00:00:03Z")]
    server.run["metadata"]["generation"] = 2
    server.step()
    assert server.run["status"]["observedGeneration"] == 2


def test_a_deadline_or_a_clock_behind_puts_nothing_off_for_long() -> None:
    server = new_run(preRunningDeadlineSeconds=1)
    server.step()
    server.job(active=1, startTime="2026-01-01T00:00:00Z")
    assert server.step().after == 1.0
    server.wait(-3600)
    assert server.step().after == 2.0
