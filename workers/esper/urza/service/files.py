"""Bytes in and out of the service: signed addresses where a store can be asked directly, streams where it can't."""

from __future__ import annotations

import base64
import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from anyio import to_thread
from fastapi import Response
from starlette.responses import StreamingResponse

from esper.urza import wire
from esper.urza.blobs import BlobStore, check_digest, refused
from esper.urza.errors import BlobMissing
from esper.urza.library import ArtifactFile

_IN_MEMORY = 1 << 20


@runtime_checkable
class Signing(Protocol):
    """A store that can let others read or write one blob for a while."""

    def download_url(self, digest: str, seconds: int) -> str:
        """An address to read it from."""

    def upload_url(self, digest: str, seconds: int) -> tuple[str, dict[str, str]]:
        """An address to write it to, and headers to send along."""


class Files:
    """Serves the blobs of a library.

    ``signing`` gives addresses clients can use, ``None`` has everything go through the service. Files of at most
    ``inline_bytes`` come inside an answer, from ``cache_bytes`` of memory.
    """

    def __init__(
        self, blobs: BlobStore, signing: Signing | None, *, url_seconds: int, inline_bytes: int, cache_bytes: int
    ) -> None:
        self._blobs, self._signing = blobs, signing
        self._seconds, self._inline = url_seconds, inline_bytes
        self._cache = _Cache(cache_bytes)

    def missing(self, files: Sequence[ArtifactFile]) -> list[dict[str, Any]]:
        """Which of these files are not stored, and where to put each."""
        wanted = {}
        for file in files:
            if file.digest not in wanted and self._blobs.info(file.digest) is None:
                wanted[file.digest] = file
        return [self._upload(file) for file in wanted.values()]

    def shipped(self, file: ArtifactFile) -> dict[str, Any]:
        """A file with its bytes, or with the address they are at."""
        known: dict[str, Any] = {"name": file.name, "digest": file.digest, "size": file.size}
        if file.size <= self._inline:
            known["content"] = base64.b64encode(self._small(file.digest)).decode("ascii")
        elif self._signing is not None:
            known["url"] = self._signing.download_url(file.digest, self._seconds)
        else:
            known["url"] = f"{wire.ROOT}/blobs/{file.digest}"
        return known

    async def receive(self, digest: str, pieces: AsyncIterator[bytes]) -> bool:
        """Store an upload; returns whether it was new. Raises ``InvalidEntry`` when it has another digest."""
        check_digest(digest)
        total = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as held:
            size = 0
            async for piece in pieces:
                total.update(piece)
                size += len(piece)
                if size > _IN_MEMORY:
                    await to_thread.run_sync(held.write, piece)
                else:
                    held.write(piece)
            # Nothing reaches the store before it is known to be what it claims to be.
            if total.hexdigest() != digest:
                raise refused(digest, total.hexdigest())
            held.seek(0)
            if size <= _IN_MEMORY:
                return await to_thread.run_sync(self._blobs.put, digest, held.read())
            return await to_thread.run_sync(self._put_file, digest, held)

    def send(self, digest: str) -> Response:
        """The bytes of a blob, piece by piece; a damaged one breaks off before its end."""
        known = self._blobs.info(check_digest(digest))
        if known is None:
            raise BlobMissing(f"blob {digest}: not stored")
        pieces = self._blobs.chunks(digest)
        first = next(pieces, b"")

        def rest() -> Iterator[bytes]:
            yield first
            yield from pieces

        return StreamingResponse(
            rest(), headers={"Content-Length": str(known.size)}, media_type="application/octet-stream"
        )

    def _upload(self, file: ArtifactFile) -> dict[str, Any]:
        if self._signing is None:
            return {"digest": file.digest, "url": f"{wire.ROOT}/blobs/{file.digest}", "headers": {}}
        url, headers = self._signing.upload_url(file.digest, self._seconds)
        return {"digest": file.digest, "url": url, "headers": headers}

    def _small(self, digest: str) -> bytes:
        data = self._cache.get(digest)
        if data is None:
            data = self._blobs.get(digest)
            self._cache.put(digest, data)
        return data

    def _put_file(self, digest: str, held: Any) -> bool:
        with tempfile.NamedTemporaryFile() as file:
            while piece := held.read(_IN_MEMORY):
                file.write(piece)
            file.flush()
            return self._blobs.put(digest, Path(file.name))


class _Cache:
    """Small verified blobs, the least used ones dropped first. What a digest names never changes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str) -> bytes | None:
        with self._lock:
            data = self._held.get(digest)
            if data is not None:
                self._held.move_to_end(digest)
            return data

    def put(self, digest: str, data: bytes) -> None:
        with self._lock:
            if digest in self._held or len(data) > self._limit:
                return
            self._held[digest] = data
            self._size += len(data)
            while self._size > self._limit:
                _, dropped = self._held.popitem(last=False)
                self._size -= len(dropped)
