from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from esper.errors import BusError, Diverged, OutputDirectoryError
from esper.output.ui import JsonLines, Plain


def test_a_run_goes_into_runs_name_and_says_what_came_out(esper: Any, runs: Any, manifest: Path) -> None:
    result = esper("run", manifest)
    assert result.exit_code == 0, result.output
    (call,) = runs.seen
    assert call["out"] == Path("runs/small")
    assert call["resume"] is False
    assert (call["library"], call["control"]) == (None, False)
    assert isinstance(call["progress"], Plain)  # the runner is no terminal
    assert call["manifest"].spec.training.epochs == 2
    assert "accuracy is 0.875" in result.output


def test_options_reach_the_run(esper: Any, runs: Any, manifest: Path, tmp_path: Path) -> None:
    result = esper(
        "run", manifest, "-o", tmp_path / "here", "--resume",
        "--set", "training.epochs=7", "--set", "spec.slots[0].path=blocks.0", "--set", "metadata.name=other",
        "--set", "budget.trainingFlops=1e12", "--library", tmp_path / "kernels", "--control",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (call,) = runs.seen
    assert call["out"] == tmp_path / "here"
    assert call["resume"] is True
    assert (call["library"], call["control"]) == (tmp_path / "kernels", True)
    spec = call["manifest"].spec
    assert (spec.training.epochs, spec.slots[0].path, spec.budget.training_flops) == (7, "blocks.0", 10**12)
    assert call["manifest"].metadata.name == "other"


def test_json_lines_end_with_the_summary(esper: Any, runs: Any, manifest: Path) -> None:
    result = esper("run", manifest, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert isinstance(runs.seen[0]["progress"], JsonLines)
    assert [line["kind"] for line in lines] == ["phase", "phase", "summary"]
    assert lines[-1]["report"]["final"]["metric"] == 0.875


@pytest.mark.parametrize(("phase", "code"), [("Completed", 0), ("Suspended", 0), ("Failed", 3), ("Interrupted", 130)])
def test_the_exit_code_is_the_phase(esper: Any, runs: Any, manifest: Path, phase: str, code: int) -> None:
    from functools import partial

    runs.answer = partial(runs.answer, phase=phase, reason="as it happened")
    assert esper("run", manifest).exit_code == code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OutputDirectoryError("runs/small holds a run; use --resume"),
            2,
            "esper: runs/small holds a run; use --resume",
        ),
        (Diverged("rolled back 4 times"), 3, "esper: rolled back 4 times"),
        (BusError("closed\x1b[2J"), 3, "esper: closed [2J"),
        (KeyboardInterrupt(), 130, "esper: interrupted"),
        (ZeroDivisionError("division by zero"), 3, "esper: unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_one_message_and_a_code(
    esper: Any, runs: Any, manifest: Path, error: BaseException, code: int, said: str
) -> None:
    def fail() -> None:
        raise error

    runs.answer = fail
    result = esper("run", manifest)
    assert result.exit_code == code
    assert result.stderr.startswith(said)
    assert "Traceback" not in result.output


def test_debug_lets_the_traceback_through(esper: Any, runs: Any, manifest: Path) -> None:
    def fail() -> None:
        raise Diverged("rolled back 4 times")

    runs.answer = fail
    result = esper("run", manifest, "--debug")
    assert isinstance(result.exception, Diverged)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs", "write path=value"),
        ("=5", "write path=value"),
        ("training..epochs=5", "write path=value"),
        (".training.epochs=5", "write path=value"),
        ("slots[4].path=x", "there is no item 4"),
        ("training[0]=x", "is not a list"),
        ("slots.path=x", "not an object"),
        ("training.epochs={", "--set training.epochs"),
        ("training.epocs=5", "spec.training.epocs: unknown field"),
        ("training.epochs=many", "spec.training.epochs"),
    ],
)
def test_a_wrong_override_is_refused_before_anything_runs(
    esper: Any, runs: Any, manifest: Path, override: str, said: str
) -> None:
    result = esper("run", manifest, "--set", override)
    assert result.exit_code == 2
    assert said in result.stderr
    assert runs.seen == []


def test_objects_on_the_way_of_an_override_are_made(esper: Any, runs: Any, manifest: Path) -> None:
    assert esper("run", manifest, "--set", "judge.pValue=0.01", "--set", "judge.mode=Off").exit_code == 2  # YAML's Off
    assert esper("run", manifest, "--set", "judge.pValue=0.01", "--set", 'judge.mode="Off"').exit_code == 0
    assert runs.seen[0]["manifest"].spec.judge.p_value == 0.01


def test_a_manifest_may_come_from_standard_input(esper: Any, runs: Any, manifest: Path) -> None:
    assert esper("run", "-", input=manifest.read_bytes()).exit_code == 0
    assert runs.seen[0]["manifest"].metadata.name == "small"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2]", b"kind: Pod", b"a: &a [*a]", b"a: 1\n---\nb: 2"])
def test_a_document_that_is_no_manifest_is_refused(esper: Any, runs: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    result = esper("run", path)
    assert result.exit_code == 2
    assert "odd.yaml" in result.stderr
    assert runs.seen == []


def test_a_manifest_that_is_not_there_is_named(esper: Any, runs: Any) -> None:
    result = esper("run", "missing.yaml")
    assert result.exit_code == 2
    assert "missing.yaml: No such file" in result.stderr
