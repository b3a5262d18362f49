"""Tokens for a machine without an OIDC issuer: one Ed25519 key, its public half as a JWKS file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from esper.errors import BadInput

KEY, JWKS = "issuer.pem", "jwks.json"


def make_key(directory: Path) -> Path:
    """Write a new key, readable by its owner only, and the JWKS of its public half; returns the latter's path.

    Raises:
        BadInput: there is a key already, or the directory can't be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(private)
        public = {**_public(key), "kid": _kid(key), "use": "sig", "alg": "EdDSA"}
        (directory / JWKS).write_text(json.dumps({"keys": [public]}, indent=1) + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise BadInput(f"{directory / KEY}: there is a key already; name another directory, or remove it") from error
    except OSError as error:
        raise BadInput(f"{directory}: can't be written: {error.strerror or error}") from error
    return directory / JWKS


def sign_token(
    directory: Path,
    subject: str,
    roles: Sequence[str],
    *,
    issuer: str,
    audience: str = "esper-urza",
    seconds: float = 86_400.0,
    clock: Callable[[], float] = time.time,
) -> str:
    """A token for ``subject`` with these roles, valid for so many seconds from now.

    Raises:
        BadInput: there is no usable key in ``directory``.
    """
    path = directory / KEY
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise BadInput(
            f"{path}: can't be read: {error.strerror or error}; make one with `esper urza keygen`"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{path}: is not a key of `esper urza keygen`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path}: is not a key of `esper urza keygen`")
    now = int(clock())
    claims = {
        "iss": issuer, "aud": audience, "sub": subject, "roles": list(roles), "iat": now, "nbf": now,
        "exp": now + max(1, round(seconds)),
    }  # fmt: skip
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": _kid(key)})


def _public(key: Ed25519PrivateKey) -> dict[str, str]:
    found: dict[str, str] = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return found


def _kid(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()[:16]
