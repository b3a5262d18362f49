"""The CRDs accept and refuse what ``load`` does; the API server's steps are played: prune, default, schema, CEL."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import celpy.celtypes
import pytest
import yaml
from jsonschema import Draft4Validator, ValidationError, validators
from pydantic.alias_generators import to_camel

from leyline.resources import load, load_blueprint, load_kernel_artifact
from leyline.resources.crd import DEFINITIONS, FROZEN_FIELDS, definition, schema
from leyline.resources.documents import parse
from leyline.resources.kernel_artifact import KernelArtifact
from leyline.resources.reference import manifest_reference
from leyline.resources.training_run import MUTABLE_SPEC_FIELDS, TrainingRun, TrainingRunSpec

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "tests" / "corpus" / "manifests"
GOOD = sorted((CORPUS / "good").glob("*.yaml"))
BROKEN = sorted((CORPUS / "broken").glob("*.yaml"))
FIELD_LIST = Path(__file__).with_name("public_fields.txt")
KINDS = {of.model.__name__: of for of in DEFINITIONS}
Schema = dict[str, Any]


def layer(path: Path) -> str:
    return next(
        line.removeprefix("# layer: ") for line in path.read_text().splitlines() if line.startswith("# layer: ")
    )


def unknown_fields(value: Any, shape: Schema, path: str = "") -> list[str]:
    if shape.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, dict) and "properties" in shape:
        if path == ".metadata":
            return []
        extra = [f"{path}.{name}" for name in value.keys() - shape["properties"].keys()]
        inner = [
            unknown_fields(value[name], prop, f"{path}.{name}")
            for name, prop in shape["properties"].items()
            if name in value
        ]
        return extra + [item for found in inner for item in found]
    if isinstance(value, dict) and "additionalProperties" in shape:
        return [
            x
            for name, item in value.items()
            for x in unknown_fields(item, shape["additionalProperties"], f"{path}.{name}")
        ]
    if isinstance(value, list) and "items" in shape:
        return [x for i, item in enumerate(value) for x in unknown_fields(item, shape["items"], f"{path}[{i}]")]
    return []


def with_defaults(value: Any, shape: Schema) -> Any:
    """Defaults filled in, and nulls that stand for absence taken out."""
    if isinstance(value, dict) and "properties" in shape:
        out = {}
        for name, item in value.items():
            prop = shape["properties"].get(name, {})
            if item is None and (prop.get("nullable") or "default" in prop):
                continue
            out[name] = with_defaults(item, prop)
        for name, prop in shape["properties"].items():
            if name not in out and "default" in prop:
                out[name] = with_defaults(copy.deepcopy(prop["default"]), prop)
        return out
    if isinstance(value, dict) and "additionalProperties" in shape:
        return {name: with_defaults(item, shape["additionalProperties"]) for name, item in value.items()}
    if isinstance(value, list) and "items" in shape:
        return [with_defaults(item, shape["items"]) for item in value]
    return value


def is_whole(_: Any, value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def repeated(value: Any, shape: Schema) -> bool:
    """A list of type set or map with equal items or keys, anywhere."""
    if isinstance(value, dict):
        props = shape.get("properties", {})
        return any(
            repeated(item, props.get(name, shape.get("additionalProperties", {}))) for name, item in value.items()
        )
    if not isinstance(value, list):
        return False
    kind = shape.get("x-kubernetes-list-type")
    if kind == "set" and len({str(item) for item in value}) < len(value):
        return True
    if kind == "map":
        keys = [tuple(item[key] for key in shape["x-kubernetes-list-map-keys"]) for item in value]
        if len(set(keys)) < len(keys):
            return True
    return any(repeated(item, shape.get("items", {})) for item in value)


def int_or_string(_: Any, wanted: bool, value: Any, __: Any) -> Iterator[ValidationError]:
    if wanted and (isinstance(value, bool) or not isinstance(value, int | str)):
        yield ValidationError(f"{value!r} is neither a whole number nor a string")


Validator = validators.extend(
    Draft4Validator,
    validators={"x-kubernetes-int-or-string": int_or_string},
    type_checker=Draft4Validator.TYPE_CHECKER.redefine("integer", is_whole),
)


def to_cel(value: Any, shape: Schema) -> Any:
    if isinstance(value, dict):
        props = shape.get("properties", {})
        inner = shape.get("additionalProperties", {})
        return celpy.celtypes.MapType(
            {celpy.celtypes.StringType(k): to_cel(v, props.get(k, inner)) for k, v in value.items()}
        )
    if isinstance(value, list):
        return celpy.celtypes.ListType([to_cel(item, shape.get("items", {})) for item in value])
    if shape.get("type") == "number":
        return celpy.celtypes.DoubleType(value)
    if shape.get("type") == "integer":
        return celpy.celtypes.IntType(int(value))
    return celpy.json_to_cel(value)


@cache
def program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def broken_rules(value: Any, shape: Schema, old: Any = None, path: str = "") -> list[tuple[str, str]]:
    """(path of the field, rule) of each CEL rule that does not hold; transition rules only with an old value."""
    found = []
    for rule in shape.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        activation = {"self": to_cel(value, shape)}
        if "oldSelf" in rule["rule"]:
            activation["oldSelf"] = to_cel(old, shape)
        if not program(rule["rule"]).evaluate(activation):
            found.append((path + rule["fieldPath"], rule["rule"]))
    if isinstance(value, dict):
        inner = shape.get("additionalProperties", {})
        for name, item in value.items():
            before = old.get(name) if isinstance(old, dict) else None
            found += broken_rules(item, shape.get("properties", {}).get(name, inner), before, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += broken_rules(item, shape.get("items", {}), None, f"{path}[{index}]")
    return found


def api_server(document: dict[str, Any]) -> tuple[str, list[str]]:
    """The layer that refuses a document, with the paths, or "accepted"."""
    shape = schema(KINDS[document["kind"]].model)
    unknown = unknown_fields(document, shape)
    full = with_defaults(document, shape)
    invalid = [error.json_path.removeprefix("$") for error in Validator(shape).iter_errors(full)]
    if unknown or invalid or repeated(full, shape) or "name" not in document["metadata"]:
        return "schema", unknown + invalid
    broken = broken_rules(full, shape)
    return ("rules", [path for path, _ in broken]) if broken else ("accepted", [])


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_api_server_accepts_what_load_accepts(path: Path) -> None:
    assert api_server(parse(path.read_text())) == ("accepted", [])


@pytest.mark.parametrize("path", [p for p in BROKEN if layer(p) in ("schema", "rules")], ids=lambda path: path.stem)
def test_the_api_server_refuses_what_load_refuses_in_the_same_layer(path: Path) -> None:
    document = parse(path.read_text())
    refused_by, paths = api_server(document)
    assert refused_by == layer(path), paths
    if refused_by == "rules":
        expected = next(line for line in path.read_text().splitlines() if line.startswith("# expect: "))
        assert paths == ["." + expected.removeprefix("# expect: ")]


def test_the_samples_are_accepted() -> None:
    for path in (ROOT / "crds" / "samples").glob("*.yaml"):
        assert api_server(parse(path.read_text()))[0] == "accepted", path.name


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_defaults_of_the_schema_are_the_defaults_of_the_models(path: Path) -> None:
    document = parse(path.read_text())
    full = with_defaults(document, schema(TrainingRun))
    assert load(full).spec == load(document).spec
    spec = load(document).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert with_defaults(spec, schema(TrainingRunSpec)) == spec


RUN = (ROOT / "crds" / "samples" / "trainingrun.yaml").read_text()
CHANGES: dict[str, Any] = {
    "seed": 1,
    "task": {"ref": "other:task"},
    "slots": [{"path": "other"}],
    "training": {"epochs": 99},
    "budget": {"parameters": 9},
    "seeds": {"maxActive": 2},
    "judge": {"replicates": 2},
    "controller": {"policy": "Never"},
    "kernels": {"prepare": "Alongside"},
    "checkpoints": {"keep": 9},
    "governor": {"maxRollbacks": 9},
    "suspend": True,
    "parallelism": 2,
    "resources": {"limits": {"cpu": "1"}},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "priorityClassName": "high",
    "activeDeadlineSeconds": 60,
    "preRunningDeadlineSeconds": 60,
    "ttlSecondsAfterFinished": 60,
    "backoffLimit": 1,
    "managedBy": "a.b/c",
    "image": "other",
    "hardwareTarget": "other",
    "podTemplate": {"spec": {"hostNetwork": True}},
}


def test_every_field_of_a_spec_has_a_change_to_try() -> None:
    assert set(CHANGES) == {info.alias for info in TrainingRunSpec.model_fields.values()}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_only_suspend_deadline_and_priority_may_change(field: str) -> None:
    old = parse(RUN)
    new = copy.deepcopy(old)
    new["spec"][field] = CHANGES[field]
    load(new)
    shape = schema(TrainingRun)
    before, after = with_defaults(old, shape), with_defaults(new, shape)
    mutable = field in {to_camel(name) for name in MUTABLE_SPEC_FIELDS}
    changed = [path for path, _ in broken_rules(after, shape, before)]
    assert changed == ([] if mutable else [f".spec.{field}"])
    back = [path for path, _ in broken_rules(before, shape, after)]
    assert back == changed
    assert broken_rules(after, shape, after) == []


def test_mutable_fields_are_the_three_of_the_contract() -> None:
    assert frozenset({"suspend", "active_deadline_seconds", "priority_class_name"}) == MUTABLE_SPEC_FIELDS
    assert FROZEN_FIELDS[TrainingRunSpec] == TrainingRunSpec.model_fields.keys() - MUTABLE_SPEC_FIELDS


def test_a_kernel_artifact_never_changes() -> None:
    old = parse((ROOT / "crds" / "samples" / "kernelartifact.yaml").read_text())
    shape = schema(KernelArtifact)
    before = with_defaults(old, shape)
    for field, value in {
        "blueprint": "other",
        "interface": {"layout": "vector", "width": 8},
        "strategy": "Standard",
        "hardware": "x86_64-avx2",
    }.items():
        new = copy.deepcopy(old)
        new["spec"][field] = value
        load_kernel_artifact(new)
        assert [path for path, _ in broken_rules(with_defaults(new, shape), shape, before)] == [f".spec.{field}"]


def test_a_blueprints_graph_never_changes_and_its_risk_may() -> None:
    shape = schema(KINDS["Blueprint"].model)
    old = with_defaults(parse((ROOT / "crds" / "samples" / "blueprint.yaml").read_text()), shape)
    riskier, other = copy.deepcopy(old), copy.deepcopy(old)
    riskier["spec"]["risk"] = 0.9
    other["spec"]["graph"]["nodes"]["fire"]["params"]["fn"] = "gelu"
    load_blueprint(other)
    assert broken_rules(riskier, shape, old) == []
    assert [path for path, _ in broken_rules(other, shape, old)] == [".spec.graph"]


def nodes(shape: Schema, path: str = "") -> list[tuple[str, Schema]]:
    found = [(path, shape)]
    for name, prop in shape.get("properties", {}).items():
        found += nodes(prop, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in shape:
            found += nodes(shape[key], f"{path}.{key}")
    return found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_schemas_are_structural(kind: str) -> None:
    allowed = {"object", "array", "string", "integer", "number", "boolean"}
    for path, node in nodes(schema(KINDS[kind].model)):
        assert node.get("type") in allowed or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "anyOf", "allOf", "oneOf", "const", "title", "$defs", "x-doc"} & node.keys(), path
        assert isinstance(node.get("exclusiveMinimum", True), bool), path
        assert isinstance(node.get("exclusiveMaximum", True), bool), path
        if "properties" in node:
            assert "additionalProperties" not in node, path
    Draft4Validator.check_schema(schema(KINDS[kind].model))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_everything_a_rule_may_walk_over_is_bounded(kind: str) -> None:
    spec = schema(KINDS[kind].model)["properties"]["spec"]
    for path, node in nodes(spec, ".spec"):
        if node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_field_has_a_description(kind: str) -> None:
    for path, node in nodes(schema(KINDS[kind].model)):
        leaf = path.rsplit(".", 1)[-1]
        if leaf in ("apiVersion", "kind", "metadata", "items", "additionalProperties", ""):
            continue
        assert node.get("description"), path


COLUMNS = {
    "TrainingRun": ("PHASE PROGRESS EPOCH SEEDS BEST GPUS ETA AGE", "RESTARTS REASON CHECKPOINT"),
    "Blueprint": ("TIER KERNELS RISK AGE", ""),
    "KernelArtifact": ("PHASE STRATEGY HARDWARE RATIO TAGS AGE", ""),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_columns_are_the_designed_ones_and_their_paths_exist(kind: str) -> None:
    crd = definition(KINDS[kind])["spec"]
    version = crd["versions"][0]
    columns = version["additionalPrinterColumns"]
    narrow = " ".join(c["name"].upper() for c in columns if c.get("priority", 0) == 0)
    wide = " ".join(c["name"].upper() for c in columns if c.get("priority", 0) == 1)
    assert (narrow, wide) == COLUMNS[kind]
    paths = {path for path, _ in nodes(version["schema"]["openAPIV3Schema"])} | {".metadata.creationTimestamp"}
    assert {column["jsonPath"] for column in columns} <= paths
    assert version["subresources"] == {"status": {}}
    assert crd["names"]["categories"] == ["esper"]


def test_names_are_distinct_and_in_the_group() -> None:
    crds = [definition(of) for of in DEFINITIONS]
    assert {crd["spec"]["group"] for crd in crds} == {"esper.dev"}
    names = [name for crd in crds for name in (crd["spec"]["names"]["plural"], *crd["spec"]["names"]["shortNames"])]
    assert len(set(names)) == len(names)


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("gen_crds", ROOT / "scripts" / "gen_crds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_fresh_and_hold_no_anchors() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen_crds.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path, text in generator().outputs().items():
        if path.suffix == ".yaml":
            assert "&id" not in text
            assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
            # kubectl apply keeps a copy in an annotation, which may hold 256 KiB.
            assert len(text) < 200_000


def test_the_reference_names_every_field_of_a_spec() -> None:
    page = manifest_reference()
    for path, _ in nodes(schema(TrainingRunSpec)):
        leaf = path.rsplit(".", 1)[-1]
        if leaf not in ("items", "additionalProperties", ""):
            assert f"| `{leaf}` |" in page, path


def public_fields() -> list[str]:
    lines = []
    for kind in sorted(KINDS):
        shape = schema(KINDS[kind].model)
        required = {f"{path}.{name}" for path, node in nodes(shape) for name in node.get("required", [])}
        for path, node in nodes(shape):
            if path and not path.endswith((".items", ".additionalProperties")):
                kind_of = "int-or-string" if node.get("x-kubernetes-int-or-string") else node["type"]
                lines.append(f"{kind}{path} {kind_of}{' required' if path in required else ''}")
    return lines


def test_public_fields_never_go_away_or_change_type() -> None:
    """Users' manifests hang on these. A new field is added to the list by hand; a removal needs a new API version."""
    frozen = FIELD_LIST.read_text().splitlines()
    now = public_fields()
    assert sorted(set(frozen) - set(now)) == [], "removed, retyped, or newly required"
    assert sorted(set(now) - set(frozen)) == [], f"new: add these lines to {FIELD_LIST.name}"
