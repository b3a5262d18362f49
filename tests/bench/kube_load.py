"""What benchmarks of the operator share: the API server by plain requests, and the operator that is measured."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families
from tests.bench import common  # noqa: F401  (finds tests/support and tests/infra)
from tests.bench.analysis import bootstrap, median, percentile
from tests.bench.report import Report, reported

import parts
import real_kubernetes
from clusters import Running, eventually, install_crds
from esper_operator.cluster.requests import KINDS

NAMESPACE = "default"


def collection(kind: str, namespace: str = NAMESPACE) -> str:
    """Where objects of a kind that the operator writes are."""
    group, version, plural = KINDS[kind]
    return f"/{f'apis/{group}' if group else 'api'}/{version}/namespaces/{namespace}/{plural}"


RUNS, JOBS = collection("TrainingRun"), collection("Job")
MADE_BY_OPERATOR = "app.kubernetes.io/managed-by=esper-operator"


class Server:
    """The API server by plain requests."""

    def __init__(self, home: Path, port: int) -> None:
        context = ssl.create_default_context(cafile=str(home / "pki/ca.pem"))
        context.load_cert_chain(home / "pki/admin.pem", home / "pki/admin-key.pem")
        self._base = f"https://127.0.0.1:{port}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=64), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def write(
        self, method: str, path: str, body: dict[str, Any], kind: str = "application/merge-patch+json"
    ) -> bytes:
        """One write, a patch of this kind if it is one; returns the answer, as text: who makes load has no use for it.

        Raises ``RuntimeError`` with the answer when it is refused.
        """
        if method == "POST":
            kind = "application/json"
        async with self._session.request(
            method, self._base + path, data=json.dumps(body), headers={"Content-Type": kind}
        ) as answer:
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.read()

    async def there(self, path: str) -> bool:
        """Whether an object is."""
        async with self._session.get(self._base + path) as answer:
            return answer.status == 200

    async def version(self, path: str) -> str:
        """The version of a collection as it is now."""
        async with self._session.get(f"{self._base}{path}?limit=1") as answer:
            return str((await answer.json())["metadata"]["resourceVersion"])

    async def changes(self, path: str, selector: str = "", since: str = "") -> AsyncIterator[dict[str, Any]]:
        """Objects as they change, from a version on or from the beginning."""
        more = f"&labelSelector={selector}" if selector else ""
        more += f"&resourceVersion={since}" if since else ""
        async with self._session.get(
            f"{self._base}{path}?watch=1&allowWatchBookmarks=false&timeoutSeconds=3600{more}", read_bufsize=1 << 22
        ) as stream:
            async for line in stream.content:
                yield json.loads(line)["object"]

    async def requests(self) -> dict[tuple[str, str], float]:
        """How many requests it has answered, by verb and resource."""
        found: dict[tuple[str, str], float] = {}
        async with self._session.get(f"{self._base}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        for sample in (each for family in families for each in family.samples):
            if sample.name == "apiserver_request_total":
                labels = sample.labels
                what = "/".join(filter(None, (labels["resource"], labels["subresource"])))
                found[labels["verb"], what] = found.get((labels["verb"], what), 0.0) + sample.value
        return found

    async def settled(self, seconds: float = 2.0, least: float = 1.0) -> None:
        """Wait until nobody has written more than ``least`` times a second for some seconds, Leases and nodes aside."""
        before = -math.inf
        while (now := await self._writes()) - before > least * seconds:
            before = now
            await asyncio.sleep(seconds)

    async def _writes(self) -> float:
        asked = await self.requests()
        return sum(
            count
            for (verb, what), count in asked.items()
            if verb not in ("GET", "LIST", "WATCH") and not what.startswith(("leases", "nodes"))
        )

    async def close(self) -> None:
        """Give connections back."""
        await self._session.close()


class Replica:
    """The operator, a process of its own, and what it takes."""

    def __init__(self, operator: Running) -> None:
        self._operator, self._seen = operator, psutil.Process(operator.pid)

    async def leads(self) -> None:
        """Wait until it does."""
        await asyncio.to_thread(eventually, self._operator.leads, 60.0, 0.2)

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return float(self._seen.memory_info().rss / 1e6)

    @property
    def seconds(self) -> float:
        """Processor time so far."""
        spent = self._seen.cpu_times()
        return float(spent.user + spent.system)


@asynccontextmanager
async def control_plane(
    home: Path, more: Mapping[str, Sequence[str]] = MappingProxyType({"etcd": (), "apiserver": ()})
) -> AsyncIterator[tuple[Server, str]]:
    """The programs of a control plane that ``more`` names, with these further arguments."""
    ports = real_kubernetes.free_ports()
    real_kubernetes.prepare(home, ports)
    programs = [
        replace(each, command=[*each.command, *more[each.name]])
        for each in real_kubernetes.processes(home, ports)
        if each.name in more
    ]
    try:
        real_kubernetes.launch(home, ports, programs)
        kubeconfig = str(home / "admin.kubeconfig")
        await asyncio.to_thread(install_crds, kubeconfig)
        server = Server(home, ports.api)
        try:
            yield server, kubeconfig
        finally:
            await server.close()
    finally:
        for each in reversed(programs):
            parts.stop(home / each.name)


def told_times(report: Report, of: str, milliseconds: Sequence[float]) -> None:
    """Report their median, and their 99th percentile where there are enough of them."""
    report.rows.append(reported(f"{of}, median", median(milliseconds), "ms"))
    if percentile(milliseconds, 0.99) is not None:
        late = bootstrap(milliseconds, lambda values: float(percentile(values.tolist(), 0.99) or 0.0))
        report.rows.append(reported(f"{of}, 99th percentile", late, "ms"))
