"""``events.jsonl``: everything that happened in a run, one JSON object a line, in the order it happened.

A line is ``{"t": wall time, "epoch": …, "step": …, "kind": …, …}``. The methods of :class:`EventLog` are the schema:
each names the fields of its kind. Numbers that are not finite are written as null, because JSON has no NaN.
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esper.errors import CheckpointMismatch, OutputDirectoryError
from esper.output.files import disk_errors
from esper.output.plain import plain

EVENTS_FILE = "events.jsonl"


class Kind(enum.StrEnum):
    """What a line is about."""

    RUN_STARTED = "run_started"
    EPOCH = "epoch"
    SEED = "seed"
    DECISION = "decision"
    VERDICT = "verdict"
    GATE = "gate"
    KERNEL = "kernel"
    ROLLBACK = "rollback"
    CHECKPOINT = "checkpoint"
    COMMAND = "command"
    WARNING = "warning"
    RUN_FINISHED = "run_finished"


class EventLog:
    """Appends events; what was appended before :meth:`commit` survives a power cut.

    A last line that was torn by a crash is cut off when the log is opened.

    Raises:
        StorageFull: the disk is full.
        OutputDirectoryError: the file can't be written.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self._clock = clock
        with disk_errors(self.path, "opening"):
            self._file = open(self.path, "a+b")  # noqa: SIM115 - it lives as long as the log
        with disk_errors(self.path, "mending"):
            self._cut_torn_tail()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the file ------------------------------------------------------------------------------------------------

    def append(self, kind: Kind | str, *, epoch: int, step: int, **fields: Any) -> None:
        """Append one event; ``fields`` hold what :func:`esper.output.plain.plain` takes."""
        head = {"t": round(self._clock(), 3), "epoch": epoch, "step": step, "kind": str(Kind(kind))}
        taken = head.keys() & fields.keys()
        if taken:
            raise ValueError(f"event fields {sorted(taken)} are reserved")
        text = json.dumps({**head, **plain(fields)}, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        with disk_errors(self.path, "writing"):
            self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def commit(self) -> int:
        """Flush everything to the disk and return the offset in bytes (what a checkpoint remembers)."""
        with disk_errors(self.path, "writing"):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def offset(self) -> int:
        """Bytes written so far, all of them handed to the operating system."""
        with disk_errors(self.path, "writing"):
            self._file.flush()
            self._file.seek(0, os.SEEK_END)
            return self._file.tell()

    def truncate_to(self, offset: int) -> None:
        """Forget everything after ``offset`` (as :meth:`offset` or :meth:`commit` gave it), as a resume must.

        Raises:
            CheckpointMismatch: the log is shorter than ``offset``, or ``offset`` is not the end of a line.
        """
        size = self.offset()
        if not 0 <= offset <= size:
            raise CheckpointMismatch(
                f"{self.path} has {size} bytes but the checkpoint was written at byte {offset}: "
                "it is not the log of this run; restore it or start over in an empty directory"
            )
        self._file.seek(max(offset - 1, 0))
        if offset and self._file.read(1) != b"\n":
            raise CheckpointMismatch(f"{self.path}: byte {offset} is not the end of a line; it was edited by hand")
        with disk_errors(self.path, "truncating"):
            self._file.truncate(offset)
            os.fsync(self._file.fileno())
            self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Commit and close; a second call does nothing."""
        if not self._file.closed:
            self.commit()
            self._file.close()

    def _cut_torn_tail(self) -> None:
        position = self._file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - 65536)
            self._file.seek(start)
            newline = self._file.read(position - start).rfind(b"\n")
            if newline >= 0:
                self._file.truncate(start + newline + 1)
                break
            position = start
        else:
            self._file.truncate(0)
        self._file.seek(0, os.SEEK_END)

    # -- the schema ----------------------------------------------------------------------------------------------

    def run_started(
        self,
        *,
        epoch: int,
        step: int,
        name: str,
        task: str,
        seed: int,
        resumed: bool,
        manifest: Mapping[str, Any],
        versions: Mapping[str, str],
        host_parameters: int,
        slots: Mapping[str, str],
        metric: str = "metric",
    ) -> None:
        """A process began to work on the run; ``slots`` maps each slot id to its interface in words, ``metric`` is the
        name of ``controller_metric``."""
        self.append(
            Kind.RUN_STARTED,
            epoch=epoch,
            step=step,
            name=name,
            task=task,
            seed=seed,
            resumed=resumed,
            manifest=manifest,
            versions=versions,
            host_parameters=host_parameters,
            slots=slots,
            metric=metric,
        )

    def epoch(
        self,
        *,
        epoch: int,
        step: int,
        train_loss: float | None,
        controller_loss: float | None,
        controller_metric: float | None,
        learning_rate: float,
        seconds: float,
        parameters: int,
        flops: Mapping[str, float],
        seeds_by_stage: Mapping[str, int],
        **more: Any,
    ) -> None:
        """An epoch ended. ``flops`` is cumulative, by purpose: host, grown, twin, culled, probes."""
        self.append(
            Kind.EPOCH,
            epoch=epoch,
            step=step,
            train_loss=train_loss,
            controller_loss=controller_loss,
            controller_metric=controller_metric,
            learning_rate=learning_rate,
            seconds=seconds,
            parameters=parameters,
            flops=flops,
            seeds_by_stage=seeds_by_stage,
            **more,
        )

    def seed(
        self,
        *,
        epoch: int,
        step: int,
        seed: str,
        slot: str,
        source: str,
        target: str,
        reason: str,
        blueprint: str = "",
        kernel: str = "",
        strategy: str = "",
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """A seed went from stage ``source`` to stage ``target`` (names of ``leyline.lifecycle.Stage``)."""
        self.append(
            Kind.SEED,
            epoch=epoch,
            step=step,
            seed=seed,
            slot=slot,
            source=source,
            target=target,
            reason=reason,
            blueprint=blueprint,
            kernel=kernel,
            strategy=strategy,
            numbers=numbers or {},
        )

    def decision(
        self,
        *,
        epoch: int,
        step: int,
        action: str,
        reason: str,
        seed: str = "",
        slot: str = "",
        blueprint: str = "",
        kernel: str = "",
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """The controller decided; ``action`` is the kind of command, ``reason`` a sentence."""
        self.append(
            Kind.DECISION,
            epoch=epoch,
            step=step,
            action=action,
            reason=reason,
            seed=seed,
            slot=slot,
            blueprint=blueprint,
            kernel=kernel,
            numbers=numbers or {},
        )

    def verdict(
        self,
        *,
        epoch: int,
        step: int,
        seed: str,
        passed: bool,
        reason: str,
        difference: float | None,
        low: float | None,
        high: float | None,
        p_value: float | None,
        threshold: float,
        **numbers: Any,
    ) -> None:
        """The twin was compared: ``difference`` is the twin's loss minus the host's with the seed (above 0: the seed
        helps), ``low`` and ``high`` its interval, in the units of the loss."""
        self.append(
            Kind.VERDICT,
            epoch=epoch,
            step=step,
            seed=seed,
            passed=passed,
            reason=reason,
            difference=difference,
            low=low,
            high=high,
            p_value=p_value,
            threshold=threshold,
            numbers=numbers,
        )

    def gate(
        self,
        *,
        epoch: int,
        step: int,
        seed: str,
        gate: str,
        passed: bool,
        reason: str,
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """A gate (G0…G5) looked at a seed."""
        self.append(
            Kind.GATE,
            epoch=epoch,
            step=step,
            seed=seed,
            gate=gate,
            passed=passed,
            reason=reason,
            numbers=numbers or {},
        )

    def kernel(
        self,
        *,
        epoch: int,
        step: int,
        kernel: str,
        blueprint: str,
        strategy: str,
        state: str,
        ratio: float | None = None,
        interval: Sequence[float] | None = None,
        latency_ms: float | None = None,
        memory_mb: float | None = None,
        tags: Sequence[str] = (),
        cause: str = "",
    ) -> None:
        """A kernel became ready, was rejected or was evicted; ``ratio`` is its latency over the ``fast`` kernel's."""
        self.append(
            Kind.KERNEL,
            epoch=epoch,
            step=step,
            kernel=kernel,
            blueprint=blueprint,
            strategy=strategy,
            state=state,
            ratio=ratio,
            interval=interval,
            latency_ms=latency_ms,
            memory_mb=memory_mb,
            tags=tags,
            cause=cause,
        )

    def rollback(self, *, epoch: int, step: int, to_epoch: int, cause: str, seed: str = "", seconds: float) -> None:
        """The governor went back to the state at the end of ``to_epoch``."""
        self.append(Kind.ROLLBACK, epoch=epoch, step=step, to_epoch=to_epoch, cause=cause, seed=seed, seconds=seconds)

    def checkpoint(self, *, epoch: int, step: int, path: str, size: int, seconds: float) -> None:
        """A checkpoint of ``size`` bytes is durable."""
        self.append(Kind.CHECKPOINT, epoch=epoch, step=step, path=path, size=size, seconds=seconds)

    def command(
        self, *, epoch: int, step: int, command: str, action: str, by: str, seed: str, applied: bool, reason: str
    ) -> None:
        """A person's command was taken up; ``by`` is who signed it."""
        self.append(
            Kind.COMMAND,
            epoch=epoch,
            step=step,
            command=command,
            action=action,
            by=by,
            seed=seed,
            applied=applied,
            reason=reason,
        )

    def warning(self, *, epoch: int, step: int, text: str) -> None:
        """Something the user should know that did not stop the run."""
        self.append(Kind.WARNING, epoch=epoch, step=step, text=text)

    def run_finished(self, *, epoch: int, step: int, phase: str, reason: str = "", seconds: float) -> None:
        """The process is done with the run, for whatever reason ``phase`` says."""
        self.append(Kind.RUN_FINISHED, epoch=epoch, step=step, phase=phase, reason=reason, seconds=seconds)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of ``path``; a last line without its newline (a crash, or a run still writing) is left out.

    Raises:
        OutputDirectoryError: the file can't be read, or another line is not an event.
    """
    with disk_errors(path, "reading"), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
            except ValueError as error:
                raise OutputDirectoryError(
                    f"{path}:{number} is not JSON ({error}); it was not written by Esper"
                ) from error
            if not isinstance(event, dict) or "kind" not in event:
                raise OutputDirectoryError(f"{path}:{number} is not an event; it was not written by Esper")
            yield event
