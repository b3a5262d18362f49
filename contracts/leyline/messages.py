"""The protobuf messages by the names that envelopes carry."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from leyline.errors import MalformedEnvelope
from leyline.topics import TOPICS, Topic
from leyline.v1 import control_pb2, kernels_pb2, policy_pb2, seed_pb2, telemetry_pb2

AdaptationCommand = control_pb2.AdaptationCommand
CommandResult = control_pb2.CommandResult
SeedState = seed_pb2.SeedState
SystemStatePacket = telemetry_pb2.SystemStatePacket
TelemetryPacket = telemetry_pb2.TelemetryPacket
FieldReport = telemetry_pb2.FieldReport
KernelPrefetchRequest = kernels_pb2.KernelPrefetchRequest
KernelArtifactReady = kernels_pb2.KernelArtifactReady
KernelArtifactError = kernels_pb2.KernelArtifactError
KernelCompileRequest = kernels_pb2.KernelCompileRequest
KernelBuilt = kernels_pb2.KernelBuilt
KernelBenchmarkRequest = kernels_pb2.KernelBenchmarkRequest
KernelCertified = kernels_pb2.KernelCertified
KernelRejected = kernels_pb2.KernelRejected
KernelCatalogUpdate = kernels_pb2.KernelCatalogUpdate
PolicyUpdate = policy_pb2.PolicyUpdate

PAYLOADS: dict[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        AdaptationCommand,
        CommandResult,
        SeedState,
        SystemStatePacket,
        TelemetryPacket,
        FieldReport,
        KernelPrefetchRequest,
        KernelArtifactReady,
        KernelArtifactError,
        KernelCompileRequest,
        KernelBuilt,
        KernelBenchmarkRequest,
        KernelCertified,
        KernelRejected,
        KernelCatalogUpdate,
        PolicyUpdate,
    )
}


def type_of(message: Message) -> str:
    """The name an envelope carries for this message, such as ``leyline.v1.FieldReport``."""
    return str(message.DESCRIPTOR.full_name)


def topic_of(message: Message) -> Topic:
    """The topic this message belongs on; raises MalformedEnvelope for a message that is only part of another."""
    name = type_of(message)
    for topic in TOPICS.values():
        if name in topic.payloads:
            return topic
    raise MalformedEnvelope(f"{name} does not travel alone; send the message that contains it")


def encode(message: Message) -> bytes:
    """The message as bytes; equal messages give equal bytes (maps are sorted)."""
    return message.SerializeToString(deterministic=True)


def decode(type: str, payload: bytes) -> Message:
    """The message of an opened envelope; raises MalformedEnvelope for an unknown type or damaged bytes."""
    kind = PAYLOADS.get(type)
    if kind is None:
        raise MalformedEnvelope(f"no such message type: {type!r}")
    message = kind()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise MalformedEnvelope(f"not a {type}: {error}") from error
    return message
