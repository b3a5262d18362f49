"""``esper show``: a run on the terminal, finished or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from esper.cli.tables import STYLES, cell, console, table
from esper.output.readers import RunRecord, SeedHistory, read_run
from esper.output.report.charts import number
from esper.output.report.texts import duration, facts, flops
from esper.output.report.words import verdict


def show_run(directory: Path, as_json: bool) -> None:
    """Print the run in ``directory``.

    Raises:
        OutputDirectoryError: it is not a run.
    """
    record = read_run(directory)
    if as_json:
        sys.stdout.write(json.dumps(as_plain(record), indent=2, ensure_ascii=False) + "\n")
        return
    out = console()
    words = verdict(record)
    out.print(Text.assemble((record.name, "bold"), "  ", (record.phase, STYLES.get(record.phase, ""))))
    out.print(cell(words.headline))
    for sentence in words.sentences:
        out.print(cell(sentence))
    out.print()
    for name, value in _figures(record):
        out.print(Text.assemble((f"{name:<26} ", "bright_black"), cell(value)))
    for part in (_seeds(record), _decisions(record), _kernels(record)):
        if part is not None:
            out.print()
            out.print(part)
    for event in record.rollbacks:
        out.print(
            cell(f"rolled back after epoch {event['epoch']} to epoch {event.get('to_epoch')}: {event.get('cause')}")
        )
    for event in record.warnings:
        out.print(cell(f"warning after epoch {event['epoch']}: {event.get('text')}"))


def _figures(record: RunRecord) -> list[tuple[str, str]]:
    summary = record.summary
    if summary is None:
        last = record.epochs[-1] if record.epochs else {}
        return [
            ("epoch", number(record.last_epoch)),
            ("train loss", number(last.get("train_loss"))),
            ("controller loss", number(last.get("controller_loss"))),
            (f"controller {record.metric}", number(last.get("controller_metric"))),
            ("parameters", number(last.get("parameters"))),
        ]
    final, best = summary.report.final, summary.controller.best
    return [
        ("epochs, steps", f"{summary.epochs}, {number(summary.steps)}"),
        (f"report {summary.metric}", number(final.metric if final else None)),
        (f"best controller {summary.metric}", f"{number(best.metric)} (epoch {best.epoch})" if best else "–"),
        ("parameters", f"{number(summary.parameters)} (host {number(summary.host_parameters)})"),
        ("training compute", flops(summary.training_flops)),
        ("wall time", duration(summary.wall_seconds)),
        ("step", f"median {number(summary.median_step_ms, 3)} ms, longest {number(summary.longest_step_ms, 3)} ms"),
    ]


def _seeds(record: RunRecord) -> Any:
    if not record.seeds:
        return None
    rows = [(life.label, life.blueprint, life.strategy, life.stage, _path(life), life.why) for life in record.seeds]
    return table("Seeds", ("seed", "blueprint", "strategy", "stage", "history (epoch)", "why"), rows)


def _path(life: SeedHistory) -> str:
    return " → ".join(f"{span.stage.lower()} {span.start}" for span in life.spans)


def _decisions(record: RunRecord) -> Any:
    if not record.decisions:
        return None
    rows = [
        (
            event["epoch"],
            "wait" if event.get("action") == "none" else str(event.get("action", "")).lower(),
            event.get("seed") or event.get("slot"),
            event.get("blueprint"),
            event.get("reason"),
            facts(event.get("numbers")),
        )
        for event in record.decisions
    ]
    return table(
        "Decisions", ("epoch", "action", "seed or slot", "blueprint", "why", "numbers"), rows, right=("epoch",)
    )


def _kernels(record: RunRecord) -> Any:
    if record.summary and record.summary.kernels:
        kernels = [kernel.model_dump() for kernel in record.summary.kernels]
    else:
        kernels = record.kernels
    return kernel_table(kernels) if kernels else None


def kernel_table(kernels: list[dict[str, Any]]) -> Any:
    """Kernels with what was measured of them, as a table."""
    rows = []
    for kernel in kernels:
        interval = kernel.get("interval")
        ratio = number(kernel.get("ratio"), 3) + (
            f" [{number(interval[0], 3)}, {number(interval[1], 3)}]" if interval else ""
        )
        rows.append(
            (
                kernel.get("blueprint"),
                kernel.get("strategy"),
                kernel.get("state"),
                ratio,
                number(kernel.get("latency_ms")),
                number(kernel.get("memory_mb")),
                ", ".join(kernel.get("tags") or ()),
                kernel.get("cause"),
            )
        )
    columns = ("blueprint", "strategy", "state", "ratio to fast", "latency ms", "memory MiB", "tags", "cause")
    return table("Kernels", columns, rows, right=("latency ms", "memory MiB"))


def as_plain(record: RunRecord) -> dict[str, Any]:
    """The run as JSON values: summary, epochs, seeds with their stages, decisions, kernels."""
    return {
        "name": record.name,
        "phase": record.phase,
        "summary": record.summary.model_dump(mode="json") if record.summary else None,
        "epochs": record.epochs,
        "seeds": [
            {
                "id": life.id,
                "life": life.life,
                "slot": life.slot,
                "blueprint": life.blueprint,
                "kernel": life.kernel,
                "strategy": life.strategy,
                "stage": life.stage,
                "history": [vars(span) for span in life.spans],
                "gates": life.gates,
                "verdicts": life.verdicts,
            }
            for life in record.seeds
        ],
        "decisions": record.decisions,
        "kernels": record.kernels,
        "rollbacks": record.rollbacks,
        "warnings": record.warnings,
    }
