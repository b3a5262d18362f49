"""Everything the contracts can refuse, as exceptions whose text is one line that a person can act on."""

from __future__ import annotations

_SHOWN = 80


def one_line(text: str) -> str:
    """Return `text` with line breaks and unprintable characters escaped, so that a message stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def describe(value: object) -> str:
    """Describe a refused value in at most about 80 characters, without trusting it (huge, nested or unprintable)."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        cut = ascii(str(value[:_SHOWN]))
        return cut if len(value) <= _SHOWN else f"{cut}… ({len(value)} characters)"
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, int | float):
        return f"{value!r} ({type(value).__name__})"
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a list of {len(value)} items"
    return f"a value of type {type(value).__name__}"


class LeylineError(Exception):
    """Base of every refusal by the contracts."""


class _Located(LeylineError):
    """A refusal with a place, a problem and, where it helps, what is allowed there."""

    def __init__(self, where: str, problem: str, allowed: str | None = None) -> None:
        super().__init__(where, problem, allowed)  # all of them in args: survives pickling between processes
        self.where = where
        self.problem = problem
        self.allowed = allowed

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        return one_line(f"{text} (allowed: {self.allowed})" if self.allowed else text)


class FieldError(_Located):
    """A field is unknown, missing or wrong: `path`, what is wrong with it, and what is allowed."""

    def __init__(self, path: str, problem: str, allowed: str | None = None) -> None:
        super().__init__(path, problem, allowed)

    @property
    def path(self) -> str:
        """Where the field is, such as `spec.training.epochs`."""
        return self.where


class BlueprintError(_Located):
    """A blueprint is malformed or does not fit an interface: `node` names the culprit ("" for the whole blueprint)."""

    def __init__(self, node: str, problem: str, allowed: str | None = None) -> None:
        super().__init__(node, problem, allowed)

    @property
    def node(self) -> str:
        """Name of the node at fault, or "" when the blueprint as a whole is."""
        return self.where

    def __str__(self) -> str:
        text = f"node {describe(self.node)}: {self.problem}" if self.node else f"blueprint: {self.problem}"
        return one_line(f"{text} (allowed: {self.allowed})" if self.allowed else text)


class InterfaceError(_Located):
    """An interface or a tensor shape is not one that a slot or a kernel can have."""

    def __init__(self, field: str, problem: str, allowed: str | None = None) -> None:
        super().__init__(field, problem, allowed)


class LifecycleError(_Located):
    """A seed was asked to make a move that the lifecycle does not have, or that this actor may not order."""

    def __init__(self, move: str, problem: str, allowed: str | None = None) -> None:
        super().__init__(move, problem, allowed)


class IdentityError(_Located):
    """An artifact id, or a part of one, is not well formed."""

    def __init__(self, part: str, problem: str, allowed: str | None = None) -> None:
        super().__init__(part, problem, allowed)


class EnvelopeError(LeylineError):
    """A message was refused before its payload was looked at."""


class MalformedEnvelope(EnvelopeError):
    """The bytes are not an envelope."""


class ForgedEnvelope(EnvelopeError):
    """The signature does not match the contents and the topic."""


class ReplayedEnvelope(EnvelopeError):
    """The nonce was seen before: under another message id, or (``handled``) under this one, which is done with.

    The second is what delivery at least once brings now and then, and is no sign of an attack.
    """

    def __init__(self, problem: str, *, handled: bool = False) -> None:
        self.handled = handled
        super().__init__(problem)


class ReplayGuardFull(EnvelopeError):
    """The guard can remember no more: nothing is wrong with this message, and there is room again later."""


class StaleEnvelope(EnvelopeError):
    """The envelope has expired, or is older than the topic's freshness."""


class WrongTopic(EnvelopeError):
    """The type or producer does not belong on this topic."""


class OutOfSequence(EnvelopeError):
    """The producer's sequence number went backwards or was used before."""


class UnknownKey(EnvelopeError):
    """No key with the envelope's key id is known for its producer."""
