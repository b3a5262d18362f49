"""What a launcher tells a process about its place among others; imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping

from esper.errors import BadInput


def expected(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's rank and the number of ranks, as a launcher such as torchrun says; (0, 1) without one.

    Raises:
        BadInput: RANK or WORLD_SIZE is no number, or they don't fit.
    """
    found = environment.get("RANK", ""), environment.get("WORLD_SIZE", "")
    if not found[1]:
        return 0, 1
    try:
        rank, world = int(found[0]), int(found[1])
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise BadInput(f"RANK is {found[0]!r} and WORLD_SIZE {found[1]!r}; expected 0 <= RANK < WORLD_SIZE")
    return rank, world
