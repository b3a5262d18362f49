"""``esper train`` and ``esper ctl``: a training process of an installation, and people's commands to it."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from esper.cli.guard import DONE, extra
from esper.cli.manifest import importable_beside, load_manifest
from esper.cli.run import EXIT_CODES, train_settings
from esper.errors import BadInput


def train_manifest(
    file: Path, out: Path, config: Path | None, checkpoints: str | None, suspended_exit: int = DONE
) -> None:
    """Train ``file`` into ``out`` and leave with its phase's exit code, or ``suspended_exit`` when a signal stopped it.

    Raises:
        EsperError: whatever stopped the run.
        typer.Exit: the run ended with another phase than Completed or Suspended.
    """
    manifest = load_manifest(file)
    importable_beside(file)
    settings = train_settings(config, checkpoints, "settings of the trainer")
    with extra("worker", "a training process"):
        from esper.weatherlight.pod import train
    summary = train(settings, manifest, out)
    code = exit_code(summary.phase, suspended_exit)
    if code != DONE:
        raise typer.Exit(code)


def exit_code(phase: str, suspended_exit: int) -> int:
    """What a run of this phase ends with; one that a signal stopped is not done, which its starter may want to know."""
    return suspended_exit if phase == "Suspended" else EXIT_CODES[phase]


def send(run: str, action: str, seed: str, reason: str, config: Path | None, timeout: float) -> None:
    """Send a command, wait for its answer and print it.

    Raises:
        CommandRefused: the run said no.
        EsperError: it could not be sent, or nobody answered.
    """
    with extra("worker", "sending commands"):
        from esper.oona.keyfiles import TrustedFolder, load_signer
        from esper.oona.pulsar import PulsarBus
        from esper.settings import load_settings
        from esper.weatherlight.ordering import CommandRefused, command, order
        from esper.weatherlight.settings import CtlSettings

        asked = command(run, action, seed, reason)
        settings = load_settings(CtlSettings, config, what="settings of ctl")
    signer, ring = load_signer(settings.bus_key_file), TrustedFolder(settings.bus_trust_dir)
    bus = PulsarBus(settings.pulsar)
    try:
        bus.check()
        answer = order(bus, signer, ring, asked, timeout)
    finally:
        bus.close()
    where = f"after epoch {answer.epoch}, step {answer.step}"
    if not answer.applied:
        raise CommandRefused(f"{run}: {action} refused {where}: {answer.reason}")
    typer.echo(f"{run}: {action} done {where}: {answer.reason}")


def show_status(address: str, token_file: Path | None, as_json: bool) -> None:
    """Print the status page of a training process.

    Raises:
        BadInput: it can't be reached, or does not let this caller see it.
    """
    with extra("worker", "asking a training process"):
        import httpx

        from esper.weatherlight.pod import STATUS_PATH
    headers = {}
    if token_file is not None:
        try:
            headers["Authorization"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
        except OSError as error:
            raise BadInput(f"--token-file {token_file}: {error.strerror or error}") from error
    try:
        answer = httpx.get(address.rstrip("/") + STATUS_PATH, headers=headers, timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadInput(
            f"{address}: does not answer ({type(error).__name__}); is it a trainer's http address?"
        ) from error
    if answer.status_code != 200:
        raise BadInput(f"{address}: answers {answer.status_code}: {answer.text.strip()[:200]}")
    said = answer.json()
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    from esper.cli.tables import cell, console, table

    out = console()
    out.print(cell(f"{said['run']}  {said['phase']}  epoch {said.get('epoch', 0)} of {said['epochs']}"))
    conditions = [(part, words) for part, words in said["conditions"].items()]
    out.print(table("conditions", ("part", "state"), conditions))
    seeds = [
        [seed[name] for name in ("seed", "stage", "blueprint", "alpha", "reason")] for seed in said.get("seeds", ())
    ]
    out.print(table(f"{len(seeds)} seeds", ("seed", "stage", "blueprint", "alpha", "reason"), seeds, right=("alpha",)))
    last = [
        [each["action"], each["seed"], each["producer"], "done" if each["applied"] else "refused", each["reason"]]
        for each in said.get("commands", {}).get("last", ())
    ]
    if last:
        out.print(table("last commands", ("command", "seed", "by", "effect", "why"), last))
