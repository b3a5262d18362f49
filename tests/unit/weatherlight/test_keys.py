from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esper.cli.app import app
from esper.errors import BadInput
from esper.kernel.signing import SigningKey
from esper.urza import LibraryUnavailable
from esper.weatherlight.keys import PUBLIC, library_keys, load_public_keys, make_signing_key


def test_keys_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    first = library_keys(tmp_path)
    again = library_keys(tmp_path)
    assert (first.built.id, first.validated.id) == (again.built.id, again.validated.id)
    assert first.built.id != first.validated.id
    files = sorted((tmp_path / "keys").iterdir())
    assert [path.name for path in files] == ["built.pem", "validated.pem"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_the_public_halves_are_kept_apart_by_purpose(tmp_path: Path) -> None:
    keys = library_keys(tmp_path)
    assert set(keys.public.built) == {keys.built.id}
    assert set(keys.public.validated) == {keys.validated.id}


def test_many_at_once_agree(tmp_path: Path) -> None:
    found = []
    start = threading.Barrier(6)

    def ask() -> None:
        start.wait()
        keys = library_keys(tmp_path)
        found.append((keys.built.id, keys.validated.id))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_key_everybody_can_read_is_refused(tmp_path: Path) -> None:
    library_keys(tmp_path)
    (tmp_path / "keys" / "built.pem").chmod(0o644)
    with pytest.raises(BadInput, match=r"built\.pem.*readable by everyone"):
        library_keys(tmp_path)


def test_no_place_for_keys_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("in the way")
    with pytest.raises(LibraryUnavailable, match="keys"):
        library_keys(tmp_path)


def test_each_pool_has_a_key_and_everybody_the_public_halves(tmp_path: Path) -> None:
    for command, purpose in (("tezzeret", "built"), ("urabrask", "validated")):
        made = CliRunner().invoke(app, [command, "keygen", str(tmp_path)])
        assert (made.exit_code, made.output) == (0, f"{tmp_path / PUBLIC}\n")
        assert stat.S_IMODE((tmp_path / f"{purpose}.pem").stat().st_mode) == 0o600
        again = CliRunner().invoke(app, [command, "keygen", str(tmp_path)])
        assert again.exit_code == 2
        assert "there is a key already" in " ".join(again.output.split())
    public = load_public_keys(tmp_path / PUBLIC)
    assert set(public.built) == {SigningKey.load(tmp_path / "built.pem").id}
    assert set(public.validated) == {SigningKey.load(tmp_path / "validated.pem").id}


def test_a_new_key_leaves_the_old_one_believed(tmp_path: Path) -> None:
    make_signing_key(tmp_path, "built")
    (tmp_path / "built.pem").rename(tmp_path / "old.pem")
    make_signing_key(tmp_path, "built")
    believed = {SigningKey.load(tmp_path / name).id for name in ("old.pem", "built.pem")}
    assert set(load_public_keys(tmp_path / PUBLIC).built) == believed


@pytest.mark.parametrize("content", ["", "[]", '{"built": "x"}', '{"built": ["zz"]}', '{"other": []}', '{"built": 7}'])
def test_public_keys_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / PUBLIC
    with pytest.raises(BadInput, match=r"public\.json: can't be read"):
        load_public_keys(path)
    path.write_text(content)
    with pytest.raises(BadInput, match=r"public\.json"):
        load_public_keys(path)
    if content:
        with pytest.raises(BadInput, match=r"public\.json"):
            make_signing_key(tmp_path, "built")
        assert path.read_text() == content
