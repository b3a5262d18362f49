"""The commands of ``kubectl esper`` and their help."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from esper_operator.cluster.reading import NotAllowed, NotThere, Reader, Unreachable
from esper_operator.keys import TRAINER
from esper_operator.kubectl import views
from esper_operator.kubectl.found import Found
from esper_operator.kubectl.reasons import why as explained
from esper_operator.kubectl.showing import as_data, console, shown
from esper_operator.kubectl.words import plain

BAD_INPUT, FAILED, INTERRUPTED = 2, 3, 130
WATCH_SECONDS = 2.0

app = typer.Typer(
    name="kubectl-esper",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Look at training runs on a cluster.

As `kubectl esper …` or `kubectl-esper …`, with your kubeconfig and your rights.

[bold]Examples[/bold]

  kubectl esper status              all runs of the namespace
  kubectl esper status mnist1d -w   one run with its seeds, kernels and pods, live
  kubectl esper why mnist1d         why it is where it is

[bold]Exit codes[/bold]  0 done, 2 no such thing or not allowed, 3 the cluster does not answer, 130 interrupted
""",
)


class Form(StrEnum):
    """How answers are written."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


Run = Annotated[str, typer.Argument(metavar="RUN", help="A training run's name.")]
SomeRun = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A training run's name; all of them without.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace. [dim]default: the context's[/dim]", metavar="NAME")
]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="In every namespace.")]
Output = Annotated[Form, typer.Option("--output", "-o", help="text, json or yaml.")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", metavar="FILE", help="Instead of $KUBECONFIG.")]
Context = Annotated[str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.")]


@app.command()
def status(
    run: SomeRun = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until the run has ended.")] = False,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    output: Output = Form.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show a run with its seeds, kernels, Job and pods; without a name, all runs.

    [bold]Examples[/bold]

      kubectl esper status -A
      kubectl esper status mnist1d -w
    """
    with _cluster(kubeconfig, context) as reader:
        if run is not None and everywhere:
            _fail("RUN and --all-namespaces: a run is in one namespace; name that with -n", BAD_INPUT)
        here = None if everywhere else namespace or reader.namespace

        def look() -> tuple[views.Status | views.Table, bool]:
            if run is None:
                found = reader.runs(here)
                ended = all(Found(each).ended() for each in found)
                return views.runs_table(found, _now(), namespaces=everywhere), ended
            one = _found(reader, here or reader.namespace, run)
            return views.run_status(one, _now()), one.ended()

        _follow(look, output) if watch else _write(look()[0], output)


@app.command()
def why(
    run: Run, namespace: Namespace = None, output: Output = Form.TEXT, kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:  # fmt: skip
    """Say why a run is where it is: conditions, pods, warnings, verdicts over seeds.

    [bold]Example[/bold]

      kubectl esper why mnist1d
    """
    with _cluster(kubeconfig, context) as reader:
        _write(explained(_found(reader, namespace or reader.namespace, run, events=True)), output)


@app.command()
def seeds(
    run: Run, namespace: Namespace = None, output: Output = Form.TEXT, kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:  # fmt: skip
    """List a run's seeds: active ones first, then the newest others.

    [bold]Example[/bold]

      kubectl esper seeds mnist1d
    """
    with _cluster(kubeconfig, context) as reader:
        _write(views.seeds_table(Found(reader.run(namespace or reader.namespace, run))), output)


@app.command()
def kernels(
    namespace: Namespace = None, everywhere: Everywhere = False, output: Output = Form.TEXT,
    kubeconfig: Kubeconfig = None, context: Context = None,
) -> None:  # fmt: skip
    """List kernel artifacts with what was measured of them.

    [bold]Example[/bold]

      kubectl esper kernels -A
    """
    with _cluster(kubeconfig, context) as reader:
        found = reader.kernels(None if everywhere else namespace or reader.namespace)
        _write(views.kernels_table(found, _now(), namespaces=everywhere), output)


@app.command()
def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Which of the run's pods.")] = 0,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the container before.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last lines.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print the log of a run's newest pod.

    [bold]Examples[/bold]

      kubectl esper logs mnist1d -f
      kubectl esper logs big --rank 3 --tail 100
    """
    with _cluster(kubeconfig, context) as reader:
        here = namespace or reader.namespace
        pod = Found(reader.run(here, run), pods=tuple(reader.pods(here, run))).rank(rank)
        if pod is None:
            _fail(f"run {run}: no pod of rank {rank}; `kubectl esper why {run}` may say why", BAD_INPUT)
        for line in reader.log(here, pod["metadata"]["name"], TRAINER, follow=follow, previous=previous, tail=tail):
            print(plain(line) if sys.stdout.isatty() else line, flush=follow)


@app.command()
def suspend(run: Run, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Have a run's pods write a checkpoint and end.

    [bold]Example[/bold]

      kubectl esper suspend mnist1d
    """
    _suspend(run, True, namespace, kubeconfig, context)


@app.command()
def resume(run: Run, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Have a suspended run go on from its checkpoint.

    [bold]Example[/bold]

      kubectl esper resume mnist1d
    """
    _suspend(run, False, namespace, kubeconfig, context)


def _suspend(run: str, wanted: bool, namespace: str | None, kubeconfig: str | None, context: str | None) -> None:
    with _cluster(kubeconfig, context) as reader:
        here = namespace or reader.namespace
        found = Found(reader.run(here, run))
        word = "suspended" if wanted else "resumed"
        if found.ended():
            _fail(f"run {run}: has ended ({found.phase}), so it can't be {word}", BAD_INPUT)
        if bool(found.spec.get("suspend")) == wanted:
            print(f"run {run}: {'is suspended' if wanted else 'is not suspended'} already; nothing changed")
            return
        reader.suspend(here, run, wanted)
        print(f"run {run}: {word}; `kubectl esper status {run} -n {here}` shows how far that is")


def _found(reader: Reader, namespace: str, name: str, *, events: bool = False) -> Found:
    run = reader.run(namespace, name)
    jobs, pods = tuple(reader.jobs(namespace, name)), tuple(reader.pods(namespace, name))
    about = {name, *(each["metadata"]["name"] for each in (*jobs, *pods))}
    told = tuple(reader.events(namespace, about)) if events else ()
    return Found(run, jobs, pods, told, views.of_run(reader.kernels(namespace), name))


def _follow(look: Callable[[], tuple[views.Status | views.Table, bool]], form: Form) -> None:
    """Show what is until it has ended: in place on a terminal, else once again whenever it has changed."""
    out = console()
    if form is Form.TEXT and out.is_terminal:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                view, ended = look()
                live.update(shown(view), refresh=True)
                if ended:
                    return
                time.sleep(WATCH_SECONDS)
    before: object = None
    while True:
        view, ended = look()
        now = _without_clock(view)
        if now != before:
            _write(view, form)
            before = now
        if ended:
            return
        time.sleep(WATCH_SECONDS)


def _without_clock(view: views.Status | views.Table) -> object:
    """What of a view changes only when the run does."""
    if isinstance(view, views.Table):
        return [{name: value for name, value in row.items() if name != "duration"} for row in view.plain()]

    def still(node: views.Node) -> object:
        return node.name, node.state, node.note, [still(child) for child in node.children]

    return [entry for entry in view.header if entry[0] != "Duration"], still(view.tree)


def _write(view: views.Status | views.Table | views.Why, form: Form) -> None:
    if form is Form.TEXT:
        out = console()
        out.print(shown(view, ascii_only="utf" not in out.encoding.lower()))
    else:
        sys.stdout.write(("---\n" if form is Form.YAML else "") + as_data(view, form) + "\n")
    sys.stdout.flush()


@contextmanager
def _cluster(kubeconfig: str | None, context: str | None) -> Iterator[Reader]:
    """The cluster; what goes wrong with it becomes a message and an exit code."""
    try:
        reader = Reader(kubeconfig, context)
        try:
            yield reader
        finally:
            reader.close()
    except (NotThere, NotAllowed) as error:
        _fail(str(error), BAD_INPUT)
    except Unreachable as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _fail(text: str, code: int) -> NoReturn:
    typer.echo(f"kubectl-esper: {plain(text)}", err=True)
    raise typer.Exit(code)


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Run the command line."""
    app()
