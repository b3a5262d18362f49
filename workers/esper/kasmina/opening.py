"""Opening a kernel artifact: every digest and both signatures first, then the kernel, then what the signed report
says.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from esper.kernel import load_kernel, read_artifact
from esper.kernel.artifact import REPORT
from esper.kernel.errors import TamperedArtifact
from esper.kernel.signing import VALIDATED, PublicKeys

if TYPE_CHECKING:
    from esper.kernel import Kernel


def open_artifact(path: Path, keys: PublicKeys) -> tuple[Kernel, float]:
    """Verify and load the artifact at ``path``.

    Returns:
        The kernel and its risk in [0, 1] from the signed report; NaN if the report is not with the artifact or states
        none.

    Raises:
        ArtifactError: truncated, tampered, unsafe, unsigned, or built for another machine.
    """
    kernel = load_kernel(path, keys)
    report = path / REPORT
    if not report.is_file():
        return kernel, math.nan
    data = report.read_bytes()
    signed = read_artifact(path).signatures[VALIDATED].report
    if hashlib.sha256(data).hexdigest() != signed:
        raise TamperedArtifact(f"{path}: the report is not the one that was signed")
    risk = json.loads(data).get("risk")
    return kernel, float(risk) if isinstance(risk, int | float) else math.nan
