"""What an installation lays over every training pod, and what a run lays over that."""

from __future__ import annotations

from typing import Any

from esper_operator.plan.pod import template
from esper_operator.plan.settings import PodSettings
from leyline.resources import TrainingRun, load

OVERLAY = {
    "metadata": {"labels": {"team": "platform", "esper.dev/training-run": "other"}},
    "spec": {
        "restartPolicy": "Always",
        "volumes": [{"name": "key", "secret": {"secretName": "trainer"}}],
        "containers": [
            {
                "name": "trainer",
                "volumeMounts": [{"name": "key", "mountPath": "/key"}],
                "env": [{"name": "HOME", "value": "/installation"}],
            }
        ],
    },
}


def run(**pod_template: Any) -> TrainingRun:
    return load(
        {
            "apiVersion": "esper.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": "grow", "namespace": "team", "uid": "u"},
            "spec": {
                "task": {"ref": "esper.tasks.mnist1d:task"},
                "slots": [{"path": "*"}],
                "training": {"epochs": 1},
                "podTemplate": pod_template,
            },
        }
    )


def test_every_pod_gets_the_installations_overlay_and_stays_its_runs() -> None:
    plain = template(run(), PodSettings("i"))
    made = template(run(), PodSettings("i", template=OVERLAY))
    assert made["metadata"]["labels"] == plain["metadata"]["labels"] | {"team": "platform"}
    assert made["spec"]["restartPolicy"] == "Never"
    assert made["spec"]["volumes"] == [*plain["spec"]["volumes"], OVERLAY["spec"]["volumes"][0]]  # type: ignore[index]
    (trainer,) = made["spec"]["containers"]
    assert {"name": "key", "mountPath": "/key"} in trainer["volumeMounts"]
    assert trainer["command"] == plain["spec"]["containers"][0]["command"]


def test_what_a_run_says_goes_before_the_installation() -> None:
    mine = {"spec": {"containers": [{"name": "trainer", "env": [{"name": "HOME", "value": "/run"}]}]}}
    (trainer,) = template(run(**mine), PodSettings("i", template=OVERLAY))["spec"]["containers"]
    assert [each["value"] for each in trainer["env"] if each["name"] == "HOME"] == ["/run"]
