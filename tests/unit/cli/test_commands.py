from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

COMMANDS = ["run", "validate", "show", "report", "blueprints", "kernels", "predict", "schema"]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["show", "{run}"], ["schema"], ["--version"]])
def test_light_commands_do_not_load_torch(run_directory: Path, words: list[str]) -> None:
    words = [word.replace("{run}", str(run_directory)) for word in words]
    code = (
        "import sys\n"
        f"sys.argv = ['esper', *{words!r}]\n"
        "from esper.cli import main\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_help_teaches_every_command_with_an_example(esper: Any) -> None:
    overview = esper("--help").output
    assert "esper run mnist1d.yaml" in overview
    assert "130 interrupted" in overview
    for command in COMMANDS:
        assert command in overview
        page = esper(command, "--help")
        assert page.exit_code == 0
        assert f"esper {command}" in page.output.partition("Example")[2]


def test_no_command_shows_the_help_and_a_wrong_one_is_bad_input(esper: Any) -> None:
    assert "Usage" in esper().output
    assert esper("grow").exit_code == 2
    assert esper("run").exit_code == 2


def test_show_tells_stages_reasons_and_measurements(esper: Any, run_directory: Path) -> None:
    result = esper("show", run_directory)
    assert result.exit_code == 0, result.output
    for words in (
        "Unfinished",
        "germinated 1 → loading 1 → culled 1",
        "its digest does not fit",
        "plateau for 3 epochs",
        "probe 0.25",
        "[bold]conv",
        "0.7 [0.6, 0.8]",
        "high_speed",
        "the disk is slow",
    ):
        assert words in result.output, words


def test_show_gives_the_same_as_json(esper: Any, run_directory: Path) -> None:
    record = json.loads(esper("show", run_directory, "--json").stdout)
    assert record["phase"] == "Unfinished"
    assert record["summary"] is None
    (seed,) = record["seeds"]
    assert (seed["id"], seed["stage"], len(seed["history"])) == ("blocks.0/0", "CULLED", 3)


def test_show_of_a_finished_run_has_its_figures(esper: Any, run_directory: Path, runs: Any) -> None:
    runs.answer().write(run_directory)
    output = esper("show", run_directory).output
    assert "Completed" in output
    assert "0.875" in output


@pytest.mark.parametrize("command", ["show", "report", "kernels"])
def test_a_directory_that_is_no_run_is_bad_input(esper: Any, tmp_path: Path, command: str) -> None:
    result = esper(command, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_a_pipe_closed_early_is_no_error(run_directory: Path) -> None:
    command = f"{sys.executable} -c 'from esper.cli import main; main()' show {run_directory} --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_report_writes_the_page_and_opens_it(esper: Any, run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    result = esper("report", run_directory, "--open")
    assert result.exit_code == 0
    assert result.output.strip() == str(run_directory / "report.html")
    assert "<html" in (run_directory / "report.html").read_text()
    assert opened == [(run_directory / "report.html").resolve().as_uri()]


def test_blueprints_are_listed_and_shown(esper: Any) -> None:
    names = [entry["name"] for entry in json.loads(esper("blueprints", "--json").stdout)]
    assert len(names) >= 12
    listed = esper("blueprints").output
    assert all(name in listed for name in names)
    one = esper("blueprints", names[0]).output
    assert "Nodes" in one
    assert "input" in one


def test_a_blueprint_shown_as_json_can_be_read_back(esper: Any) -> None:
    from leyline.blueprint import BlueprintIR

    for entry in json.loads(esper("blueprints", "--json").stdout):
        shown = json.loads(esper("blueprints", entry["name"], "--json").stdout)
        assert BlueprintIR.from_json(shown["ir"]).digest() == shown["digest"]


def test_a_misspelt_blueprint_is_answered_with_the_nearest(esper: Any) -> None:
    name = json.loads(esper("blueprints", "--json").stdout)[-1]["name"]
    result = esper("blueprints", name[:-1] + "x")
    assert result.exit_code == 2
    assert name in result.stderr


def test_kernels_of_a_library_are_listed_with_state_and_cause(esper: Any, run_directory: Path) -> None:
    from esper.karn.catalogue import CATALOGUE
    from esper.kernel import artifact_id
    from esper.kernel.hardware import hardware_target, toolchain_hash
    from esper.urza import SqlLibrary
    from leyline.interface import Interface

    interface = Interface(layout=CATALOGUE["mlp"].layouts[0], width=8)
    identity = artifact_id(CATALOGUE["mlp"].ir, interface, "fast", "cpu")
    (run_directory / "library").mkdir()
    library = SqlLibrary.open(run_directory / "library")
    library.register_blueprint("mlp", CATALOGUE["mlp"].ir, 0.1)
    library.begin(identity, "mlp", interface, "fast", hardware_target("cpu"), toolchain_hash())
    library.reject(identity, "its gradient is wrong")
    library.close()
    for place in (run_directory, run_directory / "library"):
        output = esper("kernels", place).output
        assert "Rejected" in output
        assert "its gradient is wrong" in output
    (kernel,) = json.loads(esper("kernels", run_directory, "--json").stdout)
    assert (kernel["id"], kernel["blueprint"], kernel["state"]) == (str(identity), "mlp", "Rejected")


@pytest.mark.parametrize("kind", ["TrainingRun", "Blueprint", "KernelArtifact", "Summary"])
def test_schemas_are_schemas(esper: Any, kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(esper("schema", kind).stdout))


def test_the_schema_accepts_a_manifest_and_refuses_a_wrong_one(esper: Any, manifest: Path) -> None:
    schema = json.loads(esper("schema").stdout)
    document = yaml.safe_load(manifest.read_text())
    jsonschema.validate(document, schema)
    document["spec"]["training"]["epocs"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_validate_checks_fields_alone_or_all(esper: Any, manifest: Path) -> None:
    fields = esper("validate", manifest, "--fields-only", "--set", "task.ref=nowhere:task")
    assert fields.exit_code == 0
    assert "the fields of run small are right" in fields.output
    whole = esper("validate", manifest)
    assert whole.exit_code == 0, whole.output
    for words in ("train 900", "image2d", "blocks.2", "conv_block_2d"):
        assert words in whole.output, words
    assert "attention" not in whole.output


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.ref=nowhere:task", "there is no module 'nowhere'"),
        ("slots[0].path=blokcs.*", "matches no module"),
        ("kernels.blueprints=[conv_blok]", "conv_block"),
        ("kernels.blueprints=[attention]", "fits none of the slots"),
        ("training.epochs=0", "spec.training.epochs"),
    ],
)
def test_validate_names_what_is_wrong(esper: Any, manifest: Path, override: str, said: str) -> None:
    result = esper("validate", manifest, "--set", override)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_a_task_beside_the_manifest_is_found(esper: Any, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (manifest.parent / "elsewhere").mkdir()
    monkeypatch.chdir(manifest.parent / "elsewhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (manifest.parent / "beside_task.py").write_text("from esper.tasks.digits import task\n")
    result = esper("validate", manifest, "--set", "task.ref=beside_task:task")
    assert result.exit_code == 0, result.output
