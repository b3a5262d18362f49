"""Requests to the service: who asks, how long to go on asking when it is away, and which error an answer stands for."""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from esper.errors import LibraryError
from esper.urza import errors
from esper.urza.errors import AccessDenied, InvalidEntry, LibraryUnavailable, NotFound, TooManyRequests

T = TypeVar("T")

_AWAY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How patient a client is. All times in seconds.

    ``patience`` bounds one call with all its repetitions; ``connect`` and ``read`` one attempt. Repetitions wait
    ``first_wait``, then twice as long each time up to ``longest_wait``, give or take half.
    """

    patience: float = 30.0
    connect: float = 3.0
    read: float = 30.0
    first_wait: float = 0.05
    longest_wait: float = 2.0
    connections: int = 16


def token_from_file(path: Path | str) -> Callable[[], str]:
    """Reads a token from a file each time, because whoever put it there replaces it before it ends."""

    def read() -> str:
        try:
            return Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AccessDenied(f"{path}: holds no token that can be read ({type(error).__name__})") from error

    return read


class Transport:
    """HTTP to one service; safe to use from any thread.

    Everything the library's service does may be repeated, so what got no answer is simply asked again.
    """

    def __init__(
        self, url: str, token: Callable[[], str], settings: TransportSettings, ca_file: Path | None = None
    ) -> None:
        self.url, self._token, self.settings = url.rstrip("/"), token, settings
        options: dict[str, Any] = {
            "timeout": httpx.Timeout(settings.read, connect=settings.connect),
            "limits": httpx.Limits(
                max_connections=settings.connections, max_keepalive_connections=settings.connections,
                keepalive_expiry=20.0,
            ),
            "follow_redirects": False,
            "trust_env": False,
        }  # fmt: skip
        options["verify"] = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        self._service = httpx.Client(base_url=self.url, **options)
        # Signed addresses carry their own permission; the token is the service's business only.
        self._store = httpx.Client(**options)

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """The JSON a request is answered with.

        Raises:
            LibraryError: of the kind the service names; ``LibraryUnavailable`` when it can't be reached for too long.
        """
        content = None if body is None else _encoded(body)
        headers = {} if content is None else {"Content-Type": "application/json"}

        def ask() -> Any:
            held = headers | self._authorization()
            answer = self._service.request(
                method, path, content=content, headers=held, params=dict(query or {}) or None
            )
            return _parsed(self._checked(answer))

        return self.insist(ask)

    def upload(self, url: str, headers: Mapping[str, str], data: bytes | Path) -> None:
        """Put bytes where the service said; raises ``InvalidEntry`` when they do not have the digest they must."""

        def put() -> None:
            client, own = (self._service, self._authorization()) if url.startswith("/") else (self._store, {})
            with _opened(data) as content:
                answer = client.put(url, content=content, headers={**headers, **own})
            if url.startswith("/"):
                self._checked(answer)
            elif answer.status_code == 400:
                raise InvalidEntry("upload: the store got other bytes than were announced; read the artifact again")
            elif answer.status_code != 412 and not answer.is_success:  # 412: somebody else has put the same
                raise LibraryUnavailable(f"{httpx.URL(url).host}: the object store answered {answer.status_code}")

        self.insist(put)

    def download(self, url: str) -> Iterator[bytes]:
        """Bytes from where the service said; raises ``LibraryUnavailable`` when they break off."""
        client, own = (self._service, self._authorization()) if url.startswith("/") else (self._store, {})
        try:
            with client.stream("GET", url, headers=own) as answer:
                if url.startswith("/") and not answer.is_success:
                    answer.read()
                    self._checked(answer)
                if not answer.is_success:
                    raise LibraryUnavailable(f"{httpx.URL(url).host}: the object store answered {answer.status_code}")
                yield from answer.iter_raw()
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def insist(self, action: Callable[[], T]) -> T:
        """Do it, and again while the service is away, ever more slowly and no longer than ``patience``."""
        deadline = time.monotonic() + self.settings.patience
        wait = self.settings.first_wait
        while True:
            try:
                return action()
            except httpx.HTTPError as error:
                failure: LibraryUnavailable = self._away(error)
            except LibraryUnavailable as error:
                failure = error
            pause = wait * random.uniform(0.5, 1.5)
            if time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)
            wait = min(2 * wait, self.settings.longest_wait)

    def close(self) -> None:
        """Close idle connections."""
        self._service.close()
        self._store.close()

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        try:
            said = answer.json()["error"]
            code, message = str(said["code"]), f"{said['message']} (trace {said['trace_id']})"
        except (ValueError, KeyError, TypeError):
            code = NotFound.__name__ if answer.status_code == 404 else ""
            message = f"{self.url}: answered {answer.status_code} without saying why"
        if answer.status_code in (401, 403):
            raise AccessDenied(message)
        if answer.status_code in _AWAY:
            raise (TooManyRequests if answer.status_code == 429 else LibraryUnavailable)(message)
        kind = getattr(errors, code, LibraryError)
        raise kind(message) if isinstance(kind, type) and issubclass(kind, LibraryError) else LibraryError(message)

    def _away(self, error: httpx.HTTPError) -> LibraryUnavailable:
        what = type(error).__name__
        return LibraryUnavailable(f"{self.url}: the library's service can't be reached ({what}); is it up?")


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEntry(f"request: can't be written as JSON ({error})") from error


def _parsed(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise LibraryError(f"{answer.url.host}: answered something that is not JSON; is this the right URL?") from error


@contextmanager
def _opened(data: bytes | Path) -> Iterator[Any]:
    if isinstance(data, Path):
        with data.open("rb") as file:
            yield file
    else:
        yield data
