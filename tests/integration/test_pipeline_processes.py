"""The kernel pipeline as processes of their own, over a real broker and the library's service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import parts
from artifacts import VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel import load_kernel
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.oona import DeadLetter
from esper.oona.keyfiles import TrustedFolder, load_signer, make_key
from esper.urza import S3Blobs, SqlLibrary, State
from esper.weatherlight.post import Post, interface_to_wire, strategy_to_wire
from installation import Installation, Running, installation
from leyline.identity import ArtifactId
from leyline.interface import Interface, Layout
from leyline.topics import COMPILE, PREFETCH_REQUEST, TOPICS, pool_subscription
from leyline.v1 import kernels_pb2 as wire
from libraries import places

REFUSED = 'esper_deliveries_total{outcome="refused",topic="kernels.prefetch.request"}'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """PostgreSQL and S3 behind the service, and one process of each kind but for the compiler's workers."""
    with places(own=True) as (url, settings):
        library = SqlLibrary(url, S3Blobs(settings))
        with installation(tmp_path_factory.mktemp("site"), library) as made:
            yield made
        library.close()


@pytest.fixture(scope="module")
def dispatcher(site: Installation) -> Running:
    """One that has looked into the library before the first test enters something."""
    started = site.start("dispatcher")
    site.until(lambda: started.ready() and '"resumed"' in started.said())
    return started


@pytest.fixture(scope="module")
def urabrask(site: Installation) -> Running:
    return site.start("urabrask")


@pytest.fixture(autouse=True)
def nobody_stays(site: Installation) -> Iterator[None]:
    """What a test has started ends with it, also when it fails: the next one's work is not for it."""
    with site.guests():
        yield


PLAIN = {"ATEN_CPU_CAPABILITY": "default"}
"""Makes a process one of other hardware: PyTorch uses no vector instructions there."""


def target(environment: dict[str, str]) -> str:
    """The hardware target of a process with this environment."""
    code = "from esper.kernel.hardware import hardware_target; print(hardware_target())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def wanted(
    site: Installation, width: int, name: str = "low_rank", strategy: str = "fast", hardware: str | None = None
) -> tuple[str, Interface]:
    """An artifact entered in the library, which nobody has asked for; each test has widths of its own."""
    interface, ir = Interface(Layout.VECTOR, width), CATALOGUE[name].ir
    site.library.register_blueprint(name, ir, 0.1)
    identity = ArtifactId.make(ir.digest(), interface, hardware or hardware_target(), strategy, toolchain_hash())
    site.library.begin(identity, name, interface, strategy, identity.hardware, toolchain_hash())
    return str(identity), interface


def ask(site: Installation, identity: str, interface: Interface, name: str = "low_rank") -> None:
    """Send an artifact to the compiler as the dispatcher does."""
    request = wire.KernelCompileRequest(
        kernel_artifact_id=identity, blueprint=name, blueprint_ir=CATALOGUE[name].ir.to_json(),
        interface=interface_to_wire(interface), strategy=strategy_to_wire("fast"),
    )  # fmt: skip
    site.post.send(request, "urza", identity)
    assert site.bus.flush(30) == 0


def targets(site: Installation, identity: str) -> list[State]:
    return [change.target for change in site.library.history(identity)]


CERTIFIED = [State.PENDING_BUILD, State.BUILT, State.PENDING_BENCHMARK, State.VALIDATED]


@pytest.mark.slow
def test_a_portfolio_is_certified_by_processes_that_only_share_broker_and_library(
    site: Installation, dispatcher: Running, urabrask: Running
) -> None:
    tezzeret = site.start("tezzeret")
    with site.kernels("run-1") as kernels:
        prepared = kernels.prepare([VECTOR], ["low_rank", "bottleneck", "mlp"], ["fast"])
        assert {(event["blueprint"], event["state"]) for event in prepared.artifacts} == {
            (name, "Validated") for name in ("low_rank", "bottleneck", "mlp")
        }
        for event in prepared.artifacts:
            kernel = load_kernel(kernels.path(event["kernel"]), kernels.keys)
            assert kernel.interface == VECTOR
            assert targets(site, event["kernel"]) == CERTIFIED
        assert {lease.run for lease in site.library.leases()} == {"run-1"}
    assert site.library.leases() == []
    assert tezzeret.metric('esper_build_seconds_count{strategy="fast"}') == 3
    assert urabrask.metric('esper_verdicts_total{state="Validated"}') == 3
    pool = pool_subscription(TOPICS[COMPILE], hardware_target())
    line = f'esper_queue_waiting{{subscription="{pool}",topic="{COMPILE}"}}'
    assert f"\n{line} " in dispatcher.page()
    site.until(lambda: dispatcher.metric(line) == 0)
    assert dispatcher.metric('esper_breaker_open{to="library"}') == 0
    assert dispatcher.ready()
    # Told to stop with nothing in hand: it ends well. Its log is JSON throughout, without anything secret.
    assert tezzeret.end() == 0
    lines = site.lines(tezzeret)
    assert [line["event"] for line in lines if line["event"] in ("started", "connected", "stopping", "ended")] == [
        "started", "connected", "stopping", "ended",
    ]  # fmt: skip
    for token in (site.folder / "tezzeret.token", site.folder / "broker.token"):
        assert token.read_text() not in tezzeret.said()
    assert list((site.folder / "work" / "tezzeret").glob("*/")) == [], "its scratch is gone"


@pytest.mark.slow
@pytest.mark.needs_compiler
def test_a_compiled_kernel_waits_for_its_baseline_and_is_measured_against_it(
    site: Installation, dispatcher: Running, urabrask: Running, tmp_path: Path
) -> None:
    tezzeret = site.start("tezzeret", environment={"ESPER_CACHE_DIR": str(tmp_path)})
    with site.kernels("run-2") as kernels:
        prepared = kernels.prepare([Interface(Layout.VECTOR, 32)], ["low_rank"], ["standard"])
    by_strategy = {event["strategy"]: event for event in prepared.artifacts}
    assert by_strategy["fast"]["state"] == "Validated"
    assert tezzeret.end() == 0
    # A restless machine may not settle on a ratio; a wrong pair would be rejected.
    assert by_strategy["standard"]["state"] in ("Validated", "Noisy"), by_strategy["standard"]["cause"]


@pytest.mark.slow
def test_work_of_one_that_is_killed_goes_to_the_next_of_its_hardware_and_leaves_no_second_row(
    site: Installation, dispatcher: Running, urabrask: Running
) -> None:
    other = target(PLAIN)
    assert other != hardware_target()
    (identity, interface), (theirs, same) = wanted(site, 40), wanted(site, 40, hardware=other)
    first, bystander = site.start("tezzeret"), site.start("tezzeret", environment=PLAIN)
    site.until(lambda: first.ready() and bystander.ready())
    ask(site, identity, interface)
    site.until(first.working)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert site.record(identity).state is State.PENDING_BUILD
    # One of other hardware has been there all the while: it does its own work, and was never handed this.
    ask(site, theirs, same)
    site.until(lambda: State.BUILT in targets(site, theirs))
    assert site.record(identity).state is State.PENDING_BUILD
    assert identity not in bystander.said()
    second = site.start("tezzeret", "--idle-exit", "2")
    site.until(lambda: site.record(identity).state is State.VALIDATED)
    assert targets(site, identity) == CERTIFIED
    assert len(site.library.reports(identity)) == 1
    assert f"{identity}: to be built (delivery 2)" in second.said()
    assert bystander.metric('esper_deliveries_total{outcome="failed",topic="work.tezzeret.compile"}') == 0
    assert theirs not in first.said() + second.said()
    assert site.bus.dead_letters() == []
    # With nothing more to do it ends by itself.
    assert second.process.wait(60) == 0
    assert any(line["event"] == "idle" for line in site.lines(second))


@pytest.mark.slow
def test_told_to_stop_it_finishes_what_it_has_in_hand(
    site: Installation, dispatcher: Running, urabrask: Running
) -> None:
    (first, interface), (second, other) = wanted(site, 48), wanted(site, 56)
    tezzeret = site.start("tezzeret")
    site.until(tezzeret.ready)
    ask(site, first, interface)
    site.until(tezzeret.working)
    ask(site, second, other)
    assert tezzeret.end() == 0
    # Which of the two it had in hand is not promised: a shared subscription has no order.
    built = [each for each in (first, second) if State.BUILT in targets(site, each)]
    assert len(built) == 1, "it finished one, and what it had not begun is left to the next"
    (other_one,) = {first, second} - set(built)
    assert targets(site, other_one) == [State.PENDING_BUILD]
    last = site.start("tezzeret", "--idle-exit", "2")
    site.until(lambda: {site.record(each).state for each in (first, second)} == {State.VALIDATED})
    assert last.process.wait(60) == 0


CRASHES = """
import os, signal
from pathlib import Path
def crash():
    if Path({marker!r}).exists():
        os.kill(os.getpid(), signal.SIGSEGV)
os.register_at_fork(after_in_child=crash)
"""


@pytest.mark.slow
def test_poisonous_work_ends_as_a_dead_letter_and_is_replayed_when_the_cause_is_gone(
    site: Installation, dispatcher: Running, urabrask: Running, tmp_path: Path
) -> None:
    """Every process that builds crashes while a file is there."""
    marker = tmp_path / "poison"
    marker.touch()
    (tmp_path / "sitecustomize.py").write_text(CRASHES.format(marker=str(marker)))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    tezzeret = site.start("tezzeret", environment={"PYTHONPATH": path})
    identity, interface = wanted(site, 64)
    ask(site, identity, interface)
    site.until(lambda: site.record(identity).state is State.REJECTED)
    cause = site.record(identity).cause
    assert cause.startswith("given up on after 4 deliveries: Again: build ")

    def letters() -> list[DeadLetter]:
        return [letter for letter in site.bus.dead_letters(COMPILE) if letter.key == identity]

    # The dispatcher may have found it in the library by itself: then it was sent twice, and dies twice.
    (first,) = (letter for letter in letters() if letter.letter_id in cause)
    assert first.deliveries == 4
    assert tezzeret.process.poll() is None, "the worker itself lives"
    assert tezzeret.metric('esper_deliveries_total{outcome="failed",topic="work.tezzeret.compile"}') >= 4
    marker.unlink()
    site.library.retry(identity, "the compiler was mended")
    for letter in letters():
        site.bus.replay(letter.letter_id)
    site.until(lambda: site.record(identity).state is State.VALIDATED)
    assert letters() == []
    assert tezzeret.end() == 0


@pytest.mark.slow
def test_forged_and_replayed_requests_are_refused_and_counted(
    site: Installation, dispatcher: Running, tmp_path: Path
) -> None:
    site.library.register_blueprint("mlp", CATALOGUE["mlp"].ir, 0.1)
    before = dispatcher.metric(REFUSED)
    make_key(tmp_path, "thief", ["weatherlight"])
    thief = Post(site.bus, load_signer(tmp_path / "thief.pem"), TrustedFolder(tmp_path / "trusted"))
    identity = str(
        ArtifactId.make(CATALOGUE["mlp"].ir.digest(), VECTOR, hardware_target(), "fast", toolchain_hash())
    ).replace(toolchain_hash()[:8], "0" * 8)
    request = wire.KernelPrefetchRequest(
        run="run-9", kernel_artifact_id=identity, blueprint="mlp", interface=interface_to_wire(VECTOR),
        strategy=strategy_to_wire("fast"), hardware=hardware_target(),
    )  # fmt: skip
    thief.send(request, "weatherlight", identity)
    site.until(lambda: dispatcher.metric(REFUSED) == before + 4)
    assert identity not in {record.artifact_id for record in site.library.records()}
    # An honest one that somebody recorded and sends again is refused as well, and acted on once.
    with site.bus.subscribe(PREFETCH_REQUEST, "recorder") as recorder:
        site.post_of("trainer").send(request, "weatherlight", identity)
        message = recorder.receive(30)
        assert message is not None
        recorder.ack(message)
    site.until(lambda: identity in {record.artifact_id for record in site.library.records()})
    site.bus.publish(PREFETCH_REQUEST, message.data, key=identity)
    site.until(lambda: dispatcher.metric(REFUSED) == before + 8)
    site.bus.unsubscribe(PREFETCH_REQUEST, "recorder")
    causes = [letter.cause for letter in site.bus.dead_letters(PREFETCH_REQUEST)]
    assert sorted(cause.partition(":")[0] for cause in causes) == ["ReplayedEnvelope", "UnknownKey"]


@pytest.mark.slow
def test_a_dispatcher_that_is_killed_is_replaced_and_nothing_is_lost(
    site: Installation, urabrask: Running, dispatcher: Running
) -> None:
    identity, _ = wanted(site, 72)
    # Entered but never sent: only one that looks into the library at its start can know.
    second = site.start("dispatcher")
    site.until(lambda: '"resumed"' in second.said())
    site.start("tezzeret", "--idle-exit", "2")
    site.until(lambda: site.record(identity).state is State.VALIDATED)
    assert second.end() == 0


def test_everything_that_is_missing_is_named_at_once(site: Installation) -> None:
    began = time.monotonic()
    tezzeret = site.start(
        "tezzeret",
        pulsar={"service_url": "pulsar://127.0.0.1:1", "operation_timeout_seconds": 1.0},
        library={"url": "http://127.0.0.1:1", "token_file": str(site.folder / "tezzeret.token"), "patience_seconds": 1},
        bus_trust_dir=str(site.folder / "nowhere"),
        signing_key_file=str(site.folder / "nowhere.pem"),
        workdir="/proc/nowhere",
    )
    assert tezzeret.process.wait(60) == 3
    said = tezzeret.said()
    for name in ("broker", "library", "bus_trust_dir", "workdir", "signing_key_file"):
        assert f"\n  {name}: " in said, said
    assert "pulsar://127.0.0.1:1" in said
    assert "http://127.0.0.1:1" in said
    assert time.monotonic() - began < 60


def test_a_token_without_the_role_is_named(site: Installation) -> None:
    import services

    token = site.folder / "reader.token"
    token.write_text(services.token("reader", subject="somebody"))
    urabrask = site.start("urabrask", library={"url": site.address, "token_file": str(token)})
    assert urabrask.process.wait(60) == 3
    assert "library: " in urabrask.said()
    assert "'somebody' has the roles reader; this needs admin or worker" in urabrask.said()


@pytest.mark.slow
def test_a_library_that_is_killed_is_waited_for_and_no_work_is_blamed(tmp_path: Path) -> None:
    library = SqlLibrary.open(tmp_path / "library")
    with installation(tmp_path, library) as site:
        port = parts.free_port()
        database = f"sqlite:///{tmp_path / 'library' / 'urza.sqlite'}"
        served = site.serve(port, database, tmp_path / "library" / "blobs")
        site.address = f"http://127.0.0.1:{port}"
        processes = [site.start(name) for name in ("dispatcher", "tezzeret")]
        site.until(lambda: all(each.ready() for each in processes))
        identity, interface = wanted(site, 24)
        served.kill()
        served.wait()
        ask(site, identity, interface)
        tezzeret = processes[1]
        # It holds on to the message: the readiness probe says why, and nothing has failed.
        site.until(lambda: not tezzeret.ready())
        assert tezzeret.metric('esper_deliveries_total{outcome="failed",topic="work.tezzeret.compile"}') == 0
        assert site.record(identity).state is State.PENDING_BUILD
        site.serve(port, database, tmp_path / "library" / "blobs")
        site.until(lambda: site.record(identity).state is State.PENDING_BENCHMARK)
        site.until(lambda: all(each.ready() for each in processes))
        assert site.bus.dead_letters() == []
        assert tezzeret.end() == 0
    library.close()
