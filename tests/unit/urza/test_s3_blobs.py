"""What only a bucket can do wrong: refuse, ignore a condition, lose, garble, be away."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

import parts
import real_s3
from esper.errors import LibraryError
from esper.objects import S3Settings
from esper.urza import BlobCorrupt, InvalidEntry, LibraryUnavailable, S3Blobs
from libraries import settings_of

DATA = b"kernel half" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
KEY = f"urza/blobs/{DIGEST[:2]}/{DIGEST}"


@pytest.fixture
def bucket() -> Iterator[real_s3.Bucket]:
    with real_s3.bucket() as made:
        yield made


@pytest.fixture
def blobs(bucket: real_s3.Bucket) -> Iterator[S3Blobs]:
    opened = S3Blobs(settings_of(bucket))
    yield opened
    opened.close()


def test_objects_are_where_the_layout_says(bucket: real_s3.Bucket, blobs: S3Blobs) -> None:
    blobs.put(DIGEST, DATA)
    stored = real_s3.client(bucket).get_object(Bucket=bucket.name, Key=KEY)["Body"].read()
    assert stored == DATA


@pytest.mark.parametrize("damage", [DATA[:-1], DATA + b"x", b"", b"X" + DATA[1:]])
def test_damage_is_seen_on_read_and_healed_by_the_next_put(
    bucket: real_s3.Bucket, blobs: S3Blobs, damage: bytes
) -> None:
    real_s3.client(bucket).put_object(Bucket=bucket.name, Key=KEY, Body=damage)
    with pytest.raises(BlobCorrupt, match="instead of"):
        blobs.get(DIGEST)
    seen = []
    with pytest.raises(BlobCorrupt):
        seen.extend(blobs.chunks(DIGEST))
    assert b"".join(seen) != damage or not damage, "what is damaged is never given out whole"
    assert blobs.put(DIGEST, DATA) is True
    assert blobs.get(DIGEST) == DATA


def test_other_objects_in_the_bucket_are_not_ours(bucket: real_s3.Bucket, blobs: S3Blobs) -> None:
    client = real_s3.client(bucket)
    for key in (
        "urza/blobs/zz/readme.txt",
        "urza/note",
        f"other/blobs/{DIGEST[:2]}/{DIGEST}",
        "urza/blobs/ab/" + "G" * 64,
    ):
        client.put_object(Bucket=bucket.name, Key=key, Body=b"mine")
    blobs.put(DIGEST, DATA)
    assert [info.digest for info in blobs.list()] == [DIGEST]


def test_listing_goes_on_after_a_page(blobs: S3Blobs) -> None:
    contents = [f"{number}".encode() for number in range(30)]
    for data in contents:
        blobs.put(hashlib.sha256(data).hexdigest(), data)
    # Pages are made small by the client's own paging, which the adapter must follow.
    pages = blobs.objects._client.get_paginator("list_objects_v2")
    blobs.objects._client.get_paginator = lambda name: _Small(pages)  # type: ignore[method-assign, assignment]
    assert [info.digest for info in blobs.list()] == sorted(hashlib.sha256(data).hexdigest() for data in contents)


class _Small:
    def __init__(self, pages: Any) -> None:
        self._pages = pages

    def paginate(self, **arguments: Any) -> Any:
        return self._pages.paginate(**arguments, PaginationConfig={"PageSize": 7})


def test_putting_again_makes_an_old_blob_young(bucket: real_s3.Bucket) -> None:
    blobs = S3Blobs(settings_of(bucket), renew_seconds=0.5)
    blobs.put(DIGEST, DATA)
    before = blobs.info(DIGEST)
    time.sleep(2.1)  # the store tells times in whole seconds
    assert blobs.put(DIGEST, DATA) is False
    after = blobs.info(DIGEST)
    assert before is not None
    assert after is not None
    assert after.modified > before.modified
    blobs.close()


def test_signed_addresses_read_and_write_one_blob_and_nothing_else(blobs: S3Blobs) -> None:
    address, headers = blobs.upload_url(DIGEST, 60)
    assert httpx.put(address, content=b"other bytes", headers=headers).status_code == 400
    assert blobs.info(DIGEST) is None
    assert httpx.put(address, content=DATA).status_code in (400, 403), "without the digest it is another request"
    assert httpx.put(address, content=DATA, headers=headers).status_code == 200
    assert httpx.put(address, content=DATA, headers=headers).status_code == 412
    assert httpx.get(blobs.download_url(DIGEST, 60)).content == DATA
    other = hashlib.sha256(b"x").hexdigest()
    blobs.put(other, b"x")
    assert httpx.get(blobs.download_url(DIGEST, 60).replace(DIGEST, other)).status_code == 403
    short = blobs.download_url(DIGEST, 1)
    time.sleep(2.1)
    assert httpx.get(short).status_code == 403
    for text in (address, short):
        assert blobs.settings.secret_key not in text


@pytest.mark.parametrize(("change", "says"), [
    ({"bucket": "nobody-made-it"}, "no such bucket"),
    ({"secret_key": "wrong"}, "refuses"),
    ({"access_key": "stranger"}, "refuses"),
    ({"endpoint": "http://127.0.0.1:1", "attempts": 1}, "is the store up"),
])  # fmt: skip
def test_what_keeps_it_from_opening_is_named_without_a_key(
    bucket: real_s3.Bucket, change: dict[str, Any], says: str
) -> None:
    settings = settings_of(bucket)
    known = {name: getattr(settings, name) for name in S3Settings.__dataclass_fields__}
    blobs = S3Blobs(S3Settings(**(known | change)))
    for action in (blobs.probe, lambda: blobs.put(DIGEST, DATA), lambda: list(blobs.list())):
        with pytest.raises(LibraryUnavailable, match=says) as failure:
            action()
        assert settings.secret_key not in f"{failure.value!r} {blobs.settings!r}"


def test_the_probe_leaves_nothing_in_a_good_store(bucket: real_s3.Bucket, blobs: S3Blobs) -> None:
    blobs.probe()
    assert real_s3.client(bucket).list_objects_v2(Bucket=bucket.name).get("KeyCount") == 0


class Careless(BaseHTTPRequestHandler):
    """A store that says yes to every put, whatever its condition and its digest."""

    honours_conditions = False
    keys: set[str] = set()  # noqa: RUF012 - shared by the handlers of one server

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = self.path in self.keys
        self.keys.add(self.path)
        self._answer(412 if known and self.honours_conditions and self.headers.get("If-None-Match") else 200)

    def do_DELETE(self) -> None:
        self._answer(204)

    def _answer(self, code: int) -> None:
        body = b"<Error><Code>PreconditionFailed</Code></Error>" if code == 412 else b""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.mark.parametrize(("conditions", "says"), [(False, "does not honour conditional puts"), (True, "checksum")])
def test_a_careless_store_is_refused(conditions: bool, says: str) -> None:
    handler = type("Handler", (Careless,), {"honours_conditions": conditions, "keys": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        blobs = S3Blobs(S3Settings("bucket", "", endpoint, access_key="a", secret_key="b", attempts=1))
        with pytest.raises(LibraryError, match=says):
            blobs.probe()
        blobs.close()
        server.shutdown()


def test_a_store_killed_and_started_again_is_used_again() -> None:
    try:
        real_s3.program()
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))
    with parts.private("s3") as home:
        facts = real_s3.start(home)
        bucket = real_s3.Bucket(facts["endpoint"], "mine", facts["access_key"], facts["secret_key"])
        real_s3.client(bucket).create_bucket(Bucket="mine")
        blobs = S3Blobs(settings_of(bucket, attempts=2))
        blobs.put(DIGEST, DATA)
        os.kill(parts.server_pid(home), signal.SIGKILL)
        parts.stop(home)
        with pytest.raises(LibraryUnavailable, match="is the store up"):
            blobs.get(DIGEST)
        real_s3.begin(home, facts)
        assert blobs.get(DIGEST) == DATA
        blobs.close()


def test_hostile_prefixes_stay_text(bucket: real_s3.Bucket) -> None:
    blobs = S3Blobs(settings_of(bucket))
    with pytest.raises(InvalidEntry):
        blobs.download_url("../" + "a" * 61, 60)
    with pytest.raises(InvalidEntry):
        blobs.upload_url("a" * 63 + "/", 60)
    blobs.close()
