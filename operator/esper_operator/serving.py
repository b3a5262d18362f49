"""Health and metrics over HTTP, of leaders and of replicas that wait."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

log = logging.getLogger(__name__)
Check = Callable[[], str]
"""What is wrong, in words; empty when nothing is."""


async def serve(host: str, port: int, alive: Check, ready: Check) -> web.AppRunner:
    """Serve ``/healthz``, ``/readyz`` and ``/metrics``; the caller cleans the runner up."""

    def answering(check: Check) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

        return answer

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", answering(alive)),  # type: ignore[arg-type]
            web.get("/readyz", answering(ready)),  # type: ignore[arg-type]
            web.get("/metrics", metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    log.info("listening on %s", " ".join(f"{each[0]}:{each[1]}" for each in runner.addresses))
    return runner
