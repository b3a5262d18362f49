"""The queue that works on a resource once at a time, and the audit that knows when a watch went quiet."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from esper_operator.handlers import queue as queue_module
from esper_operator.handlers.auditing import Audit
from esper_operator.handlers.indices import Indices, ResourceSeen
from esper_operator.handlers.queue import Again, WorkQueue


async def served(queue: WorkQueue[str], seconds: float, workers: int = 4) -> None:
    """Let the queue work for some time."""
    task = asyncio.create_task(queue.serve(workers))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait({task})


def test_a_key_is_worked_on_by_one_at_a_time_and_never_missed() -> None:
    async def run() -> None:
        inside: Counter[str] = Counter()
        state, seen = {"a": 0, "b": 0}, {"a": 0, "b": 0}

        async def work(key: str) -> None:
            inside[key] += 1
            assert inside[key] == 1
            seen[key] = state[key]
            await asyncio.sleep(0.005)
            inside[key] -= 1

        queue: WorkQueue[str] = WorkQueue(work)
        task = asyncio.create_task(queue.serve(4))
        for _ in range(100):
            for key in state:
                state[key] += 1
                queue.add(key)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait({task})
        assert seen == state, "a change that came while it was worked on was missed"

    asyncio.run(run())


def test_many_events_are_one_look() -> None:
    async def run() -> None:
        looks = 0

        async def work(_: str) -> None:
            nonlocal looks
            looks += 1

        queue: WorkQueue[str] = WorkQueue(work)
        for _ in range(50):
            queue.add("a")
        await served(queue, 0.05)
        assert looks == 1

    asyncio.run(run())


@pytest.mark.parametrize("error", [Again("later"), RuntimeError("a bug"), TimeoutError()])
def test_what_fails_comes_back_ever_later_and_holds_nobody_up(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FIRST_DELAY", 0.02)

    async def run() -> None:
        times: list[float] = []
        good = 0

        async def work(key: str) -> None:
            nonlocal good
            if key == "bad":
                times.append(asyncio.get_running_loop().time())
                raise error
            good += 1

        queue: WorkQueue[str] = WorkQueue(work)
        queue.add("bad")
        queue.add("good")
        await served(queue, 0.5, workers=1)
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert good == 1
        assert len(gaps) >= 3
        assert all(later > earlier for earlier, later in itertools.pairwise(gaps))

    asyncio.run(run())


def test_a_key_comes_back_when_it_asked_to_and_news_may_bring_it_sooner() -> None:
    async def run() -> None:
        looks = []
        began = asyncio.get_running_loop().time()

        async def work(_: str) -> float | None:
            looks.append(asyncio.get_running_loop().time() - began)
            return 0.3 if len(looks) == 1 else None

        queue: WorkQueue[str] = WorkQueue(work)
        queue.add("a")
        task = asyncio.create_task(queue.serve(1))
        await asyncio.sleep(0.02)
        queue.add_within("a", 0.05)
        queue.add_within("a", 5.0)
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait({task})
        assert len(looks) == 2
        assert looks[1] < 0.25

    asyncio.run(run())


def test_news_that_comes_while_a_key_is_worked_on_is_not_put_off() -> None:
    async def run() -> None:
        looks = 0

        async def work(key: str) -> float | None:
            nonlocal looks
            looks += 1
            if looks == 1:
                queue.add_within(key, 0.02)
                await asyncio.sleep(0.01)
                return 300.0
            return None

        queue: WorkQueue[str] = WorkQueue(work)
        queue.add("a")
        await served(queue, 0.3)
        assert looks == 2

    asyncio.run(run())


def test_what_is_forgotten_does_not_come_back() -> None:
    async def run() -> None:
        looks = 0

        async def work(_: str) -> float | None:
            nonlocal looks
            looks += 1
            return 0.05

        queue: WorkQueue[str] = WorkQueue(work)
        queue.add("a")
        task = asyncio.create_task(queue.serve(1))
        await asyncio.sleep(0.02)
        queue.forget("a")
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait({task})
        assert looks == 1

    asyncio.run(run())


class Listing:
    """A cluster as far as an audit can tell."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], str] = {}

    async def listing(self, kind: str, namespace: str | None, selector: str) -> dict[tuple[str, str], str]:
        return dict(self.runs) if kind == "TrainingRun" else {}


def test_a_watch_that_went_quiet_is_noticed_and_one_that_is_late_is_not() -> None:
    async def run() -> None:
        cluster, indices = Listing(), Indices()
        audit = Audit(cluster, indices, ())  # type: ignore[arg-type]
        told: dict[Any, Any] = {}
        indices.runs = told
        task = asyncio.create_task(audit.serve(0.05))
        cluster.runs["lab", "late"] = "5"
        await asyncio.sleep(0.07)
        told["lab", "late"] = [ResourceSeen("5", b"{}")]  # told of between two looks
        await asyncio.sleep(0.1)
        assert not audit.stale
        cluster.runs["lab", "late"] = "6"
        await asyncio.sleep(0.2)
        assert audit.stale == {("TrainingRun", ("lab", "late"), "6")}
        told["lab", "late"] = [ResourceSeen("6", b"{}")]
        await asyncio.sleep(0.2)
        assert not audit.stale
        del cluster.runs["lab", "late"]
        await asyncio.sleep(0.2)
        assert audit.stale == {("TrainingRun", ("lab", "late"), "6")}
        del told["lab", "late"]
        await asyncio.sleep(0.2)
        assert not audit.stale
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())
