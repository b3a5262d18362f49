"""An S3 server for tests: one a test run, a bucket a test.

A server that is there already is used when ``S3_ENDPOINT_URL`` names it, with the credentials of the environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

import parts

VERSION = "v1.7.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own and how to reach it."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


def program() -> Path:
    """The server, built once into the tools folder; raises ``PartMissing``."""
    folder = parts.TOOLS / f"versitygw-{VERSION}"
    parts.built(folder, "the S3 server", lambda into: parts.go_install(f"{MODULE}@{VERSION}", into))
    return folder / "versitygw"


def start(home: Path) -> dict[str, Any]:
    """Start a server in ``home``; returns its ``endpoint``, credentials and ``home``."""
    (home / "data").mkdir()
    facts = {"home": str(home), "port": parts.free_port(), "access_key": "esper", "secret_key": secrets.token_hex(16)}
    begin(home, facts)
    return facts | {"endpoint": f"http://127.0.0.1:{facts['port']}"}


def begin(home: Path, facts: dict[str, Any]) -> None:
    """Start the server of a folder that was made, on its port; waits until it takes connections."""
    parts.launch(command(home, facts["port"]), home, **environment(facts["access_key"], facts["secret_key"]))
    parts.await_ready(lambda: parts.answers(facts["port"]), home)


def command(home: Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """What starts the server over ``home/data``."""
    return [str(program()), "--port", f"{host}:{port}", "--quiet", "posix", str(home / "data")]


def environment(access_key: str, secret_key: str) -> dict[str, str]:
    """What tells the server its administrator's credentials."""
    return {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}


def server() -> dict[str, Any]:
    """The server of this test run; the test is skipped, or fails in CI, where there is none."""
    given = os.environ.get("S3_ENDPOINT_URL", "")
    if given:
        return {
            "endpoint": given,
            "access_key": os.environ.get("AWS_ACCESS_KEY_ID", ""),
            "secret_key": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        }
    try:
        return parts.shared("s3", start)
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """An empty bucket, emptied and removed at the end."""
    facts = server()
    made = Bucket(facts["endpoint"], f"esper-{secrets.token_hex(8)}", facts["access_key"], facts["secret_key"])
    s3 = client(made)
    s3.create_bucket(Bucket=made.name)
    try:
        yield made
    finally:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=made.name):
            for item in page.get("Contents", ()):
                s3.delete_object(Bucket=made.name, Key=item["Key"])
        s3.delete_bucket(Bucket=made.name)
        s3.close()


def client(of: Bucket) -> Any:
    """A client of the server, for what a test does behind the library's back."""
    return boto3.client(
        "s3", endpoint_url=of.endpoint, aws_access_key_id=of.access_key, aws_secret_access_key=of.secret_key,
        region_name=of.region, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )  # fmt: skip
