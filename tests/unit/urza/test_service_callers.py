"""What callers of the service find out before they begin, and what a person does with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import services
from esper.cli.app import app
from esper.errors import LibraryError
from esper.urza import RemoteLibrary, SqlLibrary, State
from esper.urza.client import TransportSettings
from esper.urza.errors import AccessDenied, LibraryUnavailable
from libraries import design, enter

QUICK = TransportSettings(patience=0.3)


def test_a_client_finds_out_whether_it_may_do_its_work(address: str, tmp_path: Path) -> None:
    worker = RemoteLibrary(address, services.token("worker", subject="pool-1"), QUICK)
    worker.check(["worker"])
    worker.check(["trainer", "worker"])
    with pytest.raises(AccessDenied, match=r"'pool-1' has the roles worker; this needs admin"):
        worker.check(["admin"])
    with pytest.raises(AccessDenied):
        RemoteLibrary(address, "nonsense", QUICK).check(["worker"])
    with pytest.raises(LibraryError, match="is it the library's service, of this version"):
        RemoteLibrary(f"{address}/elsewhere", services.token(), QUICK).check(["worker"])
    with pytest.raises(LibraryUnavailable, match="is it up"):
        RemoteLibrary("http://127.0.0.1:1", services.token(), QUICK).check(["worker"])


def test_a_person_has_a_rejected_kernel_tried_again(
    address: str, library: SqlLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("ESPER_LIBRARY_"):
            monkeypatch.delenv(name)
    library.register_blueprint("mlp", design(), 0.1)
    identity = enter(library, "mlp", design())
    library.reject(identity, "no")
    token, config = tmp_path / "token", tmp_path / "library.yaml"
    config.write_text(f"url: {address}\ntoken_file: {token}\n")

    def retry(role: str, *arguments: str) -> tuple[int, str]:
        token.write_text(services.token(role))
        done = CliRunner().invoke(app, ["urza", "retry", "--config", str(config), "--cause", "mended", *arguments])
        return done.exit_code, " ".join(done.output.split())

    assert retry("worker", identity)[0] == 3
    assert library.record(identity).state is State.REJECTED
    assert retry("admin", identity) == (0, f"{identity}: PendingBuild")
    assert library.history(identity)[-1].cause == "mended"
    code, said = retry("admin", "nonsense")
    assert code == 3
    assert "nonsense" in said
    assert retry("admin")[0] == 2
