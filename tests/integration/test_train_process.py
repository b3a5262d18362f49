"""``esper train`` with a real broker, a library's service and a bucket: started, stopped, killed, moved, commanded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file

import parts
import real_pulsar
import real_s3
from brokers import need_broker
from esper.tolaria.state import tensors_digest
from esper.weatherlight.run import run
from leyline.resources import load
from parts import free_port
from runs import BASE, merged
from trainers import Place, place

EPOCHS = 12
RUN: dict[str, Any] = {
    **BASE,
    "metadata": {"name": "pod"},
    "spec": {
        "task": {"ref": "gated:task"}, "slots": [{"path": "blocks.*"}],
        "training": {"epochs": EPOCHS, "stepsPerEpoch": 60}, "controller": {"policy": "Never"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("installed"), need_broker()) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every bit of the model that the same manifest gives on one machine."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(load(RUN), out).phase == "Completed"
    return digest_of(out)


def digest_of(out: Path) -> str:
    tensors = {}
    for path in sorted((out / "model").glob("*.safetensors")):
        tensors.update({f"{path.name}/{name}": value for name, value in load_file(path).items()})
    assert tensors
    return tensors_digest(tensors)


def test_killed_moved_and_stopped_it_ends_with_the_same_bits(installed: Place, undisturbed: str) -> None:
    watcher = installed.heard("moves")
    with installed.trainer(RUN, "move-1", "moves", gate=150) as one:
        one.until(lambda: httpx.get(f"{one.address()}/readyz").status_code == 200)
        one.until(lambda: one.epoch() == 2)
        assert "esper_run_epochs 12.0" in httpx.get(f"{one.address()}/metrics").text
        one.kill()
    with installed.trainer(RUN, "move-2", "moves", gate=150) as two:
        two.until(lambda: two.epoch() == 4)
        assert two.terminate() == 0, two.words()
        assert json.loads((two.out / "summary.json").read_text())["phase"] == "Suspended"
    with installed.trainer(RUN, "move-3", "moves") as three:
        assert three.ended() == 0, three.words()
    assert digest_of(three.out) == undisturbed
    events = [json.loads(line) for line in (three.out / "events.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["kind"] == "epoch"] == list(range(1, EPOCHS + 1))
    watcher.until(lambda: {epoch for _, epoch in watcher.epochs} == set(range(1, EPOCHS + 1)))
    ids = dict(watcher.epochs)
    assert len(ids) == EPOCHS, "what was told twice was told under one id"
    client = real_s3.client(installed.bucket)
    listed = client.list_objects_v2(Bucket=installed.bucket.name, Prefix="moves/output/")["Contents"]
    left = {item["Key"].rpartition("/")[2] for item in listed}
    assert {"manifest.yaml", "summary.json", "report.html"} <= left


def test_a_second_trainer_takes_the_run_and_the_first_is_told(installed: Place) -> None:
    with installed.trainer(RUN, "twice-1", "twice", gate=100) as one:
        one.until(lambda: one.epoch() == 1)
        with installed.trainer(RUN, "twice-2", "twice") as two:
            assert two.ended() == 0, two.words()
        one.go()
        assert one.ended() == 3
        assert "another trainer owns this run" in one.words()


def test_people_command_it(installed: Place, undisturbed: str) -> None:
    watcher = installed.heard("people")

    def ctl(*words: str) -> Popen[str]:
        return installed.esper("ctl", "pod", *words, "-c", str(installed.ctl), "--timeout", "200")

    def answer(asked: Popen[str]) -> tuple[int, str, str]:
        out, err = asked.communicate(timeout=240)
        return asked.returncode, out, err

    with installed.trainer(RUN, "ctl-1", "ctl", gate=100) as one:
        one.until(lambda: one.epoch() == 1)
        asked = ctl("pause", "--reason", "lunch")
        one.until(lambda: one.status().get("commands", {}).get("waiting") == 1)
        one.go()
        code, out, err = answer(asked)
        assert (code, err) == (0, "")
        assert "pause done after epoch 2, step 120: the run is paused" in out
        status = one.status()
        assert (status["phase"], status["epoch"]) == ("Paused", 2)
        assert status["conditions"] == dict.fromkeys(("bus", "checkpoints", "commands", "kernels", "library"), "ok")
        assert [(each["action"], each["applied"]) for each in status["commands"]["last"]] == [("pause", True)]
        code, out, err = answer(ctl("cull", "blocks.0/0"))
        assert code == 3
        assert "there is no seed" in err
        assert answer(ctl("checkpoint"))[0] == 0
        time.sleep(1.0)
        assert one.status()["step"] == 120, "it trained while it was paused"
        assert "Paused" in answer(installed.esper("ctl", "pod", "status", "--at", one.address()))[1]
        assert one.terminate() == 0, one.words()
    with installed.trainer(RUN, "ctl-2", "ctl") as two:
        two.until(lambda: two.status()["phase"] == "Paused")
        assert two.status()["commands"]["last"][0]["action"] == "pause", "what was done is remembered"
        assert answer(ctl("resume"))[0] == 0
        assert two.ended() == 0, two.words()
    assert digest_of(two.out) == undisturbed, "waiting changes no bit"
    watcher.until(lambda: len(watcher.results) >= 4)
    assert [result.applied for result in watcher.results] == [True, False, True, True]
    code, out, err = answer(installed.esper("ctl", "pod", "pause", "-c", str(installed.ctl), "--timeout", "2"))
    assert code == 3
    assert "no answer to pause" in err


def test_a_broker_that_dies_stops_no_training_and_gets_all_news_when_it_is_back(tmp_path: Path) -> None:
    try:
        real_pulsar.jars()
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))
    longer = merged(RUN, {"spec": {"training": {"epochs": 40}}})
    with parts.private("pulsar") as home, real_pulsar.Broker(home / "broker") as broker:
        (tmp_path / "place").mkdir()
        with place(tmp_path / "place", broker.address) as own:
            watcher = own.heard("outage")
            with own.trainer(longer, "one", "outage", gate=150) as one:
                one.until(lambda: one.epoch() == 2)
                broker.kill()
                one.go()
                one.until(lambda: one.epoch() == 40)
                one.until(lambda: one.status()["conditions"]["bus"] != "ok")
                assert one.status()["news"]["behind"] > 0
                assert httpx.get(f"{one.address()}/healthz").status_code == 200
                broker.start()
                assert one.ended() == 0, one.words()
            watcher.until(lambda: {epoch for _, epoch in watcher.epochs} == set(range(1, 41)))
            assert len(dict(watcher.epochs)) == 40, "each under one id"


def test_two_ranks_take_the_same_commands_and_stop_together(installed: Place) -> None:
    """As two pods of one run: they meet, the first one's desk speaks for both, and either may be told to end."""
    longer = merged(RUN, {"spec": {"training": {"epochs": 100_000}}})

    port = str(free_port())
    first, second = (
        installed.trainer(
            longer, f"rank-{rank}", "ranks", RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        for rank in (0, 1)
    )
    with first, second:
        first.until(lambda: first.epoch() >= 1)
        asked = installed.esper("ctl", "pod", "pause", "-c", str(installed.ctl))
        _, words = asked.communicate(timeout=120)
        assert asked.returncode == 0, words
        paused = [each.status() for each in (first, second)]
        assert [each["phase"] for each in paused] == ["Paused"] * 2
        assert paused[0]["step"] == paused[1]["step"]
        assert second.terminate() == 0, second.words()
        assert first.ended() == 0, first.words()
    assert json.loads((first.out / "summary.json").read_text())["phase"] == "Suspended"
    assert not (second.out / "checkpoints").exists()


def test_what_is_missing_is_named_at_once(installed: Place, tmp_path: Path) -> None:
    with installed.trainer(
        RUN, "missing", "missing", ESPER_LIBRARY_URL="http://127.0.0.1:1", ESPER_CHECKPOINTS_ENDPOINT="http://127.0.0.1:2",
        ESPER_LIBRARY_PATIENCE_SECONDS="1",
    ) as one:  # fmt: skip
        assert one.ended() == 3
        words = one.words()
    assert "library:" in words
    assert "checkpoints:" in words
