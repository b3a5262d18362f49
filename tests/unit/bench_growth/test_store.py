from __future__ import annotations

import pytest
from tests.bench.growth.arms import Job
from tests.bench.growth.execute import remaining, row_of
from tests.bench.growth.store import Store

JOBS = [Job("mnist1d", "never", 1e9, 0.01, seed) for seed in range(3)]


def row(job: Job, **more):
    return {**job.key(), "metric": 0.5, "seconds": 2.0, **more}


def test_finished_jobs_are_not_missing(tmp_path):
    store = Store(tmp_path / "deep" / "rows.jsonl")
    assert store.missing(JOBS) == JOBS
    store.append(row(JOBS[1]))
    assert store.missing([*JOBS, JOBS[0]]) == [JOBS[0], JOBS[2]]
    assert store.rows() == [row(JOBS[1])]


def test_another_learning_rate_is_another_job(tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    store.append(row(JOBS[0], rate=0.02))
    assert JOBS[0] in store.missing(JOBS)


def test_a_line_cut_off_by_an_interruption_is_dropped_and_done_again(tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    store.append(row(JOBS[0]))
    whole = store.path.read_bytes()
    store.append(row(JOBS[1]))
    store.path.write_bytes(store.path.read_bytes()[: len(whole) + 9])
    assert store.missing(JOBS) == JOBS[1:]
    store.append(row(JOBS[2]))
    assert store.rows() == [row(JOBS[0]), row(JOBS[2])]


def test_damage_in_the_middle_is_named(tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    store.append(row(JOBS[0]))
    store.path.write_text("{broken\n" + store.path.read_text())
    with pytest.raises(ValueError, match="line 1 is damaged"):
        store.rows()


def test_the_time_left_goes_by_the_like_then_by_the_budget_then_by_all():
    known = {("mnist1d", "never", 1e9): [2.0, 4.0], ("mnist1d", "final", 1e9): [9.0], ("vector", "never", 5.0): [1.0]}
    assert remaining([JOBS[0]], known) == 3.0
    assert remaining([Job("mnist1d", "always", 1e9, 0.01, 0)], known) == 5.0
    assert remaining([Job("mnist1d", "always", 7e9, 0.01, 0)], known) == 4.0
    assert remaining(JOBS, {}) == 0.0


def test_a_row_holds_what_the_analysis_needs_of_a_summary():
    summary = {
        "report": {"final": {"metric": 0.9, "loss": 0.3}},
        "controller": {"final": {"metric": 0.91, "loss": 0.29}},
        "parameters": 970,
        "training_flops": 6e9,
        "flops_on_twins": 1e8,
        "flops_on_culled_seeds": 0.0,
        "flops_on_probes": 2e8,
        "steps": 100,
        "rollbacks": 0,
        "seeds": [
            {"slot": "blocks.0", "blueprint": "conv_block", "stage": "FOSSILIZED", "germinated_epoch": 3,
             "verdict": {"effect": 0.1, "p_value": 0.001}},
            {"slot": "blocks.1", "blueprint": "conv_block", "stage": "DORMANT", "germinated_epoch": 9, "verdict": {}},
        ],
    }  # fmt: skip
    found = row_of(summary)
    assert found["metric"] == 0.9
    assert found["controller_loss"] == 0.29
    assert [seed["effect"] for seed in found["grown"]] == [0.1, None]
