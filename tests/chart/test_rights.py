"""What the chart's accounts may do, and who may speak to whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import charts
from esper_operator.keys import run_labels
from esper_operator.permissions import LEASE_PERMISSIONS, PERMISSIONS, POOL_PERMISSIONS
from esper_operator.plan.pod import HTTP_PORT

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@pytest.fixture(scope="module", params=charts.CASES)
def objects(request: pytest.FixtureRequest) -> list[charts.Object]:
    return charts.rendered(charts.CASES[request.param])


def rules(objects: list[charts.Object]) -> Iterator[dict[str, Any]]:
    for role in charts.of_kind(objects, "Role", "ClusterRole"):
        yield from role["rules"]


def test_no_rule_is_wider_than_it_reads(objects: list[charts.Object]) -> None:
    for rule in rules(objects):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], rule
        assert not {"bind", "escalate", "impersonate", "deletecollection"} & set(rule["verbs"]), rule
        assert "nonResourceURLs" not in rule


def test_nobody_enters_pods_or_gives_rights(objects: list[charts.Object]) -> None:
    touched = {resource for rule in rules(objects) for resource in rule["resources"]}
    assert not touched & {
        "pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token", "nodes", "roles", "rolebindings",
        "clusterroles", "clusterrolebindings",
    }  # fmt: skip
    writes = {name for rule in rules(objects) for name in rule["resources"] if WRITES & set(rule["verbs"])}
    assert "pods" not in writes


def test_secrets_are_touched_by_the_key_maker_only_and_only_its_own(objects: list[charts.Object]) -> None:
    """None can be listed, and those of others can't be read."""
    for role in charts.of_kind(objects, "Role", "ClusterRole"):
        for rule in role["rules"]:
            if "secrets" in rule["resources"]:
                assert role["metadata"]["name"] == "esper-keys"
                assert set(rule["verbs"]) == {"get", "patch"}
                own = {each["metadata"]["name"] for each in charts.of_kind(objects, "Secret")
                       if each["metadata"]["namespace"] == role["metadata"]["namespace"]}  # fmt: skip
                assert set(rule["resourceNames"]) == own


def test_the_operator_has_the_permissions_of_its_table() -> None:
    def known(rule: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {(group, name, verb) for group in rule["apiGroups"] for name in rule["resources"]
                for verb in rule["verbs"]}  # fmt: skip

    for case, kind in (("least", "Role"), ("cluster-wide", "ClusterRole")):
        found = charts.of_kind(charts.rendered(charts.CASES[case]), kind)
        (role,) = [each for each in found if each["metadata"]["name"].startswith("esper-operator")
                   and not each["metadata"]["name"].endswith(("-lease", "-pools"))]  # fmt: skip
        wanted = set().union(*(known(each.rule()) for each in PERMISSIONS))
        assert set().union(*map(known, role["rules"])) == wanted
    for name, table in (("lease", LEASE_PERMISSIONS), ("pools", POOL_PERMISSIONS)):
        role = charts.named(charts.rendered(), "Role", f"esper-operator-{name}")
        assert set().union(*map(known, role["rules"])) == set().union(*(known(each.rule()) for each in table))


def test_who_does_not_scale_pools_has_no_rights_to() -> None:
    for values in (charts.CASES["keda"], {"pools": {"scaler": "None"}}, {"urza": {"enabled": False}}):
        names = {each["metadata"]["name"] for each in charts.of_kind(charts.rendered(values), "Role", "RoleBinding")}
        assert "esper-operator-pools" not in names


def test_rights_in_the_whole_cluster_only_when_asked() -> None:
    here = charts.rendered()
    assert not charts.of_kind(here, "ClusterRole", "ClusterRoleBinding")
    assert {each["metadata"]["namespace"] for each in charts.of_kind(here, "Role")} == {"esper"}
    there = charts.rendered(charts.EVERYTHING)
    assert {each["metadata"]["namespace"] for each in charts.of_kind(there, "Role")} == {"esper", "team-a", "team-b"}
    assert not charts.of_kind(there, "ClusterRole", "ClusterRoleBinding")
    wide = charts.rendered({"training": {"clusterWide": True}})
    assert len(charts.of_kind(wide, "ClusterRole")) == len(charts.of_kind(wide, "ClusterRoleBinding")) == 1
    # the Lease and the keys stay where the release is
    names = {each["metadata"]["name"] for each in charts.of_kind(wide, "Role")}
    assert names == {"esper-operator-lease", "esper-operator-pools", "esper-keys", "esper-test"}


def test_every_binding_binds_a_role_to_an_account_that_are_there(objects: list[charts.Object]) -> None:
    accounts = {
        (each["metadata"]["namespace"], each["metadata"]["name"]) for each in charts.of_kind(objects, "ServiceAccount")
    }
    for binding in charts.of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        role = charts.named(objects, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") in {each["metadata"].get("namespace") for each in objects}
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts


# -- network ---------------------------------------------------------------------------------------------------------


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this test knows no matchExpressions"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def policies_of(objects: list[charts.Object], labels: Mapping[str, str], namespace: str) -> list[dict[str, Any]]:
    return [
        each["spec"]
        for each in charts.of_kind(objects, "NetworkPolicy")
        if each["metadata"]["namespace"] == namespace and selects(each["spec"]["podSelector"], labels)
    ]


TRAINING = {"app.kubernetes.io/managed-by": "esper-operator", "app.kubernetes.io/component": "training"}


def test_every_pod_is_denied_what_no_rule_allows(objects: list[charts.Object]) -> None:
    for name, pod in charts.pods(objects):
        found = policies_of(objects, pod["metadata"]["labels"], "esper")
        assert {kind for each in found for kind in each["policyTypes"]} == {"Ingress", "Egress"}, name


def ports(rules: list[dict[str, Any]]) -> set[int | str]:
    """Ports of some rules; ``any`` where a rule names none."""
    return {port["port"] for rule in rules for port in rule.get("ports", ({"port": "any"},))}


def reach(objects: list[charts.Object], part: str) -> tuple[set[int | str], set[int | str]]:
    """Ports by which a part is reached, and which it may reach."""
    labels = next(
        pod["metadata"]["labels"]
        for _, pod in charts.pods(objects)
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == part
    )
    found = policies_of(objects, labels, "esper")
    return (
        ports([rule for each in found for rule in each.get("ingress", ())]),
        ports([rule for each in found for rule in each.get("egress", ())]),
    )


def test_ports_are_those_of_the_table() -> None:
    objects = charts.rendered(charts.EVERYTHING)
    assert reach(objects, "dispatcher") == ({8470}, {53, 8460, 6651, 8443, 9000})
    assert reach(objects, "tezzeret") == reach(objects, "urabrask") == ({8470}, {53, 8460, 6651, 9000})
    assert reach(objects, "test") == (set(), {53, 443, 6443})
    assert reach(objects, "keys") == (set(), {53, 443, 6443})
    assert reach(objects, "operator") == ({8480}, {53, 443, 6443, 8460, 6651})
    assert reach(objects, "urza") == ({8460}, {53, 443, 6443, 5432, 9000})
    quiet = charts.rendered()
    assert reach(quiet, "operator") == (set(), {53, 443, 6443, 8460, 6651}), "nobody reads metrics unless named"


@pytest.mark.parametrize(
    ("objects_values", "port"),
    [
        ({"endpoint": ""}, 443),
        ({"endpoint": "https://store.example"}, 443),
        ({"endpoint": "http://store.example"}, 80),
        ({"endpoint": "https://store.example:9443/path"}, 9443),
        ({"endpoint": "http://[fd00::1]:9000"}, 9000),
    ],
)
def test_the_store_is_reached_by_the_port_of_its_address(objects_values: dict[str, str], port: int) -> None:
    values = {"urza": {"objects": objects_values}}
    assert reach(charts.rendered(values), "urza")[1] == {53, 443, 6443, 5432, port}


def test_training_pods_are_reached_by_each_other_only_and_reach_the_library() -> None:
    objects = charts.rendered(charts.EVERYTHING)
    for namespace in ("team-a", "team-b"):
        (policy,) = policies_of(objects, TRAINING, namespace)
        mutual, metrics = policy["ingress"]
        assert mutual == {"from": [{"podSelector": {"matchLabels": TRAINING}}]}
        assert metrics == {"from": charts.EVERYTHING["networkPolicies"]["monitoring"],
                           "ports": [{"protocol": "TCP", "port": HTTP_PORT}]}  # fmt: skip
        peers = [peer for rule in policy["egress"] for peer in rule.get("to", ())]
        urza = next(peer for peer in peers if peer.get("podSelector", {}).get("matchLabels", {}) != TRAINING
                    and "podSelector" in peer)  # fmt: skip
        labels = charts.named(objects, "Deployment", "esper-urza")["spec"]["template"]["metadata"]["labels"]
        assert selects(urza["podSelector"], labels)
        assert urza["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "esper"}
    urza_policy = next(each for each in policies_of(objects, labels, "esper") if each.get("ingress"))
    peers = [peer["podSelector"] for peer in urza_policy["ingress"][0]["from"] if "podSelector" in peer]
    for owner in ("esper-operator", "esper-dispatcher", "esper-tezzeret", "esper-urabrask"):
        theirs = dict(charts.pods(objects))[owner]["metadata"]["labels"]
        assert any(selects(each, theirs) for each in peers), owner
    (trainers,) = [peer for peer in urza_policy["ingress"][0]["from"] if "matchExpressions" in peer.get(
        "namespaceSelector", {})]  # fmt: skip
    assert selects(trainers["podSelector"], TRAINING)
    assert trainers["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a", "team-b"]


def test_the_operators_labels_are_those_the_policies_select() -> None:
    assert TRAINING.items() <= run_labels("run", "uid").items()


def test_metrics_that_nobody_may_read_are_refused() -> None:
    with pytest.raises(charts.Refused, match=r"networkPolicies\.monitoring: name who reads the metrics"):
        charts.rendered({"podMonitor": {"enabled": True}})


def test_without_policies_there_are_none() -> None:
    assert not charts.of_kind(charts.rendered({"networkPolicies": {"enabled": False}}), "NetworkPolicy")
