"""Every topic of the bus in one table: who owns it, what it carries, and how it must be delivered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from leyline.identity import require_hardware


class TopicKind(StrEnum):
    """What a topic is for; decides freshness and what happens when a queue is full."""

    COMMAND = "command"  # at most 30 s old, never dropped
    WORK = "work"  # carries its own expiry, never dropped
    REPORT = "report"  # facts others rely on, never dropped
    TELEMETRY = "telemetry"  # dropped and counted when a queue is full


class Ordering(StrEnum):
    """In which order messages of a topic must be handled."""

    NONE = "none"
    PER_KEY = "per_key"


class SubscriptionType(StrEnum):
    """How consumers of one subscription share it, as Pulsar names it."""

    EXCLUSIVE = "exclusive"
    FAILOVER = "failover"
    SHARED = "shared"
    KEY_SHARED = "key_shared"


MINUTE, HOUR, DAY = 60, 3600, 86_400


@dataclass(frozen=True)
class Topic:
    """One topic. ``retention`` is in seconds; ``payloads`` are full protobuf message names.

    ``consumers`` are the subscriptions that must not miss a message: they are made before the first publish. Others
    come and go with those who watch. ``compacted``: the last message of each key can be asked for at any time.
    ``per_hardware``: the owner's pools take from it, those of each hardware target by ``pool_subscription``.
    ``former``: subscriptions of earlier versions, which nobody reads any more.
    """

    name: str
    kind: TopicKind
    owner: str
    producers: frozenset[str]
    key: str
    ordering: Ordering
    retention: int
    subscription: SubscriptionType
    payloads: frozenset[str]
    summary: str
    consumers: tuple[str, ...] = ()
    compacted: bool = False
    per_hardware: bool = False
    former: tuple[str, ...] = ()

    @property
    def expiry(self) -> int:
        """Seconds after which a message that nobody took runs out; 0 where every subscription is one somebody reads.

        Others, such as that of a run that died or of hardware that is gone, must not grow for ever.
        """
        return 0 if self.consumers else self.retention

    @property
    def needs_freshness(self) -> bool:
        """An old message is refused even before it expires."""
        return self.kind is TopicKind.COMMAND

    @property
    def may_drop(self) -> bool:
        """A full queue may lose messages of this topic."""
        return self.kind is TopicKind.TELEMETRY

    @property
    def ordered(self) -> bool:
        """A sequence number below the last one of its stream is refused."""
        return self.ordering is Ordering.PER_KEY


def role_of(producer: str) -> str:
    """The organ a producer belongs to: ``tezzeret`` of ``tezzeret/pool-3``."""
    return producer.partition("/")[0]


def pool_subscription(topic: Topic, hardware: str) -> str:
    """The subscription of the pools of one hardware target: ``tezzeret-x86_64-avx512`` of ``work.tezzeret.compile``.

    Distinct targets have distinct names, and every name is one that a broker takes.

    Raises:
        IdentityError: ``hardware`` is not a hardware target.
        ValueError: no pools take from this topic.
    """
    if not topic.per_hardware:
        raise ValueError(f"{topic.name}: no pools take from it")
    require_hardware(hardware)
    return f"{topic.owner}-{hardware}"


def _messages(*names: str) -> frozenset[str]:
    return frozenset(f"leyline.v1.{name}" for name in names)


COMMANDS = "control.kasmina.commands"
EPOCHS = "system.events.epoch"
SEED_HEALTH = "telemetry.seed.health"
FIELD_REPORTS = "innovation.field_reports"
PREFETCH_REQUEST = "kernels.prefetch.request"
PREFETCH_READY = "kernels.prefetch.ready"
PREFETCH_ERROR = "kernels.prefetch.error"
CATALOG = "kernels.catalog"
COMPILE = "work.tezzeret.compile"
BENCHMARK = "work.urabrask.benchmark"
POLICY_UPDATES = "policy.updates"

_ROWS: tuple[Topic, ...] = (
    Topic(
        COMMANDS,
        TopicKind.COMMAND,
        "tamiyo",
        frozenset({"tamiyo", "tolaria", "person"}),
        "run",
        Ordering.PER_KEY,
        HOUR,
        SubscriptionType.EXCLUSIVE,
        _messages("AdaptationCommand"),
        "Orders to one run: of the controller to its seeds, of people to both.",
    ),
    Topic(
        EPOCHS,
        TopicKind.REPORT,
        "tolaria",
        frozenset({"tolaria"}),
        "run",
        Ordering.PER_KEY,
        DAY,
        SubscriptionType.FAILOVER,
        _messages("SystemStatePacket", "CommandResult"),
        "State of a run at the end of each epoch, and what became of people's commands.",
    ),
    Topic(
        SEED_HEALTH,
        TopicKind.TELEMETRY,
        "kasmina",
        frozenset({"kasmina"}),
        "run",
        Ordering.NONE,
        HOUR,
        SubscriptionType.KEY_SHARED,
        _messages("TelemetryPacket", "SeedState"),
        "Measurements of seeds, for watching.",
    ),
    Topic(
        FIELD_REPORTS,
        TopicKind.REPORT,
        "tamiyo",
        frozenset({"tamiyo"}),
        "blueprint",
        Ordering.NONE,
        DAY,
        SubscriptionType.SHARED,
        _messages("FieldReport"),
        "How each finished seed did.",
        consumers=("urza",),
    ),
    Topic(
        PREFETCH_REQUEST,
        TopicKind.WORK,
        "urza",
        frozenset({"kasmina", "tamiyo", "weatherlight"}),
        "artifact",
        Ordering.NONE,
        DAY,
        SubscriptionType.SHARED,
        _messages("KernelPrefetchRequest"),
        "Kernels a run would like to have.",
        consumers=("urza",),
    ),
    Topic(
        PREFETCH_READY,
        TopicKind.REPORT,
        "urza",
        frozenset({"urza"}),
        "run",
        Ordering.NONE,
        DAY,
        SubscriptionType.FAILOVER,
        _messages("KernelArtifactReady"),
        "A requested kernel can be fetched.",
    ),
    Topic(
        PREFETCH_ERROR,
        TopicKind.REPORT,
        "urza",
        frozenset({"urza"}),
        "run",
        Ordering.NONE,
        DAY,
        SubscriptionType.FAILOVER,
        _messages("KernelArtifactError"),
        "A requested kernel will not come, and why.",
    ),
    Topic(
        CATALOG,
        TopicKind.REPORT,
        "urza",
        frozenset({"urza", "tezzeret", "urabrask"}),
        "artifact",
        Ordering.NONE,
        7 * DAY,
        SubscriptionType.SHARED,
        _messages("KernelBuilt", "KernelCertified", "KernelRejected", "KernelCatalogUpdate"),
        "Verdicts of compiler and benchmarker, and what the library made of them.",
        consumers=("urza",),
        compacted=True,
    ),
    Topic(
        COMPILE,
        TopicKind.WORK,
        "tezzeret",
        frozenset({"urza", "operator", "weatherlight"}),
        "artifact",
        Ordering.NONE,
        7 * DAY,
        SubscriptionType.SHARED,
        _messages("KernelCompileRequest"),
        "Kernels to compile.",
        per_hardware=True,
        former=("tezzeret",),
    ),
    Topic(
        BENCHMARK,
        TopicKind.WORK,
        "urabrask",
        frozenset({"urza", "tezzeret", "operator", "weatherlight"}),
        "artifact",
        Ordering.NONE,
        7 * DAY,
        SubscriptionType.SHARED,
        _messages("KernelBenchmarkRequest"),
        "Kernels to check and measure.",
        per_hardware=True,
        former=("urabrask",),
    ),
    Topic(
        POLICY_UPDATES,
        TopicKind.REPORT,
        "simic",
        frozenset({"simic"}),
        "policy",
        Ordering.PER_KEY,
        7 * DAY,
        SubscriptionType.EXCLUSIVE,
        _messages("PolicyUpdate"),
        "New versions of a trained policy.",
    ),
)

TOPICS: dict[str, Topic] = {topic.name: topic for topic in _ROWS}
