"""The trace a message belongs to: W3C trace context in its properties, written by the adapters that cross processes."""

from __future__ import annotations

from opentelemetry import propagate
from opentelemetry.context import Context

from esper.oona.bus import Message


def context_of(message: Message) -> Context:
    """The context to start the handler's span in; an empty one for a message that carries none.

    Properties are not signed: a trace may be wrong, and nothing but a trace is taken from it.
    """
    return propagate.extract(dict(message.properties))
