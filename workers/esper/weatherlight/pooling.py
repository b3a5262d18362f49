"""Pool workers as processes of their own: they take work from the broker and hand it in to the library's service.

A worker that is told to stop finishes the message in hand; one that is killed leaves it to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

import structlog

from esper.kernel.children import Children
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.kernel.signing import PublicKeys, SigningKey
from esper.process import Process, writable
from esper.tezzeret import Builder
from esper.urabrask import Benchmarker
from esper.weatherlight.counting import Counted
from esper.weatherlight.keys import load_public_keys
from esper.weatherlight.quiet import Quiet, SharedQuiet, Turns
from esper.weatherlight.scratch import Scratch
from esper.weatherlight.serving import Served
from esper.weatherlight.settings import PoolSettings, TezzeretSettings, UrabraskSettings
from esper.weatherlight.workers import BenchmarkWorker, CompileWorker

T = TypeVar("T")
_LOG = structlog.get_logger("esper.weatherlight")


def work_tezzeret(settings: TezzeretSettings) -> None:
    """Build what is asked for, until told to stop or idle for long enough.

    Raises:
        PartsMissing: something it needs can't be used.
        OrganFailed: a part of it failed too often.
    """
    key = _Loaded(lambda: SigningKey.load(settings.signing_key_file))
    parts = [("workdir", lambda: writable(settings.workdir)), ("signing_key_file", key.load)]
    with Process(settings, "tezzeret", roles=("worker", "admin"), parts=parts) as process, ExitStack() as stack:
        process.connect()
        pool = _Pool(process, settings, stack)
        builder = Builder(pool.scratch.path / "built", key.value, pool.children)
        worker = CompileWorker(process.bus, pool.post, pool.library, builder, _turns(settings), **pool.told)
        pool.run({f"tezzeret-{number}": worker.run for number in range(settings.processes)}, settings.idle_exit_seconds)


def work_urabrask(settings: UrabraskSettings) -> None:
    """Check and measure what is asked for, one at a time, until told to stop or idle for long enough.

    Raises:
        PartsMissing: something it needs can't be used.
        OrganFailed: a part of it failed too often.
    """
    key = _Loaded(lambda: SigningKey.load(settings.signing_key_file))
    keys: _Loaded[PublicKeys] = _Loaded(lambda: load_public_keys(settings.public_keys_file))
    parts = [
        ("workdir", lambda: writable(settings.workdir)),
        ("signing_key_file", key.load),
        ("public_keys_file", keys.load),
    ]
    with Process(settings, "urabrask", roles=("worker", "admin"), parts=parts) as process, ExitStack() as stack:
        process.connect()
        pool = _Pool(process, settings, stack)
        benchmarker = Benchmarker(key.value, keys.value, pool.children)
        worker = BenchmarkWorker(
            process.bus, pool.post, pool.library, benchmarker, _turns(settings), pool.scratch.path / "benchmark",
            **pool.told,
        )  # fmt: skip
        pool.run({"urabrask-0": worker.run}, settings.idle_exit_seconds)


def _turns(settings: PoolSettings) -> Turns:
    return Quiet(enabled=False) if settings.turns_dir is None else SharedQuiet(settings.turns_dir)


class _Pool(Served):
    """The same with helper processes and a scratch directory, which end with it."""

    def __init__(self, process: Process, settings: PoolSettings, stack: ExitStack) -> None:
        super().__init__(process)
        # Whoever enters artifacts by hand, or the operator, has to be told both.
        _LOG.info("builds for", hardware=hardware_target(), toolchain=toolchain_hash())
        self.scratch = Scratch(settings.workdir)
        stack.callback(self.scratch.close)
        # Its server is a fresh program, not a fork of this process, so it may start while the bus has threads.
        self.children = Children()
        stack.callback(self.children.close)
        self.told = {
            # Never set: work in hand is finished.
            "abandon": threading.Event(), "tally": Counted(process.registry), "activity": self.activity,
            "around": process.handling,
        }  # fmt: skip


class _Loaded(Generic[T]):
    """Something that is loaded when everything is tried, and used afterwards."""

    value: T

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read

    def load(self) -> None:
        self.value = self._read()
