"""Oona: the message bus. One port, adapters behind it, and the breaker that guards what may fail."""

from esper.oona.breaker import BreakerState, CircuitBreaker, CircuitOpen
from esper.oona.bus import (
    MAX_DELIVERIES,
    MAX_MESSAGE_BYTES,
    Backlog,
    Bus,
    BusClosed,
    BusFull,
    BusNotReady,
    BusUnavailable,
    Counters,
    DeadLetter,
    Latest,
    Message,
    Subscription,
    SubscriptionBusy,
    UnknownDeadLetter,
    UnknownTopic,
)
from esper.oona.inbox import Handler, Inbox, Outcome
from esper.oona.inprocess import DEFAULT_CAPACITY, InProcessBus

__all__ = [
    "DEFAULT_CAPACITY",
    "MAX_DELIVERIES",
    "MAX_MESSAGE_BYTES",
    "Backlog",
    "BreakerState",
    "Bus",
    "BusClosed",
    "BusFull",
    "BusNotReady",
    "BusUnavailable",
    "CircuitBreaker",
    "CircuitOpen",
    "Counters",
    "DeadLetter",
    "Handler",
    "InProcessBus",
    "Inbox",
    "Latest",
    "Message",
    "Outcome",
    "Subscription",
    "SubscriptionBusy",
    "UnknownDeadLetter",
    "UnknownTopic",
]
