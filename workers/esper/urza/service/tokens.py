"""Who is calling: bearer tokens of an OIDC issuer, checked against its published keys.

Only signatures made with a private key count (RS, PS, ES, EdDSA): a key that is public can't be a shared secret, so
there is no HS, and there is no ``none``. The kind of key decides which algorithms it may be used with, not the token.
When the issuer's keys can't be had, nobody is let in: that is ``KeysUnavailable``, which callers may try again after.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.exceptions import InvalidTokenError, PyJWTError

from esper.urza.errors import AccessDenied, LibraryUnavailable

ROLES = ("reader", "trainer", "worker", "admin")
MAX_TOKEN = 16 << 10
MAX_KEYS_BYTES = 1 << 20
FETCH_SECONDS = 5.0
KNOWN_TOKENS = 4096
KNOWN_SECONDS = 30.0
"""How many verified tokens are remembered, and for how long: a caller sends the same one with every request."""
REFRESH_SECONDS = 10.0
"""How long an unknown key id, or an issuer that was away, waits before the keys are fetched again."""
_ALGORITHMS: Mapping[str, frozenset[str]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "OKP": frozenset({"EdDSA"}),
}
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_SMALLEST_RSA = 2048


class KeysUnavailable(LibraryUnavailable):
    """The issuer's keys can't be had now, so nobody can be recognised."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, and as what."""

    subject: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Key:
    key: Any
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Verified:
    """``expires`` by the wall clock, as the token says; ``until`` is when this is forgotten."""

    caller: Caller
    kid: str
    expires: float
    until: float


@dataclass(slots=True)
class _Known:
    keys: Mapping[str, _Key] = field(default_factory=dict)
    fetched: float = float("-inf")
    tried: float = float("-inf")
    problem: str = "they were never fetched"


class Keys:
    """The issuer's public keys, from where they are published or from a file; kept for ``keep_seconds``.

    ``clock`` counts seconds; it decides only when to ask again.
    """

    def __init__(
        self, read: Callable[[], bytes], keep_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._keep, self._clock = read, keep_seconds, clock
        self._known = _Known()
        self._lock = threading.Lock()

    def ready(self, kid: str) -> bool:
        """Whether ``find`` answers without asking the issuer."""
        known = self._known
        return kid in known.keys and self._clock() < known.fetched + self._keep

    def find(self, kid: str) -> _Key:
        """The key of this id.

        Raises:
            KeysUnavailable: the issuer can't be asked.
            AccessDenied: it has no such key.
        """
        if not self.ready(kid):
            self._refresh(kid)
        known = self._known
        if self._clock() >= known.fetched + self._keep:
            raise KeysUnavailable(f"the issuer's keys can't be had ({known.problem}); try again")
        if kid not in known.keys:
            raise AccessDenied("token: signed with a key its issuer does not publish")
        return known.keys[kid]

    def check(self) -> None:
        """Make sure there are keys; raises ``KeysUnavailable``."""
        if self._clock() >= self._known.fetched + self._keep:
            self._refresh("")
        if self._clock() >= self._known.fetched + self._keep:
            raise KeysUnavailable(f"the issuer's keys can't be had ({self._known.problem})")

    def _refresh(self, kid: str) -> None:
        with self._lock:
            now = self._clock()
            # Somebody else has just done it, or just failed to: strangers can't make us hammer the issuer.
            if self.ready(kid) or now < self._known.tried + REFRESH_SECONDS:
                return
            before = self._known
            try:
                keys = _parse(self._read())
            except (OSError, ValueError, httpx.HTTPError, ssl.SSLError, PyJWTError) as error:
                problem = f"{type(error).__name__}"
                self._known = _Known(before.keys, before.fetched, now, problem)
                return
            self._known = _Known(keys, now, now, "")


class Tokens:
    """Turns a bearer token into a caller, or refuses it."""

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str,
        audience: str,
        leeway_seconds: float = 10.0,
        roles_claim: str = "roles",
        subjects: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.keys = keys
        self._issuer, self._audience, self._leeway = issuer, audience, leeway_seconds
        self._claim, self._subjects = roles_claim, dict(subjects or {})
        self._verified: dict[bytes, _Verified] = {}

    def known(self, token: str) -> Caller | None:
        """Who a token stands for that was verified a moment ago, has not ended, and whose key is still published."""
        found = self._verified.get(_name_of(token))
        if found is None or found.until < time.monotonic() or found.expires < time.time():
            return None
        return found.caller if self.keys.ready(found.kid) else None

    def key_id(self, token: str) -> str:
        """The id of the key a token says it was signed with; raises ``AccessDenied``."""
        return self._header(token)[0]

    def verify(self, token: str) -> Caller:
        """Who a token stands for.

        Raises:
            AccessDenied: anything is wrong with it; the message does not quote it.
            KeysUnavailable: the issuer's keys can't be had.
        """
        kid, algorithm = self._header(token)
        key = self.keys.find(kid)
        if algorithm not in key.algorithms:
            raise AccessDenied("token: its algorithm is not one its key is for")
        try:
            claims = jwt.decode(
                token, key.key, algorithms=[algorithm], audience=self._audience, issuer=self._issuer,
                leeway=self._leeway, options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
        except InvalidTokenError as error:
            raise AccessDenied(f"token: {type(error).__name__.removesuffix('Error')}; ask for a new one") from error
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= 512:
            raise AccessDenied("token: its subject is not a name")
        said = claims.get(self._claim, ())
        listed = said if isinstance(said, list) else ()
        roles = frozenset(role for role in (*listed, *self._subjects.get(subject, ())) if role in ROLES)
        caller = Caller(subject, roles)
        if len(self._verified) >= KNOWN_TOKENS:
            self._verified.clear()
        ends = float(claims["exp"]) + self._leeway
        self._verified[_name_of(token)] = _Verified(caller, kid, ends, time.monotonic() + KNOWN_SECONDS)
        return caller

    def _header(self, token: str) -> tuple[str, str]:
        if len(token) > MAX_TOKEN:
            raise AccessDenied(f"token: longer than {MAX_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (InvalidTokenError, ValueError, RecursionError) as error:
            raise AccessDenied("token: is not a JWT") from error
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(kid, str) or not kid or not isinstance(algorithm, str) or "crit" in header:
            raise AccessDenied("token: its header does not name key and algorithm, or demands what is not understood")
        return kid, algorithm


def _name_of(token: str) -> bytes:
    """What a token is remembered by: not itself."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def from_file(path: Path) -> Callable[[], bytes]:
    """Reads keys from a file."""
    return path.read_bytes


def from_issuer(
    issuer: str, url: str = "", ca_file: Path | None = None, token_file: Path | None = None
) -> Callable[[], bytes]:
    """Fetches keys from ``url``, or from where the issuer's discovery document says."""

    def fetch() -> bytes:
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"} if token_file else {}
        with httpx.Client(timeout=FETCH_SECONDS, verify=verify, headers=headers) as client:
            address = url
            if not address:
                document = json.loads(_limited(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration"))
                if not isinstance(document, dict) or document.get("issuer") != issuer:
                    raise ValueError("the discovery document is another issuer's")
                address = str(document.get("jwks_uri", ""))
            return _limited(client, address)

    return fetch


def _limited(client: httpx.Client, url: str) -> bytes:
    with client.stream("GET", url) as answer:
        answer.raise_for_status()
        data = b""
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > MAX_KEYS_BYTES:
                raise ValueError("the answer is too long")
        return data


def _parse(data: bytes) -> Mapping[str, _Key]:
    """The keys of a JWKS that may sign tokens; others (encryption keys, shared secrets, weak ones) are left out."""
    document = json.loads(data)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a key set")
    found: dict[str, _Key] = {}
    for entry in document["keys"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
            continue
        kind = entry.get("kty")
        if kind not in ("RSA", "EC", "OKP") or "d" in entry:
            continue  # a private key that was published is nobody's any more
        try:
            key = jwt.PyJWK(entry).key
        except (PyJWTError, ValueError):
            continue  # a kind of key this does not know is no reason to refuse those it does
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < _SMALLEST_RSA:
            continue
        usable = _ALGORITHMS.get(kind, frozenset())
        if isinstance(key, ec.EllipticCurvePublicKey):
            usable = frozenset({_CURVES[key.curve.name]}) if key.curve.name in _CURVES else frozenset()
        if "alg" in entry:
            usable &= {entry["alg"]}
        if usable:
            found[entry["kid"]] = _Key(key, usable)
    return found
