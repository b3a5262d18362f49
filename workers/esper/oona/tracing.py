"""The trace a message belongs to: W3C trace context in its properties, written by the adapters that cross processes."""

from __future__ import annotations

from opentelemetry import context, propagate
from opentelemetry.context import Context

from esper.oona.bus import Message


def carry(properties: dict[str, str]) -> None:
    """Write the current span, if any, into a message's properties: the parent of the span that handles it."""
    if context.get_current():  # nothing is current in most processes, and looking for it in every format takes long
        propagate.inject(properties)


def context_of(message: Message) -> Context:
    """The context to start the handler's span in; an empty one for a message that carries none.

    Properties are not signed: a trace may be wrong, and nothing but a trace is taken from it.
    """
    return propagate.extract(dict(message.properties))
