"""``esper urza``: the library as a service, its schema, and tokens for those who have no OIDC issuer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from esper.cli.guard import extra, guarded

SERVICE = "the library's service"

urza = typer.Typer(no_args_is_help=True, help="The kernel library as a service, and its dispatcher.")

Settings = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_URZA_… variables win over it."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Role(StrEnum):
    """What a caller may do."""

    READER = "reader"
    TRAINER = "trainer"
    WORKER = "worker"
    ADMIN = "admin"


@urza.command()
@guarded
def serve(
    config: Settings = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. [dim]default: 127.0.0.1[/dim]")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="TCP port; 0 takes a free one.")] = None,
    migrate_first: Annotated[
        bool, typer.Option("--migrate", help="Bring the database up to date before serving.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve the library over REST.

    It refuses to start when the database is not at this version's schema,
    the object store ignores conditional puts, or either can't be reached.
    SIGTERM lets running requests finish.

    [bold]Example[/bold]

      esper urza serve --config urza.yaml
    """
    with extra("urza", SERVICE):
        from esper.urza.service.serving import migrate as bring_up
        from esper.urza.service.serving import serve as serve_it
        from esper.urza.service.settings import load

    given: dict[str, Any] = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load(config, **given)
    if migrate_first:
        bring_up(settings)
    serve_it(settings)


@urza.command()
@guarded
def migrate(config: Settings = None, debug: Debug = False) -> None:
    """Bring the library's database to this version's schema.

    Safe to run again and by several at once.

    [bold]Example[/bold]

      esper urza migrate --config urza.yaml
    """
    with extra("urza", SERVICE):
        from esper.urza.service.serving import migrate as bring_up
        from esper.urza.service.settings import load

    typer.echo(f"schema {bring_up(load(config))}")


@urza.command()
@guarded
def keygen(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the keys go; made when it is not there.")],
    debug: Debug = False,
) -> None:
    """Make a key to sign tokens with, for a machine without an issuer.

    Writes issuer.pem (keep it to yourself) and jwks.json, which the
    service reads as jwks_file.

    [bold]Example[/bold]

      esper urza keygen keys
    """
    with extra("urza", SERVICE):
        from esper.urza.issuing import make_key

    typer.echo(make_key(directory))


@urza.command()
@guarded
def token(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where `esper urza keygen` put the key.")],
    subject: Annotated[str, typer.Option("--subject", help="Who it is for, such as run-1.")],
    role: Annotated[list[Role], typer.Option("--role", help="reader, trainer, worker or admin. Repeatable.")],
    issuer: Annotated[str, typer.Option("--issuer", help="The service's `issuer` setting.")],
    audience: Annotated[str, typer.Option("--audience", help="The service's `audience` setting.")] = "esper-urza",
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=8760, help="How long it is valid.")] = 24.0,
    debug: Debug = False,
) -> None:
    """Sign a token and print it.

    [bold]Example[/bold]

      esper urza token keys --issuer local --subject run-1 --role trainer
    """
    with extra("urza", SERVICE):
        from esper.urza.issuing import sign_token

    roles = [each.value for each in role]
    typer.echo(sign_token(directory, subject, roles, issuer=issuer, audience=audience, seconds=hours * 3600))


@urza.command()
@guarded
def dispatch(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_DISPATCH_… variables win over it."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Send kernels on their way, and tell what became of them.

    Takes what runs ask for, what workers say, field reports and dead
    letters, with the library's service and the broker; keeps nothing
    itself, so it may be killed and started again at any time.

    [bold]Example[/bold]

      esper urza dispatch --config dispatch.yaml
    """
    with extra("worker", "the dispatcher"):
        from esper.process import load_settings
        from esper.weatherlight.serving import dispatch as serve_it
        from esper.weatherlight.settings import DispatchSettings

        settings = load_settings(DispatchSettings, config, what="settings of the dispatcher")
    serve_it(settings)


@urza.command()
@guarded
def retry(
    artifacts: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of rejected kernels.")],
    cause: Annotated[str, typer.Option("--cause", help="Why another try may end otherwise; kept in their history.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_LIBRARY_… variables win over it."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Allow rejected kernels to be built again.

    Needs a token with the role admin. They are made when a run asks for
    them again, when their dead letter is replayed, or when the dispatcher
    starts.

    [bold]Example[/bold]

      esper urza retry 5a1c…-x86_64-avx512-fast-25a7866c --cause "the compiler was mended"
    """
    with extra("worker", "the library's client"):
        from esper.settings import load_settings
        from esper.urza.client.settings import LibrarySettings

        library = load_settings(LibrarySettings, config, what="settings of the library").open()
    try:
        for artifact in artifacts:
            typer.echo(f"{artifact}: {library.retry(artifact, cause).value}")
    finally:
        library.close()
