"""What the service is told, and the tokens of a machine without an issuer."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esper.cli.app import app
from esper.errors import BadInput, ManifestError
from esper.urza.issuing import JWKS, KEY, make_key, sign_token
from esper.urza.service.settings import PREFIX, ServiceSettings, load
from esper.urza.service.tokens import Keys, Tokens, from_file

GOOD = {"database_url": "postgresql://me:hidden@db/urza", "blobs": "s3://kernels/here", "issuer": "local"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "urza.yaml"
    path.write_text(text)
    return path


def test_the_environment_wins_over_the_file_and_arguments_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "database_url: sqlite:///x\nblobs: here\nissuer: file\nport: 1\nhost: file\n")
    monkeypatch.setenv("ESPER_URZA_ISSUER", "environment")
    monkeypatch.setenv("ESPER_URZA_PORT", "2")
    monkeypatch.setenv("ESPER_URZA_SUBJECTS", '{"system:serviceaccount:a:b": ["worker"]}')
    settings = load(file, port=3)
    assert (settings.issuer, settings.port, settings.host) == ("environment", 3, "file")
    assert settings.subjects == {"system:serviceaccount:a:b": ["worker"]}


def test_secrets_are_never_shown() -> None:
    settings = ServiceSettings(**GOOD, s3_access_key="id", s3_secret_key="hidden")  # type: ignore[arg-type]
    bucket = settings.s3()
    assert bucket is not None
    assert (bucket.bucket, bucket.prefix, bucket.secret_key) == ("kernels", "here/", "hidden")
    assert "hidden" not in f"{settings!r}{settings}{bucket!r}"


@pytest.mark.parametrize(("change", "says"), [
    ({"database_url": ""}, "database_url must be set"),
    ({"blobs": ""}, "blobs must be set"),
    ({"issuer": ""}, "issuer must be set"),
    ({"port": 70000}, "port"),
    ({"tls_cert_file": "x"}, "belong together"),
    ({"log_level": "loud"}, "log_level"),
    ({"threads": "hidden"}, "threads"),
    ({"surprise": "hidden"}, "surprise"),
])  # fmt: skip
def test_what_is_wrong_is_named_and_not_quoted(tmp_path: Path, change: dict[str, object], says: str) -> None:
    file = written(tmp_path, "".join(f"{name}: {value!r}\n" for name, value in (GOOD | change).items()))
    with pytest.raises(ManifestError, match=says) as refusal:
        load(file)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "a: !!python/object:os.system {}", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"urza\.yaml: is not a YAML mapping"):
        load(written(tmp_path, text))


def test_a_token_of_our_own_gets_in(tmp_path: Path) -> None:
    assert make_key(tmp_path / "keys") == tmp_path / "keys" / JWKS
    assert stat.S_IMODE((tmp_path / "keys" / KEY).stat().st_mode) == 0o600
    assert "PRIVATE" not in (tmp_path / "keys" / JWKS).read_text()
    assert '"d"' not in (tmp_path / "keys" / JWKS).read_text()
    with pytest.raises(BadInput, match="there is a key already"):
        make_key(tmp_path / "keys")
    token = sign_token(tmp_path / "keys", "run-1", ["trainer"], issuer="local", seconds=60)
    tokens = Tokens(Keys(from_file(tmp_path / "keys" / JWKS), 60), issuer="local", audience="esper-urza")
    assert tokens.verify(token).roles == {"trainer"}


@pytest.mark.parametrize("content", [None, b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_without_a_key_there_is_no_token(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / KEY).write_bytes(content)
    with pytest.raises(BadInput, match=KEY):
        sign_token(tmp_path, "run-1", ["trainer"], issuer="local")


def test_the_commands_make_both(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["urza", "keygen", str(tmp_path)])
    assert made.exit_code == 0, made.output
    signed = runner.invoke(app, ["urza", "token", str(tmp_path), "--subject", "a", "--role", "reader", "--role",
                                 "worker", "--issuer", "local"])  # fmt: skip
    assert signed.exit_code == 0, signed.output
    tokens = Tokens(Keys(from_file(tmp_path / JWKS), 60), issuer="local", audience="esper-urza")
    assert tokens.verify(signed.output.strip()).roles == {"reader", "worker"}
    assert runner.invoke(app, ["urza", "keygen", str(tmp_path)]).exit_code == 2
    bad = ["urza", "token", str(tmp_path), "--subject", "a", "--role", "root", "--issuer", "x"]
    assert runner.invoke(app, bad).exit_code == 2


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "esper.urza.issuing", None)
    asked = CliRunner().invoke(app, ["urza", "keygen", str(tmp_path)])
    assert asked.exit_code == 2
    assert "esper-train[urza]" in asked.output
