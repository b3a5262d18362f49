"""A run whose checkpoints are in a bucket: killed anywhere, it goes on on another machine with the same bits."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

import parts
import real_s3
from buckets import environment, own_bucket, settings_in
from esper.errors import OutputDirectoryError, RunTaken
from esper.objects import ObjectStoreUnavailable
from esper.objects.s3 import ObjectStore
from esper.output import Summary
from esper.tolaria.state import tensors_digest
from esper.tolaria.store import BucketStore, Committer
from esper.tolaria.trainer import Trainer
from esper.weatherlight.run import run
from forks import die, forked, start_server
from leyline.resources import TrainingRun
from runs import fixed, manifest, trainer
from shelves import Shelf

RUN = fixed("blocks.0", "conv_block", judge={"cooldownSteps": 8})


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return trainer(RUN).shelf


def go_on(of: TrainingRun, out: Path, shelf: Shelf, bucket: real_s3.Bucket | None, **more: float) -> Trainer:
    """Start the run, or take it over where it is, in a directory of its own."""
    out.mkdir(exist_ok=True)
    commits = None
    if bucket is not None:
        store = BucketStore(ObjectStore(settings_in(bucket)), out, of.spec.checkpoints.keep)
        commits = Committer(store, ahead=2, **more)  # type: ignore[arg-type]
    one = trainer(of, out, shelf=shelf, commits=commits)
    shelf._new = sorted(shelf._paths)
    offset = one.resume()
    one.recorder.open(one.task.metric, offset, one.line.step)
    return one


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> tuple[str, float]:
    """What the run ends with in a directory, and how long it takes on this machine today."""
    out = tmp_path_factory.mktemp("undisturbed")
    start_server()
    began = time.monotonic()
    assert forked(lambda: go_on(RUN, out, shelf, None).train()) == 0
    return tensors_digest(go_on(RUN, out, shelf, None).state().tensors), time.monotonic() - began


@pytest.mark.parametrize("trial", range(4))
def test_kill_9_and_on_another_machine_the_same_bits(
    trial: int, tmp_path: Path, shelf: Shelf, undisturbed: tuple[str, float]
) -> None:
    digest, seconds = undisturbed
    draw = random.Random(trial)
    with real_s3.bucket() as bucket:
        for machine in range(40):
            limit = draw.uniform(0.4, 1.2) * seconds if machine < 3 else None
            status = forked(lambda: go_on(RUN, tmp_path / f"m{machine}", shelf, bucket).train(), limit)  # noqa: B023
            if status == 0:
                break
            assert status == -signal.SIGKILL
        one = go_on(RUN, tmp_path / "last", shelf, bucket)
        assert tensors_digest(one.state().tensors) == digest
        entries = one.commits.store.journal.entries() if one.commits else []
        assert [entry["commit"] for entry in entries] == list(range(1, len(entries) + 1))


def test_kill_9_inside_an_upload(tmp_path: Path, shelf: Shelf, undisturbed: tuple[str, float]) -> None:
    with real_s3.bucket() as bucket:

        def doomed() -> None:
            one = go_on(RUN, tmp_path / "one", shelf, bucket)
            assert one.commits is not None
            store = one.commits.store
            put, left = store._put_body, 4  # type: ignore[attr-defined]

            def deadly(body: object) -> bool:
                nonlocal left
                left -= 1
                if left == 0:
                    die()
                written: bool = put(body)
                return written

            store._put_body = deadly  # type: ignore[attr-defined]
            one.train()

        assert forked(doomed) == -signal.SIGKILL
        assert forked(lambda: go_on(RUN, tmp_path / "two", shelf, bucket).train()) == 0
        assert tensors_digest(go_on(RUN, tmp_path / "three", shelf, bucket).state().tensors) == undisturbed[0]


def test_the_store_goes_away_and_comes_back_and_the_bits_are_the_same(
    tmp_path: Path, shelf: Shelf, undisturbed: tuple[str, float]
) -> None:
    with own_bucket() as (bucket, home, facts):
        one = go_on(RUN, tmp_path / "one", shelf, bucket, patience=120.0)
        assert one.commits is not None
        words: list[str] = []
        one.commits.say = words.append
        seen: list[int] = []

        def outage(_: int = 0) -> None:
            os.kill(parts.server_pid(home), signal.SIGKILL)
            parts.stop(home)
            while one.epoch < before + 2:
                time.sleep(0.01)
            seen.append(one.commits.behind if one.commits else 0)
            time.sleep(1.5)
            real_s3.begin(home, facts)  # type: ignore[arg-type]

        before = 3
        observe = one.observe

        def observed(epoch: int, stats: object) -> None:
            observe(epoch, stats)  # type: ignore[arg-type]
            if epoch == before:
                threading.Thread(target=outage, daemon=True).start()
                time.sleep(0.2)

        one.observe = observed  # type: ignore[method-assign, assignment]
        one.train()
        assert seen[0] >= 1, "it trained on, uncommitted"
        assert any("training waits" in line for line in words), "and said so when it got too far ahead"
        one.recorder.close()
        assert tensors_digest(go_on(RUN, tmp_path / "two", shelf, bucket).state().tensors) == undisturbed[0]


def test_two_trainers_of_one_run_never_mix(tmp_path: Path, shelf: Shelf, undisturbed: tuple[str, float]) -> None:
    with real_s3.bucket() as bucket:
        old = go_on(RUN, tmp_path / "old", shelf, bucket)
        with pytest.raises(RuntimeError, match="enough"):
            old.train(stop=_after(30))
        old.commits.finish()  # type: ignore[union-attr]
        new = go_on(RUN, tmp_path / "new", shelf, bucket)
        with pytest.raises(RunTaken, match="another trainer owns this run"):
            old.train()
        new.train()
        new.recorder.close()
        assert tensors_digest(go_on(RUN, tmp_path / "look", shelf, bucket).state().tensors) == undisturbed[0]


def _after(steps: int):  # type: ignore[no-untyped-def]
    asked = iter(range(10**6))

    def stop() -> bool:
        if next(asked) >= steps:
            raise RuntimeError("enough")
        return False

    return stop


def test_a_whole_run_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = manifest(training={"epochs": 2, "stepsPerEpoch": 2})
    with real_s3.bucket() as bucket:
        for name, value in environment(bucket).items():
            monkeypatch.setenv(name, value)
        place = f"s3://{bucket.name}/team/run"
        with pytest.raises(OutputDirectoryError, match="holds no run to resume"):
            run(small, tmp_path / "zero", resume=True, checkpoints=place)
        summary = run(small, tmp_path / "one", checkpoints=place)
        assert summary.phase == "Completed"
        with pytest.raises(OutputDirectoryError, match="already holds a run; go on with --resume"):
            run(small, tmp_path / "two", checkpoints=place)
        client = real_s3.client(bucket)
        keys = {item["Key"] for item in client.list_objects_v2(Bucket=bucket.name)["Contents"]}
        left = {key.removeprefix("team/run/output/") for key in keys if "/output/" in key}
        assert {"manifest.yaml", "summary.json", "report.html"} <= left
        assert any(name.startswith("model/") for name in left)
        read = client.get_object(Bucket=bucket.name, Key="team/run/output/summary.json")["Body"].read()
        assert Summary.model_validate_json(read).phase == "Completed"
        again = run(small, tmp_path / "three", resume=True, checkpoints=place)
        assert again.report == summary.report
        assert (tmp_path / "three" / "manifest.yaml").exists()
        monkeypatch.setenv("ESPER_CHECKPOINTS_ENDPOINT", "http://127.0.0.1:1")
        with pytest.raises(ObjectStoreUnavailable, match="is the store up"):
            run(small, tmp_path / "four", checkpoints=place)
