from __future__ import annotations

import contextlib
import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline import messages
from leyline.envelope import open_, seal
from leyline.errors import MalformedEnvelope
from leyline.interface import Layout
from leyline.keys import KeyRing, Signer
from leyline.lifecycle import Actor, Stage
from leyline.messages import PAYLOADS, AdaptationCommand, FieldReport, decode, encode, topic_of, type_of
from leyline.replay import ReplayGuard
from leyline.resources import enums
from leyline.topics import TOPICS
from leyline.v1 import control_pb2, kernels_pb2, seed_pb2, telemetry_pb2

ROOT = Path(__file__).resolve().parents[3]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(enum: object) -> dict[str, int]:
    return {value.name: value.number for value in enum.DESCRIPTOR.values}  # type: ignore[attr-defined]


def prefixed(prefix: str, names: list[str]) -> set[str]:
    return {f"{prefix}_UNSPECIFIED", *(f"{prefix}_{name}" for name in names)}


def snake(value: str) -> str:
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(value)).upper()


def test_stages_have_the_lifecycles_numbers() -> None:
    assert numbers(seed_pb2.Stage) == {f"STAGE_{stage.name}": int(stage) for stage in Stage}


@pytest.mark.parametrize(
    ("enum", "prefix", "values"),
    [
        (seed_pb2.Blend, "BLEND", [snake(v) for v in enums.Blend]),
        (seed_pb2.Objective, "OBJECTIVE", [snake(v) for v in enums.Objective]),
        (seed_pb2.AlphaSchedule, "ALPHA_SCHEDULE", [snake(v) for v in enums.AlphaSchedule]),
        (kernels_pb2.KernelState, "KERNEL_STATE", [snake(v) for v in enums.KernelPhase]),
        (kernels_pb2.Layout, "LAYOUT", [layout.name for layout in Layout]),
        (control_pb2.Actor, "ACTOR", [actor.name for actor in Actor]),
    ],
)
def test_enums_of_messages_and_resources_name_the_same_things(enum: object, prefix: str, values: list[str]) -> None:
    assert set(numbers(enum)) == prefixed(prefix, values)


def test_every_payload_of_every_topic_is_a_message_and_the_other_way_round() -> None:
    assert {payload for topic in TOPICS.values() for payload in topic.payloads} == set(PAYLOADS)


def test_a_message_knows_its_topic() -> None:
    assert topic_of(FieldReport()).name == "innovation.field_reports"
    with pytest.raises(MalformedEnvelope, match="travel alone"):
        topic_of(control_pb2.Germinate())


def test_a_command_survives_the_bus() -> None:
    command = AdaptationCommand(
        command_id="c1",
        run="r1",
        epoch=4,
        actor=control_pb2.ACTOR_TAMIYO,
        reason="plateau",
        numbers={"b": 2.0, "a": 1.0},
        germinate=control_pb2.Germinate(
            slot="blocks.0",
            kernel_artifact_id="0" * 16 + "-x86_64-fast-00000000",
            blend=seed_pb2.BLEND_RESIDUAL,
            tags=["high_speed"],
        ),
    )
    signer = Signer.generate("r1")
    ring = KeyRing()
    ring.add(signer, producers={"tamiyo"}, topics={topic_of(command).name})
    data = seal(encode(command), type_of(command), topic_of(command).name, "tamiyo", 1, signer, 1e9, 30)
    opened = open_(data, topic_of(command).name, ring, 1e9, ReplayGuard())
    received = decode(opened.type, opened.payload)
    assert received == command
    assert isinstance(received, AdaptationCommand)
    assert received.WhichOneof("action") == "germinate"


@given(st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=8))
def test_equal_messages_have_equal_bytes(measurements: dict[str, float]) -> None:
    one = FieldReport(measurements=measurements)
    two = FieldReport(measurements=dict(reversed(measurements.items())))
    assert encode(one) == encode(two)
    assert decode(type_of(one), encode(one)) == one


def test_an_unmeasured_effect_is_told_from_zero() -> None:
    assert not FieldReport().HasField("effect")
    assert decode("leyline.v1.FieldReport", encode(FieldReport(effect=0.0))).HasField("effect")


@given(st.binary(max_size=200))
def test_noise_either_decodes_or_is_malformed(payload: bytes) -> None:
    for name in PAYLOADS:
        with contextlib.suppress(MalformedEnvelope):
            assert type_of(decode(name, payload)) == name


def test_damaged_bytes_are_malformed() -> None:
    with pytest.raises(MalformedEnvelope, match=r"not a leyline\.v1\.FieldReport"):
        decode("leyline.v1.FieldReport", b"\xff\xff")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(MalformedEnvelope, match="no such message type"):
        decode("leyline.v1.Nothing", b"")


@pytest.mark.parametrize("name", ["gen_proto", "check_contracts"])
def test_generated_code_and_baseline_are_up_to_date(name: str) -> None:
    arguments = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *(["--check"] if name == "gen_proto" else [])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


OLD = {
    "messages": {
        "m.A": {
            "fields": {
                "1": {"name": "id", "type": "string", "place": "plain"},
                "2": {"name": "size", "type": "uint32", "place": "plain"},
            },
            "reserved": [7],
        }
    },
    "enums": {"m.E": {"fields": {"0": {"name": "E_UNSPECIFIED"}, "1": {"name": "E_ONE"}}, "reserved": []}},
}


def changed(path: list[str], value: object) -> dict[str, object]:
    new = copy.deepcopy(OLD)
    here: dict[str, object] = new  # type: ignore[assignment]
    for part in path[:-1]:
        here = here[part]  # type: ignore[assignment]
    if value is None:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return new  # type: ignore[return-value]


FIELDS = ["messages", "m.A", "fields"]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["messages", "m.A"], None, "m.A: removed"),
        ([*FIELDS, "2"], None, "m.A.size = 2: removed"),
        ([*FIELDS, "2", "type"], "int64", "m.A.size: type was uint32 and is now int64"),
        ([*FIELDS, "2", "place"], "repeated", "m.A.size: place was plain and is now repeated"),
        ([*FIELDS, "2", "name"], "length", "m.A: number 2 was size and is now length"),
        (["messages", "m.A", "reserved"], [], "m.A: number 7 was retired and is no longer reserved"),
        (["enums", "m.E"], None, "m.E: removed"),
        (["enums", "m.E", "fields", "1"], None, "m.E.E_ONE = 1: removed"),
    ],
)
def test_breaking_changes_are_found(path: list[str], value: object, problem: str) -> None:
    check = script("check_contracts")
    assert check.compare(OLD, changed(path, value)) == [problem]


def test_renumbering_is_called_renumbering() -> None:
    check = script("check_contracts")
    new = changed([*FIELDS, "3"], OLD["messages"]["m.A"]["fields"]["2"])
    del new["messages"]["m.A"]["fields"]["2"]  # type: ignore[index]
    assert check.compare(OLD, new) == ["m.A.size: renumbered from 2 to 3"]


def test_additions_are_fine() -> None:
    check = script("check_contracts")
    new = changed([*FIELDS, "3"], {"name": "more", "type": "bool", "place": "plain"})
    new["messages"]["m.B"] = {"fields": {}, "reserved": []}  # type: ignore[index]
    assert check.compare(OLD, new) == []
    assert check.compare(OLD, OLD) == []


def test_a_number_may_only_go_when_it_is_reserved() -> None:
    check = script("check_contracts")
    new = changed([*FIELDS, "2"], None)
    assert check.unretired(OLD, new) == ["m.A: add `reserved 2;`"]
    new["messages"]["m.A"]["reserved"] = [2, 7]  # type: ignore[index]
    assert check.unretired(OLD, new) == []
    new["messages"]["m.A"]["reserved"] = [2]  # type: ignore[index]
    assert check.unretired(OLD, new) == ["m.A: keep `reserved 7;`"]


def test_the_description_covers_what_the_messages_hold() -> None:
    check = script("check_contracts")
    contract = check.describe(check.compiled())
    assert contract["messages"]["leyline.v1.FieldReport"]["fields"]["15"] == {
        "name": "effect",
        "type": "double",
        "place": "optional",
    }
    assert contract["messages"]["leyline.v1.AdaptationCommand"]["fields"]["10"]["place"] == "oneof action"
    assert set(PAYLOADS) <= set(contract["messages"])
    assert check.style(contract) == []
    assert check.style({"enums": {"m.E": {"fields": {"0": {"name": "E_ZERO"}}}}}) != []


def test_every_outcome_can_be_reported() -> None:
    ends = {"FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK"}
    assert set(numbers(telemetry_pb2.Outcome)) == prefixed("OUTCOME", sorted(ends))
    assert ends <= {stage.name for stage in Stage}
    assert messages.FieldReport is FieldReport
