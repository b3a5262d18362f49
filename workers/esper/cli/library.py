"""``esper blueprints`` and ``esper kernels``: what there is to grow by, and what became of it on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from esper.cli.show import kernel_table
from esper.cli.tables import cell, console, table
from esper.errors import BadInput


def show_blueprints(as_json: bool) -> None:
    """List the catalogue."""
    from esper.karn.catalogue import CATALOGUE

    if as_json:
        _write([_blueprint(entry) for entry in CATALOGUE.values()])
        return
    rows = [
        (entry.name, ", ".join(layout.value for layout in entry.layouts), f"{entry.risk:.2f}", entry.summary)
        for entry in CATALOGUE.values()
    ]
    console().print(table(f"{len(rows)} blueprints", ("name", "layouts", "risk", "what it is"), rows, right=("risk",)))


def show_blueprint(name: str, as_json: bool) -> None:
    """Show one blueprint with its nodes.

    Raises:
        BadInput: there is no such blueprint; the nearest names are given.
    """
    from esper.karn.catalogue import entry as find

    entry = find(name)
    if as_json:
        _write(_blueprint(entry))
        return
    out = console()
    out.print(cell(f"{entry.name}: {entry.summary}"))
    out.print(cell(f"layouts {', '.join(layout.value for layout in entry.layouts)}; risk {entry.risk:.2f}"))
    out.print(cell(f"digest {entry.ir.digest()}"))
    out.print()
    rows = [
        (name, node.op, ", ".join(node.inputs), ", ".join(f"{key}={value}" for key, value in node.params))
        for name, node in entry.ir.nodes.items()
    ]
    out.print(table("Nodes", ("node", "operator", "inputs", "parameters"), rows))
    out.print(cell(f"output {entry.ir.output}"))


def show_kernels(directory: Path, as_json: bool) -> None:
    """List the kernels of a library, or of the library in a run's directory.

    Raises:
        BadInput: there is no library.
    """
    from esper.urza import SqlLibrary
    from esper.urza.sql import DATABASE

    root = next((path for path in (directory, directory / "library") if (path / DATABASE).is_file()), None)
    if root is None:
        raise BadInput(
            f"{directory} holds no kernel library ({DATABASE}); give a run's directory, such as runs/mnist1d"
        )
    library = SqlLibrary.open(root)
    try:
        records = library.records()
    finally:
        library.close()
    rows = [_kernel(record) for record in sorted(records, key=lambda record: (record.blueprint, record.strategy))]
    if as_json:
        _write(rows)
    elif rows:
        console().print(kernel_table(rows))
    else:
        console().print(cell(f"{root} holds no kernel yet"))


def _kernel(record: Any) -> dict[str, Any]:
    return {
        "id": record.artifact_id,
        "blueprint": record.blueprint,
        "strategy": record.strategy,
        "state": str(record.state),
        "ratio": record.ratio,
        "interval": record.report.get("ratio_interval"),
        "latency_ms": record.latency_ms,
        "memory_mb": record.memory_mb,
        "tags": list(record.tags),
        "risk": record.risk,
        "parameters": record.parameters,
        "flops": record.flops,
        "cause": record.cause,
    }


def _blueprint(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "risk": entry.risk,
        "layouts": [layout.value for layout in entry.layouts],
        "digest": entry.ir.digest(),
        "ir": entry.ir.to_dict(),
    }


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
