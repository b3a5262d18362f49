"""The question that is asked all the time, answered without the framework: that costs more than finding the answer.

Only what is well-formed is answered here. Whatever is wrong with a request, the framework is handed it whole and says
so, as it does for every other path; its route is also what the OpenAPI document shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyio import to_thread
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esper.errors import LibraryError
from esper.urza import wire
from esper.urza.service import problems, routes
from esper.urza.sql import SqlLibrary


@dataclass(frozen=True, slots=True)
class _Route:
    """What the record of a request names it by."""

    path: str


QUERY = _Route(f"{wire.ROOT}/kernels/query")


class Direct:
    """ASGI application that answers queries, and passes everything else on to ``app``."""

    def __init__(self, app: ASGIApp, library: SqlLibrary) -> None:
        self._app, self._library = app, library

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or scope["path"] != QUERY.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        caller = scope["state"]["caller"]
        headers = dict(scope["headers"])
        # A body of announced length has passed the gate's limit; any other has to be watched while it is read.
        known = b"content-length" in headers and headers.get(b"content-type") == b"application/json"
        if not known or caller is None or caller.roles.isdisjoint(routes.READ):
            await self._app(scope, receive, send)
            return
        received = [await receive()]
        while received[-1].get("more_body", False):
            received.append(await receive())
        try:
            asked = wire.Query.model_validate_json(b"".join(message.get("body", b"") for message in received))
        except ValidationError:
            await self._app(scope, _again(received, receive), send)
            return
        scope["route"] = QUERY
        try:
            data = await to_thread.run_sync(routes.offered, self._library, asked)
        except LibraryError as error:
            await problems.response(error, scope["state"]["trace_id"])(scope, receive, send)
            return
        length = str(len(data)).encode()
        start = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": data})


def _again(received: list[Message], receive: Receive) -> Receive:
    """The same messages once more, then what follows them."""
    left = iter(received)

    async def receiving() -> Message:
        message = next(left, None)
        return message if message is not None else await receive()

    return receiving
