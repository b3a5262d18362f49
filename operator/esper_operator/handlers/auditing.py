"""Are the watches still telling the truth? A watch can go quiet without an error; then nothing would ever happen again.

Every so often the versions of all runs and Jobs are listed and compared with what the watches told. An object
whose version was not told of between two audits is stale, and so is one that is gone for as long and of which no
watch said so (a watch that has to begin anew never hears of what was deleted meanwhile, and a run would be taken for
one that still has its Job). With any stale object the replica is unhealthy.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import aiohttp
from kubernetes.aio.dynamic.exceptions import DynamicApiError

from esper_operator import metrics
from esper_operator.cluster import Cluster
from esper_operator.handlers.indices import Indices, Name
from esper_operator.keys import MANAGED_SELECTOR

log = logging.getLogger(__name__)
Version = tuple[str, Name, str]


@dataclass
class Audit:
    """``stale`` holds what no watch told of from one look to the next."""

    cluster: Cluster
    indices: Indices
    namespaces: tuple[str, ...]
    stale: frozenset[Version] = field(default=frozenset())

    async def serve(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled."""
        suspects: frozenset[Version] = frozenset()
        while True:
            await asyncio.sleep(seconds)
            try:
                found = await self.look()
            except (aiohttp.ClientError, TimeoutError, OSError, DynamicApiError) as error:
                log.warning("the watches could not be audited: %s: %s", type(error).__name__, error)
                continue
            self.stale = frozenset(each for each in suspects if each in found)
            suspects = found
            metrics.STALE.set(len(self.stale))
            if self.stale:
                log.error("no watch has told what became of %d objects, such as %s", len(self.stale), min(self.stale))

    async def look(self) -> frozenset[Version]:
        """Objects of which a watch has told something else than is true right now; what is on its way is among them."""
        found: set[Version] = set()
        for kind, selector in (("TrainingRun", ""), ("Job", MANAGED_SELECTOR)):
            there: dict[Name, str] = {}
            for namespace in self.namespaces or (None,):
                there |= await self.cluster.listing(kind, namespace, selector)
            told = self.indices.versions(kind)
            found |= {(kind, name, version) for name, version in there.items() if told.get(name) != version}
            found |= {(kind, name, version) for name, version in told.items() if name not in there}
        return frozenset(found)
