"""``esper run``: from a manifest on disk to a trained model, with the user kept informed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from esper.cli.guard import DONE, FAILED, INTERRUPTED, extra
from esper.cli.manifest import importable_beside, load_manifest
from esper.errors import BadInput
from esper.tolaria.launch import expected

if TYPE_CHECKING:
    from esper.output.summary import Summary
    from esper.output.ui import Progress, Style
    from esper.weatherlight.settings import TrainSettings

#: A suspended run is no error: it was asked to stop, wrote its checkpoint and can go on.
EXIT_CODES = {"Completed": DONE, "Suspended": DONE, "Failed": FAILED, "Interrupted": INTERRUPTED}


STACK, HERE = "ESPER_STACK", ".stack"
"""Variable that names the folder of an installation on this machine, and where it is otherwise."""


def run_manifest(
    file: Path, out: Path | None, style: Style, overrides: Sequence[str], *,
    resume: bool = False, library: Path | None = None, control: bool = False, checkpoints: str = "",
    stack: bool = False,
) -> None:  # fmt: skip
    """Run ``file`` into ``out`` and leave with the exit code of its phase.

    With ``stack`` the library, the pools and the broker are those of the installation on this machine.

    Raises:
        EsperError: whatever stopped the run; the caller makes a message of it.
        typer.Exit: the run ended with another phase than Completed or Suspended.
    """
    manifest = load_manifest(file, overrides)
    importable_beside(file)
    first = expected()[0] == 0
    out = out or Path("runs") / manifest.metadata.name

    from esper.output.ui import Silent, choose

    progress = choose(style) if first else Silent()
    try:
        progress.phase("loading")
        if stack:
            if library is not None:
                raise BadInput("--library: an installation has its own; leave --library or --stack out")
            settings = stack_settings(checkpoints)
            from esper.weatherlight.pod import train

            summary = train(settings, manifest, out, progress, resume=resume, control=control)
        else:
            from esper.weatherlight.run import run

            summary = run(manifest, out, resume, progress, library=library, control=control, checkpoints=checkpoints)
    finally:
        progress.close()
    if not first:
        pass  # the first rank tells
    elif style == "json":
        sys.stdout.write(json.dumps({"kind": "summary", **summary.model_dump(mode="json")}) + "\n")
    else:
        _tell(summary, out, progress)
    code = EXIT_CODES[summary.phase]
    if code != DONE:
        raise typer.Exit(code)


def stack_settings(checkpoints: str = "") -> TrainSettings:
    """How a trainer reaches the installation on this machine.

    Raises:
        BadInput: there is none, or its settings can't be used.
    """
    folder = Path(os.environ.get(STACK, HERE))
    file = folder / "conf" / "trainer.yaml"
    if not file.is_file():
        raise BadInput(f"--stack: there is no installation in {folder}; `make stack` starts one, or set {STACK}")
    settings = train_settings(file, checkpoints, "settings of the installation")
    # A person reads the page; the log of a process would run over it.
    return settings.model_copy(update={"log_level": "error"})


def train_settings(file: Path | None, checkpoints: str | None, what: str) -> TrainSettings:
    """Settings of a training process; ``checkpoints`` replaces the place where they are kept, unless it is None.

    Raises:
        BadInput: one of them is wrong, or the extra is missing.
    """
    with extra("worker", "a training process"):
        from esper.settings import load_settings
        from esper.tolaria.store.settings import CheckpointSettings
        from esper.weatherlight.settings import TrainSettings

        settings = load_settings(TrainSettings, file, what=what)
    if checkpoints is None:
        return settings
    place = CheckpointSettings.model_validate(settings.checkpoints.model_dump() | {"url": checkpoints})
    return settings.model_copy(update={"checkpoints": place})


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
