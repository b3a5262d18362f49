"""Where a run computes, and with how many threads."""

from __future__ import annotations

import torch

from esper.errors import ManifestError


def pick_device(wanted: str) -> torch.device:
    """The device a manifest's ``spec.training.device`` means on this machine.

    Raises:
        ManifestError: ``Cuda`` is asked for and there is none; ``Auto`` would have taken the CPU.
    """
    if wanted == "Cuda" and not torch.cuda.is_available():
        raise ManifestError(["spec.training.device: Cuda was asked for but torch sees no CUDA device; use Auto or Cpu"])
    return torch.device("cuda" if wanted == "Cuda" or (wanted == "Auto" and torch.cuda.is_available()) else "cpu")


def set_threads(threads: int) -> None:
    """Set torch's intra-op threads; the number is part of what makes a run repeat bit for bit."""
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # not use_deterministic_algorithms: that one imports the compiler
