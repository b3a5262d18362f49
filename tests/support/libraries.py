"""What the contract tests of kernel libraries share: the adapters, a small design, and the way to each state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esper.urza import (
    Library,
    SqlLibrary,
    State,
)
from leyline import canonical
from leyline.blueprint import BlueprintIR, node
from leyline.identity import ArtifactId
from leyline.interface import Interface, Layout

Opener = Callable[[Path], Library]
ADAPTERS: dict[str, Opener] = {"sqlite": lambda tmp: SqlLibrary.open(tmp / "library")}

VECTOR = Interface(Layout.VECTOR, 16)
OTHER = Interface(Layout.VECTOR, 32)
HARDWARE = "x86_64-avx2"
TOOLCHAIN = "0123456789abcdef"


def design(factor: int = 1) -> BlueprintIR:
    return BlueprintIR(
        {"x": node("input"), "up": node("linear", "x", out=f"{factor}w"), "down": node("linear", "up", out="w")},
        "down",
        (Layout.VECTOR,),
    )


def artifact_id(ir: BlueprintIR, interface: Interface = VECTOR, strategy: str = "fast", **other: str) -> str:
    hardware, toolchain = other.get("hardware", HARDWARE), other.get("toolchain", TOOLCHAIN)
    return str(ArtifactId.make(ir.digest(), interface, hardware, strategy, toolchain))


def write_artifact(root: Path, identity: str, content: bytes = b"forward half") -> Path:
    """The shape of an artifact directory; what is in it is not the library's business."""
    directory = root / identity
    (directory / "blobs").mkdir(parents=True, exist_ok=True)
    (directory / "signatures").mkdir(exist_ok=True)
    blob = hashlib.sha256(content).hexdigest()
    (directory / "blobs" / blob).write_bytes(content)
    (directory / "manifest.json").write_bytes(canonical.dumps({"id": identity, "blobs": [blob]}))
    (directory / "signatures" / "built.json").write_bytes(b'{"purpose":"built"}')
    return directory


def a_report(**values: Any) -> dict[str, Any]:
    return {"ratio": 0.8, "latency_ms_mean": 1.5, "memory_mb_peak": 3.0, "tags": ["high_speed"], "risk": 0.2} | values


def validate(directory: Path, report: Mapping[str, Any]) -> None:
    (directory / "signatures" / "validated.json").write_bytes(b'{"purpose":"validated"}')
    (directory / "report.json").write_bytes(canonical.dumps(dict(report)))


def enter(library: Library, name: str, ir: BlueprintIR, interface: Interface = VECTOR, strategy: str = "fast") -> str:
    identity = artifact_id(ir, interface, strategy)
    library.begin(identity, name, interface, strategy, HARDWARE, TOOLCHAIN)
    return identity


def bring_to(library: Library, tmp: Path, identity: str, state: State, **report: Any) -> Path:
    """Take an artifact from PENDING_BUILD to ``state`` by the way a worker would."""
    directory = write_artifact(tmp / "work", identity)
    if state is State.PENDING_BUILD:
        return directory
    library.built(identity, directory)
    if state is State.BUILT:
        return directory
    library.begin_benchmark(identity)
    if state is State.NOISY:
        library.noisy(identity, "restless machine")
    elif state is State.REJECTED:
        library.reject(identity, "wrong gradient")
    elif state in (State.VALIDATED, State.RETIRED):
        validate(directory, a_report(**report))
        library.certify(identity, a_report(**report), directory)
        if state is State.RETIRED:
            library.retire(identity, "raised at run time")
    return directory
