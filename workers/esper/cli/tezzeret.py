"""``esper tezzeret``: compile workers as processes of their own, and the key that vouches for their work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from esper.cli.guard import extra, guarded

tezzeret = typer.Typer(no_args_is_help=True, help="The compiler's workers.")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@tezzeret.command()
@guarded
def work(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_TEZZERET_… variables win over it."
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, max=64, help="Builds at a time.")] = None,
    idle_exit: Annotated[
        float | None, typer.Option("--idle-exit", min=0, help="Seconds without work after which it ends; 0 is never.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Build kernels that are asked for.

    Takes work from the broker and hands it in to the library's service;
    it needs no credentials but a worker's token for each. SIGTERM lets it
    finish the work in hand; work of one that is killed goes to the next.

    [bold]Example[/bold]

      esper tezzeret work --config tezzeret.yaml --idle-exit 600
    """
    with extra("worker", "a pool worker"):
        from esper.process import load_settings
        from esper.weatherlight.pooling import work_tezzeret
        from esper.weatherlight.settings import TezzeretSettings

        options = (("processes", processes), ("idle_exit_seconds", idle_exit))
        given: dict[str, Any] = {name: value for name, value in options if value is not None}
        settings = load_settings(TezzeretSettings, config, what="settings of the worker", **given)
    work_tezzeret(settings)


@tezzeret.command()
@guarded
def keygen(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made when it is not there.")],
    debug: Debug = False,
) -> None:
    """Make the key that vouches for built kernels.

    Writes DIR/built.pem, for this pool alone (its signing_key_file), and
    adds the public half to DIR/public.json, for everybody who is to
    believe it (their public_keys_file).

    [bold]Example[/bold]

      esper tezzeret keygen keys
    """
    from esper.weatherlight.keys import make_signing_key

    typer.echo(make_signing_key(directory, "built"))
