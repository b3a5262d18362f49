"""The commands and their help; what they do is in the modules beside this one, imported when a command runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from esper.cli.guard import guarded
from esper.cli.oona import oona
from esper.cli.tezzeret import tezzeret
from esper.cli.urabrask import urabrask
from esper.cli.urza import urza
from esper.ending import run_to_the_end

app = typer.Typer(
    name="esper",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Train PyTorch models that grow themselves.

A host network is trained from a manifest. Where it runs short of
capacity a seed is planted, blended in and judged against a twin without
it; what earns its place stays.

[bold]A first run[/bold]

  esper run mnist1d.yaml             train, live; all output in runs/<name>
  esper show runs/mnist1d            what happened, and why
  esper report runs/mnist1d --open   the same as a page
  esper predict runs/mnist1d/model   use the grown model

[bold]Exit codes[/bold]  0 done, 2 bad input, 3 failed, 130 interrupted
""",
)

Manifest = Annotated[
    Path, typer.Argument(metavar="FILE", help="A TrainingRun manifest, YAML or JSON; - reads standard input.")
]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="A run's directory, such as runs/mnist1d.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Replace one field, such as training.epochs=5. Repeatable."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")]


class SchemaOf(StrEnum):
    """Documents with a schema."""

    TRAINING_RUN = "TrainingRun"
    BLUEPRINT = "Blueprint"
    KERNEL_ARTIFACT = "KernelArtifact"
    SUMMARY = "Summary"


class CtlAction(StrEnum):
    """What a run can be told from outside."""

    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    CANCEL = "cancel"
    CULL = "cull"
    STATUS = "status"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"esper {version('esper-train')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
@guarded
def run(
    file: Manifest,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Output directory. [dim]default: runs/<name>[/dim]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output directory.")
    ] = False,
    control: Annotated[
        bool,
        typer.Option("--control", help="Afterwards train the host without growth on the FLOPs spent, to compare."),
    ] = False,
    library: Annotated[
        Path | None,
        typer.Option(
            "--library",
            metavar="DIR",
            help="Where kernels are kept between runs. [dim]default: library beside DIR[/dim]",
        ),
    ] = None,
    checkpoints: Annotated[
        str,
        typer.Option(
            "--checkpoints",
            metavar="URL",
            help="Keep checkpoints in a bucket, s3://BUCKET/PREFIX. [dim]default: in the output directory[/dim]",
        ),
    ] = "",
    stack: Annotated[
        bool,
        typer.Option(
            "--stack",
            help="Use the installation on this machine (`make stack`): its library, pools and broker. "
            "ESPER_STACK names its folder. [dim]default: .stack[/dim]",
        ),
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live page.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines; the last one is the summary.")] = False,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Train what a manifest describes.

    Kernels are built and measured first, then the network trains and
    grows.

    Ctrl-C writes a checkpoint; --resume goes on from it and ends with the
    same bits as a run that was never stopped.

    [bold]Examples[/bold]

      esper run mnist1d.yaml
      esper run mnist1d.yaml -o runs/short --set training.epochs=5 --set seed=1
      esper run mnist1d.yaml --resume
      esper run mnist1d.yaml --control     and the host never grown
      torchrun --nproc-per-node 2 -m esper run mnist1d.yaml
      esper run mnist1d.yaml --set controller.policy=Never -o runs/control
      esper run mnist1d.yaml --checkpoints s3://runs/mnist1d
      esper run mnist1d.yaml --stack

    The output directory then holds report.html, summary.json, events.jsonl,
    model/, checkpoints/ and TensorBoard files.
    """
    from esper.cli.run import run_manifest

    run_manifest(
        file, out, "json" if as_json else "plain" if plain else "auto", overrides or (),
        resume=resume, library=library, control=control, checkpoints=checkpoints, stack=stack,
    )  # fmt: skip


@app.command()
@guarded
def train(
    file: Annotated[
        Path, typer.Option("--manifest", "-m", metavar="FILE", help="The resolved TrainingRun manifest, YAML or JSON.")
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Output directory; scratch, when there is a bucket.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_TRAIN_… variables win over it."),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            "--checkpoints",
            metavar="URL",
            help="Keep checkpoints in a bucket, s3://BUCKET/PREFIX. [dim]default: the setting, or DIR[/dim]",
        ),
    ] = None,
    suspended_exit: Annotated[
        int,
        typer.Option(
            "--suspended-exit",
            metavar="CODE",
            min=0,
            max=255,
            help="Exit code when SIGTERM stopped it; a Kubernetes Job takes 0 for the end of the run.",
        ),
    ] = 0,
    debug: Debug = False,
) -> None:
    """Train as a process of an installation.

    The library is a service, kernels come from the pools, news go to the
    broker and people's commands come from there. Logs are JSON lines;
    /healthz, /readyz, /metrics and /api/v1/system/status are served.

    Started again it goes on from its checkpoint by itself, on any machine
    that reaches the bucket. SIGTERM: a checkpoint is stored, then 0
    or --suspended-exit.

    [bold]Example[/bold]

      esper train -m run.yaml -o /scratch --checkpoints s3://runs/mnist1d
    """
    from esper.cli.train import train_manifest

    train_manifest(file, out, config, checkpoints, suspended_exit)


@app.command()
@guarded
def ctl(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    action: Annotated[
        CtlAction, typer.Argument(metavar="COMMAND", help="pause, resume, checkpoint, cancel, cull or status.")
    ],
    seed: Annotated[str, typer.Argument(metavar="[SEED]", help="For cancel and cull, such as blocks.0/0.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Kept with the command in the run's journal.")] = "",
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Settings as YAML. ESPER_CTL_… variables win over it."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answer; epochs may be long.")
    ] = 120.0,
    at: Annotated[
        str, typer.Option("--at", metavar="URL", help="The trainer's HTTP address, for status.")
    ] = "http://127.0.0.1:8470",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Bearer token, for status.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Command a run that trains elsewhere, or ask how it is.

    Commands are signed with your key, taken up at the end of the run's
    epoch, and answered once their effect is in a checkpoint. A command
    that the seed's lifecycle does not allow is refused, with the reason.

    [bold]Examples[/bold]

      esper ctl mnist1d pause --config ctl.yaml
      esper ctl mnist1d cull blocks.0/0 --reason "loss goes up"
      esper ctl mnist1d status --at http://127.0.0.1:8470
    """
    from esper.cli.train import send, show_status

    if action is CtlAction.STATUS:
        show_status(at, token_file, as_json)
    else:
        send(run_name, action.value, seed, reason, config, timeout)


@app.command()
@guarded
def validate(
    file: Manifest,
    overrides: Overrides = None,
    fields_only: Annotated[
        bool, typer.Option("--fields-only", help="Check the fields only: don't import the task or look for its slots.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Check a manifest without training.

    Fields first, then the task, its slots and the blueprints that fit them.

    Every wrong field is named with what is allowed there. Nothing is
    written.

    [bold]Examples[/bold]

      esper validate mnist1d.yaml
      esper validate mnist1d.yaml --set slots[0].path='blocks.*.conv'
      esper validate - --fields-only < mnist1d.yaml
    """
    from esper.cli.validate import validate_manifest

    validate_manifest(file, overrides or (), fields_only)


@app.command()
@guarded
def show(directory: RunDirectory, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show a run: result, seeds, decisions, kernels.

    Seeds with their stages, decisions with their reasons, kernels with
    their measurements. Works while a run goes on.

    [bold]Examples[/bold]

      esper show runs/mnist1d
      esper show runs/mnist1d --json | jq .seeds
    """
    from esper.cli.show import show_run

    show_run(directory, as_json)


@app.command()
@guarded
def report(
    directory: RunDirectory,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Write report.html from a run's files and print its path.

    A finished run has one already; this makes it anew, also for a run that
    goes on or was killed.

    [bold]Example[/bold]

      esper report runs/mnist1d --open
    """
    from esper.output.report import write_report

    path = write_report(directory)
    typer.echo(path)
    if open_it:
        typer.launch(path.resolve().as_uri())


@app.command()
@guarded
def blueprints(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one in full.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the blueprints a network can grow by.

    Name some of them in kernels.blueprints of a manifest; an empty list
    means all that fit.

    [bold]Examples[/bold]

      esper blueprints
      esper blueprints conv_residual
    """
    from esper.cli.library import show_blueprint, show_blueprints

    if name is None:
        show_blueprints(as_json)
    else:
        show_blueprint(name, as_json)


@app.command()
@guarded
def kernels(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's directory, or a kernel library.")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List a library's kernels.

    Each with its state, what was measured of it, and the cause where it
    was refused.

    [bold]Example[/bold]

      esper kernels runs/mnist1d
    """
    from esper.cli.library import show_kernels

    show_kernels(directory, as_json)


@app.command()
@guarded
def predict(
    directory: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A saved model, such as runs/mnist1d/model.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help="Inputs, .npy or .json. [dim]default: the report split[/dim]"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the outputs go, .npy or .json.")
    ] = Path("predictions.npy"),
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples at a time.")] = 256,
    debug: Debug = False,
) -> None:
    """Run a saved model.

    On its task's report split, with loss and metrics, or on a file of
    inputs.

    Only tensors and JSON are read, nothing is unpickled.

    [bold]Examples[/bold]

      esper predict runs/mnist1d/model
      esper predict runs/mnist1d/model -i signals.npy -o classes.json
    """
    from esper.cli.predict import predict_with

    predict_with(directory, source, output, batch)


@app.command()
@guarded
def schema(
    of: Annotated[
        SchemaOf, typer.Argument(metavar="[KIND]", help="TrainingRun, Blueprint, KernelArtifact or Summary.")
    ] = SchemaOf.TRAINING_RUN,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of a document.

    An editor can complete and check manifests with it.

    [bold]Example[/bold]

      esper schema > trainingrun.schema.json
    """  # fmt: skip
    from esper.cli.schema import schema_of

    typer.echo(schema_of(of.value))


for name, group in (("urza", urza), ("oona", oona), ("tezzeret", tezzeret), ("urabrask", urabrask)):
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point of the ``esper`` command."""
    run_to_the_end(app)
