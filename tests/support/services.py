"""The library's service inside a test's process: one listener, behind it whatever application a test asks for."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn

from esper.urza import S3Blobs, SqlLibrary
from esper.urza.issuing import JWKS, make_key, sign_token
from esper.urza.service.app import create_app
from esper.urza.service.settings import ServiceSettings
from esper.urza.service.tokens import ROLES, Keys, Tokens, from_file

ISSUER = "https://issuer.test"


@functools.cache
def keys() -> Path:
    """A folder with the key that signs this process's tokens."""
    folder = Path(tempfile.mkdtemp(prefix="esper-test-issuer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_key(folder)
    return folder


def token(*roles: str, subject: str = "tester", seconds: float = 3600) -> str:
    """A valid token; with every role unless some are named."""
    return sign_token(keys(), subject, roles or ROLES, issuer=ISSUER, seconds=seconds)


def tokens(**change: Any) -> Tokens:
    """What accepts them."""
    return Tokens(Keys(from_file(keys() / JWKS), 300), **({"issuer": ISSUER, "audience": "esper-urza"} | change))


def settings(**change: Any) -> ServiceSettings:
    """Settings whose places are not used: the parts are handed in."""
    given = {"database_url": "sqlite:///unused", "blobs": "unused", "issuer": ISSUER, "requests_per_minute": 10**6}
    return ServiceSettings(**(given | change))


@contextlib.contextmanager
def running(library: SqlLibrary, signing: S3Blobs | None = None, **change: Any) -> Iterator[str]:
    """Serve a library; yields the address. ``signing`` is by default the store of its blobs, if that can.

    ``change``: settings; ``jwks_missing`` takes the issuer's keys away.
    """
    if signing is None and isinstance(library.blobs, S3Blobs):
        signing = library.blobs
    with _listener() as listener:
        listener.library.to, listener.blobs.to, listener.signing.to = library, library.blobs, signing
        listener.app = listener.application(signing is not None, change)
        yield listener.address


_IDLE: list[_Listener] = []


@contextlib.contextmanager
def _listener() -> Iterator[_Listener]:
    """One of this process's listeners that nobody uses; they are started once and used again."""
    taken = _IDLE.pop() if _IDLE else _Listener()
    try:
        yield taken
    finally:
        taken.library.to = taken.blobs.to = taken.signing.to = taken.app = None
        _IDLE.append(taken)


class _Relay:
    """Stands for whatever it is set to: making an application takes longer than most tests."""

    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)
        self.to: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.to, name)


class _Listener:
    """A server on loopback for one test after the other."""

    def __init__(self) -> None:
        self.app: Any = None
        self._apps: dict[bool, Any] = {}
        self.blobs, self.signing = _Relay(), _Relay()
        self.library = _Relay(blobs=self.blobs)
        # The service tells every request; a test tells what it wants to know itself.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        server = uvicorn.Server(
            uvicorn.Config(self._pass_on, port=0, access_log=False, log_config=None, interface="asgi3")
        )
        thread = threading.Thread(target=server.run, daemon=True, name="urza-service")
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.01)
        self.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

        def stop() -> None:
            server.should_exit = True
            thread.join(5)

        atexit.register(stop)

    def application(self, signs: bool, change: dict[str, Any]) -> Any:
        """The service with these settings; the usual one is made once."""
        usual = not change
        if usual and signs in self._apps:
            return self._apps[signs]
        signing: Any = self.signing if signs else None
        change = dict(change)
        accepting = tokens()
        if change.pop("jwks_missing", False):
            accepting = Tokens(Keys(from_file(Path("/nowhere/jwks.json")), 300), issuer=ISSUER, audience="esper-urza")
        made = create_app(self.library, accepting, settings(**change), signing)  # type: ignore[arg-type]
        if usual:
            self._apps[signs] = made
        return made

    async def _pass_on(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await self.app(scope, receive, send)


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error; every one has the same form and names its request."""
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "trace_id"}
    assert error["trace_id"] == answer.headers["x-trace-id"]
    assert re.fullmatch("[0-9a-f]{32}", error["trace_id"])
    return answer.status_code, error["code"]
