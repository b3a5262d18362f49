from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import OutputDirectoryError
from esper.weatherlight.outdir import OutputDirectory
from leyline.resources import load
from runs import manifest


def test_a_directory_serves_one_process_at_a_time(tmp_path: Path):
    first = OutputDirectory(tmp_path / "run", resume=False)
    with pytest.raises(OutputDirectoryError, match="in use"):
        OutputDirectory(tmp_path / "run", resume=False)
    first.close()
    OutputDirectory(tmp_path / "run", resume=False).close()


def test_a_run_is_never_written_over(tmp_path: Path):
    first = OutputDirectory(tmp_path / "run", resume=False)
    first.write_manifest(manifest())
    first.close()
    before = (tmp_path / "run" / "manifest.yaml").read_bytes()
    with pytest.raises(OutputDirectoryError, match="--resume"):
        OutputDirectory(tmp_path / "run", resume=False)
    assert (tmp_path / "run" / "manifest.yaml").read_bytes() == before
    assert load(before.decode()) == manifest()
    OutputDirectory(tmp_path / "run", resume=True).close()


def test_there_must_be_a_run_to_resume(tmp_path: Path):
    with pytest.raises(OutputDirectoryError, match="no run to resume"):
        OutputDirectory(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_bad_input(tmp_path: Path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputDirectoryError, match="run"):
        OutputDirectory(tmp_path / "run", resume=False)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("there", [False, True])
def test_an_abandoned_directory_is_as_it_was(tmp_path: Path, there: bool):
    path = tmp_path / "run"
    if there:
        path.mkdir()
    directory = OutputDirectory(path, resume=False)
    directory.abandon()
    directory.close()
    assert path.exists() == there


def test_what_holds_something_is_not_removed(tmp_path: Path):
    directory = OutputDirectory(tmp_path / "run", resume=False)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    directory.abandon()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    directory.close()
