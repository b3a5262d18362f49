"""Tags that say in a word what a kernel is good at, compared with its peers.

Peers are certified kernels for the same hardware, interface and batch. With 30 of them a tag means a percentile: a
kernel enters a tag in the best quarter and leaves it only beyond the best 35 %, so that a few newcomers do not make
tags flicker. Before that, fixed rules decide, with the same width of hysteresis. The number of peers is stored with the
tags: it names the distribution they were judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MIN_PEERS", "TAGS", "Tags", "assign", "peers_of"]

MIN_PEERS = 30
_ENTER, _LEAVE = 0.25, 0.35
_SLACK = 1.1


@dataclass(frozen=True)
class Tags:
    """The tags, what they rest on (``rules`` or ``percentiles``), and the number of peers they were judged by."""

    tags: tuple[str, ...]
    basis: str
    epoch: int


Number = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class _Tag:
    """``value`` is what counts (small is good); ``rule`` its limit while there are few peers, None for no tag then."""

    name: str
    value: Number
    rule: float | None


def _field(name: str) -> Number:
    return lambda report: None if report.get(name) is None else float(report[name])


def _memory_per_input(report: Mapping[str, Any]) -> float | None:
    size = report.get("input_bytes")
    return float(report["memory_mb_peak"]) * 1e6 / float(size) if size else None


def _ns_per_flop(report: Mapping[str, Any]) -> float | None:
    flops = float(report.get("flops_per_call") or 0)
    return float(report["latency_ms_mean"]) * 1e6 / flops if flops else None


_TAGS = (
    _Tag("high_speed", _field("latency_ms_mean"), 1.0),
    _Tag("faster_than_eager", _field("ratio"), 0.9),
    _Tag("efficient", _ns_per_flop, 0.5),
    _Tag("low_memory", _memory_per_input, 8.0),
    _Tag("low_power", _field("power_watts_avg"), None),
)
#: Every tag there is.
TAGS = (*(tag.name for tag in _TAGS), "numerically_stable", "quarantined")


def assign(report: Mapping[str, Any], peers: Sequence[Mapping[str, Any]] = (), previous: Iterable[str] = ()) -> Tags:
    """Judge ``report``, a validation report in its JSON form, among the reports of its peers.

    ``previous`` are the tags the same artifact had before.
    """
    had = set(previous)
    many = len(peers) >= MIN_PEERS
    found = []
    for tag in _TAGS:
        value = tag.value(report)
        if value is None:
            continue
        if many:
            others = [other for peer in peers if (other := tag.value(peer)) is not None]
            limit = _LEAVE if tag.name in had else _ENTER
            if len(others) >= MIN_PEERS and sum(other < value for other in others) / len(others) < limit:
                found.append(tag.name)
        elif tag.rule is not None and value <= tag.rule * (_SLACK if tag.name in had else 1.0):
            found.append(tag.name)
    if report.get("numerically_stable"):
        found.append("numerically_stable")
    if report.get("risk_band") == "quarantined":
        found.append("quarantined")
    return Tags(tuple(found), "percentiles" if many else "rules", len(peers))


def peers_of(report: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pick from ``others`` the validated reports for the same hardware, interface and batch, without its own."""
    same = ("hardware", "interface", "batch")
    return [
        other
        for other in others
        if other.get("verdict") == "validated"
        and other.get("artifact_id") != report.get("artifact_id")
        and all(other.get(name) == report.get(name) for name in same)
    ]
