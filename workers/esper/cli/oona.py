"""``esper oona``: the broker's topics as the table wants them, how far its consumers are behind, and dead letters."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.cli.guard import guarded

if TYPE_CHECKING:
    from esper.oona import Bus, DeadLetter

oona = typer.Typer(no_args_is_help=True, help="The message bus on a broker.")
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: messages given up on, with the cause.")
oona.add_typer(dlq, name="dlq")

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_PULSAR_… variables win over it."),
]
TopicName = Annotated[str | None, typer.Option("--topic", "-t", metavar="TOPIC", help="Of this topic only.")]
Letters = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Which letters; `esper oona dlq list` shows their ids.")
]
Everything = Annotated[bool, typer.Option("--all", help="All of them, or all of --topic.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@oona.command()
@guarded
def provision(
    config: Config = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            "--hardware",
            metavar="TARGET",
            help="Make the subscriptions of pools for this hardware ahead, such as x86_64-avx512. Repeatable.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change and change nothing.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to try again while the broker is not ready.")
    ] = 30.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make the broker fit this version's table of topics.

    Tenant, namespace, topics, schemas, retention, compaction, and the
    subscriptions that must not miss a message; subscriptions of earlier
    versions that nobody reads are removed. Says what it changed; running
    it again changes nothing. Needs an administrator's token.

    [bold]Examples[/bold]

      esper oona provision --config pulsar.yaml --dry-run
      esper oona provision --config pulsar.yaml
      esper oona provision --config pulsar.yaml --hardware x86_64-avx512
    """
    adapter = _adapter()
    settings = adapter.load_settings(config)
    changes = adapter.provision(settings, hardware=hardware or (), dry_run=dry_run, patience=wait)
    space = f"{settings.tenant}/{settings.namespace}"
    if as_json:
        _write([{"what": each.what, "before": each.before, "after": each.after} for each in changes])
    elif not changes:
        typer.echo(f"{space} on {settings.service_url} fits; nothing to change")
    else:
        from esper.cli.tables import console, table

        title = f"{len(changes)} {'changes to make' if dry_run else 'changes made'} to {space}"
        rows = [(each.what, each.before, each.after) for each in changes]
        console().print(table(title, ("what", "before", "after"), rows))


@oona.command()
@guarded
def backlog(config: Config = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show how far each subscription is behind.

    [bold]Example[/bold]

      esper oona backlog --config pulsar.yaml
    """
    with _bus(config) as bus:
        found = bus.backlog()
    rows = [
        {
            "topic": each.topic,
            "subscription": each.subscription,
            "kind": each.kind.value,
            "waiting": each.ready + each.open,
            "dead": each.dead,
            "oldest_seconds": round(each.oldest_seconds, 1),
        }
        for each in found
    ]
    columns = ("topic", "subscription", "kind", "waiting", "dead", "oldest_seconds")
    _show(f"{len(rows)} subscriptions", columns, rows, as_json, right=("waiting", "dead", "oldest_seconds"))


@oona.command()
@guarded
def keygen(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made when it is not there.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the files are called, such as tezzeret-1.")],
    role: Annotated[list[str], typer.Option("--role", help="Whom the key speaks for, such as tezzeret. Repeatable.")],
    topic: Annotated[
        list[str] | None,
        typer.Option("--topic", "-t", metavar="TOPIC", help="Believed on this topic only. Repeatable."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Make a key that a process signs its messages with.

    Writes DIR/NAME.pem, for that process alone (its bus_key_file), and
    DIR/trusted/NAME.json, the public half with whom it speaks for, for
    everybody who is to believe it (their bus_trust_dir).

    [bold]Example[/bold]

      esper oona keygen keys tezzeret --role tezzeret
    """
    from esper.oona.keyfiles import make_key

    typer.echo(make_key(directory, name, role, topic))


@dlq.command("list")
@guarded
def list_letters(
    config: Config = None,
    topic: TopicName = None,
    subscription: Annotated[
        str | None, typer.Option("--subscription", "-s", metavar="NAME", help="Of this subscription only.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List dead letters, oldest first.

    [bold]Example[/bold]

      esper oona dlq list --topic work.tezzeret.compile
    """
    with _bus(config) as bus:
        letters = _letters(bus, topic, subscription)
    columns = ("id", "topic", "subscription", "key", "deliveries", "bytes", "cause")
    _show(f"{len(letters)} dead letters", columns, [_row(each) for each in letters], as_json, right=("bytes",))


@dlq.command()
@guarded
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    config: Config = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show one dead letter in full, with what is in its envelope.

    The signature is not checked here: this shows what the message claims.

    [bold]Example[/bold]

      esper oona dlq show 5a1…@tezzeret
    """
    with _bus(config) as bus:
        letter = _find(bus, letter_id)
    content = {**_row(letter), "properties": dict(letter.properties), "envelope": _claims(letter.data)}
    if as_json:
        _write(content)
        return
    from esper.cli.tables import cell, console

    out = console()
    for name, value in content.items():
        out.print(cell(f"{name}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}"))


@dlq.command()
@guarded
def replay(
    ids: Letters = None,
    everything: Everything = False,
    topic: TopicName = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Deliver dead letters again to where they died.

    Do this when the cause is gone: they have four deliveries again.

    [bold]Examples[/bold]

      esper oona dlq replay 5a1…@tezzeret
      esper oona dlq replay --all --topic work.tezzeret.compile
    """
    with _bus(config) as bus:
        for letter in _chosen(bus, ids, everything, topic):
            bus.replay(letter.letter_id)
            typer.echo(f"replayed {letter.letter_id} on {letter.topic} for {letter.subscription}")


@dlq.command()
@guarded
def drop(
    ids: Letters = None,
    everything: Everything = False,
    topic: TopicName = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Forget dead letters for good.

    [bold]Examples[/bold]

      esper oona dlq drop 5a1…@tezzeret
      esper oona dlq drop --all --topic innovation.field_reports
    """
    with _bus(config) as bus:
        for letter in _chosen(bus, ids, everything, topic):
            bus.discard(letter.letter_id)
            typer.echo(f"dropped {letter.letter_id} of {letter.topic}: {letter.cause}")


def _adapter() -> ModuleType:
    from esper.errors import BadInput

    try:
        from esper.oona import pulsar
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{error.name} is not installed; the bus on a broker needs the extra: esper-train[worker]"
        ) from error
    return pulsar


@contextmanager
def _bus(config: Path | None) -> Iterator[Bus]:
    adapter = _adapter()
    bus = adapter.PulsarBus(adapter.load_settings(config))
    try:
        yield bus
    finally:
        bus.close()


def _letters(bus: Bus, topic: str | None, subscription: str | None = None) -> list[DeadLetter]:
    from esper.errors import BadInput
    from leyline.topics import TOPICS

    if topic is not None and topic not in TOPICS:
        raise BadInput(f"--topic {topic}: there is no such topic; there are {', '.join(sorted(TOPICS))}")
    return bus.dead_letters(topic, subscription)


def _find(bus: Bus, letter_id: str) -> DeadLetter:
    from esper.errors import BadInput

    for letter in bus.dead_letters():
        if letter.letter_id == letter_id:
            return letter
    raise BadInput(f"dead letter {letter_id!r}: there is none with this id; `esper oona dlq list` shows them")


def _chosen(bus: Bus, ids: list[str] | None, everything: bool, topic: str | None) -> list[DeadLetter]:
    from esper.errors import BadInput

    if bool(ids) == everything:
        raise BadInput("name the letters by id, or give --all (with --topic for those of one topic)")
    if everything:
        return _letters(bus, topic)
    # All are looked for before the first is touched: a typing error changes nothing.
    return [_find(bus, letter_id) for letter_id in ids or ()]


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.letter_id,
        "topic": letter.topic,
        "subscription": letter.subscription,
        "key": letter.key or "",
        "deliveries": letter.deliveries,
        "bytes": len(letter.data),
        "cause": letter.cause,
    }


def _claims(data: bytes) -> dict[str, Any]:
    """What an envelope says of itself and the payload it holds; a problem instead where it can't be read."""
    from google.protobuf.json_format import MessageToDict

    from leyline.envelope import claims
    from leyline.errors import EnvelopeError
    from leyline.messages import decode

    try:
        claimed = claims(data)
        payload = MessageToDict(decode(claimed.type, claimed.payload), preserving_proto_field_name=True)
    except EnvelopeError as error:
        return {"problem": str(error)}
    return {
        "type": claimed.type,
        "producer": claimed.producer,
        "run": claimed.run,
        "sequence": claimed.sequence,
        "issued_at": claimed.issued_at,
        "expires_at": claimed.expires_at,
        "key_id": claimed.key_id,
        "payload": payload,
    }


def _show(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]], as_json: bool, right: Any = ()) -> None:
    if as_json:
        _write(rows)
        return
    from esper.cli.tables import console, table

    console().print(table(title, columns, [[row[name] for name in columns] for row in rows], right=right))


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
