"""What a kernel allocates: the highest sum of live bytes during one forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_bytes"]


def peak_bytes(step: Callable[[], object]) -> int:
    """Run ``step`` under PyTorch's profiler and add up its allocations in order; what existed before does not count."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.events() or () if event.name == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.time_range.start):
        live += int(event.cpu_memory_usage)
        peak = max(peak, live)
    return peak
