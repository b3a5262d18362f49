"""``esper-operator``: serve health, wait to lead, then watch and reconcile until told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable

import structlog
import uvloop

from esper.ending import run_to_the_end
from esper_operator import metrics, serving
from esper_operator.cluster import Cluster, LeaseLost, connect, lead
from esper_operator.handlers.auditing import Audit
from esper_operator.handlers.indices import Key
from esper_operator.handlers.kinds import Blueprints, KernelArtifacts, Runs, anybody_serves
from esper_operator.handlers.pooling import Pooling
from esper_operator.handlers.queue import WorkQueue
from esper_operator.handlers.reconcile import Reconciler
from esper_operator.handlers.watching import Watches
from esper_operator.library import KernelLibrary
from esper_operator.news import Listener
from esper_operator.settings import OperatorSettings, load

DONE, BAD_INPUT, FAILED = 0, 2, 3
log = logging.getLogger(__name__)


class Operator:
    """One replica."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._watching = asyncio.Event()
        self._leading = False
        self._audit: Audit | None = None

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; raises ``LeaseLost`` when another replica may lead by now."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stopped.set)
        settings = self._settings
        health = await serving.serve(settings.host, settings.port, self.problem, self.obstacle)
        client = await connect()

        async def leading() -> None:
            await self._work(Cluster(client), stopped)

        try:
            turn = asyncio.create_task(lead(client, settings.lease_namespace, settings.identity, leading))
            waiting = asyncio.create_task(stopped.wait())
            await asyncio.wait({turn, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not self._leading:
                turn.cancel()
            await asyncio.wait({turn})
            waiting.cancel()
            if not turn.cancelled():
                turn.result()
        finally:
            await client.close()  # type: ignore[no-untyped-call]
            await health.cleanup()

    def problem(self) -> str:
        """What is wrong with this replica that a restart would mend."""
        stale = self._audit.stale if self._audit is not None else frozenset()
        return f"{len(stale)} objects changed and no watch told" if stale else ""

    def obstacle(self) -> str:
        """Why this replica can't do its part yet; one that waits to lead does its part."""
        return "the first listing is not over" if self._leading and not self._watching.is_set() else ""

    def _library(self) -> KernelLibrary | None:
        told = self._settings
        if not told.urza_url or told.urza_token_file is None:
            return None
        return KernelLibrary(told.urza_url, told.urza_token_file)

    def _news(self, heard: Callable[[str], None]) -> Listener | None:
        folder, seconds = self._settings.bus_trust_dir, self._settings.progress_seconds
        if folder is None:
            return None
        # Only here: an operator that follows nothing needs no client of the broker.
        from esper.oona.pulsar import PulsarBus, load_settings

        broker = load_settings()
        return Listener(lambda: PulsarBus(broker), folder, heard, seconds)

    async def _work(self, cluster: Cluster, stopped: asyncio.Event) -> None:
        log.info("leading as %s", self._settings.identity)
        self._leading = True
        metrics.LEADING.set(1)
        settings = self._settings
        queue: WorkQueue[Key] = WorkQueue(lambda key: kinds[key[0]](key[1:]))

        def gone(key: Key) -> None:
            queue.forget(key)
            if news is not None and key[0] == "TrainingRun":
                news.forget(key[2])  # the next of this name begins anew

        def changed(key: Key, awaited: bool) -> None:
            if awaited:
                queue.add(key)
            else:
                queue.add_within(key, settings.batch_seconds)

        watches = Watches(changed, gone)
        indices, library = watches.indices, self._library()

        def heard(run: str) -> None:
            for key in indices.called(run):
                queue.add(key)

        news = self._news(heard)
        pooling = Pooling(cluster, library, settings.pools_namespace) if library and settings.pools_namespace else None
        kinds: dict[str, Reconciler] = {
            "TrainingRun": Runs(indices, cluster, settings.pods(), news),
            "Blueprint": Blueprints(indices, cluster, library),
            "KernelArtifact": KernelArtifacts(
                indices, cluster, library, settings.pools(), pooling.serves if pooling is not None else anybody_serves
            ),
        }
        self._audit = Audit(cluster, watches.indices, settings.namespaces)
        tasks = [
            asyncio.create_task(watches.run(settings.namespaces, self._watching), name="watches"),
            asyncio.create_task(queue.serve(settings.workers), name="reconciles"),
            asyncio.create_task(self._audit.serve(settings.audit_seconds), name="audit"),
        ]
        if pooling is not None:
            tasks.append(asyncio.create_task(pooling.serve(settings.pools_seconds), name="pools"))
        if news is not None:
            tasks.append(asyncio.create_task(news.serve(), name="news"))
        stop = asyncio.create_task(stopped.wait())
        try:
            done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # the watches end without an error as well: kopf takes SIGTERM for itself
        finally:
            for task in (stop, *tasks):
                task.cancel()
            await asyncio.wait({stop, *tasks})


def main() -> None:
    """Run until told to stop. Exit codes: 0 stopped as told, 2 settings are wrong, 3 failed or the Lease was lost."""
    run_to_the_end(_operate)


def _operate() -> None:
    try:
        settings = load()
    except ValueError as error:
        print(f"esper-operator: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    _log(settings.log_level)
    _collect_seldom()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Operator(settings).run())
    except LeaseLost as error:
        log.error("stopping: the Lease %s was lost", error)
        sys.exit(FAILED)
    except Exception:
        log.exception("stopping")
        sys.exit(FAILED)


def _collect_seldom() -> None:
    """Look for garbage in cycles less often than Python does by itself, and never among what was imported.

    An operator keeps tens of thousands of objects and makes thousands a second, nearly all of which go by themselves.
    The search walked through all that is kept again and again: a fifth of the processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 5)


def _log(level: str) -> None:
    """One JSON object a line, also what libraries say."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("kopf", "kubernetes", "asyncio"):
        logging.getLogger(noisy).setLevel("WARNING")


if __name__ == "__main__":
    main()
