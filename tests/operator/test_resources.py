"""The custom resources on a real API server: samples apply, and what must not change is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from clusters import CRDS, PLURALS, Kube, training_run

EXAMPLES = CRDS.parent / "docs/examples"


@pytest.mark.parametrize(
    "file", [*sorted((CRDS / "samples").glob("*.yaml")), *sorted(EXAMPLES.glob("*.yaml"))], ids=lambda file: file.name
)
def test_samples_and_examples_are_accepted(kube: Kube, file: Path) -> None:
    body = yaml.safe_load(file.read_text())
    made = kube.create(PLURALS[body["kind"]], body)
    assert made["metadata"]["generation"] == 1


def test_defaults_are_those_of_the_models(kube: Kube) -> None:
    spec = kube.run()["spec"]
    assert spec["backoffLimit"] == 6
    assert spec["training"]["batchSize"] == 100
    assert spec["suspend"] is False


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5}, {"training": {"epochs": 9}}, {"parallelism": 2}, {"image": "registry.example/other:1"},
        {"podTemplate": {"spec": {"hostNetwork": True}}}, {"slots": [{"path": "other.*"}]}, {"backoffLimit": 1},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_a_run_is_can_not_be_changed(kube: Kube, change: dict[str, object]) -> None:
    kube.run()
    with pytest.raises(ApiException) as refused:
        kube.patch("trainingruns", "grow", {"spec": change})
    assert refused.value.status == 422
    assert next(iter(change)) in refused.value.body


def test_what_may_change_can(kube: Kube) -> None:
    kube.run()
    kube.patch(
        "trainingruns", "grow", {"spec": {"suspend": True, "activeDeadlineSeconds": 9, "priorityClassName": "low"}}
    )
    assert kube.get("trainingruns", "grow")["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"trainng": {}}, "trainng"),
        ({"training": {"epochs": 0}}, "epochs"),
        ({"judge": {"mode": "Twice"}, "seeds": {"fineTuningEpochs": 0}}, "fineTuningEpochs"),
        ({"tolerations": [{"operator": "Equal"}]}, "tolerations"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(kube: Kube, spec: dict[str, object], field: str) -> None:
    with pytest.raises(ApiException) as refused:
        kube.custom.create_namespaced_custom_object(
            "esper.dev", "v1alpha1", kube.namespace, "trainingruns", training_run("grow", **spec),
            field_validation="Strict",
        )  # fmt: skip
    assert refused.value.status in (400, 422)
    assert field in refused.value.body
