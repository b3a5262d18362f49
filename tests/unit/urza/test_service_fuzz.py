"""Anything at all, sent to every path of the OpenAPI document: never a failure of the service, always the one form.

``ESPER_FUZZ`` says how many requests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import services
from esper.urza import S3Blobs, SqlLibrary
from libraries import HARDWARE, TOOLCHAIN, VECTOR, design, places, stock

NASTY = [
    "", "\0", "..", "../../etc/passwd", "/etc/passwd", "'; DROP TABLE artifacts; --", "' OR '1'='1", "%00", "%2e%2e%2f",
    "\ud800", "\u202e", "a" * 600, "-1", "1e999", "NaN", "null", "${jndi:ldap://x}", "{{7*7}}", "\r\nX-Evil: 1", "mlp",
    "run", HARDWARE, TOOLCHAIN, "fast", "Validated", "0" * 64,
]  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.sampled_from([0, -1, 1 << 63, 10**400, 1e308, -0.0]),
)
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(max_size=40))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A service on PostgreSQL and S3 with something in it; its address and ids that exist."""
    tmp = tmp_path_factory.mktemp("fuzz")
    with places(own=True) as (url, bucket):
        library = SqlLibrary(url, S3Blobs(bucket))
        known = stock(library, tmp)
        with services.running(library) as address:
            yield address, known
        library.close()


def shaped(
    schema: Mapping[str, Any], parts: Mapping[str, Any], known: list[str], depth: int = 0
) -> st.SearchStrategy[Any]:
    """Values of a JSON schema, or nearly: now and then something else altogether."""
    if "$ref" in schema:
        return shaped(parts[schema["$ref"].rsplit("/", 1)[1]], parts, known, depth + 1)
    if "anyOf" in schema:
        return st.one_of(*(shaped(each, parts, known, depth + 1) for each in schema["anyOf"]))
    match schema.get("type"):
        case "object" if "properties" in schema:
            needed = set(schema.get("required", ()))
            fields = {name: shaped(each, parts, known, depth + 1) for name, each in schema["properties"].items()}
            right: st.SearchStrategy[Any] = st.fixed_dictionaries(
                {name: field for name, field in fields.items() if name in needed},
                optional={name: field for name, field in fields.items() if name not in needed},
            )
        case "object":
            right = st.one_of(st.just(VECTOR.to_dict()), st.just(design().to_dict()), st.dictionaries(TEXTS, ANYTHING))
        case "array":
            right = st.lists(shaped(schema.get("items", {}), parts, known, depth + 1), max_size=4)
        case "string":
            right = st.one_of(st.sampled_from([*known, "mlp", "run", HARDWARE]), TEXTS)
        case "integer" | "number":
            right = st.one_of(st.integers(0, 500), st.floats(0, 1), NUMBERS)
        case "boolean":
            right = st.booleans()
        case "null":
            right = st.none()
        case _:
            right = ANYTHING
    # Wrong in one place at most times: what is wrong everywhere is refused at the first.
    return right if depth > 2 else st.integers(0, 11).flatmap(lambda roll: ANYTHING if roll == 0 else right)


def written(value: Any) -> bytes:
    return json.dumps(value).encode("ascii")


def test_nothing_makes_the_service_fail(stocked: tuple[str, list[str]]) -> None:
    address, known = stocked
    client = httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {services.token()}"}, timeout=30, trust_env=False
    )
    document = client.get("/openapi.json").json()
    parts = document["components"]["schemas"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in sorted(methods.items())
        if path.startswith("/api/")
    ]
    seen: set[int] = set()

    @settings(
        max_examples=int(os.environ.get("ESPER_FUZZ", "300")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(data=st.data())
    def anything(data: st.DataObject) -> None:
        method, path, operation = data.draw(st.sampled_from(operations))
        query: list[tuple[str, str]] = []
        for parameter in operation.get("parameters", ()):
            value = data.draw(st.one_of(st.sampled_from(known), st.sampled_from(known), TEXTS, NUMBERS.map(str)))
            text = value.encode("utf-8", "surrogatepass")
            if parameter["in"] == "path":
                path = path.replace("{" + parameter["name"] + "}", quote(text, safe=""))
            elif data.draw(st.booleans()):
                query.append((quote(parameter["name"]), quote(text, safe="")))
        content = None
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            content = data.draw(st.one_of(shaped(schema, parts, known).map(written), st.binary(max_size=30)))
        elif method == "PUT":
            content = data.draw(st.binary(max_size=2000))
        address_of = f"{path}?{'&'.join('='.join(pair) for pair in query)}" if query else path
        answer = client.request(method, address_of, content=content, headers={"Content-Type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code < 500, (method, address_of, content, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"code", "message", "trace_id"}

    anything()
    client.close()
    assert {200, 422, 404} <= seen, "some of it was right, some malformed, some not there"
