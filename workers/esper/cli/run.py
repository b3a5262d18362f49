"""``esper run``: from a manifest on disk to a trained model, with the user kept informed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from esper.cli.guard import DONE, FAILED, INTERRUPTED
from esper.cli.manifest import importable_beside, load_manifest

if TYPE_CHECKING:
    from esper.output.summary import Summary
    from esper.output.ui import Progress, Style

#: A suspended run is no error: it was asked to stop, wrote its checkpoint and can go on.
EXIT_CODES = {"Completed": DONE, "Suspended": DONE, "Failed": FAILED, "Interrupted": INTERRUPTED}


def run_manifest(
    file: Path, out: Path | None, style: Style, overrides: Sequence[str], *,
    resume: bool = False, library: Path | None = None, control: bool = False, checkpoints: str = "",
) -> None:  # fmt: skip
    """Run ``file`` into ``out`` and leave with the exit code of its phase.

    Raises:
        EsperError: whatever stopped the run; the caller makes a message of it.
        typer.Exit: the run ended with another phase than Completed or Suspended.
    """
    manifest = load_manifest(file, overrides)
    importable_beside(file)
    out = out or Path("runs") / manifest.metadata.name

    from esper.output.ui import choose

    progress = choose(style)
    try:
        progress.phase("loading")
        from esper.weatherlight.run import run

        summary = run(manifest, out, resume, progress, library=library, control=control, checkpoints=checkpoints)
    finally:
        progress.close()
    if style == "json":
        sys.stdout.write(json.dumps({"kind": "summary", **summary.model_dump(mode="json")}) + "\n")
    else:
        _tell(summary, out, progress)
    code = EXIT_CODES[summary.phase]
    if code != DONE:
        raise typer.Exit(code)


def _tell(summary: Summary, out: Path, progress: Progress) -> None:
    from esper.output.readers import RunRecord
    from esper.output.report.words import verdict

    words = verdict(RunRecord(out, summary))
    typer.echo()
    typer.secho(words.headline, bold=True)
    for sentence in words.sentences:
        typer.echo(f"  {sentence}")
    for what, name in (("report", "report.html"), ("model", "model"), ("summary", "summary.json")):
        if (out / name).exists():
            typer.echo(f"  {what + ':':<9}{out / name}")
