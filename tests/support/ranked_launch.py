"""Starting the ranks of a test: under a real torchrun, or in children that begin at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from esper.tolaria.meeting import Place
from esper.tolaria.ranks import Ranks
from forks import Child
from leyline.resources import TrainingRun
from parts import free_port

SUPPORT = Path(__file__).parent
WORLD = 2
PYTHONPATH = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])


def scenario(name: str, run: TrainingRun, blueprints: list[str], **more: Any) -> dict[str, Any]:
    """One run of a scenario file (see ``ranked.py``)."""
    document = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"name": name, "manifest": document, "blueprints": blueprints, **more}


def torchrun(folder: Path, *scenarios: dict[str, Any], seconds: float = 240.0) -> tuple[int, str]:
    """Run scenarios on two ranks under torchrun; returns its exit status and everything that was written."""
    (folder / "scenario.json").write_text(json.dumps(scenarios))
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD),
        str(SUPPORT / "ranked.py"), str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    return done.returncode, done.stdout + done.stderr


def _ended(children: Sequence[Child], seconds: float) -> list[int]:
    """Exit statuses of children; those that are not done in time are killed."""
    deadline, statuses = time.monotonic() + seconds, []
    for child in children:
        status = child.wait(max(0.0, deadline - time.monotonic()))
        if status is None:
            child.kill()
            status = child.wait()
        assert status is not None
        statuses.append(status)
    return statuses


class Forked:
    """Ranks as forks, as a launcher would start them; ``finish`` returns their exit statuses and what they wrote."""

    def __init__(self, folder: Path, *scenarios: dict[str, Any], world: int = WORLD) -> None:
        import ranked

        folder.mkdir(exist_ok=True)
        (folder / "scenario.json").write_text(json.dumps(scenarios))
        port, self.folder = free_port(), folder

        def work(rank: int) -> None:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port), PYTHONPATH=PYTHONPATH,
            )  # fmt: skip
            sys.argv = ["ranked.py", str(folder)]
            sys.exit(ranked.main())

        self.children = [Child(partial(work, rank), folder / f"stderr{rank}") for rank in range(world)]
        self.pids = [child.pid for child in self.children]

    def finish(self, seconds: float = 120.0) -> tuple[list[int], list[str]]:
        """Wait for all ranks; those that are not done in time are killed, which their status shows."""
        statuses = _ended(self.children, seconds)
        return statuses, [self.written(rank) for rank in range(len(statuses))]

    def ended(self, rank: int, seconds: float = 120.0) -> int:
        """Wait for one rank; returns its exit status."""
        (status,) = _ended([self.children[rank]], seconds)
        return status

    def written(self, rank: int) -> str:
        """What a rank wrote to standard error."""
        return (self.folder / f"stderr{rank}").read_text()


def on_ranks(
    folder: Path, work: Callable[[Ranks], Any], world: int = WORLD, seconds: float = 60.0, port: int | None = None
) -> list[Any]:
    """Call something with the ranks joined, in a fork for each rank; returns what each returned, a JSON value."""
    meeting = port or free_port()

    def join(rank: int) -> None:
        ranks = Ranks.join(Place(rank, world, "127.0.0.1", meeting, "test/0", "cpu", seconds))
        answer = work(ranks)
        (folder / f"answer{rank}").write_text(json.dumps(answer))
        if not ranks.lost:
            ranks.gather(None)  # the first rank keeps the store: it leaves last

    children = [Child(partial(join, rank), folder / f"written{rank}") for rank in range(world)]
    _ended(children, seconds)
    for child in children:
        print(child.written, end="")
    return [json.loads((folder / f"answer{rank}").read_text()) for rank in range(world)]


def seen(folder: Path, name: str, world: int = WORLD) -> list[dict[str, Any]]:
    """What each rank saw of a run."""
    return [json.loads((folder / f"{name}.rank{rank}.json").read_text()) for rank in range(world)]
