"""Artifact ids: what a kernel computes, for which interface, hardware and toolchain, and how it was built."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from leyline import canonical
from leyline.errors import IdentityError, describe
from leyline.interface import Interface

STRATEGIES = ("fast", "standard", "aggressive")
BASELINE = "fast"
"""The strategy every other one is measured against."""
MAX_HARDWARE = 48

_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
HARDWARE_PATTERN = "[a-z][a-z0-9_]*(?:-[a-z0-9_]+)*"
"""All of a hardware target, as a regular expression."""
_HARDWARE = re.compile(HARDWARE_PATTERN, re.ASCII)
_ID = re.compile(
    rf"(?P<design>[0-9a-f]{{16}})-(?P<hardware>{HARDWARE_PATTERN})"
    rf"-(?P<strategy>{'|'.join(STRATEGIES)})-(?P<toolchain>[0-9a-f]{{8}})",
    re.ASCII,
)
_FORM = "<16 hex>-<hardware>-<fast|standard|aggressive>-<8 hex>, lower case"


@dataclass(frozen=True, order=True)
class ArtifactId:
    """Name of a kernel artifact; safe as a file name.

    `design`: first 16 hexadecimal digits of the hash of blueprint and interface. `hardware`: target including the
    instruction set, such as `x86_64-avx512`. `toolchain`: first 8 hexadecimal digits of the toolchain's hash.

    Raises:
        IdentityError: a part is not well formed.
    """

    design: str
    hardware: str
    strategy: str
    toolchain: str

    def __post_init__(self) -> None:
        _hexadecimal("design", self.design, 16)
        _hexadecimal("toolchain", self.toolchain, 8)
        if self.strategy not in STRATEGIES:
            raise IdentityError("strategy", f"{describe(self.strategy)} is not one", ", ".join(STRATEGIES))
        require_hardware(self.hardware)

    @classmethod
    def make(cls, ir_digest: str, interface: Interface, hardware: str, strategy: str, toolchain: str) -> ArtifactId:
        """Return the id of a kernel from its blueprint's full digest and the full hash of its toolchain.

        Raises:
            IdentityError: a digest is not lower-case hexadecimal, or a part is not well formed.
        """
        _hexadecimal("ir_digest", ir_digest, 64)
        if not isinstance(toolchain, str) or len(toolchain) < 8 or not _HEX.fullmatch(toolchain):
            raise IdentityError("toolchain", f"{describe(toolchain)} is not a hash", "8 or more hexadecimal digits")
        design = canonical.digest({"ir": ir_digest, "interface": interface.to_dict()})[:16]
        return cls(design, hardware, strategy, toolchain[:8])

    @classmethod
    def parse(cls, text: str) -> ArtifactId:
        """Read the string form; nothing else is accepted, so the result can name a file.

        Raises:
            IdentityError: the text is not exactly an artifact id.
        """
        if not isinstance(text, str) or len(text) > 16 + MAX_HARDWARE + 32:
            raise IdentityError("artifact id", f"{describe(text)} is not one", _FORM)
        match = _ID.fullmatch(text)
        if match is None:
            raise IdentityError("artifact id", f"{describe(text)} is not one", _FORM)
        return cls(**match.groupdict())

    @property
    def baseline(self) -> ArtifactId | None:
        """The artifact this one is measured against; None for one that others are measured against."""
        return None if self.strategy == BASELINE else replace(self, strategy=BASELINE)

    def __str__(self) -> str:
        return f"{self.design}-{self.hardware}-{self.strategy}-{self.toolchain}"


def require_hardware(target: str) -> None:
    """Raise `IdentityError` unless the text is a hardware target, such as `x86_64-avx512`."""
    if not isinstance(target, str) or len(target) > MAX_HARDWARE or not _HARDWARE.fullmatch(target):
        raise IdentityError(
            "hardware",
            f"{describe(target)} is not a target",
            f"lower-case words of letters, digits and _ joined by -, at most {MAX_HARDWARE} characters",
        )


def hardware_of(text: str | None) -> str | None:
    """Return the hardware target that an artifact id names; None for text that is no artifact id."""
    try:
        return ArtifactId.parse(text).hardware  # type: ignore[arg-type]
    except IdentityError:
        return None


def kernel_number(artifact_id: ArtifactId | str) -> int:
    """Return the 64-bit number that stands for an artifact in the seed state tensor; 0 is kept for "none".

    Raises:
        IdentityError: the text is not an artifact id.
    """
    text = str(artifact_id if isinstance(artifact_id, ArtifactId) else ArtifactId.parse(artifact_id))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") or 1


def _hexadecimal(part: str, value: object, length: int) -> None:
    if not isinstance(value, str) or len(value) != length or not _HEX.fullmatch(value):
        raise IdentityError(part, f"{describe(value)} is not allowed", f"{length} lower-case hexadecimal digits")
