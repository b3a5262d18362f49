"""Write the tables and the diagram that the documents take from the code; `--check` only says whether they are stale.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end generated -->`; the text around it is a
person's.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leyline.lifecycle import STAGES, TRANSITIONS, Gate, Stage, Transition, allowed
from leyline.topics import DAY, HOUR, MINUTE, TOPICS, Topic

ROOT = Path(__file__).resolve().parent.parent
_PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end generated -->)", re.DOTALL)


class StaleDocument(Exception):
    """A document lacks a generated part, or has one that nobody generates."""


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _yes(value: bool) -> str:
    return "yes" if value else "–"


def stages() -> str:
    """Return the table of stages."""
    return table(
        ("stage", "number", "entered when", "what happens", "changes the host", "its parameters train", "may go to"),
        [
            (
                f"`{stage.name}`",
                str(int(stage)),
                info.enters_when,
                info.summary,
                _yes(info.affects_host),
                _yes(info.trains_seed),
                ", ".join(f"`{target.name}`" for target in sorted(allowed(stage))) or "– (terminal)",
            )
            for stage, info in STAGES.items()
        ],
    )


def transitions() -> str:
    """Return the table of transitions."""
    return table(
        ("from", "to", "ordered by", "gates asked", "kernels", "when"),
        [
            (
                f"`{t.source.name}`",
                f"`{t.target.name}`",
                ", ".join(sorted(t.ordered_by)),
                ", ".join(t.gates) or "–",
                _kernels(t),
                "at an epoch boundary" if t.at_boundary else "at once",
            )
            for t in TRANSITIONS
        ],
    )


def _kernels(transition: Transition) -> str:
    if transition.only_trainable:
        return "trainable"
    return "fixed function" if transition.only_fixed_function else "all"


def diagram() -> str:
    """Return the state diagram, without the ways out that many stages share."""
    shared = {Stage.CULLED, Stage.ERROR_RECOVERY, Stage.ROLLED_BACK}
    lines = ["stateDiagram-v2", f"    [*] --> {Stage.DORMANT.name}"]
    for t in TRANSITIONS:
        if t.target not in shared:
            label = [*t.gates, *(["fixed function"] if t.only_fixed_function else [])]
            lines.append(f"    {t.source.name} --> {t.target.name}{': ' + ', '.join(label) if label else ''}")
    lines += [f"    {Stage.ERROR_RECOVERY.name} --> {Stage.CULLED.name}"]
    lines += [f"    {stage.name} --> [*]" for stage, info in STAGES.items() if info.terminal]
    lines.append(f"    note right of {Stage.CULLED.name} : from {_sources(Stage.CULLED, Stage.ERROR_RECOVERY)}")
    lines += [f"    note right of {t.name} : from {_sources(t)}" for t in (Stage.ERROR_RECOVERY, Stage.ROLLED_BACK)]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def _sources(target: Stage, *besides: Stage) -> str:
    return ", ".join(t.source.name for t in TRANSITIONS if t.target is target and t.source not in besides)


def gates() -> str:
    """Return the table of gates and the moves that ask them."""
    asked = {
        gate: "; ".join(f"`{t.source.name}` → `{t.target.name}`" for t in TRANSITIONS if gate in t.gates)
        for gate in Gate
    }
    return table(("gate", "checks", "asked before"), [(gate.value, gate.checks, asked[gate]) for gate in Gate])


def _made_ahead(topic: Topic) -> list[str]:
    return [*topic.consumers, *([f"{topic.owner}-<hardware>"] if topic.per_hardware else [])]


def topics() -> str:
    """Return the table of the bus's topics."""
    return table(
        ("topic", "what it carries", "kind", "owner", "producers", "key", "subscription", "made ahead", "kept for"),
        [
            (
                f"`{topic.name}`",
                topic.summary,
                topic.kind.value,
                topic.owner,
                ", ".join(sorted(topic.producers)),
                topic.key,
                topic.subscription.value,
                ", ".join(f"`{name}`" for name in _made_ahead(topic)) or "–",
                _span(topic.retention) + (", and the last of each key" if topic.compacted else ""),
            )
            for topic in TOPICS.values()
        ],
    )


def _span(seconds: int) -> str:
    for name, size in (("day", DAY), ("hour", HOUR), ("minute", MINUTE)):
        if seconds % size == 0:
            return f"{seconds // size} {name}{'s' if seconds != size else ''}"
    return f"{seconds} s"


def pulsar_settings() -> str:
    """Return the table of a broker's settings."""
    # Only here: the other documents are made without the broker's client.
    from esper.oona.pulsar import PulsarSettings

    return table(
        ("setting", "default", "what it is"),
        [
            (f"`{name}`", "(required)" if field.is_required() else f"`{field.default}`", field.description or "")
            for name, field in PulsarSettings.model_fields.items()
        ],
    )


def service_settings() -> str:
    """Return the table of the library service's settings."""
    from esper.urza.service.settings import PREFIX, ServiceSettings

    return table(
        ("setting", "environment", "default", "what it is"),
        [
            (f"`{name}`", f"`{PREFIX}{name.upper()}`", _default(field.default), field.description or "")
            for name, field in ServiceSettings.model_fields.items()
        ],
    )


def process_settings() -> str:
    """Return the table of what every process is told."""
    from esper.process.settings import ProcessSettings

    return table(
        ("setting", "default", "what it is"),
        [
            (f"`{name}`", "(required)" if field.is_required() else _default(field.default), field.description or "")
            for name, field in ProcessSettings.model_fields.items()
        ],
    )


def library_settings() -> str:
    """Return the table of how the library's service is reached."""
    from esper.urza.client.settings import LibrarySettings

    return _own_settings(LibrarySettings)


def organ_settings() -> str:
    """Return the table of what each process of the kernel pipeline is told besides."""
    from esper.process.settings import ProcessSettings
    from esper.weatherlight.settings import DispatchSettings, TezzeretSettings, UrabraskSettings

    return _own_settings(TezzeretSettings, UrabraskSettings, DispatchSettings, without=ProcessSettings)


def train_settings() -> str:
    """Return the table of what a training process is told besides."""
    from esper.process.settings import ProcessSettings
    from esper.weatherlight.settings import TrainSettings

    return _own_settings(TrainSettings, without=ProcessSettings)


def checkpoint_settings() -> str:
    """Return the table of where and how checkpoints in a bucket are kept."""
    from esper.tolaria.store.settings import CheckpointSettings

    return _own_settings(CheckpointSettings)


def ctl_settings() -> str:
    """Return the table of what commanding a run needs."""
    from esper.weatherlight.settings import CtlSettings

    return _own_settings(CtlSettings)


def _own_settings(*kinds: Any, without: Any = None) -> str:
    """Each kind's fields with their variables."""
    from esper.settings import sections

    common = set() if without is None else set(without.model_fields)
    return table(
        ("setting", "environment", "default", "what it is"),
        [
            (
                f"`{name}`",
                f"`{sections(kind)[name].prefix()}…`" if name in sections(kind) else f"`{kind.prefix()}{name.upper()}`",
                "a section"
                if name in sections(kind)
                else "(required)"
                if field.is_required()
                else _default(field.default),
                field.description or "",
            )
            for kind in kinds
            for name, field in kind.model_fields.items()
            if name not in common
        ],
    )


def _default(value: object) -> str:
    shown = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    return f"`{shown}`" if shown not in ("", None, {}, ()) else "–"


def service_paths() -> str:
    """Return the table of the library service's paths and who may use each."""
    from fastapi import FastAPI

    from esper.urza.service import routes

    app = FastAPI()
    app.include_router(routes.router(None, None))  # type: ignore[arg-type]  # nothing is asked of either here
    return table(
        ("path", "what it does", *routes.READ),
        [
            (
                f"`{method.upper()} {path}`",
                operation["summary"],
                *("yes" if role in operation["x-roles"] else "" for role in routes.READ),
            )
            for path, methods in app.openapi()["paths"].items()
            for method, operation in methods.items()
        ],
    )


def operator_reasons() -> str:
    """Return the table of what a condition or an Event may say."""
    from esper_operator.reasons import TABLE

    return table(
        ("reason", "means", "what to do", "Event"),
        [(f"`{reason}`", entry.meaning, entry.advice or "–", entry.event or "–") for reason, entry in TABLE.items()],
    )


def operator_settings() -> str:
    """Return the table of the operator's settings."""
    from esper_operator.settings import PREFIX, OperatorSettings

    return table(
        ("environment", "default", "what it is"),
        [
            (
                f"`{PREFIX}{name.upper()}`",
                "the machine's name"
                if field.default_factory
                else "–"
                if field.is_required()
                else _default(field.default),
                field.description or "",
            )
            for name, field in OperatorSettings.model_fields.items()
        ],
    )


def operator_permissions() -> str:
    """Return the table of what the operator may do."""
    from esper_operator.permissions import LEASE_PERMISSIONS, PERMISSIONS, POOL_PERMISSIONS

    return table(
        ("group", "resources", "verbs", "why"),
        [
            (f"`{each.group or 'core'}`", ", ".join(each.resources), ", ".join(each.verbs), each.why)
            for each in (*PERMISSIONS, *POOL_PERMISSIONS, *LEASE_PERMISSIONS)
        ],
    )


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "docs/lifecycle.md": {
        "diagram": diagram,
        "stages": stages,
        "transitions": transitions,
        "gates": gates,
    },
    "docs/train.md": {
        "checkpoint-settings": checkpoint_settings,
        "train-settings": train_settings,
        "ctl-settings": ctl_settings,
    },
    "docs/library.md": {"service-paths": service_paths, "service-settings": service_settings},
    "docs/operator.md": {
        "operator-reasons": operator_reasons,
        "operator-settings": operator_settings,
        "operator-permissions": operator_permissions,
    },
    "docs/processes.md": {
        "process-settings": process_settings,
        "library-settings": library_settings,
        "organ-settings": organ_settings,
    },
    "docs/oona.md": {"topics": topics, "pulsar-settings": pulsar_settings},
}


def rendered(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """Return a document with every generated part brought up to date.

    Raises:
        StaleDocument: its parts are not exactly the expected ones.
    """
    found = [match["name"] for match in _PART.finditer(text)]
    if sorted(found) != sorted(parts):
        raise StaleDocument(f"generated parts are {found or 'missing'}, expected {list(parts)}")
    return _PART.sub(lambda match: f"{match[1]}{parts[match['name']]()}{match[4]}", text)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write, or with `--check` compare, every document; return 1 if one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document is stale")
    options = parser.parse_args(arguments)
    stale = []
    for name, parts in PARTS.items():
        path = root / name
        text = path.read_text(encoding="utf-8")
        try:
            fresh = rendered(text, parts)
        except StaleDocument as problem:
            print(f"{name}: {problem}", file=sys.stderr)
            return 1
        if fresh == text:
            continue
        stale.append(name)
        if not options.check:
            aside = path.with_name(path.name + ".tmp")
            aside.write_text(fresh, encoding="utf-8")
            os.replace(aside, path)
            print(f"wrote {name}")
    if stale and options.check:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
