from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.errors import OutputDirectoryError
from esper.output import Score, SplitResult, Summary, read_summary
from esper.output.summary import KernelSummary

Make = Callable[..., Summary]


def test_what_is_written_is_read_back_equal(tmp_path: Path, summary: Make) -> None:
    written = summary()
    written.write(tmp_path)
    assert read_summary(tmp_path) == written


def test_numbers_that_are_not_finite_become_null(tmp_path: Path, summary: Make) -> None:
    nan = float("nan")
    summary(
        phase="Failed",
        report=SplitResult(final=Score(epoch=3, loss=nan, metric=float("inf"))),
        kernels=[KernelSummary(id="k", blueprint="b", strategy="fast", state="BUILT", ratio=nan, interval=(nan, 1.0))],
    ).write(tmp_path)
    again = read_summary(tmp_path)
    assert again.report.final == Score(epoch=3, loss=None, metric=None)
    assert (again.kernels[0].ratio, again.kernels[0].interval) == (None, None)


def test_a_failing_write_keeps_the_old_file(tmp_path: Path, summary: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    summary(rollbacks=1).write(tmp_path)

    def refuse(source: str, target: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OutputDirectoryError, match=r"summary\.json"):
        summary(rollbacks=2).write(tmp_path)
    assert read_summary(tmp_path).rollbacks == 1
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_directory_without_a_summary_says_what_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(OutputDirectoryError, match="not a run, or the run has not ended"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "version None"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1, "phase": "Done"}', "phase"),
    ],
)
def test_a_file_it_can_not_read_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(OutputDirectoryError, match=said):
        read_summary(tmp_path)


def test_an_unknown_field_is_refused(tmp_path: Path, summary: Make) -> None:
    path = summary().write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    with pytest.raises(OutputDirectoryError, match="extra"):
        read_summary(tmp_path)


def test_the_file_is_for_everyone_the_directory_is_for(tmp_path: Path, summary: Make) -> None:
    assert summary().write(tmp_path).stat().st_mode & 0o600 == 0o600
    assert not list(tmp_path.glob(".*"))
