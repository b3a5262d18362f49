#!/usr/bin/env python3
"""Compare the protobuf messages with the last accepted ones (contracts/proto/baseline.json).

Adding messages, fields and enum values is fine. Removing, renaming, renumbering or retyping any of them fails: the
broker does not look into messages, so old and new programs would misread each other. ``--accept`` writes a new
baseline; numbers that went away must then be ``reserved`` in the .proto and stay so for ever.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "contracts" / "proto" / "baseline.json"
Contract = dict[str, Any]


def compiled() -> FileDescriptorSet:
    """The descriptors of the .proto sources."""
    import tempfile

    from grpc_tools import protoc

    sources = ROOT / "contracts" / "proto"
    names = sorted(str(path.relative_to(sources)) for path in sources.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        if protoc.main(["protoc", f"-I{sources}", f"--descriptor_set_out={out.name}", *names]) != 0:
            sys.exit("protoc refused the sources; see above")
        return FileDescriptorSet.FromString(Path(out.name).read_bytes())


def describe(descriptors: FileDescriptorSet) -> Contract:
    """What readers of the wire rely on, by full name: fields and enum values by number, and reserved numbers."""
    messages: Contract = {}
    enums: Contract = {}
    for file in descriptors.file:
        for name, message in _messages(file.package, file.message_type):
            messages[name] = _message(message)
            for enum in message.enum_type:
                enums[f"{name}.{enum.name}"] = _enum(enum)
        for enum in file.enum_type:
            enums[f"{file.package}.{enum.name}"] = _enum(enum)
    return {"messages": messages, "enums": enums}


def _messages(prefix: str, found: Any) -> Iterator[tuple[str, DescriptorProto]]:
    for message in found:
        name = f"{prefix}.{message.name}"
        yield name, message
        yield from _messages(name, message.nested_type)


def _message(message: DescriptorProto) -> Contract:
    def place(field: FieldDescriptorProto) -> str:
        if field.proto3_optional:
            return "optional"
        if field.HasField("oneof_index"):
            return f"oneof {message.oneof_decl[field.oneof_index].name}"
        return "repeated" if field.label == FieldDescriptorProto.LABEL_REPEATED else "plain"

    fields = {
        str(field.number): {
            "name": field.name,
            "type": field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower(),
            "place": place(field),
        }
        for field in message.field
    }
    reserved = sorted(n for span in message.reserved_range for n in range(span.start, min(span.end, span.start + 1000)))
    return {"fields": fields, "reserved": reserved}


def _enum(enum: EnumDescriptorProto) -> Contract:
    values = {str(value.number): {"name": value.name} for value in enum.value}
    reserved = sorted(
        n for span in enum.reserved_range for n in range(span.start, min(span.end + 1, span.start + 1000))
    )
    return {"fields": values, "reserved": reserved}


def compare(old: Contract, new: Contract) -> list[str]:
    """Breaking changes from ``old`` to ``new``, each a line."""
    problems: list[str] = []
    for kind in ("messages", "enums"):
        for name, before in old[kind].items():
            after = new[kind].get(name)
            if after is None:
                problems.append(f"{name}: removed")
                continue
            problems.extend(_compare_numbers(name, before, after))
    return problems


def _compare_numbers(name: str, before: Contract, after: Contract) -> Iterator[str]:
    numbers_now = {field["name"]: number for number, field in after["fields"].items()}
    for number, was in before["fields"].items():
        now = after["fields"].get(number)
        moved = numbers_now.get(was["name"])
        if moved is not None and moved != number:
            yield f"{name}.{was['name']}: renumbered from {number} to {moved}"
        elif now is None:
            yield f"{name}.{was['name']} = {number}: removed"
        elif now["name"] != was["name"]:
            yield f"{name}: number {number} was {was['name']} and is now {now['name']}"
        else:
            yield from (
                f"{name}.{was['name']}: {what} was {was[what]} and is now {now[what]}"
                for what in ("type", "place")
                if was.get(what) != now.get(what)
            )
    for number in sorted(set(before["reserved"]) - set(after["reserved"])):
        yield f"{name}: number {number} was retired and is no longer reserved"


def unretired(old: Contract, new: Contract) -> list[str]:
    """Numbers that went away without being reserved; not even --accept lets them."""
    problems = []
    for kind in ("messages", "enums"):
        for name in old[kind].keys() & new[kind].keys():
            gone = old[kind][name]["fields"].keys() - new[kind][name]["fields"].keys()
            problems += [
                f"{name}: add `reserved {number};`"
                for number in sorted(gone, key=int)
                if int(number) not in new[kind][name]["reserved"]
            ]
            lost = set(old[kind][name]["reserved"]) - set(new[kind][name]["reserved"])
            problems += [f"{name}: keep `reserved {number};`" for number in sorted(lost)]
    return problems


def style(new: Contract) -> list[str]:
    """Rules of our own: an enum's zero says that nothing was said."""
    return [
        f"{name}: value 0 must end in _UNSPECIFIED"
        for name, enum in new["enums"].items()
        if not enum["fields"].get("0", {}).get("name", "").endswith("_UNSPECIFIED")
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="take the present messages as the new baseline")
    accept = parser.parse_args().accept
    new = describe(compiled())
    old = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"messages": {}, "enums": {}}
    problems = style(new) + (unretired(old, new) if accept else compare(old, new))
    for problem in problems:
        print(problem)
    if problems:
        print("refused" if accept else "breaking changes; if no release ever sent these, run with --accept")
        return 1
    if accept:
        BASELINE.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
        print(f"wrote {BASELINE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
