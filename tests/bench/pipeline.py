"""What a run and its kernels pay for being processes of their own: news by a broker, kernels by the pools.

*News*: the same run of MNIST-1D with its news going to a real broker and without, in turns; epochs are short, so that
there is a packet every tenth of a second. The broker shares the machine's two cores.

*Kernels*: a dispatcher, a compiler and a benchmarker as processes, PostgreSQL and S3 behind the service. Timed is from
the request of a run for a kernel that nobody has made yet to the verified kernel in its memory; and the same for one
that is certified already and that another run asks for, with an empty cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import common  # noqa: F401  (finds tests/support)
from tests.bench.analysis import median, paired_ratio
from tests.bench.library_service import served
from tests.bench.report import BELOW, Report, bounded, reported

import libraries
from brokers import need_broker, settings_for
from esper.kernel import load_kernel
from esper.oona import Bus
from esper.oona.pulsar import PulsarBus, provision
from esper.urza import S3Blobs, SqlLibrary
from installation import Installation
from leyline.interface import Interface, Layout
from people import Keys
from runs import manifest, trainer

STEPS = 20
"""In an epoch."""
COST_PERCENT = 1.0
BLUEPRINTS = ("low_rank", "bottleneck", "mlp")


def one_run(folder: Path, epochs: int, bus: Bus | None) -> tuple[float, float]:
    """Median step, and time from the first step to the last commit for each step, in milliseconds."""
    of = manifest(training={"epochs": epochs, "stepsPerEpoch": STEPS})
    folder.mkdir()
    trained = trainer(of, folder)
    if bus is not None:
        Keys().attach(trained, bus, folder.name)
    began = time.perf_counter()
    trained.train()
    seconds = time.perf_counter() - began
    if trained.outside.herald is not None:
        trained.outside.herald.close()
    return statistics.median(trained.clock.steps) * 1e3, seconds * 1e3 / len(trained.clock.steps)


def news(report: Report, folder: Path, rounds: int, epochs: int) -> None:
    """Runs with and without a broker, in turns."""
    settings = settings_for(need_broker())
    provision(settings)
    bus = PulsarBus(settings)
    found: dict[str, list[tuple[float, float]]] = {"alone": [], "told": []}
    one_run(folder / "warm", epochs, bus)
    for number in range(rounds):
        for arm in sorted(found, reverse=bool(number % 2)):
            found[arm].append(one_run(folder / f"{arm}-{number}", epochs, bus if arm == "told" else None))
    bus.close()
    for index, words in enumerate(("the median step", "a step with its share of the epoch's end")):
        told, alone = ([each[index] for each in found[arm]] for arm in ("told", "alone"))
        ratio = paired_ratio(told, alone)
        cost = type(ratio)((ratio.value - 1) * 100, (ratio.low - 1) * 100, (ratio.high - 1) * 100, ratio.n)
        note = (
            f"{statistics.median(alone):.3g} ms without; runs of {epochs} epochs of {STEPS} steps, a packet an epoch; "
            "the broker takes its share of the same two cores"
        )
        name = f"news of a run to a real broker, cost of {words}"
        report.rows.append(bounded(name, f"<= {COST_PERCENT:g} %", cost, "%", BELOW, COST_PERCENT, note))
    report.details["news"] = found


def fetched(site: Installation, run: str, interface: Interface, blueprint: str, strategy: str) -> float:
    """Seconds from a run's request to the loaded kernel."""
    with site.kernels(run, site.folder / f"cache-{run}") as kernels:
        began = time.perf_counter()
        prepared = kernels.prepare([interface], [blueprint], [strategy])
        wanted = [each for each in prepared.artifacts if each["strategy"] == strategy]
        if [each["state"] for each in wanted] != ["Validated"]:
            raise RuntimeError(f"{blueprint}, {strategy}: {wanted}")
        load_kernel(kernels.path(wanted[0]["kernel"]), kernels.keys)
        return time.perf_counter() - began


def kernels(report: Report, folder: Path, fast: int, standard: int) -> None:
    """Requests one after the other, each for what nobody has made; then again by another run."""
    times: dict[str, list[float]] = {"new": [], "certified": [], "compiled": []}
    with libraries.places(own=True) as (url, bucket), served(url, bucket) as (address, _):
        library = SqlLibrary(url, S3Blobs(bucket))
        site = Installation(folder, library, address)
        try:
            for name in ("dispatcher", "tezzeret", "urabrask"):
                site.start(name)
            # the first build and the first measurement of each worker start its helper process
            fetched(site, "warm", Interface(Layout.VECTOR, 8), "low_rank", "fast")
            for number in range(fast):
                interface = Interface(Layout.VECTOR, 16 + 8 * (number // len(BLUEPRINTS)))
                blueprint = BLUEPRINTS[number % len(BLUEPRINTS)]
                times["new"].append(fetched(site, f"first-{number}", interface, blueprint, "fast"))
                times["certified"].append(fetched(site, f"second-{number}", interface, blueprint, "fast"))
            for number in range(standard):
                interface = Interface(Layout.VECTOR, 256 + 8 * number)
                times["compiled"].append(fetched(site, f"third-{number}", interface, "bottleneck", "standard"))
        finally:
            site.close()
            library.close()
    note = "dispatcher, compiler, benchmarker, library, PostgreSQL, S3 and broker share the machine with who asks"
    for kind, words in (
        ("new", "of a new eager kernel: built, checked, measured, certified, fetched, verified, loaded"),
        ("certified", "of a kernel that is certified already"),
        ("compiled", "of a new compiled pair with its baseline"),
    ):
        if times[kind]:
            report.rows.append(reported(f"time from request to loaded kernel, {words}", median(times[kind]), "s", note))
    report.details["kernels"] = times


def run(quick: bool = False) -> Report:
    """Measure both."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as home:
        folder = Path(home)
        news(report, folder, *((4, 10) if quick else (16, 40)))
        print("news: done", flush=True)
        given: tuple[Any, ...] = (3, 0) if quick else (18, 4)
        (folder / "site").mkdir()
        kernels(report, folder / "site", *given)
    return report
