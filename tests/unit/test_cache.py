"""Where this user's processes keep things."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.cache import cache_directory
from esper.errors import BadInput


def test_it_is_where_it_is_said_to_be_else_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path / "said"))
    assert cache_directory("kernels") == tmp_path / "said" / "kernels"
    monkeypatch.delenv("ESPER_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert cache_directory("kernels") == tmp_path / "users" / "esper" / "kernels"


def test_one_that_others_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path / "cache"))
    path = cache_directory("kernels")
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o777)
    with pytest.raises(BadInput, match="another user can write"):
        cache_directory("kernels")


def test_one_that_can_not_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="set ESPER_CACHE_DIR"):
        cache_directory("kernels")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ESPER_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(BadInput, match="set ESPER_CACHE_DIR"):
        cache_directory("kernels")


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")
