"""Small artifacts whose content is nobody's business but the library's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from esper.urza import SqlLibrary
from leyline import canonical
from leyline.blueprint import BlueprintIR, node
from leyline.identity import ArtifactId
from leyline.interface import Interface, Layout


@dataclass(frozen=True)
class Sample:
    """An artifact of the blueprint ``mlp<factor>`` and how to write it."""

    factor: int = 1
    strategy: str = "fast"
    interface: Interface = Interface(Layout.VECTOR, 16)  # noqa: RUF009 - frozen
    hardware: str = "x86_64-avx2"
    toolchain: str = "01234567"

    @property
    def ir(self) -> BlueprintIR:
        return BlueprintIR(
            {
                "x": node("input"),
                "up": node("linear", "x", out=f"{self.factor}w"),
                "down": node("linear", "up", out="w"),
            },
            "down",
            (Layout.VECTOR,),
        )

    @property
    def name(self) -> str:
        return f"mlp{self.factor}"

    @property
    def id(self) -> str:
        return str(ArtifactId.make(self.ir.digest(), self.interface, self.hardware, self.strategy, self.toolchain))

    def enter(self, library: SqlLibrary) -> str:
        library.register_blueprint(self.name, self.ir, 0.3)
        library.begin(self.id, self.name, self.interface, self.strategy, self.hardware, self.toolchain)
        return self.id

    def write(self, root: Path, blobs: int = 2) -> Path:
        directory = root / self.id
        (directory / "blobs").mkdir(parents=True, exist_ok=True)
        (directory / "signatures").mkdir(exist_ok=True)
        for number in range(blobs):
            data = f"{self.id} blob {number}".encode() * 100
            (directory / "blobs" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        (directory / "manifest.json").write_bytes(canonical.dumps({"id": self.id}))
        (directory / "signatures" / "built.json").write_bytes(b"{}")
        return directory

    def report(self, **values: Any) -> dict[str, Any]:
        return {
            "ratio": 0.9,
            "latency_ms_mean": 1.0,
            "memory_mb_peak": 2.0,
            "tags": ["high_speed"],
            "risk": 0.2,
        } | values


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return Sample


@pytest.fixture
def library(tmp_path: Path) -> Iterator[SqlLibrary]:
    opened = SqlLibrary.open(tmp_path / "library")
    yield opened
    opened.close()


@pytest.fixture
def address(library: SqlLibrary) -> Iterator[str]:
    """Where the library is served."""
    import services  # not above: processes that are killed load this file for what it has to write with

    with services.running(library) as at:
        yield at


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    """A client that may do everything."""
    import services  # as above

    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {services.token()}"}) as client:
        yield client
