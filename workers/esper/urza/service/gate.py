"""What every request passes first: a trace id, who is calling, how often, how much, and a record of it.

Outside of the framework, so that a stranger's body is not even read.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping

import structlog
from anyio import to_thread
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esper.urza.errors import AccessDenied, TooManyRequests
from esper.urza.service import problems
from esper.urza.service.metrics import Metrics
from esper.urza.service.tokens import Caller, KeysUnavailable, Tokens

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
STRANGERS_PER_MINUTE = 300
"""Requests without a valid token that one address may make."""
BLOBS = "/api/v1/blobs/"
_TRACE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_LOG = structlog.get_logger("esper.urza")


class Gate:
    """ASGI middleware around the service."""

    def __init__(
        self, app: ASGIApp, tokens: Tokens, metrics: Metrics, *, per_minute: int, json_bytes: int, blob_bytes: int
    ) -> None:
        self._app, self._tokens, self._metrics = app, tokens, metrics
        self._json_bytes, self._blob_bytes = json_bytes, blob_bytes
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._per_caller = RateLimitItemPerMinute(per_minute)
        self._per_stranger = RateLimitItemPerMinute(STRANGERS_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        trace_id = _trace_id(headers.get(b"traceparent", b""))
        state = scope.setdefault("state", {})
        state["trace_id"], state["caller"] = trace_id, None
        answered = {"status": 0}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-trace-id", trace_id.encode())]
            await send(message)

        self._metrics.began()
        try:
            problem = await self._refusal(scope, headers)
            if problem is not None:
                await self._answer(sending, *problem, trace_id)
            else:
                await self._app(scope, self._counted(scope, receive), sending)
        except Exception as error:
            _LOG.error("failed", trace_id=trace_id, kind=type(error).__name__, exc_info=error)
            if answered["status"]:
                raise  # half an answer is out: only breaking off tells the caller
            await self._answer(
                sending, 500, "Internal", "the service failed; its log says more under the trace id", trace_id
            )
        finally:
            self._ended(scope, answered["status"], trace_id, time.perf_counter() - began)

    async def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[int, str, str] | None:
        """Status, code and message when the request goes no further."""
        if scope["path"] in OPEN_PATHS:
            return None
        limit = self._limit(scope)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > limit:
            self._metrics.refused("too large")
            return 413, "TooLarge", f"request: {int(length[:20])} bytes, at most {limit} allowed here"
        address = (scope.get("client") or ("unknown",))[0]
        try:
            caller = await self._caller(headers.get(b"authorization", b""))
        except AccessDenied as error:
            self._metrics.refused("token")
            if not await self._limiter.hit(self._per_stranger, "stranger", address):
                return self._too_many("this address")
            return 401, "AccessDenied", str(error)
        except KeysUnavailable as error:
            self._metrics.refused("keys unavailable")
            return 503, "LibraryUnavailable", str(error)
        if not await self._limiter.hit(self._per_caller, "caller", caller.subject):
            return self._too_many("this caller")
        scope["state"]["caller"] = caller
        return None

    async def _caller(self, authorization: bytes) -> Caller:
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AccessDenied("token: send one as `Authorization: Bearer …`")
        known = self._tokens.known(token.strip())
        if known is not None:
            return known
        if self._tokens.keys.ready(self._tokens.key_id(token.strip())):
            return self._tokens.verify(token.strip())
        return await to_thread.run_sync(self._tokens.verify, token.strip())  # asks the issuer first

    def _too_many(self, who: str) -> tuple[int, str, str]:
        self._metrics.refused("rate")
        return 429, TooManyRequests.__name__, f"{who} has asked too often within a minute; wait and try again"

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        limit, seen = self._limit(scope), 0

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                self._metrics.refused("too large")
                raise problems.too_large(f"request: more than the {limit} bytes allowed here")
            return message

        return counting

    def _limit(self, scope: Scope) -> int:
        return self._blob_bytes if scope["path"].startswith(BLOBS) else self._json_bytes

    async def _answer(self, send: Send, status: int, code: str, message: str, trace_id: str) -> None:
        data = problems.body(code, message, trace_id)
        headers = {"content-type": "application/json", "content-length": str(len(data)), **problems.headers_of(status)}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": data})

    def _ended(self, scope: Scope, status: int, trace_id: str, seconds: float) -> None:
        # The route's template, never the path itself: ids would make a series each.
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.ended(method, route, status, seconds)
        caller = scope["state"].get("caller")
        log = _LOG.debug if route in OPEN_PATHS else _LOG.info
        log(
            "request", trace_id=trace_id, method=method, route=route, status=status,
            ms=round(seconds * 1e3, 2), caller=caller.subject if caller else None,
        )  # fmt: skip


def _trace_id(header: bytes) -> str:
    """The caller's W3C trace id if it sent one, or a new one."""
    found = _TRACE.fullmatch(header.decode("latin-1").strip())
    return found[1] if found and set(found[1]) != {"0"} else secrets.token_hex(16)
