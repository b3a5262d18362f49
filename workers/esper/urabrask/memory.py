"""What a kernel allocates: the highest sum of live bytes during one forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable

from torch.autograd.profiler import profile

__all__ = ["peak_bytes"]


def peak_bytes(step: Callable[[], object]) -> int:
    """Run ``step`` under PyTorch's profiler and add up its allocations in order; what existed before does not count.

    The raw trace is read: the profiler's own events leave out each allocation that belongs to an operator. And it is
    the plain autograd profiler, since ``torch.profiler`` imports Inductor, seconds before its first number.
    """
    with profile(use_device=None, profile_memory=True) as found:
        kept = step()  # alive until the trace ends, as a caller's result is
    del kept
    trace = found.kineto_results
    events = [event for event in (trace.events() if trace is not None else ()) if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
