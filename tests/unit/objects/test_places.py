"""Where a bucket is said to be."""

from __future__ import annotations

import pytest

from esper.errors import BadInput, ManifestError
from esper.objects import S3Settings, place_of
from esper.settings import load_settings
from esper.tolaria.store.settings import CheckpointSettings


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://runs", ("runs", "")),
        ("s3://runs/", ("runs", "")),
        ("s3://my.runs-1/a", ("my.runs-1", "a/")),
        ("s3://runs/team-a/run_1/", ("runs", "team-a/run_1/")),
        ("s3://runs/a/b", ("runs", "a/b/")),
    ],
)
def test_a_place_is_read(url: str, place: tuple[str, str]) -> None:
    assert place_of(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "", "runs/a", "s3:/runs", "http://runs/a", "s3://", "s3:///a", "s3://R/a", "s3://-runs/a", "s3://runs//a",
        "s3://runs/../other", "s3://runs/a/./b", "s3://runs/a b", "s3://runs/a?x=1", "s3://key:secret@runs/a",
        "s3://runs/a\n", "S3://runs/a", "s3://runs/ä",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="write s3://BUCKET/PREFIX"):
        place_of(url)


def test_no_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_CHECKPOINTS_SECRET_KEY", "hush")
    monkeypatch.setenv("ESPER_CHECKPOINTS_URL", "s3://runs/a")
    settings = load_settings(CheckpointSettings)
    assert settings.s3() == S3Settings("runs", "a/", secret_key="hush")
    assert "hush" not in f"{settings!r} {settings.s3()!r}"
    monkeypatch.setenv("ESPER_CHECKPOINTS_AHEAD", "0")
    with pytest.raises(ManifestError, match="ahead") as failure:
        load_settings(CheckpointSettings)
    assert "hush" not in str(failure.value)
