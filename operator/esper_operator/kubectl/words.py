"""Durations and ages in few characters, as kubectl writes them."""

from __future__ import annotations

UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float | None) -> str:
    """The two largest units, such as ``2h5m``; empty for None."""
    if seconds is None:
        return ""
    left = int(seconds)
    said: list[tuple[int, str]] = []
    for unit, size in UNITS:
        number, left = divmod(left, size)
        if number or said:
            said.append((number, unit))
        if len(said) == 2:
            break
    return "".join(f"{number}{unit}" for number, unit in said if number) or "0s"


def plain(text: object) -> str:
    """One line without control characters: what a cluster says must not move the cursor."""
    return "".join(mark if mark.isprintable() else " " for mark in str(text))
