"""Operators that die at any moment, and several at once: what is made stays the same, and is made once."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict

import pytest

from clusters import Kube, Operators, eventually
from kubernetes import client, watch

KILLS = int(os.environ.get("ESPER_KILLS", "20"))


class Witness:
    """Remembers every object that was ever made: their uids, by kind and name."""

    def __init__(self, kube: Kube) -> None:
        self.uids: dict[str, set[str]] = defaultdict(set)
        self._ended = threading.Event()
        listings = {
            "Job": kube.batch.list_namespaced_job,
            "ConfigMap": kube.core.list_namespaced_config_map,
            "Service": kube.core.list_namespaced_service,
        }
        self._threads = [
            threading.Thread(target=self._look, args=(kube.namespace, *each), daemon=True) for each in listings.items()
        ]
        for thread in self._threads:
            thread.start()

    def _look(self, namespace: str, kind: str, listing: object) -> None:
        while not self._ended.is_set():
            for event in watch.Watch().stream(listing, namespace, timeout_seconds=5):
                meta = event["object"].metadata
                if (meta.labels or {}).get("app.kubernetes.io/managed-by") == "esper-operator":
                    self.uids[f"{kind}/{meta.name}"].add(meta.uid)

    def end(self) -> dict[str, set[str]]:
        """Stop, and tell."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return dict(self.uids)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_operator_killed_again_and_again_converges_to_the_same_objects(kube: Kube, operators: Operators) -> None:
    rng = random.Random(5)
    witness = Witness(kube)
    names = [f"run-{number}" for number in range(6)]
    for kill in range(KILLS):
        operator = operators.start(identity="one")
        if kill < len(names):
            kube.run(names[kill], seed=kill)
        else:
            kube.patch("trainingruns", rng.choice(names), {"spec": {"suspend": rng.random() < 0.5}})
        time.sleep(rng.uniform(0.1, 2.5))
        operator.kill()
    for name in names:
        kube.patch("trainingruns", name, {"spec": {"suspend": False}})
    operators.start(identity="one")
    for name in names:
        kube.reason("Unschedulable", name)
    wanted = {f"{kind}{name}{end}" for name in names for kind, end in (("Job/", ""), ("ConfigMap/", "-manifest"))}
    assert kube.owned().keys() == wanted
    assert all(not kube.job(name).spec.suspend for name in names)
    made = witness.end()
    assert {name: len(uids) for name, uids in made.items() if len(uids) != 1} == {}
    assert made.keys() == kube.owned().keys()


def test_one_of_two_leads_and_the_other_takes_over_at_once_when_it_stops(kube: Kube, operators: Operators) -> None:
    first = operators.start()
    eventually(first.leads)
    second = operators.start()
    eventually(lambda: second.health() == 200)
    kube.run("one")
    kube.reason("Unschedulable", "one")
    assert not second.leads()
    assert second.health("readyz") == 200
    began = time.monotonic()
    assert first.stop() == 0
    eventually(second.leads)
    assert time.monotonic() - began < 10, "the Lease was not given back"
    kube.run("two")
    kube.reason("Unschedulable", "two")


@pytest.mark.slow
def test_the_other_takes_over_from_one_that_was_killed(kube: Kube, operators: Operators) -> None:
    witness = Witness(kube)
    first = operators.start()
    eventually(first.leads)
    second = operators.start()
    kube.run("one")
    kube.reason("Unschedulable", "one")
    first.kill()
    kube.run("two")
    kube.reason("Unschedulable", "two")
    assert second.leads()
    kube.patch("trainingruns", "one", {"spec": {"suspend": True}})
    kube.reason("Suspended", "one")
    assert all(len(uids) == 1 for uids in witness.end().values())


@pytest.mark.slow
def test_a_leader_that_lost_its_lease_ends_itself(kube: Kube, operators: Operators) -> None:
    first = operators.start()
    eventually(first.leads)
    coordination = client.CoordinationV1Api(kube.api)

    def usurp() -> None:
        lease = coordination.read_namespaced_lease("esper-operator", kube.namespace)
        lease.spec.holder_identity, lease.spec.lease_duration_seconds = "another", 3600
        coordination.replace_namespaced_lease("esper-operator", kube.namespace, lease)

    eventually(lambda: [usurp()])
    assert first.wait() == 3


def test_settings_that_are_wrong_are_named(kube: Kube, operators: Operators) -> None:
    operator = operators.start(image="", workers="0")
    assert operator.wait() == 2
    said = operator.log.read_text()
    assert "ESPER_OPERATOR_IMAGE" in said
    assert "ESPER_OPERATOR_WORKERS" in said
