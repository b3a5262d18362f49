"""Kernels for tests of the engine: real artifacts, really signed and verified, without the pools that measure them."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esper.karn.catalogue import CATALOGUE
from esper.kernel import PublicKeys, SigningKey, manifest_for, sign_built, sign_validated, write_artifact
from esper.kernel.reading import read_artifact
from esper.urza.library import KernelRecord, State
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface


@functools.cache
def _key() -> SigningKey:
    return SigningKey.generate()


class Shelf:
    """A KernelShelf over a directory of artifacts made on demand."""

    def __init__(self, slots: Mapping[str, Interface], blueprints: Sequence[str] | Mapping[str, BlueprintIR]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="esper-test-shelf-")
        self.root = Path(self._folder.name)
        self.keys = PublicKeys.of([_key()], [_key()])
        designs = blueprints if isinstance(blueprints, Mapping) else {name: CATALOGUE[name].ir for name in blueprints}
        self._paths: dict[str, Path] = {}
        self._records: dict[str, dict[str, KernelRecord]] = {}
        for slot, interface in slots.items():
            for name, ir in designs.items():
                self._add(slot, interface, name, ir)
        self._new = sorted(self._paths)
        self.catalogue = dict.fromkeys(self._paths, 0)
        self.wait_seconds = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """For a child: the folder stays the parent's, who removes it."""
        return {name: value for name, value in vars(self).items() if name != "_folder"}

    def _add(self, slot: str, interface: Interface, name: str, ir: BlueprintIR) -> None:
        manifest = manifest_for(ir, interface, "fast", "eager", {}, saved_bytes_per_sample=0)
        if manifest.id not in self._paths:
            path = write_artifact(self.root, manifest, {})
            artifact = read_artifact(path)
            sign_built(artifact, _key())
            digest = artifact.add_report({"risk": 0.1, "id": manifest.id})
            sign_validated(artifact, digest, manifest.hardware, _key())
            self._paths[manifest.id] = path
        record = KernelRecord(
            manifest.id, name, "fast", State.VALIDATED, 1.0, 0.1, 1.0, (), 0.1, manifest.flops_per_sample,
            manifest.parameter_count,
        )  # fmt: skip
        self._records.setdefault(slot, {})[manifest.id] = record

    def path(self, artifact_id: str) -> Path:
        return self._paths[artifact_id]

    def offers(self, offered: Mapping[str, int]) -> dict[str, list[KernelRecord]]:
        return {
            slot: [record for artifact, record in records.items() if artifact in offered]
            for slot, records in self._records.items()
        }

    def to_dict(self) -> dict[str, Any]:
        return {"new": list(self._new)}

    def load(self, data: Mapping[str, Any]) -> None:
        self._new = list(data["new"])

    def arrivals(self) -> list[str]:
        new, self._new = self._new, []
        return new
