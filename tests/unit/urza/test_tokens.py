"""Who gets in: every classic way of forging a token is refused, and when keys can't be had, everybody is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from esper.urza import AccessDenied
from esper.urza.service.tokens import (
    KNOWN_SECONDS,
    MAX_TOKEN,
    REFRESH_SECONDS,
    Keys,
    KeysUnavailable,
    Tokens,
    from_issuer,
)

ISSUER, AUDIENCE = "https://issuer.test", "esper-urza"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        shape = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        shape = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        shape = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**shape, "kid": kid, "use": "sig", **more}


PUBLISHED = [
    public(RSA, "rsa"),
    public(EC, "ec"),
    public(ED, "ed"),
    public(WEAK, "weak"),
    public(STRANGER, "for-encryption", use="enc"),
    public(RSA, "only-384", alg="RS384"),
    {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"secret" * 8).decode()},
    {"kty": "RSA", "kid": "broken", "n": "?", "e": "AQAB"},
    "not even an object",
]


def claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    # Tokens are made when the tests are collected, and may be looked at half an hour later.
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "run-1", "roles": ["trainer"], "iat": now, "exp": now + 86_400}
    return {key: value for key, value in (usual | change).items() if value is not None}


def signed(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **change: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**change), key, algorithm=algorithm, headers=headers)


def by_hand(header: dict[str, Any], body: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(body).encode())}"
    return f"{text}.{part(sign(text.encode()))}"


def with_public_key_as_secret(algorithm: str, kid: str = "rsa") -> str:
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return by_hand(
        {"alg": algorithm, "typ": "JWT", "kid": kid},
        claims(),
        lambda text: hmac.new(pem, text, hashlib.sha256).digest(),
    )


class Issuer:
    """Publishes keys, or is away; counts how often it is asked."""

    def __init__(self, keys: list[Any] | None = None) -> None:
        self.keys: Any = PUBLISHED if keys is None else keys
        self.asked, self.away, self.now = 0, False, 0.0

    def read(self) -> bytes:
        self.asked += 1
        if self.away:
            raise ConnectionRefusedError("nobody listens")
        return self.keys if isinstance(self.keys, bytes) else json.dumps({"keys": self.keys}).encode()

    def tokens(self, keep: float = 300, **change: Any) -> Tokens:
        return Tokens(
            Keys(self.read, keep, clock=lambda: self.now), **({"issuer": ISSUER, "audience": AUDIENCE} | change)
        )


@pytest.fixture
def tokens() -> Tokens:
    return Issuer().tokens()


@pytest.mark.parametrize(("key", "algorithm", "kid"), [
    (RSA, "RS256", "rsa"), (RSA, "RS512", "rsa"), (RSA, "PS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed"),
    (RSA, "RS384", "only-384"),
])  # fmt: skip
def test_a_good_token_of_each_kind_gets_in(tokens: Tokens, key: Any, algorithm: str, kid: str) -> None:
    caller = tokens.verify(signed(key, algorithm, kid))
    assert (caller.subject, caller.roles) == ("run-1", {"trainer"})


@pytest.mark.parametrize(("token", "why"), [
    ("", "JWT"),
    ("abc", "JWT"),
    ("a.b.c", "JWT"),
    ("a" * (MAX_TOKEN + 1), "longer"),
    (by_hand({"alg": "none", "kid": "rsa"}, claims(), lambda _: b""), "algorithm"),
    (by_hand({"alg": "None", "kid": "rsa"}, claims(), lambda _: b""), "algorithm"),
    (by_hand({"alg": "nOnE", "kid": "shared"}, claims(), lambda _: b""), "does not publish"),
    (by_hand({"kid": "rsa"}, claims(), lambda _: b""), "header"),
    (by_hand({"alg": ["RS256"], "kid": "rsa"}, claims(), lambda _: b""), "header|JWT"),
    (by_hand({"alg": "RS256", "kid": ["rsa"]}, claims(), lambda _: b""), "header|JWT"),
    (by_hand({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": False}, claims(), lambda _: b""), "header|JWT"),
    (with_public_key_as_secret("HS256"), "algorithm"),
    (with_public_key_as_secret("HS384", "ec"), "algorithm"),
    (jwt.encode(claims(), b"secret" * 8, algorithm="HS256", headers={"kid": "shared"}), "does not publish"),
    (signed(STRANGER), "InvalidSignature"),
    (signed(EC, "ES256", "rsa"), "algorithm"),
    (signed(RSA, "RS256", "ec"), "algorithm"),
    (signed(RSA, "RS256", "only-384"), "algorithm"),
    (signed(STRANGER, "RS256", "for-encryption"), "does not publish"),
    (signed(WEAK, "RS256", "weak"), "does not publish"),
    (signed(kid="unheard-of"), "does not publish"),
    (signed(kid=None), "header"),
    (signed(kid="../../etc/passwd"), "does not publish"),
    (signed(aud="somebody-else"), "InvalidAudience"),
    (signed(aud=["a", "b"]), "InvalidAudience"),
    (signed(aud=None), "MissingRequiredClaim"),
    (signed(iss="https://evil.test"), "InvalidIssuer"),
    (signed(iss=None), "MissingRequiredClaim"),
    (signed(exp=int(time.time()) - 60), "ExpiredSignature"),
    (signed(exp=None), "MissingRequiredClaim"),
    (signed(nbf=int(time.time()) + 86_000), "ImmatureSignature"),
    (signed(iat=int(time.time()) + 86_000), "ImmatureSignature"),
    (signed(sub=None), "MissingRequiredClaim"),
    (signed(sub=""), "subject"),
    (signed(sub="x" * 513), "subject"),
    (signed()[:-6] + "AAAAAA", "InvalidSignature|JWT"),
])  # fmt: skip
def test_classic_attacks_are_refused(tokens: Tokens, token: str, why: str) -> None:
    with pytest.raises(AccessDenied, match=why) as refusal:
        tokens.verify(token)
    if len(token) > 40:
        assert token[:40] not in str(refusal.value), "a token is a secret"


def test_a_changed_body_does_not_fit_its_signature(tokens: Tokens) -> None:
    header, _, signature = signed().split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(roles=["admin"])).encode()).rstrip(b"=").decode()
    with pytest.raises(AccessDenied, match="InvalidSignature"):
        tokens.verify(f"{header}.{body}.{signature}")


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    tokens = Issuer().tokens(leeway_seconds=30)
    assert tokens.verify(signed(exp=int(time.time()) - 10)).subject == "run-1"
    with pytest.raises(AccessDenied):
        tokens.verify(signed(exp=int(time.time()) - 40))


@pytest.mark.parametrize(("said", "roles"), [
    (["reader", "worker"], {"reader", "worker"}), ("admin", set()), (["root", 1, None, "reader"], {"reader"}),
    ({"admin": True}, set()), (None, set()), ([], set()),
])  # fmt: skip
def test_roles_are_those_known_and_listed(tokens: Tokens, said: Any, roles: set[str]) -> None:
    assert tokens.verify(signed(roles=said)).roles == roles


def test_roles_can_be_given_by_subject_and_by_another_claim() -> None:
    subject = "system:serviceaccount:esper:trainer"
    tokens = Issuer().tokens(subjects={subject: ["trainer", "root"]}, roles_claim="groups")
    assert tokens.verify(signed(sub=subject, roles=["admin"])).roles == {"trainer"}
    assert tokens.verify(signed(groups=["reader"])).roles == {"reader"}


def test_while_keys_cannot_be_had_nobody_gets_in_and_afterwards_they_do() -> None:
    issuer = Issuer()
    issuer.away = True
    tokens = issuer.tokens()
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            tokens.verify(signed())
    assert issuer.asked == 1, "an issuer in trouble is not hammered"
    issuer.away = False
    issuer.now += REFRESH_SECONDS
    assert tokens.verify(signed()).subject == "run-1"


def test_fetched_keys_serve_for_their_time_and_not_longer() -> None:
    issuer = Issuer()
    tokens = issuer.tokens(keep=300)
    tokens.verify(signed())
    issuer.away = True
    issuer.now = 299
    assert tokens.verify(signed()).subject == "run-1"
    issuer.now = 301
    with pytest.raises(KeysUnavailable):
        tokens.verify(signed())
    with pytest.raises(KeysUnavailable):
        tokens.keys.check()


def test_a_token_seen_before_is_forgotten_with_its_key_its_end_and_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = Issuer([public(RSA, "rsa")])
    tokens = issuer.tokens(leeway_seconds=0)
    token, other = signed(exp=int(time.time()) + 600), signed(sub="other")
    assert tokens.known(token) is None
    caller = tokens.verify(token)
    assert tokens.known(token) == caller
    assert tokens.known(other) is None
    issuer.now = 301
    assert tokens.known(token) is None, "keys that are too old vouch for nobody"
    issuer.keys = [public(ED, "ed")]
    tokens.keys.check()
    assert tokens.known(token) is None, "nor does a key that was withdrawn"
    issuer.keys, issuer.now = [public(RSA, "rsa")], 1000
    assert tokens.verify(token) == tokens.known(token)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 601)
    assert tokens.known(token) is None, "it has ended"
    monkeypatch.setattr(time, "time", real)
    assert tokens.known(token) is not None
    later = time.monotonic() + KNOWN_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert tokens.known(token) is None, "looked at again now and then"


def test_a_new_key_is_found_and_strangers_cannot_make_us_ask_all_the_time() -> None:
    issuer = Issuer([public(RSA, "rsa")])
    tokens = issuer.tokens()
    tokens.verify(signed())
    for number in range(20):
        with pytest.raises(AccessDenied):
            tokens.verify(signed(kid=f"made-up-{number}"))
    assert issuer.asked == 1
    issuer.keys = [public(ED, "ed")]
    issuer.now += REFRESH_SECONDS
    assert tokens.verify(signed(ED, "EdDSA", "ed")).subject == "run-1"
    with pytest.raises(AccessDenied, match="does not publish"):
        tokens.verify(signed())


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"keys": {}}', b"<html>", b'{"keys": ["x"', b"\xff"])
def test_an_issuer_that_talks_nonsense_is_away(answer: bytes) -> None:
    issuer = Issuer()
    issuer.keys = answer
    with pytest.raises(KeysUnavailable):
        issuer.tokens().verify(signed())


def test_published_private_keys_are_nobodys() -> None:
    shape = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
    with pytest.raises(AccessDenied, match="does not publish"):
        Issuer([{**shape, "kid": "rsa"}]).tokens().verify(signed())


def test_an_issuer_nobody_answers_for_is_away() -> None:
    for read in (from_issuer("http://127.0.0.1:1"), from_issuer(ISSUER, "http://127.0.0.1:1/keys")):
        with pytest.raises(KeysUnavailable):
            Tokens(Keys(read, 300), issuer=ISSUER, audience=AUDIENCE).verify(signed())
