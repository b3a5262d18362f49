"""A kernel put into a slot for a moment, outside any lifecycle: what a probe needs on its throw-away copy of the
host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esper.kasmina.guard import GuardedKernel
from esper.kasmina.loading import KernelReport
from leyline.resources.enums import Blend

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kernel import Kernel


@contextmanager
def trying(bank: SeedBank, slot: str, kernel: Kernel) -> Iterator[None]:
    """Within the block the slot's output is u + s(u), after its seeds; no seed is germinated and no event is left.

    The kernel's parameters get gradients as the host's do; in which mode it runs is the caller's choice. A kernel
    that raises is evicted for good and reported, and counts as the identity for the rest of the block.
    """
    artifact_id = kernel.manifest.id
    runtime = bank.runtime(slot)

    def failed(error: Exception) -> None:
        runtime.trial = None
        bank.loader.cache.ban(artifact_id, str(error))
        bank.report(KernelReport(artifact_id, "", slot, "run", str(error)))

    runtime.trial = GuardedKernel(kernel, Blend.RESIDUAL, failed)
    bank.sync_hooks()
    try:
        yield
    finally:
        runtime.trial = None
        bank.sync_hooks()
        bank.deliver_reports()
