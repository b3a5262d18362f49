"""How a process ends once its command is done."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable

BROKERS_CLIENT = "_pulsar"
"""Module of the broker's client, whose threads call into Python."""


def run_to_the_end(command: Callable[[], object]) -> None:
    """Run a command that returns or ends with ``SystemExit``, and end the process with its code.

    A thread of the broker's client that calls into an interpreter which is being torn down aborts the process: seldom,
    and then its exit code is lost. So where that client was loaded, what an interpreter does at its end is done here,
    in the same order (threads are waited for, exit functions run, output is flushed), and the tearing down is left out.
    """
    try:
        command()
    except SystemExit as ended:
        if BROKERS_CLIENT not in sys.modules or not (ended.code is None or isinstance(ended.code, int)):
            raise
        _end(ended.code or 0)
    if BROKERS_CLIENT in sys.modules:
        _end(0)


def _end(code: int) -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120  # what the interpreter ends with when output is lost
    os._exit(code)
