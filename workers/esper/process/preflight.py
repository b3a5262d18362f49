"""Tries everything a process needs before it begins, and names all that is missing at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from esper.errors import BadInput, EsperError, RunFailed

Part = tuple[str, Callable[[], object]]
"""Something a process needs: its name, and what raises an ``EsperError`` when it can't be used."""


class PartsMissing(RunFailed):
    """Something a process needs can't be used; ``parts`` are the names."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.parts = tuple(problems)
        super().__init__("\n".join(["can't begin:", *(f"  {name}: {said}" for name, said in problems.items())]))


def preflight(parts: Iterable[Part]) -> None:
    """Try every part, all at the same time.

    Raises:
        PartsMissing: names each that can't be used, with the reason.
    """
    wanted = list(parts)
    with ThreadPoolExecutor(max_workers=max(1, len(wanted)), thread_name_prefix="esper-preflight") as pool:
        said = pool.map(lambda part: _problem(part[1]), wanted)
        problems = {name: problem for (name, _), problem in zip(wanted, said, strict=True) if problem}
    if problems:
        raise PartsMissing(problems)


def writable(directory: Path) -> None:
    """Make sure that files can be made in a directory, which is made when it is not there; raises ``BadInput``."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=directory, prefix=".preflight-")
        os.close(handle)
        os.unlink(path)
    except OSError as error:
        raise BadInput(f"{directory}: can't be written: {error.strerror or error}") from error


def _problem(check: Callable[[], object]) -> str:
    try:
        check()
    except EsperError as error:
        return " ".join(str(error).split())
    return ""
