"""A library on this machine with what another holds, so that a run in one process has the same kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from esper.urza import RemoteLibrary, SqlLibrary, State


def copied(theirs: RemoteLibrary, keys: Mapping[str, bytes], folder: Path) -> Path:
    """Copy every certified kernel into ``folder``, with the private keys that vouch for them; ``theirs`` is closed."""
    (folder / "keys").mkdir(parents=True)
    for name, key in keys.items():
        (folder / "keys" / f"{name}.pem").write_bytes(key)
        (folder / "keys" / f"{name}.pem").chmod(0o600)
    mine = SqlLibrary.open(folder)
    for blueprint in theirs.blueprints():
        mine.register_blueprint(blueprint.name, blueprint.ir, blueprint.risk)
    for record in theirs.records([State.VALIDATED]):
        path = theirs.fetch(record.artifact_id, folder / "cache")
        interface = theirs.interface(record.artifact_id)
        mine.begin(record.artifact_id, record.blueprint, interface, record.strategy, record.hardware, record.toolchain)
        mine.built(record.artifact_id, path)
        mine.begin_benchmark(record.artifact_id)
        mine.certify(record.artifact_id, record.report, path)
    theirs.close()
    mine.close()
    return folder
