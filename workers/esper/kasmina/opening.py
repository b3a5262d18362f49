"""Opening a kernel artifact in two halves: look at every digest, both signatures and the signed report without running
anything of it; then open what was found good.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esper.kernel import open_kernel, read_artifact
from esper.kernel.artifact import REPORT, Artifact
from esper.kernel.errors import TamperedArtifact
from esper.kernel.signing import VALIDATED, PublicKeys, verify

if TYPE_CHECKING:
    from esper.kernel import Kernel


@dataclass(frozen=True)
class Checked:
    """An artifact whose digests and signatures are good. ``risk`` in [0, 1] is what its signed report states; NaN if
    the report is not with the artifact or states none. ``size`` of its files in bytes.
    """

    artifact: Artifact
    risk: float
    size: int


def check_artifact(path: Path, keys: PublicKeys) -> Checked:
    """Verify the artifact at ``path``; nothing of it is opened.

    Raises:
        ArtifactError: truncated, tampered, unsafe or unsigned.
    """
    artifact = read_artifact(path)
    verify(artifact, keys)
    size = sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return Checked(artifact, _risk(artifact), size)


def open_checked(checked: Checked) -> Kernel:
    """Load a checked artifact; bytes that changed since are refused.

    Raises:
        ArtifactError: tampered with meanwhile, or built for another machine.
    """
    return open_kernel(checked.artifact)


def _risk(artifact: Artifact) -> float:
    report = artifact.path / REPORT
    if not report.is_file():
        return math.nan
    data = report.read_bytes()
    if hashlib.sha256(data).hexdigest() != artifact.signatures[VALIDATED].report:
        raise TamperedArtifact(f"{artifact.path}: the report is not the one that was signed")
    risk = json.loads(data).get("risk")
    return float(risk) if isinstance(risk, int | float) else math.nan
