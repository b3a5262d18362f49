"""The validation report: what was found out about one artifact, in the form that is stored and signed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from esper.kernel.artifact import KernelManifest
from esper.kernel.children import Outcome
from esper.urabrask.correctness import Correctness
from esper.urabrask.risk import assess
from esper.urabrask.tags import Tags, assign, peers_of
from leyline import canonical

__all__ = ["SCHEMA", "ValidationReport", "compose", "failure"]

SCHEMA = 1

Verdict = Literal["validated", "rejected", "noisy"]


@dataclass(frozen=True)
class ValidationReport:
    """A verdict with its numbers. ``body`` is the JSON form, ``digest`` what the validator signs."""

    verdict: Verdict
    cause: str
    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return canonical.digest(dict(self.body))

    @property
    def tags(self) -> tuple[str, ...]:
        """The empirical tags."""
        return tuple(self.body.get("tags", ()))

    @property
    def risk(self) -> float:
        """Risk from 0 to 1; 1 for what was never measured."""
        return float(self.body.get("risk", 1.0))


def failure(manifest: KernelManifest, digest: str, cause: str, outcome: Outcome | None = None) -> ValidationReport:
    """Compose the report of an artifact that could not be measured at all."""
    body = _head(manifest, digest, "rejected", cause)
    if outcome is not None:
        body |= {"ending": outcome.ending, "seconds": outcome.seconds, "errors": outcome.errors[-1000:]}
    return ValidationReport("rejected", cause, body)


def compose(
    manifest: KernelManifest,
    digest: str,
    answer: Mapping[str, Any],
    *,
    prior: float,
    batch: int,
    seconds: float,
    peers: list[Mapping[str, Any]],
    previous: tuple[str, ...],
) -> ValidationReport:
    """Turn what the sandbox answered into a verdict and a report; a number that is none is null there."""
    found = Correctness(**answer["correctness"])
    verdict: Verdict = "validated"
    cause = ""
    if found.problems:
        verdict, cause = "rejected", "; ".join(found.problems[:3])
    elif not answer["settled"]:
        verdict = "noisy"
        cause = (
            f"after {answer['pairs']} pairs the ratio is {answer['ratio']:.3f} within {answer['ratio_low']:.3f} to "
            f"{answer['ratio_high']:.3f}; wanted ±2 %"
        )
    risk = assess(prior, found, compiled=manifest.backend != "eager")
    body = _head(manifest, digest, verdict, cause) | {
        "batch": batch,
        "seconds": round(seconds, 3),
        "correctness": {
            "draws": found.draws,
            "output_error": found.output_error,
            "gradient_error": found.gradient_error,
            "tolerance": found.tolerance,
            "zero_at_start": found.zero_at_start,
            "growth": found.growth,
            "problems": list(found.problems),
        },
        "precision_drift_vs_fp32": found.drift_vs_fp32,
        "numerically_stable": found.stable,
        "risk": risk.risk,
        "risk_parts": risk.parts,
        "risk_band": risk.band,
        "handling": risk.handling,
        "load_ms": answer["load_ms"],
        "sandbox": dict(answer["sandbox"]),
        "environment": dict(answer["environment"]),
    }
    if verdict != "rejected":
        body |= _measured(manifest, answer, batch)
        tags: Tags = assign(body, peers_of(body, peers), previous)
        body |= {"tags": list(tags.tags), "tags_basis": tags.basis, "tags_epoch": tags.epoch}
    return ValidationReport(verdict, cause, {name: _written(value) for name, value in body.items()})


def _written(value: Any) -> Any:
    """As canonical JSON can have it, which knows neither infinity nor NaN: a wrong kernel's errors are often these."""
    if isinstance(value, Mapping):
        return {name: _written(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _head(manifest: KernelManifest, digest: str, verdict: Verdict, cause: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "artifact_id": manifest.id,
        "manifest": digest,
        "verdict": verdict,
        "cause": cause,
        "strategy": manifest.strategy,
        "hardware": manifest.hardware,
        "interface": manifest.slot_interface.digest(),
    }


def _measured(manifest: KernelManifest, answer: Mapping[str, Any], batch: int) -> dict[str, Any]:
    mean = float(answer["latency_ms_mean"])
    interface = manifest.slot_interface
    bits = {"float64": 64, "float32": 32}.get(interface.dtype, 16)
    elements = 1
    for size in interface.shape(batch):
        elements *= size
    return {
        "latency_ms_mean": mean,
        "latency_ms_p99": answer["latency_ms_p99"],
        "throughput_ops_per_sec": 1e3 / mean,
        "memory_mb_peak": answer["memory_bytes_peak"] / 1e6,
        "power_watts_avg": answer["power_watts_avg"],
        "ratio": answer["ratio"],
        "ratio_low": answer["ratio_low"],
        "ratio_high": answer["ratio_high"],
        "samples": {"calls": answer["calls"], "pairs": answer["pairs"]},
        "input_bytes": elements * bits // 8,
        "flops_per_call": 3 * manifest.flops_per_sample * batch,
    }
