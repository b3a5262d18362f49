"""The state of every seed as a structure of arrays, with a checksum over all of its bytes.

One row per seed position (slots × seeds per slot). The arrays are the short form that is checked at every epoch
boundary, sent in status messages and stored in checkpoints; the exact blend factor and the parameters live with the
seed itself.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from esper.errors import StateCorruption
from leyline.lifecycle import Stage

_FIELDS: Mapping[str, torch.dtype] = {
    "lifecycle": torch.uint8,
    "kernel_id": torch.uint64,
    "alpha": torch.float16,
    "health": torch.float32,
    "last_update_epoch": torch.uint32,
    "exec_latency_us": torch.uint16,
}
_HALF_MAX = 65504.0


class StateTensor:
    """Structure of arrays with ``rows`` rows: ``lifecycle`` u8, ``kernel_id`` u64, ``alpha`` f16, ``health`` f32 (rms
    of the seed's output over rms of its input), ``last_update_epoch`` u32, ``exec_latency_us`` u16 (microseconds).

    Writing goes through :meth:`write` only, which also renews the checksum; anything that changes the bytes by
    another way is found by :meth:`verify`.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.arrays: dict[str, Tensor] = {name: torch.zeros(rows, dtype=dtype) for name, dtype in _FIELDS.items()}
        self.arrays["lifecycle"].fill_(int(Stage.DORMANT))
        self.crc = self.checksum()
        self._sealed, self._broken = True, False

    def checksum(self) -> int:
        """CRC32 over the bytes of all arrays in their fixed order."""
        crc = 0
        for name in _FIELDS:
            crc = zlib.crc32(self.arrays[name].numpy().tobytes(), crc)
        return crc

    def verify(self) -> None:
        """Compare the stored checksum with the bytes.

        Raises:
            StateCorruption: they differ, or an array has another type or length.
        """
        for name, dtype in _FIELDS.items():
            array = self.arrays.get(name)
            if array is None or array.dtype != dtype or array.shape != (self.rows,):
                raise StateCorruption(
                    f"seed state array {name!r}: expected {self.rows} x {dtype}, found "
                    f"{None if array is None else (tuple(array.shape), array.dtype)}; roll back to the last checkpoint"
                )
        found = self.checksum()
        if found != self.crc or self._broken:
            raise StateCorruption(
                f"seed state: CRC32 is {found:#010x}, expected {self.crc:#010x}; roll back to the last checkpoint"
            )

    def seal(self) -> None:
        """Renew the checksum after writes, unless the bytes were wrong before the first of them."""
        if not self._broken:
            self.crc = self.checksum()
            self._sealed = True

    def write(
        self,
        row: int,
        *,
        lifecycle: Stage,
        kernel_id: int,
        alpha: float,
        health: float,
        last_update_epoch: int,
        exec_latency_us: float,
        seal: bool = True,
    ) -> None:
        """Set one row. Values beyond a field's range are clipped to it, NaN becomes 0.

        Without ``seal`` the checksum must be renewed by :meth:`seal` after the last write. Bytes that were changed by
        another way before this write stay detectable: their checksum is never renewed.
        """
        if self._sealed:
            self._broken = self._broken or self.checksum() != self.crc
            self._sealed = False
        self.arrays["lifecycle"][row] = int(lifecycle)
        signed = kernel_id - (1 << 64) if kernel_id >= 1 << 63 else kernel_id
        self.arrays["kernel_id"].view(torch.int64)[row] = signed
        self.arrays["alpha"][row] = _finite(alpha, _HALF_MAX)
        self.arrays["health"][row] = _finite(health, 3.4e38)
        self.arrays["last_update_epoch"][row] = max(0, min(last_update_epoch, (1 << 32) - 1))
        self.arrays["exec_latency_us"][row] = int(max(0.0, min(_finite(exec_latency_us, 65535.0), 65535.0)))
        if seal:
            self.seal()

    def clear(self, row: int, epoch: int) -> None:
        """Return one row to dormant."""
        self.write(
            row,
            lifecycle=Stage.DORMANT,
            kernel_id=0,
            alpha=0.0,
            health=0.0,
            last_update_epoch=epoch,
            exec_latency_us=0.0,
        )

    def row(self, row: int) -> dict[str, float]:
        """One row as plain numbers."""
        values = {name: array[row].item() for name, array in self.arrays.items() if name != "kernel_id"}
        values["kernel_id"] = int(self.arrays["kernel_id"].view(torch.int64)[row].item()) & ((1 << 64) - 1)
        return values

    def load(self, arrays: Mapping[str, Tensor], crc: int) -> None:
        """Take the arrays of a checkpoint and check them against their checksum.

        Raises:
            StateCorruption: an array is missing, has another type or length, or the checksum does not fit.
        """
        before, crc_before, broken_before = self.arrays, self.crc, self._broken
        self.arrays = {name: arrays[name].clone() for name in _FIELDS if name in arrays}
        self.crc, self._broken = crc, False
        try:
            self.verify()
        except StateCorruption:
            self.arrays, self.crc, self._broken = before, crc_before, broken_before
            raise
        self._sealed = True


def _finite(value: float, limit: float) -> float:
    if math.isnan(value):
        return 0.0
    return max(-limit, min(limit, value))
