"""From numbers to risk, tags and a report; and certifying as a whole, in a real sandbox."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from artifacts import BUILDER, KEYS, VALIDATOR, blobbed, built, children
from esper.kernel import PublicKeys, SigningKey, load_kernel, manifest_for, read_artifact, sign_built
from esper.kernel.errors import UnsignedArtifact
from esper.urabrask import Benchmarker, BenchmarkRequest
from esper.urabrask.correctness import Correctness
from esper.urabrask.report import compose
from esper.urabrask.risk import BANDS, assess
from esper.urabrask.tags import MIN_PEERS, TAGS, assign, peers_of

GOOD = Correctness(4, 1e-7, 1e-7, 1e-7, 1e-4, zero_at_start=True, stable=True, growth=10.0)


def risk(**changes: Any) -> float:
    return assess(0.1, dataclasses.replace(GOOD, **changes), compiled=False).risk


def test_a_sound_kernel_has_its_priors_risk() -> None:
    found = assess(0.1, GOOD, compiled=False)
    assert (found.risk, found.band, found.handling) == (0.1, "low", "standard")


def test_each_reason_for_harm_raises_the_risk() -> None:
    assert risk(stable=False) == pytest.approx(1 - 0.9 * 0.7)
    assert risk(zero_at_start=False) == pytest.approx(1 - 0.9 * 0.7)
    assert risk(growth=1000.0) == pytest.approx(1 - 0.9 * 0.8)
    assert risk(output_error=1e-4) == pytest.approx(1 - 0.9 * 0.7)
    assert assess(0.1, GOOD, compiled=True).risk > 0.1
    assert risk(problems=["wrong"]) == 1.0
    assert 0 <= risk(stable=False, zero_at_start=False, growth=1e30, gradient_error=1.0) <= 1


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_report_about_numbers_that_are_none_can_be_entered(tmp_path: Path, number: float) -> None:
    """What overflows must be rejected with its cause, not be given up on because nobody can write its report down."""
    errors = dict.fromkeys(("output_error", "gradient_error", "drift_vs_fp32", "growth"), number)
    bad = dataclasses.replace(GOOD, **errors, problems=["output is off"])
    found = _compose(tmp_path, correctness=dataclasses.asdict(bad))
    assert (found.verdict, found.cause) == ("rejected", "output is off")
    assert (found.body["correctness"]["output_error"], found.body["precision_drift_vs_fp32"]) == (None, None)
    assert len(found.digest) == 64


def test_bands_leave_no_gap() -> None:
    for prior, band in ((0.0, "low"), (0.25, "medium"), (0.5, "high"), (0.75, "quarantined"), (1.0, "quarantined")):
        assert assess(prior, GOOD, compiled=False).band == band
    assert [name for _, name, _ in BANDS] == ["low", "medium", "high", "quarantined"]


def report(**changes: Any) -> dict[str, Any]:
    return {
        "artifact_id": "a", "hardware": "x", "interface": "i", "batch": 32, "verdict": "validated",
        "latency_ms_mean": 0.5, "ratio": 1.0, "memory_mb_peak": 1.0, "input_bytes": 1000, "flops_per_call": 10,
        "power_watts_avg": None, "numerically_stable": True, "risk_band": "low",
    } | changes  # fmt: skip


def test_rules_decide_while_there_are_few_peers() -> None:
    tags = assign(report())
    assert tags.tags == ("high_speed", "numerically_stable")
    assert (tags.basis, tags.epoch) == ("rules", 0)
    assert "faster_than_eager" in assign(report(ratio=0.9)).tags
    assert "faster_than_eager" not in assign(report(ratio=0.91)).tags
    assert "quarantined" in assign(report(risk_band="quarantined")).tags
    assert "numerically_stable" not in assign(report(numerically_stable=False)).tags
    assert set(assign(report()).tags) <= set(TAGS)


def test_a_tag_once_had_is_kept_a_little_longer() -> None:
    assert "faster_than_eager" in assign(report(ratio=0.95), previous=["faster_than_eager"]).tags
    assert "faster_than_eager" not in assign(report(ratio=1.0), previous=["faster_than_eager"]).tags


def test_percentiles_decide_among_many_peers() -> None:
    peers = [report(artifact_id=f"p{i}", latency_ms_mean=float(i)) for i in range(40)]
    assert len(peers) >= MIN_PEERS
    tags = assign(report(latency_ms_mean=9.0), peers)
    assert (tags.basis, tags.epoch) == ("percentiles", 40)
    assert "high_speed" in tags.tags
    assert "high_speed" not in assign(report(latency_ms_mean=12.0), peers).tags
    assert "high_speed" in assign(report(latency_ms_mean=12.0), peers, ["high_speed"]).tags
    assert "high_speed" not in assign(report(latency_ms_mean=15.0), peers, ["high_speed"]).tags


def test_peers_are_certified_for_the_same_use() -> None:
    others = [
        report(artifact_id="b"), report(artifact_id="c", batch=8), report(artifact_id="d", hardware="y"),
        report(artifact_id="e", interface="j"), report(artifact_id="f", verdict="noisy"), report(),
    ]  # fmt: skip
    assert [peer["artifact_id"] for peer in peers_of(report(), others)] == ["b"]


def _answer(**changes: Any) -> dict[str, Any]:
    return {
        "correctness": dataclasses.asdict(GOOD), "latency_ms_mean": 2.0, "latency_ms_p99": None, "calls": 50,
        "ratio": 0.8, "ratio_low": 0.79, "ratio_high": 0.81, "pairs": 40, "settled": True, "power_watts_avg": None,
        "memory_bytes_peak": 5000, "load_ms": 1.0, "sandbox": {"network": "on"}, "environment": {},
    } | changes  # fmt: skip


def _compose(tmp_path: Path, **changes: Any):
    manifest = built(tmp_path).manifest
    return compose(
        manifest, manifest.digest, _answer(**changes), prior=0.1, batch=32, seconds=1.0, peers=[], previous=()
    )


def test_a_report_says_what_was_measured(tmp_path: Path) -> None:
    found = _compose(tmp_path)
    assert (found.verdict, found.cause) == ("validated", "")
    assert found.body["throughput_ops_per_sec"] == 500.0
    assert found.body["memory_mb_peak"] == 0.005
    assert found.body["latency_ms_p99"] is None
    assert found.body["input_bytes"] == 32 * 8 * 4
    assert found.digest == _compose(tmp_path).digest


def test_an_interval_too_wide_is_noisy_and_a_problem_rejects(tmp_path: Path) -> None:
    noisy = _compose(tmp_path, settled=False)
    assert noisy.verdict == "noisy"
    assert "0.790 to 0.810" in noisy.cause
    bad = dataclasses.asdict(dataclasses.replace(GOOD, problems=["output is off by 1"]))
    rejected = _compose(tmp_path, correctness=bad)
    assert (rejected.verdict, rejected.risk) == ("rejected", 1.0)
    assert "output is off" in rejected.cause
    assert "ratio" not in rejected.body


def test_a_fast_artifact_is_certified_and_opens(tmp_path: Path) -> None:
    artifact = built(tmp_path)
    found = Benchmarker(VALIDATOR, KEYS, children()).certify(BenchmarkRequest(artifact.path, timeout=60.0))
    assert found.verdict == "validated", found.cause
    assert found.body["correctness"]["problems"] == []
    assert found.body["memory_mb_peak"] > 0
    assert found.body["sandbox"]["memory_bytes"] == "on"
    assert load_kernel(artifact.path, KEYS, report=found.digest).manifest.id == artifact.id


def test_what_no_known_builder_signed_is_not_even_run(tmp_path: Path) -> None:
    path, _ = blobbed(tmp_path)
    with pytest.raises(UnsignedArtifact):
        Benchmarker(VALIDATOR, KEYS, children()).certify(BenchmarkRequest(path))
    sign_built(read_artifact(path), SigningKey.generate())
    with pytest.raises(UnsignedArtifact):
        Benchmarker(VALIDATOR, KEYS, children()).certify(BenchmarkRequest(path))


def test_halves_that_are_no_libraries_are_rejected_with_the_linkers_words(tmp_path: Path) -> None:
    path, _ = blobbed(tmp_path)
    sign_built(read_artifact(path), BUILDER)
    found = Benchmarker(VALIDATOR, KEYS, children()).certify(BenchmarkRequest(path, timeout=60.0))
    assert found.verdict == "rejected"
    assert found.cause
    assert "validated" not in read_artifact(path).signatures
    assert not (path / "report.json").exists()


def test_a_benchmark_out_of_time_is_rejected(tmp_path: Path) -> None:
    artifact = built(tmp_path, "mlp")
    keys = PublicKeys.of([BUILDER], [])
    found = Benchmarker(VALIDATOR, keys, children()).certify(BenchmarkRequest(artifact.path, timeout=0.01))
    assert found.verdict == "rejected"
    assert found.body["ending"] == "timeout"


def test_manifests_do_not_say_who_measured_them(tmp_path: Path) -> None:
    manifest = built(tmp_path).manifest
    again = manifest_for(manifest.blueprint, manifest.slot_interface, "fast", "eager", {}, saved_bytes_per_sample=10)
    assert again.digest != manifest.digest  # every number in it is under the signature
