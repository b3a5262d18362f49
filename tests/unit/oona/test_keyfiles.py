"""Keys of processes in files: made, trusted, followed, and refused when they are not what they claim."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esper.cli.app import app
from esper.errors import BadInput
from esper.oona import keyfiles
from esper.oona.keyfiles import TRUSTED, TrustedFolder, load_signer, make_key
from leyline.errors import UnknownKey, WrongTopic
from leyline.keys import Signer
from leyline.topics import BENCHMARK, CATALOG, COMPILE


def verifies(ring: TrustedFolder, signer: Signer, producer: str = "tezzeret/pool-1", topic: str = CATALOG) -> bool:
    return ring.key_for(signer.key_id, producer, topic).verifies(b"data", signer.sign(b"data"))


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "LOOK_SECONDS", 0.0)


def test_a_key_speaks_for_its_role_on_the_topics_of_that_role(tmp_path: Path) -> None:
    trust = make_key(tmp_path, "one", ["tezzeret"])
    assert trust == tmp_path / TRUSTED / "one.json"
    assert stat.S_IMODE((tmp_path / "one.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(trust.stat().st_mode) == 0o644
    signer, ring = load_signer(tmp_path / "one.pem"), TrustedFolder(tmp_path / TRUSTED)
    assert verifies(ring, signer)
    assert verifies(ring, signer, topic=BENCHMARK)
    with pytest.raises(WrongTopic):
        verifies(ring, signer, topic=COMPILE)
    with pytest.raises(UnknownKey):
        verifies(ring, signer, producer="urabrask")


def test_a_key_may_be_for_less(tmp_path: Path) -> None:
    make_key(tmp_path, "one", ["tezzeret", "urza"], [CATALOG])
    signer, ring = load_signer(tmp_path / "one.pem"), TrustedFolder(tmp_path / TRUSTED)
    assert verifies(ring, signer)
    assert verifies(ring, signer, producer="urza")
    with pytest.raises(WrongTopic):
        verifies(ring, signer, topic=BENCHMARK)


def test_keys_that_come_and_go_are_followed(tmp_path: Path, followed: None) -> None:
    make_key(tmp_path, "one", ["tezzeret"])
    ring = TrustedFolder(tmp_path / TRUSTED)
    make_key(tmp_path, "two", ["urabrask"])
    second = load_signer(tmp_path / "two.pem")
    assert verifies(ring, second, producer="urabrask")
    (tmp_path / TRUSTED / "three.json").write_text("{")
    assert verifies(ring, second, producer="urabrask"), "a damaged file takes only itself out"
    (tmp_path / TRUSTED / "two.json").unlink()
    with pytest.raises(UnknownKey):
        verifies(ring, second, producer="urabrask")
    # Replaced by another of the same name, as a renewed Secret is.
    (tmp_path / "one.pem").unlink()
    first = tmp_path / TRUSTED / "one.json"
    first.unlink()
    make_key(tmp_path, "one", ["tezzeret"])
    assert verifies(ring, load_signer(tmp_path / "one.pem"))
    assert len(ring) == 1


def test_a_folder_is_not_read_for_every_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(tmp_path, "one", ["tezzeret"])
    ring, signer = TrustedFolder(tmp_path / TRUSTED), load_signer(tmp_path / "one.pem")
    monkeypatch.setattr(TrustedFolder, "_follow", lambda self: pytest.fail("read again"))
    assert verifies(ring, signer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key_id": "0" * 16}, "does not belong to this public key"),
        ({"public_key": "00"}, "does not belong"),
        ({"public_key": "zz"}, "not a file of"),
        ({"producers": "tezzeret"}, "not a file of"),
        ({"producers": []}, "at least one producer"),
        ({"topics": ["no.such.topic"]}, "no such topic"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    trust = make_key(tmp_path, "one", ["tezzeret"])
    trust.write_text(json.dumps(json.loads(trust.read_text()) | change))
    with pytest.raises(BadInput, match=said):
        TrustedFolder(tmp_path / TRUSTED)


def test_an_empty_or_missing_folder_trusts_nobody_and_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match="holds no trusted key"):
            TrustedFolder(folder)


@pytest.mark.parametrize("content", [None, b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_signing_key_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "one.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(BadInput, match=r"one\.pem"):
        load_signer(path)


def test_a_signing_key_everyone_can_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path, "one", ["tezzeret"])
    (tmp_path / "one.pem").chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        load_signer(tmp_path / "one.pem")


def test_the_command_makes_both_and_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    def esper(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["oona", "keygen", str(tmp_path), *arguments])
        return done.exit_code, done.output

    assert esper("pool", "--role", "tezzeret") == (0, f"{tmp_path / TRUSTED / 'pool.json'}\n")
    before = (tmp_path / "pool.pem").read_bytes()
    for arguments, said in [
        (("pool", "--role", "tezzeret"), "there is a key already"),
        (("new", "--role", "nobody"), "nobody"),
        (("new", "--role", "tezzeret", "--topic", COMPILE), "may not publish"),
        (("../new", "--role", "tezzeret"), "plain file name"),
    ]:
        code, output = esper(*arguments)
        assert code == 2
        assert said in " ".join(output.split())
    assert (tmp_path / "pool.pem").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool.pem", TRUSTED]
