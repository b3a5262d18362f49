"""The broker as the table of topics wants it: what is missing is made, what differs is set, the rest is left.

Beside each topic whose messages are never dropped is one for its dead letters, beside each work topic one that counts
deliveries. Subscriptions that must not miss a message are made here, before the first publish; those of earlier
versions, which nobody reads any more, are removed.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message as Payload
from pulsar.schema import ProtobufNativeSchema

from esper.errors import BadInput, BusError
from esper.oona.bus import BusNotReady
from esper.oona.pulsar.admin import Admin, InUse
from esper.oona.pulsar.names import counts_deliveries, dead, deliveries
from esper.oona.pulsar.settings import PulsarSettings
from leyline.errors import IdentityError
from leyline.topics import TOPICS, Topic, pool_subscription
from leyline.v1.bus_pb2 import DeadLetter, DeliveryCount, Envelope

FOREVER = -1
COMPACT_BYTES = 1_048_576
"""A compacted topic is compacted when this much has been added."""
_PARALLEL = 6
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """One thing that provisioning did. ``before`` is empty for what was not there."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Wanted:
    """One topic of the broker. Times are in seconds; ``expiry`` is 0 for messages that wait for ever."""

    name: str
    payload: type[Payload]
    retention: int
    expiry: int
    compacted: bool
    subscriptions: tuple[str, ...]
    former: tuple[str, ...] = ()


def wanted(topics: Mapping[str, Topic] = TOPICS, hardware: Iterable[str] = ()) -> list[Wanted]:
    """What the table asks for, with the topics the adapter keeps for itself, and pools for some hardware targets.

    Raises ``IdentityError`` for what is not a hardware target.
    """
    found, targets = [], tuple(dict.fromkeys(hardware))
    for topic in topics.values():
        pools = tuple(pool_subscription(topic, target) for target in targets) if topic.per_hardware else ()
        found.append(
            Wanted(
                topic.name, Envelope, topic.retention, topic.expiry, topic.compacted, topic.consumers + pools,
                topic.former,
            )
        )  # fmt: skip
        if not topic.may_drop:
            found.append(Wanted(dead(topic.name), DeadLetter, FOREVER, 0, True, ()))
        if counts_deliveries(topic):
            found.append(Wanted(deliveries(topic.name), DeliveryCount, topic.retention, 0, True, ()))
    return found


def provision(
    settings: PulsarSettings,
    topics: Mapping[str, Topic] = TOPICS,
    *,
    hardware: Iterable[str] = (),
    dry_run: bool = False,
    patience: float = 0.0,
) -> list[Change]:
    """Make the broker fit; returns what was (or with ``dry_run`` would be) changed. Running it again changes nothing.

    ``hardware``: targets whose pools' subscriptions are made ahead; the first worker of any other makes its own.
    ``patience`` is how many seconds to try again while the broker is away or answers that it can't do it now, as one
    does whose storage is not there yet. What an earlier try changed is in the answer too.

    Raises:
        BadInput: ``admin_url`` is not set, or something is not a hardware target.
        BusUnavailable: the broker is away or the token is not that of an administrator.
        BusError: something is there that can't be changed in place, such as another schema.
    """
    try:
        wants = wanted(topics, hardware)
    except IdentityError as error:
        raise BadInput(str(error)) from error
    deadline, failures, changes = time.monotonic() + patience, 0, dict[str, Change]()
    while True:
        try:
            for change in _changes(settings, wants, dry_run):
                # What failed half-way is said again by the next try; it was changed from what the first one saw.
                changes.setdefault(change.what, change)
        except BusNotReady as error:
            failures += 1
            wait = min(5.0, 0.1 * 2.0 ** min(failures, 10))
            if time.monotonic() + wait > deadline:
                raise
            _log.warning("not provisioned yet, trying again in %.1f s: %s", wait, error)
            time.sleep(wait)
        else:
            return list(changes.values())


def _changes(settings: PulsarSettings, wants: list[Wanted], dry_run: bool) -> Iterator[Change]:
    with Admin(settings) as admin:
        maker = _Maker(admin, settings, dry_run)
        yield from maker.tenant()
        yield from maker.namespace()
        present = {str(name).rpartition("/")[2] for name in admin.get(f"/persistent/{maker.space}", default=[])}
        with ThreadPoolExecutor(_PARALLEL) as pool:
            for found in pool.map(lambda want: list(maker.topic(want, want.name in present)), wants):
                yield from found


class _Maker:
    def __init__(self, admin: Admin, settings: PulsarSettings, dry_run: bool) -> None:
        self._admin, self._settings, self._dry = admin, settings, dry_run
        self.space = f"{settings.tenant}/{settings.namespace}"
        self._fresh = False

    def tenant(self) -> Iterator[Change]:
        path = f"/tenants/{self._settings.tenant}"
        if self._admin.get(path) is None:
            yield self._made(f"tenant {self._settings.tenant}")
            if not self._dry:
                clusters = [name for name in self._admin.get("/clusters", default=[]) if name != "global"]
                self._admin.put(path, {"allowedClusters": clusters, "adminRoles": []})

    def namespace(self) -> Iterator[Change]:
        present = self._admin.get(self._admin.namespace)
        if present is None:
            self._fresh = True
            yield self._made(f"namespace {self.space}")
            if self._dry:
                return
            self._admin.put(self._admin.namespace, {key: value for key, (_, value) in _POLICIES.items()})
            return
        for key, (verb, value) in _POLICIES.items():
            before = present.get(key)
            if _covers(before, value):
                continue
            yield Change(f"namespace {self.space}: {key}", _shown(before), _shown(value))
            if not self._dry:
                path = f"{self._admin.namespace}/{verb}"
                (self._admin.put if verb == "schemaCompatibilityStrategy" else self._admin.post)(path, value)

    def topic(self, want: Wanted, present: bool) -> Iterator[Change]:
        if not present:
            yield self._made(f"topic {want.name}")
            if not self._dry:
                self._admin.put(self._admin.topic(want.name))
        known = present and not self._fresh
        yield from self._schema(want, known)
        yield from self._policies(want, known)
        there = set(self._admin.get(self._admin.topic(want.name, "subscriptions"), default=[])) if known else set()
        for name in want.subscriptions:
            if name not in there:
                yield self._made(f"subscription {want.name}/{name}")
                if not self._dry:
                    # From the beginning: what was published before it was there is kept for it.
                    earliest = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
                    self._admin.put(self._admin.topic(want.name, "subscription", name), earliest)
        for name in want.former:
            if name in there and (self._dry or self._removed(want.name, name)):
                yield Change(f"subscription {want.name}/{name}", "of an earlier version", "removed")

    def _removed(self, topic: str, name: str) -> bool:
        """Remove a subscription that is nobody's any more; not while workers of the earlier version read it."""
        try:
            return self._admin.delete(self._admin.topic(topic, "subscription", name))
        except InUse as error:
            _log.warning(
                "subscription %s/%s: left, as something of an earlier version reads it: %s", topic, name, error
            )
            return False

    def _schema(self, want: Wanted, known: bool) -> Iterator[Change]:
        definition = schema_of(want.payload)
        before = self._admin.get(self._admin.schema(want.name)) if known else None
        if before is not None:
            if before.get("type") == definition["type"] and _same(before.get("data", ""), definition["schema"]):
                return
            if before.get("type") != definition["type"]:
                raise BusError(
                    f"topic {want.name}: has a schema of type {before.get('type')}, not {definition['type']}; "
                    "it belongs to something else: use another namespace, or remove the topic"
                )
        name = want.payload.DESCRIPTOR.full_name
        yield Change(f"topic {want.name}: schema", "another version" if before else "", name)
        if not self._dry:
            self._admin.post(self._admin.schema(want.name), definition)

    def _policies(self, want: Wanted, known: bool) -> Iterator[Change]:
        minutes = want.retention if want.retention == FOREVER else want.retention // 60
        retention = {"retentionTimeInMinutes": minutes, "retentionSizeInMB": FOREVER}
        rows: list[tuple[str, Any, dict[str, Any]]] = [("retention", retention, {})]
        if want.expiry:
            rows.append(("messageTTL", want.expiry, {"messageTTL": want.expiry}))
        if want.compacted:
            rows.append(("compactionThreshold", COMPACT_BYTES, {}))
        for verb, value, query in rows:
            path = self._admin.topic(want.name, verb)
            before = self._admin.get(path) if known else None
            if _covers(before, value):
                continue
            yield Change(f"topic {want.name}: {verb}", _shown(before), _shown(value))
            if not self._dry:
                self._admin.post(path, None if query else value, **query)

    def _made(self, what: str) -> Change:
        return Change(what, "", "made")


_POLICIES: Mapping[str, tuple[str, Any]] = {
    # A topic without subscriptions would be removed after a minute otherwise.
    "inactive_topic_policies": (
        "inactiveTopicPolicies",
        {
            "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
            "maxInactiveDurationSeconds": 3600,
            "deleteWhileInactive": False,
        },
    ),
    # Nobody but an administrator changes what a topic carries, and who speaks no schema may not publish.
    "is_allow_auto_update_schema": ("isAllowAutoUpdateSchema", False),
    "schema_validation_enforced": ("schemaValidationEnforced", True),
    "schema_compatibility_strategy": ("schemaCompatibilityStrategy", "FULL"),
}


def schema_of(payload: type[Payload]) -> dict[str, Any]:
    """A schema as the broker's REST interface takes it."""
    info = ProtobufNativeSchema(payload).schema_info()
    return {"type": "PROTOBUF_NATIVE", "schema": info.schema(), "properties": {}}


def _same(first: str, second: str) -> bool:
    """Whether two schemas say the same: the descriptors are compared, not their JSON."""
    try:
        one, two = json.loads(first), json.loads(second)
    except ValueError:
        return False
    names = ("rootMessageTypeName", "rootFileDescriptorName")
    return all(one.get(name) == two.get(name) for name in names) and (
        base64.b64decode(one.get("fileDescriptorSet", "")) == base64.b64decode(two.get("fileDescriptorSet", ""))
    )


def _covers(before: Any, value: Any) -> bool:
    if isinstance(value, dict) and isinstance(before, dict):
        return all(before.get(key) == each for key, each in value.items())
    return bool(before == value)


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
