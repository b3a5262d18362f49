"""Rendering: the record of a run in, one HTML file out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from esper.output.files import write_atomic
from esper.output.readers import RunRecord, read_run
from esper.output.report.charts import number
from esper.output.report.texts import code, cut, facts
from esper.output.report.view import build

REPORT_FILE = "report.html"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # every name comes from a manifest or from task code and may be hostile
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, facts=facts, cut=cut, code=code)
    return environment


def render(record: RunRecord) -> str:
    """The page as text: no scripts, nothing loaded from anywhere."""
    return _environment().get_template("report.html.j2").render(build(record))


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into the run's ``directory`` in one step and return its path.

    Raises:
        OutputDirectoryError: ``directory`` is not a run or can't be written.
        StorageFull: no space is left.
    """
    path = Path(directory) / REPORT_FILE
    write_atomic(path, render(read_run(directory)).encode("utf-8", "replace"))
    return path
