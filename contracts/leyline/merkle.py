"""Hash trees (RFC 6962, section 2.1, over SHA-256): one hash stands for many messages, a short path proves each.

A leaf and an inner node begin with different bytes, so that neither passes for the other; a node without a neighbour
moves up as it is, so that no two lists have the same root.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

HASH_BYTES = 32
_LEAF, _NODE = b"\0", b"\1"


def leaf(data: bytes) -> bytes:
    """The hash that stands for ``data``; 32 bytes."""
    return sha256(_LEAF + data).digest()


def tree(leaves: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The root over at least one leaf, and each leaf's path: the neighbours' hashes from the bottom up, joined."""
    levels = [list(leaves)]
    while len(below := levels[-1]) > 1:
        above = [sha256(_NODE + below[at] + below[at + 1]).digest() for at in range(0, len(below) - 1, 2)]
        levels.append(above + below[len(below) & ~1 :])
    paths = []
    for index in range(len(leaves)):
        path = b""
        for level in levels[:-1]:
            if (beside := index ^ 1) < len(level):
                path += level[beside]
            index >>= 1
        paths.append(path)
    return levels[-1][0], paths


def root_of(found: bytes, index: int, count: int, path: bytes) -> bytes | None:
    """The root of the tree of ``count`` leaves in which the leaf ``found`` is at ``index`` with this path.

    ``None`` for a path of another length than that place has.
    """
    at = 0
    while count > 1:
        if index ^ 1 < count:
            beside = path[at : at + HASH_BYTES]
            at += HASH_BYTES
            found = sha256(_NODE + beside + found if index & 1 else _NODE + found + beside).digest()
        index, count = index >> 1, (count + 1) >> 1
    return found if at == len(path) else None
