"""Where the ranks of a run meet: who they are, how they find each other, and who does not answer any more.

A launcher such as torchrun says so in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. The meeting place is torch's own
store; a thread of each rank waits there to say that its process still lives, whatever the main thread waits for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from esper.errors import BadInput, RankLost
from esper.tolaria.device import pick_device
from esper.tolaria.launch import expected

if TYPE_CHECKING:
    from leyline.resources import TrainingRunSpec

JOIN_SECONDS = 300.0
"""How long the first rank waits for the last one to come."""
PATIENCE_SECONDS = 1800.0
"""How long ranks wait for each other between two epochs, where the first may decide, probe and write."""
ROLL_CALL_SECONDS = 3.0
"""How long a rank that is still there may take to say so after another one was lost."""
POLL_SECONDS = 0.1
PATIENCE_FACTOR = 1.5
"""How long a rank may keep the others waiting in a step, in units of ``spec.governor.stepTimeoutSeconds``."""


_KEY = "esper"


@dataclass
class Place:
    """Where ranks meet, as another process of the same rank must know it (the twin's).

    ``seconds``: how long a rank may keep the others waiting in a training step. ``invited``: these are processes that
    belong to the run's own, which keep the place.
    """

    rank: int
    world: int
    host: str
    port: int
    name: str
    device: str
    seconds: float
    invited: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str], spec: TrainingRunSpec) -> Place:
        """The place a launcher's environment describes.

        Raises:
            BadInput: MASTER_ADDR or MASTER_PORT is missing, or this machine has fewer GPUs than ranks.
        """
        rank, world = expected(environment)
        host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
        if not host or not port.isdecimal():
            raise BadInput(
                f"WORLD_SIZE is {world}, but MASTER_ADDR ({host!r}) and MASTER_PORT ({port!r}) don't say where the "
                "ranks meet; start them with torchrun"
            )
        device = pick_device(spec.training.device)
        if device.type == "cuda":
            local, there = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= there:
                raise BadInput(
                    f"rank {rank} is number {local} on this machine, which has {there} GPUs; start one rank for "
                    "each GPU, or set spec.training.device: Cpu"
                )
            device = torch.device("cuda", local)
        # the rank that makes others wait notices first: a slow step is told from a lost rank
        seconds = PATIENCE_FACTOR * spec.governor.step_timeout_seconds
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(rank, world, host, int(port), f"{_KEY}/{attempt}", str(device), seconds)


class Meeting:
    """The ranks' meeting place, seen from one of them.

    Raises:
        RankLost: not all of them came.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        device = torch.device(place.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # then the launcher keeps the store
            self._store = self._connect(serve=place.rank == 0 and not agent and not place.invited)
            self._await_everybody()
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("group", self._store), rank=place.rank, world_size=place.world,
                timeout=timedelta(seconds=max(PATIENCE_SECONDS, place.seconds)),
            )  # fmt: skip
        except RuntimeError as error:
            raise RankLost(
                f"rank {place.rank} of {place.world} could not meet the others at {place.host}:{place.port} "
                f"({short(error)})"
            ) from error
        threading.Thread(target=self._answer_roll_call, name="esper-roll-call", daemon=True).start()

    def _await_everybody(self) -> None:
        place = self.place
        if self._store.add(f"came/{place.rank}", 1) > 1:
            raise RankLost(
                f"rank {place.rank} was at {place.host}:{place.port} before: an earlier start of the run is still "
                "ending there; start all ranks again when it has"
            )
        deadline = time.monotonic() + JOIN_SECONDS
        missing = list(range(place.world))
        while missing := [rank for rank in missing if not self.there(f"came/{rank}")]:
            if time.monotonic() > deadline:
                raise RankLost(
                    f"rank {', '.join(map(str, missing))} did not come to {place.host}:{place.port} within "
                    f"{JOIN_SECONDS:g} s; all {place.world} ranks must be started"
                )
            time.sleep(POLL_SECONDS)

    def there(self, key: str) -> bool:
        """Somebody has put something under a key.

        Raises:
            RankLost: the place itself is gone.
        """
        try:
            return bool(self._store.check([key]))
        except RuntimeError as error:
            raise RankLost(f"rank 0, which keeps the ranks' meeting place, is gone ({short(error)})") from error

    def put(self, key: str, value: str) -> None:
        """Put something under a key."""
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        """What is under a key that is there."""
        found: bytes = self._store.get(key)
        return found

    def missing(self, seconds: float) -> str:
        """Who does not answer, in words; ``seconds`` is how long somebody has waited already.

        Whoever notices first asks. The others notice when that one leaves, and would take it for lost as well.
        """
        try:
            if self.there("lost"):
                return self.get("lost").decode()
            self.put("roll-call", "1")
            deadline = time.monotonic() + ROLL_CALL_SECONDS
            missing = [rank for rank in range(self.place.world) if rank != self.place.rank]
            while missing and time.monotonic() < deadline:
                missing = [rank for rank in missing if not self.there(f"here/{rank}")]
                time.sleep(POLL_SECONDS)
            if missing:
                words = f"rank {', '.join(map(str, missing))} is gone or does not answer"
                self.put("lost", words)
                return words
        except (RuntimeError, RankLost):
            return "rank 0, which keeps the ranks' meeting place, is gone"
        return f"the ranks lost touch with each other, or one of them made the others wait for more than {seconds:g} s"

    def _answer_roll_call(self) -> None:
        try:
            own = self._connect(serve=False)  # a connection that waits can't be used for anything else
            own.wait(["roll-call"], timedelta(days=365))
            own.set(f"here/{self.place.rank}", "1")
        except RuntimeError:
            return  # the meeting place is gone: nobody is left to ask

    def _connect(self, serve: bool) -> Store:
        place = self.place
        tcp = TCPStore(
            place.host, place.port, place.world, is_master=serve, wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_SECONDS), multi_tenant=True,
        )  # fmt: skip
        return PrefixStore(place.name, tcp)


def short(error: Exception) -> str:
    """The first line of torch's message."""
    return str(error).partition("\n")[0][:200]
