"""Builds end in verdicts; equal builds in equal bytes; and what dies leaves nothing half-written."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from artifacts import BUILDER, KEYS, SEQUENCE, VECTOR, built, children, pair
from esper.karn.catalogue import CATALOGUE
from esper.kernel import SigningKey, read_artifact, verify
from esper.kernel.children import Children, Job, Outcome
from esper.kernel.errors import BackendUnavailable
from esper.kernel.hardware import compiler
from esper.tezzeret import Builder, BuildRequest, build_artifact
from esper.tezzeret.building import strategies
from esper.tezzeret.workdir import build_directory
from leyline.errors import BlueprintError
from leyline.interface import Interface, Layout

MLP = CATALOGUE["mlp"].ir


class Told:
    """Children that end as they are told to, after leaving something behind."""

    def __init__(self, ending: str, leave: bool = True) -> None:
        self.ending, self.leave = ending, leave

    def run(self, job: Job) -> Outcome:
        if self.leave:
            half = Path(job.arguments["out"]) / "half-written"
            half.mkdir()
            (half / "manifest.json").write_text('{"format":')
        return Outcome(self.ending, f"it {self.ending}", seconds=1.5)  # type: ignore[arg-type]


def test_a_build_is_signed_and_whole(tmp_path: Path) -> None:
    verdict = Builder(tmp_path, BUILDER, children()).build(BuildRequest(MLP, VECTOR))
    assert verdict.ok, verdict
    assert verdict.path is not None
    artifact = read_artifact(verdict.path)
    verify(artifact, KEYS, validated=False)
    assert (artifact.id, artifact.digest) == (verdict.artifact_id, verdict.manifest_digest)
    assert verdict.size == len(artifact.manifest.to_bytes())
    assert [entry.name for entry in tmp_path.iterdir()] == [artifact.id]


def test_here_and_in_a_child_the_same_bytes_come_out(tmp_path: Path) -> None:
    verdict = Builder(tmp_path / "child", BUILDER, children()).build(BuildRequest(MLP, VECTOR))
    assert verdict.manifest_digest == built(tmp_path / "here", "mlp").digest


@pytest.mark.parametrize("ending", ["failed", "crashed", "timeout", "memory"])
def test_every_end_of_a_child_is_a_verdict(tmp_path: Path, ending: str) -> None:
    verdict = Builder(tmp_path, BUILDER, Told(ending)).build(BuildRequest(MLP, VECTOR))  # type: ignore[arg-type]
    assert (verdict.ok, verdict.ending, verdict.cause, verdict.path) == (False, ending, f"it {ending}", None)
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_lies_about_its_work_is_found_out(tmp_path: Path) -> None:
    verdict = Builder(tmp_path, BUILDER, Told("done")).build(BuildRequest(MLP, VECTOR))  # type: ignore[arg-type]
    assert verdict.ending == "failed"
    assert "can't be used" in verdict.cause
    assert list(tmp_path.iterdir()) == []


def test_a_design_that_does_not_fit_is_a_verdict(tmp_path: Path) -> None:
    request = BuildRequest(CATALOGUE["conv_block"].ir, VECTOR)
    verdict = Builder(tmp_path, BUILDER, children()).build(request)
    assert verdict.ending == "failed"
    assert "BlueprintError" in verdict.cause
    with pytest.raises(BlueprintError):
        build_artifact(CATALOGUE["conv_block"].ir, VECTOR, "fast", tmp_path, BUILDER)


def test_out_of_time_is_a_verdict(tmp_path: Path) -> None:
    verdict = Builder(tmp_path, BUILDER, children()).build(BuildRequest(MLP, VECTOR, timeout=0.001))
    assert verdict.ending == "timeout"
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    large = Interface(Layout.VECTOR, 2048)
    found: list[Any] = []
    with Children() as own:
        builder = Builder(tmp_path, SigningKey.generate(), own)
        assert builder.build(BuildRequest(MLP, VECTOR)).ok
        thread = threading.Thread(target=lambda: found.append(builder.build(BuildRequest(MLP, large))))
        thread.start()
        time.sleep(0.05)
    thread.join(20)
    assert len(found) == 1
    names = [entry.name for entry in tmp_path.iterdir()]
    assert not [name for name in names if name.startswith(".")]
    for name in names:
        read_artifact(tmp_path / name)


def test_the_build_directory_is_empty_private_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_BUILD_DIR", str(tmp_path / "builds"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    paths = []
    for _ in range(2):
        with build_directory("an-artifact") as path:
            assert list(path.iterdir()) == []
            assert path.stat().st_mode & 0o777 == 0o700
            (path / "left").write_text("behind")
            paths.append(path)
        assert not path.exists()
    assert paths[0] == paths[1]
    (tmp_path / "builds").chmod(0o777)
    with pytest.raises(Exception, match="only you can write"), build_directory("an-artifact"):
        pass


def test_without_a_compiler_fast_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CXX", raising=False)
    compiler.cache_clear()
    try:
        assert strategies()["fast"] is None
        assert "C++ compiler" in (strategies()["standard"] or "")
        with pytest.raises(BackendUnavailable, match="C\\+\\+ compiler"):
            build_artifact(MLP, VECTOR, "standard", tmp_path, BUILDER)
        assert build_artifact(MLP, VECTOR, "fast", tmp_path, BUILDER).is_dir()
    finally:
        compiler.cache_clear()


@pytest.mark.needs_compiler
@pytest.mark.slow
def test_a_compiled_pair_is_the_same_every_time(tmp_path: Path) -> None:
    request = BuildRequest(CATALOGUE["attention"].ir, SEQUENCE, "standard")
    verdict = Builder(tmp_path, BUILDER, children()).build(request)
    assert verdict.ok, verdict.cause
    assert verdict.manifest_digest == pair().digest
    assert verdict.path is not None
    manifest = read_artifact(verdict.path).manifest
    assert manifest.saved_bytes_per_sample > 0
    assert manifest.pair is not None
    assert manifest.pair.batch[0] <= 2
    assert manifest.pair.batch[1] == SEQUENCE.batch[1]
    assert os.listdir(tmp_path) == [manifest.id]
