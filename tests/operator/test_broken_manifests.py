"""Hundreds of broken manifests: the API server and ``esper validate`` refuse each, and name the same field."""

from __future__ import annotations

import json

import pytest
from kubernetes.client.exceptions import ApiException

from broken_manifests import Broken, broken_manifests
from clusters import GROUP, PLURALS, VERSION, Kube
from leyline.resources import ManifestErrors


def names(field: str, path: str) -> bool:
    """Whether a reported path is the field, or lies in it."""
    return path == field or path.startswith((f"{field}.", f"{field}["))


def by_the_server(kube: Kube, broken: Broken) -> list[str]:
    """The fields that the API server names; what it says where it names none."""
    plural = PLURALS[broken.document["kind"]]
    body = broken.document | {"metadata": {"name": "broken"}}
    with pytest.raises(ApiException) as refused:
        kube.custom.create_namespaced_custom_object(
            GROUP, VERSION, kube.namespace, plural, body, dry_run="All", field_validation="Strict"
        )
    answer = json.loads(refused.value.body or "")
    causes = [cause["field"] for cause in answer.get("details", {}).get("causes", ())]
    # Fields that there are not are told in words only.
    unknown = [part for part in answer["message"].split('"') if part.startswith("spec")]
    return causes or unknown or [answer["message"]]


def by_us(broken: Broken) -> list[str]:
    """The fields that ``esper validate`` names."""
    with pytest.raises(ManifestErrors) as refused:
        broken.read(broken.document)
    assert all(error.problem and error.allowed for error in refused.value.errors)
    return [error.path for error in refused.value.errors]


def test_both_refuse_each_and_name_the_same_field(kube: Kube) -> None:
    corpus = broken_manifests()
    assert len(corpus) >= 500
    wrong = []
    for broken in corpus:
        said, ours = by_the_server(kube, broken), by_us(broken)
        if not any(names(broken.field, path) for path in said) or not all(names(broken.field, path) for path in ours):
            wrong.append(f"{broken.name}: the API server names {said}, esper validate {ours}")
    assert not wrong, "\n".join(wrong)
