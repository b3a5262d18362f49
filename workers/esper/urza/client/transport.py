"""Requests to the service: who asks, how long to go on asking when it is away, and which error an answer stands for."""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from esper.errors import LibraryError
from esper.urza import errors
from esper.urza.blobs import CHUNK
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
        self._pool = urllib3.PoolManager(
            maxsize=settings.connections,
            block=True,
            timeout=urllib3.Timeout(connect=settings.connect, read=settings.read),
            retries=False,
            ssl_context=ssl.create_default_context(cafile=str(ca_file) if ca_file else None),
        )
        # Asked for with every request, so it is looked up once.
        self._service = self._pool.connection_from_url(self.url)
        self._root = urlsplit(self.url).path

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        read: Callable[[bytes], Any] = json.loads,
    ) -> Any:
        """What a request is answered with, as ``read`` finds it in the answer's JSON (``ValueError``: it is none).

        Raises:
            LibraryError: of the kind the service names; ``LibraryUnavailable`` when it can't be reached for too long.
        """
        content = None if body is None else _encoded(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path

        def ask() -> Any:
            data = self._checked(self._ask(method, target, content, headers)).data
            try:
                return read(data)
            except ValueError as error:
                raise LibraryError(
                    f"{self.url}: answered something that is not JSON of this version; is this the right URL?"
                ) from error

        return self.insist(ask)

    def upload(self, url: str, headers: Mapping[str, str], data: bytes | Path) -> None:
        """Put bytes where the service said; raises ``InvalidEntry`` when they do not have the digest they must."""

        def put() -> None:
            with _opened(data) as (content, size):
                answer = self._ask("PUT", url, content, {**headers, "Content-Length": str(size)})
            if url.startswith("/"):
                self._checked(answer)
            elif answer.status == 400:
                raise InvalidEntry("upload: the store got other bytes than were announced; read the artifact again")
            elif answer.status != 412 and not _success(answer):  # 412: somebody else has put the same
                raise LibraryUnavailable(f"{urlsplit(url).hostname}: the object store answered {answer.status}")

        self.insist(put)

    def download(self, url: str) -> Iterator[bytes]:
        """Bytes from where the service said; raises ``LibraryUnavailable`` when they break off."""
        try:
            answer = self._ask("GET", url, None, {}, preload_content=False)
            try:
                if not _success(answer):
                    if url.startswith("/"):
                        self._checked(answer)
                    raise LibraryUnavailable(f"{urlsplit(url).hostname}: the object store answered {answer.status}")
                yield from answer.stream(CHUNK, decode_content=False)
            finally:
                # What was not read to its end is of no further use.
                answer.close()
                answer.release_conn()
        except HTTPError as error:
            raise self._away(error) from error

    def insist(self, action: Callable[[], T]) -> T:
        """Do it, and again while the service is away, ever more slowly and no longer than ``patience``."""
        deadline = time.monotonic() + self.settings.patience
        wait = self.settings.first_wait
        while True:
            try:
                return action()
            except HTTPError as error:
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
        self._pool.clear()

    def _ask(
        self, method: str, url: str, content: Any, headers: Mapping[str, str], *, preload_content: bool = True
    ) -> urllib3.BaseHTTPResponse:
        """One attempt, at the service for a path, elsewhere for an address."""
        options: dict[str, Any] = {"redirect": False, "preload_content": preload_content}
        if not url.startswith("/"):
            # Signed addresses carry their own permission; the token is the service's business only.
            return self._pool.request(method, url, body=content, headers=dict(headers), **options)
        held = {**headers, "Authorization": f"Bearer {self._held()}"}
        return self._service.urlopen(method, self._root + url, content, held, **options)

    def _held(self) -> str:
        token = self._token()
        if not (token.isascii() and token.isprintable()):
            raise AccessDenied(f"{self.url}: the token to send has characters that no token has")
        return token

    def _checked(self, answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        if _success(answer):
            return answer
        try:
            said = json.loads(answer.data)["error"]
            code, message = str(said["code"]), f"{said['message']} (trace {said['trace_id']})"
        except (ValueError, KeyError, TypeError):
            code = NotFound.__name__ if answer.status == 404 else ""
            message = f"{self.url}: answered {answer.status} without saying why"
        if answer.status in (401, 403):
            raise AccessDenied(message)
        if answer.status in _AWAY:
            raise (TooManyRequests if answer.status == 429 else LibraryUnavailable)(message)
        kind = getattr(errors, code, LibraryError)
        raise kind(message) if isinstance(kind, type) and issubclass(kind, LibraryError) else LibraryError(message)

    def _away(self, error: HTTPError) -> LibraryUnavailable:
        what = type(error).__name__
        return LibraryUnavailable(f"{self.url}: the library's service can't be reached ({what}); is it up?")


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEntry(f"request: can't be written as JSON ({error})") from error


def _success(answer: urllib3.BaseHTTPResponse) -> bool:
    return 200 <= answer.status < 300


@contextmanager
def _opened(data: bytes | Path) -> Iterator[tuple[Any, int]]:
    """What to send, and how many bytes that is."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    else:
        yield data, len(data)
