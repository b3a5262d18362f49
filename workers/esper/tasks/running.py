"""A task's own code while a run goes on: what it raises is named as the task's, with the place in its file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from esper.errors import EsperError, TaskFailed

_NOT_THE_TASK = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


@contextmanager
def task_code(what: str) -> Iterator[None]:
    """Run a part of the task inside; ``what`` names the part.

    Raises:
        TaskFailed: it raised anything but an ``EsperError``.
    """
    try:
        yield
    except EsperError:
        raise
    except Exception as error:
        where = _place(error)
        raise TaskFailed(f"the task's {what} raised {type(error).__name__}{where}: {error}") from error


def _place(error: Exception) -> str:
    """The innermost line outside of torch and Esper, which is the task's where its code is on the way."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_TASK)
    ]
    own = [frame for frame in frames if not frame.filename.endswith("contextlib.py")]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
