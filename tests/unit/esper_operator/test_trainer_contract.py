"""What the operator tells a training pod is what ``esper train`` understands."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from api_server import SETTINGS, UID, run_object
from esper.cli.app import app
from esper.cli.guard import BAD_INPUT, INTERRUPTED
from esper.cli.run import EXIT_CODES
from esper.cli.train import exit_code
from esper.settings import load_settings
from esper.tolaria.launch import expected
from esper.weatherlight.settings import TrainSettings
from esper_operator.plan.objects import BAD_INPUT_EXIT, job, snapshot
from esper_operator.plan.pod import INTERRUPTED_EXIT, template
from esper_operator.plan.reading import read_run
from leyline.resources import load

TOLD = replace(
    SETTINGS, checkpoints_url="s3://runs", bus_key_secret="bus", bus_trust="trusted", kernel_keys="kernels",
    env={"ESPER_PULSAR_SERVICE_URL": "pulsar://broker:6650"},
)  # fmt: skip


def test_the_command_is_one_that_esper_takes() -> None:
    (container,) = template(read_run(run_object()), TOLD)["spec"]["containers"]
    program, name, *words = container["command"]
    assert (program, name) == ("esper", "train")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, list(words)).params
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert str(given["file"].parent) in mounts
    assert given["out"] == Path("/var/lib/esper/runs") / UID
    assert given["suspended_exit"] == INTERRUPTED_EXIT
    assert snapshot(read_run(run_object()))["data"].keys() == {given["file"].name}


def test_the_environment_is_all_the_settings_a_trainer_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ESPER_")]:
        monkeypatch.delenv(name)
    (container,) = template(read_run(run_object()), TOLD)["spec"]["containers"]
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    settings = load_settings(TrainSettings)
    mounts = {Path(each["mountPath"]) for each in container["volumeMounts"]}
    assert settings.checkpoints.url == f"s3://runs/lab/{UID}"
    assert settings.library.url == "http://urza:8460"
    for file in (settings.bus_key_file, settings.public_keys_file, settings.library.token_file):
        assert file.parent in mounts
    assert {settings.bus_trust_dir, settings.cache_dir} <= mounts
    assert (settings.http_host, settings.http_port) == ("0.0.0.0", container["ports"][0]["containerPort"])


def test_a_rank_finds_its_place() -> None:
    (container,) = template(read_run(run_object(parallelism=4)), TOLD)["spec"]["containers"]
    told = {each["name"]: each.get("value", "2") for each in container["env"]}
    assert expected(told) == (2, 4)


def test_exit_codes_mean_the_same_to_both() -> None:
    assert (BAD_INPUT_EXIT, INTERRUPTED_EXIT) == (BAD_INPUT, INTERRUPTED)
    codes = {phase: exit_code(phase, INTERRUPTED_EXIT) for phase in EXIT_CODES}
    assert [phase for phase, code in codes.items() if code == 0] == ["Completed"]
    rules = job(read_run(run_object()), TOLD)["spec"]["podFailurePolicy"]["rules"]
    by_code = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", ())}
    assert by_code == {codes["Suspended"]: "Ignore", BAD_INPUT: "FailJob"}
    assert codes["Failed"] not in by_code


def test_the_snapshot_is_a_manifest_that_trains_the_same_run() -> None:
    run = read_run(run_object(seed=3, podTemplate={"metadata": {"annotations": {"a": "b"}}}))
    again = load(snapshot(run)["data"]["manifest.yaml"])
    assert again.spec == run.spec
    assert again.metadata.name == run.metadata.name
