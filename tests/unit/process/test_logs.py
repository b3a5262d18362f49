"""Logs: one JSON object a line, whoever says it."""

from __future__ import annotations

import json
import subprocess
import sys

_SAYS = """
import logging, sys
import structlog
from esper.logs import configure_logs
configure_logs(sys.argv[1])
own = structlog.get_logger("esper.own")
own.info("started", port=7)
logging.getLogger("esper.oona.somewhere").info("%s: connected to %s", "topic", "broker")
logging.getLogger("esper.oona.somewhere").warning("two\\nlines")
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("trouble")
with structlog.contextvars.bound_contextvars(message="m-1"):
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("esper.oona.somewhere").exception("failed")
"""


def said(level: str) -> list[dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", _SAYS, level], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_an_object_and_names_what_is_worked_on() -> None:
    lines = said("info")
    assert [line["event"] for line in lines] == [
        "started", "topic: connected to broker", "two\nlines", "trouble", "failed",
    ]  # fmt: skip
    assert (lines[0]["port"], lines[0]["level"]) == (7, "info")
    assert lines[1]["logger"] == "esper.oona.somewhere"
    assert lines[4]["message"] == "m-1"
    assert "ValueError: odd" in str(lines[4]["exception"])
    assert all("timestamp" in line for line in lines)


def test_the_level_is_kept() -> None:
    assert [line["event"] for line in said("error")] == ["failed"]
