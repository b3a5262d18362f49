"""A process before it is connected, and what surrounds the handling of a message."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest
import structlog
from opentelemetry import propagate, trace

from esper.oona import Message
from esper.oona.pulsar import PulsarSettings
from esper.process import NotReady, Process, ProcessSettings
from esper.urza.client.settings import LibrarySettings
from leyline.topics import COMPILE

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def process(tmp_path: Path) -> Process:
    settings = ProcessSettings(
        pulsar=PulsarSettings(service_url="pulsar://127.0.0.1:1"),
        library=LibrarySettings(url="http://127.0.0.1:1", token_file=tmp_path / "token"),
        bus_key_file=tmp_path / "key.pem", bus_trust_dir=tmp_path,
    )  # fmt: skip
    return Process(settings, "tezzeret", roles=("worker",))


def message(**properties: str) -> Message:
    return Message(COMPILE, "tezzeret", "m-1", b"", "artifact-1", MappingProxyType(properties), 2, 1)


def test_a_process_is_not_ready_before_it_is_connected(process: Process) -> None:
    with pytest.raises(NotReady):
        process.ready["connected"]()
    assert process.producer.startswith("tezzeret/")


def test_what_is_done_for_a_message_belongs_to_its_trace_and_log_lines_name_it(process: Process) -> None:
    with process.handling(message(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")):
        assert f"{trace.get_current_span().get_span_context().trace_id:032x}" == TRACE
        carried: dict[str, str] = {}
        propagate.inject(carried)
        assert TRACE in carried["traceparent"], "what is published meanwhile carries it on"
        assert structlog.contextvars.get_contextvars() == {
            "topic": COMPILE, "message": "m-1", "key": "artifact-1", "delivery": 2,
        }  # fmt: skip
    assert structlog.contextvars.get_contextvars() == {}


def test_a_message_without_a_trace_has_none(process: Process) -> None:
    with process.handling(message(traceparent="nonsense")):
        assert not trace.get_current_span().get_span_context().is_valid
