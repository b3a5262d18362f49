"""The pipeline as a whole: every artifact gets its verdict, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from artifacts import SEQUENCE, VECTOR, children
from esper.errors import BadInput, Interrupted
from esper.kernel import load_kernel
from esper.kernel.hardware import compiler
from esper.tezzeret import Builder, BuildRequest, BuildVerdict
from esper.urza import SqlLibrary, State
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.keys import library_keys
from esper.weatherlight.pools import KernelService
from esper.weatherlight.supervisor import OrganFailed
from leyline.interface import Interface, Layout

NAMES = ["bottleneck", "low_rank"]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[SqlLibrary]:
    opened = SqlLibrary.open(tmp_path)
    yield opened
    opened.close()


def servers() -> list[psutil.Process]:
    """Build servers this process has running."""
    return [p for p in psutil.Process().children() if "esper.kernel.zygote" in " ".join(p.cmdline())]


@pytest.fixture
def processes() -> Callable[[], list[psutil.Process]]:
    """Build servers started since the test began; other tests of this process may keep their own."""
    others = servers()
    return lambda: [p for p in servers() if p not in others]


class Stub:
    """Builds that end as told, by blueprint name's place in ``plan``; None blocks until released."""

    def __init__(self, plan: Callable[[BuildRequest], BuildVerdict]) -> None:
        self.plan = plan
        self.asked: list[str] = []

    def build(self, request: BuildRequest) -> BuildVerdict:
        self.asked.append(request.artifact_id)
        return self.plan(request)


def test_a_portfolio_is_certified_and_used(
    library: SqlLibrary, tmp_path: Path, processes: Callable[[], list[psutil.Process]]
) -> None:
    told: list[tuple[int, int, str]] = []
    with KernelService(library, tmp_path) as service:
        prepared = service.prepare([VECTOR], NAMES, ["fast"], lambda *said: told.append(said))
        assert [event["state"] for event in prepared.artifacts] == ["Validated", "Validated"]
        assert [said[:2] for said in told] == [(1, 2), (2, 2)]
        assert prepared.outstanding == ()
        for event in prepared.artifacts:
            kernel = load_kernel(service.path(event["kernel"]), service.keys)
            assert kernel.interface == VECTOR
            assert library.record(event["kernel"]).report["memory_mb_peak"] > 0
        assert service.arrivals() == sorted(event["kernel"] for event in prepared.artifacts)
        assert service.arrivals() == []
    assert processes() == []
    # What is certified once is there for the next: nothing is built, no process started.
    with KernelService(library, tmp_path, builds=Stub(lambda request: pytest.fail("built again"))) as again:
        assert again.prepare([VECTOR], NAMES, ["fast"]).artifacts == prepared.artifacts
        assert processes() == []
    assert not list((tmp_path / "work").glob("*/built")), "scratch was left behind"


def test_a_request_returns_at_once_and_arrivals_tell(library: SqlLibrary, tmp_path: Path) -> None:
    with KernelService(library, tmp_path) as service:
        asked = service.request([VECTOR], ["low_rank"], ["fast"])
        assert len(asked.outstanding) == 1
        assert asked.artifacts == ()
        deadline = time.monotonic() + 120
        arrived: list[str] = []
        while not arrived and time.monotonic() < deadline:
            arrived = service.arrivals()
            time.sleep(0.1)
        assert tuple(arrived) == asked.outstanding


def test_a_poisonous_blueprint_is_rejected_with_its_cause_and_the_others_finish(
    library: SqlLibrary, tmp_path: Path
) -> None:
    real = Builder(tmp_path / "out", library_keys(tmp_path).built, children())

    def plan(request: BuildRequest) -> BuildVerdict:
        if "layer_norm" in {step.op for step in request.ir.steps(request.interface)}:
            return BuildVerdict(request.artifact_id, "crashed", "crashed with SIGSEGV")
        return real.build(request)

    stub = Stub(plan)
    with KernelService(library, tmp_path, builds=stub) as service:
        prepared = service.prepare([VECTOR], ["mlp", *NAMES], ["fast"])
    by_name = {event["blueprint"]: event for event in prepared.artifacts}
    assert by_name["mlp"]["state"] == "Rejected"
    assert "SIGSEGV" in by_name["mlp"]["cause"]
    assert "4 deliveries" in by_name["mlp"]["cause"]
    assert stub.asked.count(by_name["mlp"]["kernel"]) == 4
    assert {by_name[name]["state"] for name in NAMES} == {"Validated"}


def test_a_failed_build_is_a_verdict_at_once_and_takes_what_is_measured_against_it_along(
    library: SqlLibrary, tmp_path: Path
) -> None:
    stub = Stub(lambda request: BuildVerdict(request.artifact_id, "failed", "KernelBuildError: no"))
    with KernelService(library, tmp_path, builds=stub) as service:
        prepared = service.prepare([VECTOR], ["low_rank"], ["fast"])
    assert len(stub.asked) == 1
    assert [event["state"] for event in prepared.artifacts] == ["Rejected"]
    assert "KernelBuildError: no" in prepared.artifacts[0]["cause"]


def test_without_a_compiler_fast_is_used_and_the_reason_told(
    library: SqlLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CXX", raising=False)
    compiler.cache_clear()
    try:
        with KernelService(library, tmp_path) as service:
            prepared = service.prepare([VECTOR], ["low_rank"], ["fast", "standard"])
    finally:
        compiler.cache_clear()
    assert [(event["strategy"], event["state"]) for event in prepared.artifacts] == [("fast", "Validated")]
    assert "C++ compiler" in prepared.unavailable["standard"]


def test_an_unknown_blueprint_is_refused_before_anything_starts(library: SqlLibrary, tmp_path: Path) -> None:
    with KernelService(library, tmp_path) as service:
        with pytest.raises(BadInput, match="bottleneck"):
            service.prepare([VECTOR], ["botleneck"], ["fast"])
        assert service.status() == []


def test_closing_during_work_is_prompt_and_leaves_no_process(
    library: SqlLibrary, tmp_path: Path, processes: Callable[[], list[psutil.Process]]
) -> None:
    service = KernelService(library, tmp_path)
    asked = service.request([VECTOR, SEQUENCE], ["mlp", *NAMES], ["fast"])
    deadline = time.monotonic() + 60
    while not processes() and time.monotonic() < deadline:
        time.sleep(0.01)
    before = processes()
    assert before
    below = [child for process in before for child in process.children(recursive=True)]
    began = time.monotonic()
    service.close()
    assert time.monotonic() - began < 10
    assert processes() == []
    _, alive = psutil.wait_procs(below, 5)
    assert alive == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("esper-")]
    # Nothing was given a verdict it did not earn.
    assert not [name for name in asked.outstanding if library.record(name).state is State.REJECTED]


def test_giving_up_waiting(library: SqlLibrary, tmp_path: Path) -> None:
    with (
        KernelService(library, tmp_path) as service,
        pytest.raises(Interrupted, match="run it again"),
    ):
        service.prepare([VECTOR], ["low_rank"], ["fast"], stop=lambda: True)


def test_an_organ_that_keeps_failing_is_named(library: SqlLibrary, tmp_path: Path) -> None:
    def broken(request: BuildRequest) -> BuildVerdict:
        raise RuntimeError("the disk is gone")

    backoff = Backoff(first=0.01, longest=0.02, tries=3, healthy=30.0)
    with (
        KernelService(library, tmp_path, builds=Stub(broken), backoff=backoff) as service,
        pytest.raises(OrganFailed, match=r"tezzeret-0.*3 times.*the disk is gone"),
    ):
        service.prepare([VECTOR], ["low_rank"], ["fast"])


_RUN = """
import sys
from pathlib import Path
from esper.urza import SqlLibrary
from esper.weatherlight.pools import KernelService
from leyline.interface import Interface, Layout
root = Path(sys.argv[1])
library = SqlLibrary.open(root)
with KernelService(library, root) as service:
    service.prepare([Interface(Layout.VECTOR, 8)], ["bottleneck", "low_rank", "feature_gate"], ["fast"],
                    lambda done, total, text: print(done, flush=True))
"""


def test_killed_in_the_middle_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1"
    below = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(below, 10)
    assert alive == [], "what it had started outlived it"
    library = SqlLibrary.open(tmp_path)
    try:
        with KernelService(library, tmp_path) as service:
            assert len([p for p in (tmp_path / "work").iterdir() if p.is_dir()]) == 1, "the dead one's scratch is there"
            prepared = service.prepare(
                [Interface(Layout.VECTOR, 8)], ["bottleneck", "low_rank", "feature_gate"], ["fast"]
            )
        assert {event["blueprint"]: event["state"] for event in prepared.artifacts} == dict.fromkeys(
            ["bottleneck", "low_rank", "feature_gate"], "Validated"
        )
        for event in prepared.artifacts:
            path = library.fetch(event["kernel"], tmp_path / "fetched")
            assert load_kernel(path, service.keys).interface == VECTOR
    finally:
        library.close()


@pytest.mark.needs_compiler
@pytest.mark.slow
def test_a_compiled_pair_goes_the_whole_way(
    library: SqlLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path / "cache"))
    with KernelService(library, tmp_path) as service:
        prepared = service.prepare([VECTOR], ["low_rank"], ["standard"])
        by_strategy = {event["strategy"]: event for event in prepared.artifacts}
        assert by_strategy["fast"]["state"] == "Validated"
        standard = by_strategy["standard"]
        # A restless machine may not settle on a ratio; a wrong pair would be rejected.
        assert standard["state"] in ("Validated", "Noisy"), standard["cause"]
        if standard["state"] == "Validated":
            low, high = standard["interval"]
            assert low <= standard["ratio"] <= high
            kernel = load_kernel(service.path(standard["kernel"]), service.keys).train()
            assert kernel.backend == "aoti"
            kernel.warm_up()
            assert kernel.reference_calls == 0
