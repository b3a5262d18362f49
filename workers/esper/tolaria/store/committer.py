"""Commits on their way to a store that may be away, and the rule for how far a run may get ahead of them.

A directory is written at once. A bucket is written by a thread, in order, while training goes on; a store that is away
is tried again with growing waits. What was not committed is lost when the trainer dies, so the run may be ``ahead``
commits ahead of the store and no more: then it waits, says so, and after ``patience`` seconds without success it ends
with ``CheckpointsUnavailable``. What is told to others about an epoch waits for its commit (``then``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.errors import CheckpointsUnavailable, ObjectStoreError
from esper.tolaria.store.port import CheckpointStore, Commit

FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds between attempts."""


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Stored:
    """A commit that is durable: its checkpoint's name and size in bytes, and how long storing it took."""

    name: str
    size: int
    seconds: float


class Committer:
    """Hands one run's commits to its store. ``put`` and the others are for the training thread.

    Args:
        store: where they go.
        ahead: commits that may be on their way while training goes on; 0 stores each before ``put`` returns.
        patience: seconds a store may be away before the run fails.
        last: seconds :meth:`finish` waits for a store that is away, for a process that was asked to stop.
        say: told when the run waits for the store, and when it no longer has to.
    """

    def __init__(
        self, store: CheckpointStore, *, ahead: int = 0, patience: float = 600.0, last: float = 20.0,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:  # fmt: skip
        self.store, self.say = store, say
        self._ahead, self._patience, self._last = ahead, patience, last
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Commit, Callable[[], None]]] = deque()
        self._stored: list[Stored] = []
        self._newest = ""
        self._error: BaseException | None = None
        self._trouble, self._since = "", 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> str:
        """What keeps commits from being stored just now; empty when nothing does. Safe from any thread."""
        with self._changed:
            return self._trouble

    @property
    def behind(self) -> int:
        """Commits that are not durable yet. Safe from any thread."""
        with self._changed:
            return len(self._waiting)

    def put(self, commit: Commit, then: Callable[[], None] = _nothing, stop: Callable[[], bool] = bool) -> None:
        """Take a commit; ``then`` is called once it is durable, by whichever thread stored it.

        Returns when at most ``ahead`` commits are on their way, or ``stop`` says yes.

        Raises:
            RunTaken, StorageFull, …: the store refused a commit for good.
            CheckpointsUnavailable: the store is away for longer than the run puts up with.
        """
        if self._ahead == 0:
            began = time.perf_counter()
            self.store.commit(commit)
            self._note(commit, began)
            then()
            return
        with self._changed:
            self._waiting.append((commit, then))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        self._wait(self._ahead, stop)

    def stored(self) -> list[Stored]:
        """The commits that became durable since the last call."""
        with self._changed:
            found, self._stored = self._stored, []
        return found

    def finish(self, stopping: bool = False) -> None:
        """Wait until everything is durable; ``stopping``: not for long, somebody waits for this process to end.

        Raises:
            As :meth:`put`.
        """
        self._wait(0, bool, time.monotonic() + self._last if stopping else None)

    def leave(self, names: list[str], out: Path) -> None:
        """Keep these files of the output directory with the run; directories with all that is in them.

        Raises:
            RunTaken, CheckpointsUnavailable: as :meth:`put`.
        """
        deadline = time.monotonic() + self._patience
        found = [path for name in names for path in _files(out / name)]
        for path in found:
            wait = FIRST_WAIT
            while True:
                try:
                    self.store.leave(path.relative_to(out).as_posix(), path)
                    break
                except ObjectStoreError as error:
                    if time.monotonic() + wait >= deadline:
                        raise CheckpointsUnavailable(f"{error}; {path.name} lies in {out} only") from error
                    self.say(f"{error}; trying again")
                    time.sleep(wait)
                    wait = min(2 * wait, LONGEST_WAIT)

    def close(self) -> None:
        """End the thread; what it has not stored is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(LONGEST_WAIT)
        self.store.close()

    def _wait(self, most: int, stop: Callable[[], bool], deadline: float | None = None) -> None:
        said = False
        with self._changed:
            while len(self._waiting) > most and self._error is None and not stop():
                now = time.monotonic()
                if (self._trouble and now - self._since > self._patience) or (deadline is not None and now > deadline):
                    newest = f"the newest that is: {self._newest}" if self._newest else "this process has stored none"
                    raise CheckpointsUnavailable(
                        f"{len(self._waiting)} checkpoints are not stored, {newest} "
                        f"({self._trouble or f'{self.store.place} is slow'}). Resume from there when the store is back"
                    )
                if self._trouble and not said:
                    said = True
                    self.say(f"training waits: {len(self._waiting)} checkpoints are not stored ({self._trouble})")
                self._changed.wait(0.2)
            error = self._error
        if error is not None:
            raise error
        if said:
            self.say("training goes on: checkpoints are stored again")

    def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                commit, then = self._waiting[0]
            began = time.perf_counter()
            try:
                self.store.commit(commit)
                then()
            except ObjectStoreError as error:
                with self._changed:
                    self._since = self._since if self._trouble else time.monotonic()
                    self._trouble = str(error)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed, wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            except BaseException as error:  # noqa: BLE001 - the training thread raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            wait = FIRST_WAIT
            self._note(commit, began)

    def _note(self, commit: Commit, began: float) -> None:
        with self._changed:
            if self._waiting:
                self._waiting.popleft()
            self._stored.append(Stored(commit.name, commit.size, time.perf_counter() - began))
            self._newest, self._trouble = commit.name, ""
            self._changed.notify_all()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    return [path] if path.exists() else []
