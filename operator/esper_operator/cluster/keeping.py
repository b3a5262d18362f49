"""Puts keys into Secrets that are empty, and their public halves where everybody looks; keys that are there stay.

The chart makes the Secrets and ConfigMaps, so that this may be allowed to read and change those by name and no others.
Any number may run at once or be killed at any time: the first to fill a Secret has decided, and all tell the same.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.client import CoreV1Api
from kubernetes.client.exceptions import ApiException

CONFLICT = 409
TRIES = 5
Public = Mapping[str, str]


class KeysError(Exception):
    """Keys can't be put where they belong; says which and why."""


@dataclass(frozen=True)
class Wanted:
    """A Secret and the files it is made of, by its keys."""

    namespace: str
    secret: str
    files: Mapping[str, Path]


def kept(what: Wanted, there: Mapping[str, str]) -> dict[str, bytes] | None:
    """What a Secret holds, decoded; None when it is empty.

    Raises:
        KeysError: it holds a part of what it should: nobody may guess the rest.
    """
    if not there:
        return None
    missing = sorted(set(what.files) - set(there))
    if missing:
        raise KeysError(
            f"Secret {what.namespace}/{what.secret}: has no {', '.join(missing)}; add it, or delete the Secret, "
            "upgrade the release and have new keys made"
        )
    try:
        return {name: base64.b64decode(there[name], validate=True) for name in what.files}
    except binascii.Error as error:
        raise KeysError(f"Secret {what.namespace}/{what.secret}: is not base64") from error


def fill(core: CoreV1Api, what: Wanted) -> dict[str, bytes]:
    """What the Secret holds then; from the files if it held nothing."""
    for _ in range(TRIES):
        secret = _asked("Secret", core.read_namespaced_secret, what.namespace, what.secret)
        held = kept(what, secret.data or {})
        if held is not None:
            return held
        made = {name: path.read_bytes() for name, path in what.files.items()}
        body = {
            "metadata": {"resourceVersion": secret.metadata.resource_version},
            "data": {name: base64.b64encode(data).decode() for name, data in made.items()},
        }
        try:
            core.patch_namespaced_secret(what.secret, what.namespace, body)
        except ApiException as error:
            if error.status == CONFLICT:
                continue  # somebody else was faster: theirs is the key
            raise KeysError(f"Secret {what.namespace}/{what.secret}: {error.status} {error.reason}") from error
        return made
    raise KeysError(f"Secret {what.namespace}/{what.secret}: changed {TRIES} times while it was to be filled")


def tell(core: CoreV1Api, namespace: str, name: str, public: Public) -> None:
    """Make a ConfigMap hold exactly this."""
    there = _asked("ConfigMap", core.read_namespaced_config_map, namespace, name).data or {}
    gone: dict[str, str | None] = dict.fromkeys(set(there) - set(public))
    if gone or there != public:
        try:
            core.patch_namespaced_config_map(name, namespace, {"data": gone | dict(public)})
        except ApiException as error:
            raise KeysError(f"ConfigMap {namespace}/{name}: {error.status} {error.reason}") from error


def joined(documents: Sequence[bytes]) -> str:
    """Public keys that vouch for kernels, of several files as one: all that is in any of them, by purpose."""
    found: dict[str, set[str]] = {}
    for document in documents:
        for purpose, keys in json.loads(document).items():
            found.setdefault(purpose, set()).update(keys)
    return json.dumps({purpose: sorted(found[purpose]) for purpose in sorted(found)}, indent=1) + "\n"


def told(core: CoreV1Api, namespace: str, name: str, key: str) -> list[bytes]:
    """What a ConfigMap says under a key, if anything."""
    there = _asked("ConfigMap", core.read_namespaced_config_map, namespace, name).data or {}
    return [there[key].encode()] if key in there else []


def _asked(what: str, ask: Callable[[str, str], Any], namespace: str, name: str) -> Any:
    try:
        return ask(name, namespace)
    except ApiException as error:
        raise KeysError(
            f"{what} {namespace}/{name}: can't be read ({error.status} {error.reason}); does the release have it?"
        ) from error
