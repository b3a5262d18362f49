"""Several processes that train one network: who they are, what they tell each other, and what happens when one is lost.

All ranks run the same code on the same state; a collective here is called by every rank at the same place. What can
differ between ranks (data, clocks, signals, faults) is made equal before it decides anything. Nothing that is sent is
a pickle: values travel as JSON, tensors as their bytes.

A run of one rank has no process group: every method is the identity then.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from esper import errors
from esper.errors import EsperError, ManifestError, RankFailed, RankLost, RanksDisagree
from esper.tolaria.launch import expected
from esper.tolaria.meeting import PATIENCE_SECONDS, POLL_SECONDS, Meeting, Place, short

if TYPE_CHECKING:
    from leyline.resources import TrainingRunSpec

T = TypeVar("T")


@dataclass(eq=False)
class Ranks:
    """The ranks of one run, seen from one of them.

    Attributes:
        rank, world: this one's number, and how many there are.
        seconds: how long a rank may keep the others waiting in a training step.
        lost: another rank is gone; no collective works any more.
        stopped_by: the signal the ranks agreed to stop for, 0 for none.
    """

    rank: int = 0
    world: int = 1
    seconds: float = PATIENCE_SECONDS
    lost: bool = False
    stopped_by: int = 0
    _meeting: Meeting | None = field(default=None, repr=False)
    _stop: Callable[[], bool] = field(default=lambda: False, repr=False)
    _turns: int = 0
    _invited: int = 0
    _by_itself: bool = False

    # -- coming and going ------------------------------------------------------------------------------------------

    @classmethod
    def join(cls, place: Place) -> Ranks:
        """Meet the other ranks.

        Raises:
            RankLost: not all of them came.
        """
        return cls(place.rank, place.world, place.seconds, _meeting=Meeting(place))

    @classmethod
    def meet(cls, spec: TrainingRunSpec) -> Ranks:
        """Meet the other ranks if a launcher says there are any.

        Raises:
            BadInput, RankLost: see :class:`esper.tolaria.meeting.Place` and :meth:`join`.
        """
        return ALONE if expected()[1] == 1 else cls.join(Place.of(os.environ, spec))

    def invite(self, purpose: str) -> Place | None:
        """Where processes that belong to the ranks one by one meet in their turn; None for one rank."""
        if self._meeting is None:
            return None
        self._invited += 1
        place = self._meeting.place
        return replace(place, name=f"{place.name}/{purpose}-{self._invited}", invited=True)

    def close(self) -> None:
        """Leave the others; safe to call twice, and for one rank."""
        if self.alone or not dist.is_initialized():
            return
        if self.lost:
            # a collective that was begun can't be taken back: torch would wait for its answer at exit
            atexit.register(_leave, RankLost.exit_code)
            return
        dist.destroy_process_group()

    @property
    def alone(self) -> bool:
        """The run has one rank."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """This rank decides, writes and tells."""
        return self.rank == 0

    # -- collectives -----------------------------------------------------------------------------------------------

    def reduce(
        self, values: Sequence[Tensor | None], like: Sequence[Tensor], note: Sequence[float]
    ) -> tuple[list[Tensor | None], list[list[float]]]:
        """Mean over the ranks of each tensor, and every rank's note, in one collective.

        Args:
            values: floating-point or complex tensors; None counts as zeros if another rank has one.
            like: tensors of the shapes and dtypes of ``values``, the same on every rank.
            note: numbers that float32 can hold; as many on every rank.

        Returns:
            The means (None where no rank had a tensor) and the notes in the order of ranks; the same bits everywhere.
        """
        if self.alone:
            return list(values), [list(note)]
        real = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in like]
        wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in real) else torch.float32
        device = real[0].device if real else torch.device("cpu")
        sizes = [tensor.numel() for tensor in real]
        total, count = sum(sizes), len(note)
        flat = torch.zeros(total + len(real) + self.world * count, dtype=wide, device=device)
        for place, (value, part) in enumerate(
            zip(values, torch.split(flat[:total], sizes) if sizes else (), strict=True)
        ):
            if value is not None:
                dense = value.to_dense() if value.is_sparse else value
                part.copy_((torch.view_as_real(dense) if dense.is_complex() else dense).reshape(-1))
                flat[total + place] = 1.0
        # each rank writes into a place of its own and adds zero to the others', so that notes arrive as they were sent
        own = total + len(real) + self.rank * count
        flat[own : own + count] = torch.tensor(list(note), dtype=wide)
        self._wait(lambda: dist.all_reduce(flat, async_op=True), self.seconds)
        flat[:total].div_(self.world)
        told = flat[total:].tolist()
        present, notes = told[: len(real)], told[len(real) :]
        means: list[Tensor | None] = []
        for tensor, part, there in zip(like, torch.split(flat[:total], sizes) if sizes else (), present, strict=True):
            if there == 0.0:
                means.append(None)
            elif tensor.is_complex():
                means.append(torch.view_as_complex(part.view(*tensor.shape, 2).contiguous()).to(tensor.dtype))
            else:
                means.append(part.view(tensor.shape).to(tensor.dtype))
        return means, [notes[rank * count : (rank + 1) * count] for rank in range(self.world)]

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place; exact where all ranks but one have zero."""
        if not self.alone:
            self._wait(lambda: dist.all_reduce(tensor, async_op=True), PATIENCE_SECONDS)
        return tensor

    def gather_tensor(self, tensor: Tensor) -> list[Tensor]:
        """A CPU tensor of each rank, in the order of ranks; all have the same shape and dtype."""
        if self.alone:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.world)]
        self._wait(lambda: dist.all_gather(found, tensor.contiguous(), async_op=True), PATIENCE_SECONDS)
        return found

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Bytes of each rank, in the order of ranks."""
        if self.alone:
            return [data]
        sizes = [int(size) for size in self.gather_tensor(torch.tensor([len(data)]))]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return [part[:size].numpy().tobytes() for part, size in zip(self.gather_tensor(padded), sizes, strict=True)]

    def gather(self, value: Any) -> list[Any]:
        """A JSON value of each rank, in the order of ranks."""
        if self.alone:
            return [value]
        return [json.loads(data) for data in self.gather_bytes(json.dumps(value).encode())]

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the first rank's bits, in place; the tensors are on one device."""
        if self.alone or not tensors:
            return
        flat = torch.cat([tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors])
        self._wait(lambda: dist.broadcast(flat, 0, async_op=True), PATIENCE_SECONDS)
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        with torch.no_grad():
            for tensor, part in zip(tensors, torch.split(flat, sizes), strict=True):
                if not self.first:
                    tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    def share_bytes(self, data: bytes) -> bytes:
        """The first rank's bytes; what the others give is not looked at."""
        if self.alone:
            return data
        size = torch.tensor([len(data)])
        self._wait(lambda: dist.broadcast(size, 0, async_op=True), PATIENCE_SECONDS)
        body = torch.zeros(max(1, int(size)), dtype=torch.uint8)
        if self.first and data:
            body[:] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._wait(lambda: dist.broadcast(body, 0, async_op=True), PATIENCE_SECONDS)
        return body[: int(size)].numpy().tobytes()

    def share_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first rank's tensors by name, on the CPU; what the others give is not looked at."""
        if self.alone:
            return dict(tensors)
        data = save({name: value.contiguous() for name, value in tensors.items()}) if self.first else b""
        return load(self.share_bytes(data))

    # -- agreement -------------------------------------------------------------------------------------------------

    def share(self, produce: Callable[[], T]) -> T:
        """What the first rank makes, a JSON value, on every rank; the others don't call ``produce``.

        Raises:
            EsperError: whatever it raised, on every rank.
        """
        if self.alone:
            return produce()
        failure, message = None, b""
        if self.first:
            try:
                message = json.dumps({"value": self._apart(produce)}).encode()
            except Exception as error:  # noqa: BLE001  told to the others, then raised
                failure, message = error, json.dumps({"failed": _told(error)}).encode()
        answer = json.loads(self.share_bytes(message))
        if failure is not None:
            raise failure
        if "failed" in answer:
            raise self._rebuilt(0, answer["failed"])
        return answer["value"]  # type: ignore[no-any-return]

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; when it fails on any of them it has failed on all.

        Raises:
            EsperError: what it raised on the lowest rank it failed on.
        """
        if self.alone:
            return work()
        failure = None
        try:
            result = work()
        except RankLost:
            raise
        except Exception as error:  # noqa: BLE001  told to the others, then raised
            failure = error
        self.fail_together(failure)
        return result

    def fail_together(self, failure: Exception | None) -> None:
        """Raise what failed on the lowest rank it failed on, the same everywhere; nothing if nothing did."""
        for rank, told in enumerate(self.gather(None if failure is None else _told(failure))):
            if told is None:
                continue
            if failure is not None and rank == self.rank == 0:
                raise failure
            raise self._rebuilt(rank, told) from failure

    def check_same(self, what: str, digest: str) -> None:
        """Check that a digest is the first rank's.

        Raises:
            RanksDisagree: on every rank, naming those that differ.
        """
        if self.alone:
            return
        found = self.gather(digest)
        other = [str(rank) for rank, value in enumerate(found) if value != found[0]]
        if other:
            raise RanksDisagree(
                f"{what} of rank {', '.join(other)} differs from rank 0's, though all must hold the same bits; the "
                "last checkpoint is whole: resume from it. Ranks need the same hardware and libraries, and a task must "
                "not depend on the rank"
            )

    def check_batch(self, batch_size: int) -> None:
        """Check that a batch can be split.

        Raises:
            ManifestError: naming the field.
        """
        if batch_size % self.world:
            raise ManifestError(
                [
                    f"spec.training.batchSize: {batch_size} does not divide by the {self.world} ranks of this run; "
                    f"use {max(1, batch_size // self.world) * self.world} or another multiple of {self.world}"
                ]
            )

    def lead(self, work: Callable[[], T]) -> T | None:
        """Let the first rank do something that may take long; the others wait for it and get None.

        Raises:
            EsperError: whatever it raised, on every rank.
            RankLost: the first rank is gone.
        """
        if self.alone:
            return work()
        self._turns += 1
        key = f"turn/{self._turns}"
        if not self.first:
            answer = json.loads(self._await(key))
            if answer is not None:
                raise self._rebuilt(0, answer)
            return None
        told = None
        try:
            return self._apart(work)
        except Exception as error:
            told = _told(error)
            raise
        finally:
            self._place.put(key, json.dumps(told))

    def _rebuilt(self, rank: int, told: Mapping[str, str]) -> EsperError:
        """An error of another rank as one of this rank; only the first rank tells the user."""
        kind = getattr(errors, told["kind"], None)
        text = told["text"] if rank == 0 else f"rank {rank}: {told['text']}"
        made: EsperError = RankFailed(text)
        if isinstance(kind, type) and issubclass(kind, EsperError):
            if kind is not ManifestError:  # which is made of lines
                made = kind(text)
            made.exit_code = kind.exit_code
        made.told = not self.first
        return made

    # -- stopping --------------------------------------------------------------------------------------------------

    def listen(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Make one question of every rank's: what is returned says yes on all ranks before the same step.

        Args:
            stop: this rank's own; its attribute ``by``, if it has one, is the signal that came.
        """
        if self.alone:
            return stop
        self._stop = stop
        return lambda: self.stopped_by != 0

    def asked(self) -> int:
        """The signal this rank was asked to stop by, 1 if it was none, 0 if nobody asked."""
        return int(getattr(self._stop, "by", None) or self._stop())

    def stops_now(self, stop: Callable[[], bool]) -> bool:
        """Ask every rank whether to stop, where no step is made that would tell."""
        if self.alone:
            return stop()
        self.stopped_by = self.stopped_by or max(self.gather(self.asked()))
        return stop()

    def asked_early(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """For the first rank while the others wait in :meth:`lead`: any of them was asked to stop."""
        if self.alone:
            return stop
        self._stop = stop
        return lambda: stop() or any(self._place.there(f"asked/{rank}") for rank in range(1, self.world))

    def reason_to_stop(self, stop: Any) -> signal.Signals | None:
        """The signal for which the run was stopped; ``stop`` is this rank's own request."""
        if self.alone or not self.stopped_by:
            return stop.by  # type: ignore[no-any-return]
        return signal.Signals(self.stopped_by) if self.stopped_by > 1 else None

    # -- when a rank is lost -----------------------------------------------------------------------------------------

    def _apart(self, work: Callable[[], T]) -> T:
        """Do what the other ranks don't."""
        self._by_itself = True
        try:
            return work()
        finally:
            self._by_itself = False

    def _wait(self, launch: Callable[[], Any], seconds: float) -> None:
        if self._by_itself:
            raise RuntimeError("a collective inside of what one rank does by itself: the others will never come to it")
        try:
            launch().wait(timedelta(seconds=seconds))
        except RuntimeError as error:
            raise self._loss(error, seconds) from error

    def _loss(self, error: Exception, seconds: float) -> RankLost:
        self.lost = True
        return RankLost(
            f"{self._place.missing(seconds)} ({short(error)}). "
            "The last checkpoint is whole: start all ranks again with --resume"
        )

    @property
    def _place(self) -> Meeting:
        assert self._meeting is not None, "a run of one rank meets nobody"
        return self._meeting

    def _await(self, key: str) -> bytes:
        """Wait for what the first rank puts somewhere; passes on to it that this one was asked to stop."""
        told = False
        try:
            while not self._place.there(key):
                if self.asked() and not told:
                    self._place.put(f"asked/{self.rank}", "1")
                    told = True
                time.sleep(POLL_SECONDS)
        except RankLost:
            self.lost = True
            raise
        return self._place.get(key)


ALONE = Ranks()
"""A run of one rank."""


def _told(error: Exception) -> dict[str, str]:
    # the nearest class that every rank knows, whatever the organ calls it
    kind = next((one.__name__ for one in type(error).__mro__ if one.__module__ == errors.__name__), "")
    return {"kind": kind, "text": str(error) if kind else f"{type(error).__name__}: {error}"}


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
