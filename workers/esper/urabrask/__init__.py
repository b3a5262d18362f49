"""Urabrask: the benchmarker. Runs kernels in a sandbox, checks and measures them, and vouches for those that pass."""

from __future__ import annotations

from esper.urabrask.benchmarking import Benchmarker, BenchmarkRequest, benchmark
from esper.urabrask.report import ValidationReport

__all__ = ["BenchmarkRequest", "Benchmarker", "ValidationReport", "benchmark"]
