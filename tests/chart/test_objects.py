"""The chart as a whole: names, repeatability, custom resource definitions, notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import charts

CRDS = Path(__file__).resolve().parents[2] / "crds"
LONGEST_RELEASE = "a" * 53
"""Helm takes no longer name."""


def definitions(values: charts.Object | None = None) -> dict[str, dict[str, Any]]:
    found = yaml.load_all(charts.text(values), yaml.CSafeLoader)
    return {each["metadata"]["name"]: each for each in found if each and each["kind"] == "CustomResourceDefinition"}


def test_helm_finds_nothing_to_say_about_it() -> None:
    for values in charts.CASES.values():
        told = charts.merged(charts.LEAST, values)
        assert "0 chart(s) failed" in charts.run("lint", "--strict", str(charts.CHART), values=told)


def test_two_renders_are_the_same() -> None:
    told = charts.merged(charts.LEAST, charts.EVERYTHING)
    words = ("template", "esper", str(charts.CHART), "--namespace", "esper")
    assert charts.run(*words, values=told) == charts.run(*words, values=told)


@pytest.mark.parametrize("values", [{}, {"fullnameOverride": "b" * 90}, {"nameOverride": "c" * 40}])
def test_names_and_labels_fit_whatever_the_release_is_called(values: charts.Object) -> None:
    objects = charts.rendered(charts.EVERYTHING | values, release=LONGEST_RELEASE)
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(set(keys)) == len(keys)
    assert max(len(name) for *_, name in keys) <= 63
    for each in objects:
        labels = each["metadata"]["labels"]
        assert all(len(str(value)) <= 63 for value in labels.values())
        assert labels["app.kubernetes.io/instance"] == LONGEST_RELEASE


def test_long_releases_that_begin_alike_do_not_share_names() -> None:
    one, two = (charts.rendered(release=LONGEST_RELEASE[:-1] + last) for last in "xy")
    names = [{each["metadata"]["name"] for each in objects} for objects in (one, two)]
    assert not names[0] & names[1]


def test_a_release_called_after_the_chart_does_not_stutter() -> None:
    assert charts.named(charts.rendered(release="esper"), "Deployment", "esper-operator")
    assert charts.named(charts.rendered(release="demo"), "Deployment", "demo-esper-operator")


def test_everything_says_who_it_belongs_to_and_is_in_a_namespace_meant_for_it() -> None:
    for each in charts.rendered(charts.EVERYTHING):
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "esper"
        assert each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert each["metadata"].get("namespace") in ("esper", "team-a", "team-b"), each["metadata"]["name"]


def test_custom_resources_are_the_projects_own_and_kept() -> None:
    found = definitions()
    wanted = {body["metadata"]["name"]: body for body in map(yaml.safe_load, map(Path.read_text, CRDS.glob("*.yaml")))}
    assert set(found) == set(wanted)
    for name, body in wanted.items():
        assert found[name]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert found[name]["spec"] == body["spec"]
    assert "annotations" not in next(iter(definitions({"crds": {"keep": False}}).values()))["metadata"]
    assert not definitions({"crds": {"install": False}})


def test_a_digest_goes_before_a_tag() -> None:
    digest = "sha256:" + "0" * 64
    values = {"images": {"operator": {"repository": "r/o", "tag": "1", "digest": digest}, "worker": {"tag": "2"}}}
    (container,) = charts.named(charts.rendered(values), "Deployment", "esper-operator")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["image"] == f"r/o@{digest}"
    told = charts.environment([], container)
    assert told["ESPER_OPERATOR_IMAGE"] == "localhost/esper-worker:2"


def notes(values: charts.Object | None = None) -> str:
    told = charts.merged(charts.LEAST, values or {})
    said = charts.run("install", "esper", str(charts.CHART), "--namespace", "ops", "--dry-run=client", values=told)
    return said.partition("NOTES:")[2]


def test_notes_say_what_to_do_next() -> None:
    said = notes()
    assert "kubectl -n ops rollout status deployment/esper-operator" in said
    assert "kubectl -n ops apply -f crds/samples/trainingrun.yaml" in said
    assert "keeps the custom resource definitions" in said
    assert "kept in an emptyDir" in said
    assert "http://esper-urza.ops.svc:8460" in said
    everything = notes(charts.EVERYTHING)
    assert "kubectl -n team-a apply" in everything
    assert "emptyDir" not in everything
    wide = notes({"training": {"clusterWide": True, "namespaces": ["team"]}, "crds": {"keep": False}})
    assert "keys for training pods are only in team" in wide
    assert "removes the custom resource definitions" in wide
    assert "only if training.env" in notes(charts.CASES["operator alone"])
