"""What a kernel was built for and by: the hardware target and the toolchain, both part of an artifact's id."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys

import torch

from leyline import canonical

__all__ = ["FORMAT", "built_with", "compiler", "hardware_target", "toolchain", "toolchain_hash"]

#: Version of the artifact directory's layout and of the calling convention of its halves.
FORMAT = 1


def hardware_target(device: torch.device | str = "cpu") -> str:
    """Name the hardware a kernel for ``device`` runs on, e.g. ``x86_64-avx512`` or ``cuda-sm90``.

    On CPU this is the machine architecture and the widest vector instruction set PyTorch itself dispatches to:
    a compiled half uses exactly that one. The name is lower case and holds only letters, digits, ``_`` and ``-``.
    """
    device = torch.device(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda-sm{major}{minor}"
    return f"{_plain(platform.machine())}-{_plain(torch.backends.cpu.get_cpu_capability())}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "", name.lower().replace("no avx", "scalar").replace("default", "scalar"))


@functools.cache
def compiler() -> tuple[str, str] | None:
    """Return the C++ compiler's (path, version line), or None when there is none on the PATH."""
    for candidate in (os.environ.get("CXX"), "g++", "clang++"):
        path = shutil.which(candidate) if candidate else None
        if path is None:
            continue
        try:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return path, answer.stdout.splitlines()[0].strip()
    return None


def toolchain() -> dict[str, str]:
    """What must be equal for an artifact built there to run here: PyTorch's version and the artifact format.

    Part of every artifact id, so it must be computable where nothing can be built: a trainer without a compiler has to
    name the artifact it looks for. Which compiler made the bits is recorded by :func:`built_with`, beside it.
    """
    return {"format": str(FORMAT), "torch": torch.__version__}


def toolchain_hash() -> str:
    """Return the first 8 hexadecimal digits of the toolchain's digest, as used in artifact ids."""
    return canonical.digest(toolchain())[:8]


def built_with(backend: str) -> dict[str, str]:
    """What else shaped the bits of a ``backend``'s blobs; recorded in the manifest, compared by nobody."""
    tools = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    if backend != "eager":
        found = compiler()
        tools["compiler"] = found[1] if found else "none"
    return tools
