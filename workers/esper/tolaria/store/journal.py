"""The journal: one line for each commit, in order, each with a checksum.

It says which checkpoint closes the epoch, which kernels became available before it and which orders were applied
after it, so a resumed run makes the same choices though the clock and the pools were different. A torn last line is
what a kill leaves and is dropped; damage anywhere else is an error.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esper.errors import CheckpointMismatch
from esper.output.files import disk_errors

JOURNAL = "journal.jsonl"


class Journal:
    """Lines ``<crc32 hex> <json>``, numbered by their field ``commit``; every append is synced before it returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: int | None = None
        """Number of the last line, once known."""

    def put(self, entry: Mapping[str, Any]) -> int:
        """Add an entry, in place of one of the same number; returns the journal's length in bytes.

        Raises:
            StorageFull: no space is left.
            OutputDirectoryError: it can't be written.
        """
        text = json.dumps(entry, sort_keys=True, allow_nan=False)
        line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        if self._last is None or self._last >= entry["commit"]:
            self.truncate_after(entry["commit"] - 1)
        with disk_errors(self.path, "writing the journal"), open(self.path, "ab") as handle:
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
            length = handle.tell()
        self._last = entry["commit"]
        return length

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first.

        Raises:
            CheckpointMismatch: a line other than the last is damaged.
        """
        return [entry for entry, _ in self._scan()]

    def truncate_after(self, commit: int) -> None:
        """Drop entries of later commits, and a torn last line: what follows was not committed."""
        keep, last = 0, 0
        for entry, end in self._scan():
            if entry["commit"] <= commit:
                last, keep = entry["commit"], end
        if self.path.exists() and self.path.stat().st_size > keep:
            with disk_errors(self.path, "truncating the journal"), open(self.path, "r+b") as handle:
                handle.truncate(keep)
                os.fsync(handle.fileno())
        self._last = last

    def _scan(self) -> Iterator[tuple[dict[str, Any], int]]:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        offset = 0
        lines = [line + b"\n" for line in data.split(b"\n")]
        lines[-1] = lines[-1][:-1]  # what follows the last newline: nothing, or a torn line
        for number, line in enumerate(lines, 1):
            offset += len(line)
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != f"{zlib.crc32(text):08x}".encode():
                if number == len(lines):
                    return
                raise CheckpointMismatch(f"{self.path} is damaged at line {number}; it can't be resumed from")
            yield json.loads(text), offset
