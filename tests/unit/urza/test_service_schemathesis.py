"""Schemathesis over the OpenAPI document: what the document allows and what it forbids, and never a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

import services
from esper.urza import S3Blobs, SqlLibrary
from libraries import places, stock

OPERATIONS = 25
"""At least; a document that lost most of them would pass everything."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service on PostgreSQL and S3 with something in it."""
    with places(own=True) as (url, bucket):
        library = SqlLibrary(url, S3Blobs(bucket))
        stock(library, tmp_path_factory.mktemp("schemathesis"))
        with services.running(library) as at:
            yield at
        library.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_nothing_the_document_says_makes_the_service_fail(address: str, mode: GenerationMode) -> None:
    document = httpx.get(f"{address}/openapi.json", trust_env=False).json()
    loaded = schemathesis.openapi.from_dict(document)
    headers = {"Authorization": f"Bearer {services.token()}"}
    asked: Counter[str] = Counter()
    for found in loaded.get_all_operations():
        operation = found.ok()
        told = operation.definition.raw
        if mode is GenerationMode.NEGATIVE and not told.get("parameters") and "requestBody" not in told:
            continue  # it is told nothing, so nothing can be wrong

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def anything(case: schemathesis.Case) -> None:
            answer = case.call(base_url=address, headers=headers, timeout=30)
            asked[case.operation.label] += 1
            case.validate_response(answer, checks=[not_a_server_error])
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"code", "message", "trace_id"}

        anything()
    assert len(asked) >= OPERATIONS, asked
