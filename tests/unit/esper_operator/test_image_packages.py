"""The operator's image has what its programs import: they are imported with nothing else in sight."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
OWN = {"leyline", "esper", "esper_operator"}
PROGRAMS = (
    "esper_operator.main", "esper_operator.keeping", "esper_operator.trying", "esper_operator.kubectl.app",
    "esper_operator.kubectl.completing", "esper.cli", "esper.urza.service.serving", "esper.urza.service.app",
    "esper.urza.s3", "esper.oona.pulsar",
)  # fmt: skip
"""What the chart and people start from this image."""
BLOCKER = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name}: not in the image", name=name)
sys.meta_path.insert(0, Blocker())
"""


def modules_without(lock: Path) -> list[str]:
    """Top-level modules that are installed here and not of a package of the lock file."""
    locked = {canonicalize_name(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.M)}
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if module not in OWN and not {canonicalize_name(owner) for owner in owners} & locked
    )


def test_every_program_starts_with_the_images_packages_only() -> None:
    blocked = modules_without(ROOT / "operator" / "requirements.lock")
    assert {"torch", "numpy", "pytest", "tensorboard"} <= set(blocked)
    code = f"BLOCKED = {set(blocked)!r}\n{BLOCKER}\nfor program in {PROGRAMS!r}:\n    importlib.import_module(program)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-800:]
