"""Where a bucket is and how it is reached."""

from __future__ import annotations

import re
from dataclasses import dataclass

from esper.errors import BadInput

_PLACE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9!_.*'()/-]*))?")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A bucket, a prefix in it, and who asks.

    ``endpoint``: address of the store, empty for the provider's own. Without keys the environment's credentials are
    used (variables, profile, or the machine's role). ``connect_seconds`` and ``read_seconds`` bound one attempt of
    ``attempts``.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""
    connect_seconds: float = 3.0
    read_seconds: float = 30.0
    attempts: int = 3

    def __repr__(self) -> str:
        """Names the place; a key is never written out."""
        return f"S3Settings({self.endpoint or 'default endpoint'}, bucket {self.bucket!r}, prefix {self.prefix!r})"


def place_of(url: str) -> tuple[str, str]:
    """Bucket and prefix (empty, or with a slash at its end) of ``s3://bucket/prefix``.

    Raises:
        BadInput: it is no such address.
    """
    match = _PLACE.fullmatch(url)
    parts = (match["prefix"] or "").rstrip("/").split("/") if match else []
    if match is None or (parts != [""] and any(part in ("", ".", "..") for part in parts)):
        raise BadInput(
            f"{url!r} is no place in a bucket; write s3://BUCKET/PREFIX, such as s3://esper-runs/team-a/mnist1d"
        )
    prefix = "/".join(parts)
    return match["bucket"], f"{prefix}/" if prefix else ""
