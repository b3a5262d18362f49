"""What every command does with errors: one clear message on stderr, and an exit code that scripts can rely on."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import typer

P = ParamSpec("P")

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 3, 2, 130


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn exceptions into a message and an exit code: 2 bad input, 3 failed, 130 interrupted.

    ``--debug`` (or ``ESPER_DEBUG=1``) lets the traceback through.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug")) or os.environ.get("ESPER_DEBUG", "") not in ("", "0")
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            # The reader (head, less) has seen enough. Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(DONE) from None
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        except Exception as error:
            if debug:
                raise
            code, text = explain(error)
            if getattr(error, "told", False):
                raise typer.Exit(code) from None
            fail(text, code)

    return run


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Say which extra brings what can't be imported; ``what`` needs it."""
    from esper.errors import BadInput

    try:
        yield
    except ModuleNotFoundError as error:
        raise BadInput(f"{error.name} is not installed; {what} needs the extra: esper-train[{name}]") from error


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and message of an exception."""
    from esper.errors import EsperError
    from leyline.errors import LeylineError

    if isinstance(error, EsperError):
        return error.exit_code, str(error)
    if isinstance(error, LeylineError):
        return BAD_INPUT, str(error)
    return FAILED, f"unexpected {type(error).__name__}: {error}\nrun it again with --debug to see where"


def fail(text: str, code: int) -> None:
    """Say what went wrong and leave.

    Raises:
        typer.Exit: always, with ``code``.
    """
    # Messages quote manifests and file names: nothing in them may move the cursor or change colours.
    safe = "".join(mark if mark.isprintable() or mark == "\n" else " " for mark in text)
    typer.echo(f"esper: {safe}", err=True)
    raise typer.Exit(code)
