from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from leyline.interface import Interface, Layout
from leyline.resources import (
    BudgetSpec,
    JudgeSpec,
    ManifestErrors,
    SeedsSpec,
    SlotSpec,
    TaskSpec,
    TrainingRun,
    TrainingRunSpec,
    TrainingSpec,
    load,
    load_blueprint,
    load_kernel_artifact,
)
from leyline.resources.base import Model, inner_model
from leyline.resources.blueprint import Blueprint
from leyline.resources.crd import schema
from leyline.resources.enums import JudgeMode, Objective
from leyline.resources.kernel_artifact import KernelArtifact
from leyline.resources.meta import Metadata
from leyline.resources.rules import RULES

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "tests" / "corpus" / "manifests"
SAMPLES = ROOT / "crds" / "samples"
GOOD = sorted((CORPUS / "good").glob("*.yaml"))
BROKEN = sorted((CORPUS / "broken").glob("*.yaml"))

MINIMAL: dict[str, Any] = {
    "apiVersion": "esper.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "run"},
    "spec": {"task": {"ref": "a.b:c"}, "slots": [{"path": "x"}], "training": {"epochs": 3}},
}


def header(text: str, key: str) -> str:
    return next(line.removeprefix(f"# {key}: ") for line in text.splitlines() if line.startswith(f"# {key}: "))


def with_spec(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(MINIMAL)
    document["spec"].update(changes)
    return document


def only_error(document: Any) -> str:
    with pytest.raises(ManifestErrors) as caught:
        load(document)
    assert len(caught.value.errors) == 1, caught.value
    return str(caught.value.errors[0])


def models() -> list[type[Model]]:
    found: dict[str, type[Model]] = {}
    waiting: list[type[Any]] = [TrainingRun, Blueprint, KernelArtifact]
    while waiting:
        model = waiting.pop()
        if model.__name__ not in found:
            found[model.__name__] = model
            waiting.extend(m for info in model.model_fields.values() if (m := inner_model(info.annotation)))
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_manifests_load_and_survive_a_round_trip(path: Path) -> None:
    run = load(path.read_text(), source=path.name)
    again = load(run.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert again == run
    assert load(yaml.safe_dump(run.model_dump(mode="json", by_alias=True, exclude_none=True))) == run


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_manifests_name_exactly_the_broken_fields(path: Path) -> None:
    text = path.read_text()
    with pytest.raises(ManifestErrors) as caught:
        load(text, source=path.name)
    assert sorted(error.path for error in caught.value.errors) == sorted(header(text, "expect").split("; "))
    assert str(caught.value).startswith(f"{path.name}: ")
    for error in caught.value.errors:
        assert error.problem
        assert error.allowed


def test_the_samples_load() -> None:
    assert load((SAMPLES / "trainingrun.yaml").read_text()).spec.task.ref == "esper.tasks.mnist1d:task"
    blueprint = load_blueprint((SAMPLES / "blueprint.yaml").read_text())
    artifact = load_kernel_artifact((SAMPLES / "kernelartifact.yaml").read_text())
    assert artifact.spec.blueprint == blueprint.metadata.name
    interface = artifact.spec.interface.to_interface()
    assert interface == Interface(Layout.IMAGE1D, 8, (9,))
    assert blueprint.spec.to_ir().parameter_count(interface) == 2 * (8 * 8 * 3 + 8)
    assert blueprint.spec.to_ir().zero_initialised


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        (("op: act", "op: atc"), "spec.graph.nodes.fire", "unknown operator"),
        (("inputs: [u]", "inputs: [nowhere]"), "spec.graph.nodes.widen", "nowhere"),
        (("output: back", "output: gone"), "spec.graph", "gone"),
        (("op: input", "op: input, foo: 1"), "spec.graph.nodes.u.foo", "unknown field"),
        (("trailing: [9]", "trailing: []"), "spec.targets[0].interface.trailing", "does not fit the layout"),
        (("image1d, width: 8, trailing: [9]", "vector, width: 8"), "spec.targets[0].interface", "vector"),
        (("width: 8", "width: 8, batchMin: 9, batchMax: 8"), "spec.targets[0].interface.batchMax", "smaller"),
    ],
)
def test_a_blueprint_that_is_none_is_refused_at_the_node(change: tuple[str, str], path: str, says: str) -> None:
    text = (SAMPLES / "blueprint.yaml").read_text().replace(*change)
    with pytest.raises(ManifestErrors) as caught:
        load_blueprint(text)
    assert [error.path for error in caught.value.errors] == [path]
    assert says in str(caught.value)


def test_every_mistake_is_reported_at_once_with_value_and_range() -> None:
    with pytest.raises(ManifestErrors) as caught:
        load(with_spec(seed=-1, judge={"pValue": 2}, trainng={}), source="run.yaml")
    assert str(caught.value).splitlines() == [
        "run.yaml: 3 problems",
        "  spec.seed: -1 (allowed: at least 0)",
        "  spec.judge.pValue: 2 (allowed: less than 0.5)",
        "  spec.trainng: unknown field (allowed: did you mean training?)",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judge": {"pvalue": 0.1}}, "did you mean pValue?"),
        ({"training": {"epochs": 1, "learningRate": 0.1}}, "it belongs to spec.training.optimizer"),
        ({"judge": {"zzz": 1}}, "one of clip, cooldownSteps"),
        ({"controller": {"policy": "heuristik"}}, "did you mean Heuristic?"),
        ({"judge": {"mode": False}}, 'quoted ("Off")'),
        ({"task": {"ref": "nope"}}, "module:function"),
        ({"training": {}}, "Epochs to train"),
    ],
)
def test_an_error_says_what_would_be_right(changes: dict[str, Any], says: str) -> None:
    assert says in only_error(with_spec(**changes))


def test_the_errors_survive_the_way_between_processes() -> None:
    error = catch("a: 1")
    rebuild, arguments = error.__reduce__()[:2]
    assert str(rebuild(*arguments)) == str(error)


def test_a_huge_value_is_not_echoed() -> None:
    assert len(only_error(with_spec(image="x" * 100_000))) < 300
    assert len(only_error(with_spec(seed=10**5000))) < 300


@pytest.mark.parametrize("size", [2_000_000, 10_000_000])
def test_oversized_documents_are_refused_before_they_are_parsed(size: int) -> None:
    assert "at most" in only_error("a: " + "x" * size)
    assert "at most" in only_error(b"\0" * size)


def test_many_small_values_are_refused() -> None:
    assert "20000" in only_error("[" + "1," * 30_000 + "1]")
    assert "20000" in only_error(with_spec(podTemplate={"a": [0] * 30_000}))


def test_nesting_is_bounded_in_dicts_too() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert "nested too deeply" in only_error(with_spec(podTemplate=deep))


def test_aliases_can_not_nest_beyond_the_limit() -> None:
    lines = ["a0: &a0 {}"] + [f"a{i}: &a{i} {{x: *a{i - 1}}}" for i in range(1, 100)]
    assert "nested too deeply" in only_error("\n".join(lines))


@pytest.mark.parametrize("value", [{1: 2}, {"podTemplate": {"a": {1, 2}}}, {"podTemplate": {"a": math.nan}}])
def test_python_values_that_json_does_not_have_are_refused(value: dict[Any, Any]) -> None:
    document = copy.deepcopy(MINIMAL)
    document["spec"].update(value)
    assert "spec" in only_error(document)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("0x10", 16),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("=", "="),
        ("yes", True),
        ("Off", False),
        ("None", "None"),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_are_read_as_kubernetes_clients_read_them(text: str, value: Any) -> None:
    run = load(yaml.safe_dump(MINIMAL) + f"  podTemplate:\n    value: {text}\n")
    read = run.spec.pod_template["value"]
    assert read == value
    assert type(read) is type(value)


def test_defaults_are_the_documented_ones() -> None:
    spec = load(MINIMAL).spec
    assert spec.judge == JudgeSpec()
    assert (spec.seed, spec.training.batch_size, spec.seeds.objective) == (0, 100, Objective.NONE)
    assert spec.judge.p_value == 0.005
    assert spec.training.schedule.decay_fraction == 0.3
    assert spec.training.steps_per_epoch is None
    assert spec.kernels.cache_bytes == 256 * 1024 * 1024


def test_the_sdk_builds_the_same_spec_from_python_names() -> None:
    spec = TrainingRunSpec(
        task=TaskSpec(ref="a.b:c"),
        slots=[SlotSpec(path="x")],
        training=TrainingSpec(epochs=3),
        judge=JudgeSpec(mode=JudgeMode.OFF),
        budget=BudgetSpec(training_flops=10**21),
    )
    assert spec == load(with_spec(judge={"mode": "Off"}, budget={"trainingFlops": 1e21})).spec
    assert isinstance(spec.budget.training_flops, int)


def test_a_spec_can_not_be_changed_and_a_status_can() -> None:
    run = load(with_spec() | {"status": {"epoch": 1}})
    with pytest.raises(ValueError, match="frozen"):
        run.spec.seed = 3
    assert run.status is not None
    run.status.epoch = 2
    assert run.status.epoch == 2


def test_a_resource_of_another_kind_is_named_before_its_fields() -> None:
    assert only_error((SAMPLES / "blueprint.yaml").read_text()) == "kind: 'Blueprint' (allowed: TrainingRun)"
    with pytest.raises(ManifestErrors, match="allowed: KernelArtifact"):
        load_kernel_artifact(MINIMAL)


def test_rules_are_checked_on_the_parts_as_well() -> None:
    with pytest.raises(ValueError, match="needs time in isolation"):
        SeedsSpec(objective=Objective.TASK, isolation_epochs=0)


def test_every_rule_names_a_model_and_one_of_its_fields_and_has_a_broken_manifest() -> None:
    by_name = {model.__name__: model for model in models()}
    for rule in RULES:
        model: type[Any] | None = by_name[rule.model]
        for part in rule.field.split("."):
            assert model is not None
            model = inner_model(model.model_fields[part].annotation)
    texts = [path.read_text() for path in BROKEN if header(path.read_text(), "layer") == "rules"]
    said = "\n".join(str(catch(text)) for text in texts)
    for rule in RULES:
        if rule.model != "InterfaceSpec":
            assert rule.problem in said, rule.problem


def catch(text: str) -> ManifestErrors:
    with pytest.raises(ManifestErrors) as caught:
        load(text)
    return caught.value


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_field_is_documented(model: type[Model]) -> None:
    assert model.__doc__
    shapes = schema(model)["properties"]
    for name, info in model.model_fields.items():
        extra: Any = info.json_schema_extra
        doc = extra["x-doc"]
        where = f"{model.__name__}.{name}"
        assert doc["text"].endswith("."), where
        if not info.is_required():
            assert doc["why"], f"{where}: why this default?"
        if model is not Metadata and shapes[info.alias or name].get("type") in ("integer", "number"):
            assert doc["unit"], f"{where}: in which unit?"


@settings(max_examples=300)
@given(st.text(max_size=200))
def test_any_text_is_either_a_run_or_refused(text: str) -> None:
    with pytest.raises(ManifestErrors):
        load(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    ["seed"],
    ["task", "params"],
    ["slots"],
    ["slots", 0, "chunks"],
    ["training", "optimizer"],
    ["training", "optimizer", "betas"],
    ["seeds"],
    ["judge", "mode"],
    ["controller", "fixed"],
    ["kernels", "strategies"],
    ["resources", "limits"],
    ["tolerations"],
    ["podTemplate"],
]


@settings(max_examples=300)
@given(st.sampled_from(PATHS), json_values)
def test_any_value_anywhere_is_either_accepted_or_refused_by_path(path: list[Any], value: Any) -> None:
    document = with_spec(judge={}, controller={}, kernels={}, resources={})
    document["spec"]["training"]["optimizer"] = {}
    here: Any = document["spec"]
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    try:
        run, errors = load(document), []
    except ManifestErrors as refused:
        run, errors = None, refused.errors
        assert errors
    assert all(error.path.startswith("spec") or error.path == "document" for error in errors)
    if run is not None:
        assert load(run.model_dump(mode="json", by_alias=True, exclude_none=True)) == run
