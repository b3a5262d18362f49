"""Loading beside the training: verified first, waited for only at a boundary, and what happens when it fails."""

from __future__ import annotations

import threading

import pytest
import torch

from esper.kasmina import Command, SeedSettings, wrap
from esper.kasmina.cache import KernelCache
from esper.kasmina.guard import KernelFault
from esper.kasmina.loading import Loader, warm_up
from esper.kernel import PublicKeys, SigningKey, eager_kernel
from leyline.interface import Interface, Layout
from leyline.lifecycle import Stage

INTERFACE = Interface(Layout.VECTOR, 16)


@pytest.fixture
def bank(host, batch, shelf):
    def build(**settings):
        build.model = host
        return wrap(host, ["act1", "act2"], batch[0], settings=SeedSettings(max_active=4, **settings), source=shelf)

    return build


def culled(bank, epochs=3):
    """Pass boundaries; the reasons seeds were culled for."""
    for epoch in range(1, epochs):
        bank.boundary(epoch)
    return [seed.reason for seed in bank.seeds.values() if seed.stage is Stage.CULLED]


def test_tampered_unsigned_and_missing_artifacts_are_culled_and_reported(bank, shelf, blueprints):
    one, reports = bank(max_per_slot=3), []
    one.reports.append(reports.append)
    good = shelf.add(blueprints["mlp"](), INTERFACE)
    unsigned = shelf.add(blueprints["squash"](), INTERFACE, signed=False)
    tampered = shelf.add(blueprints["mlp"]("default"), INTERFACE)
    report = shelf.root / tampered / "report.json"
    report.write_bytes(report.read_bytes().replace(b"0.1", b"0.0"))
    missing = good[:-8] + "00000000"
    for artifact in (unsigned, tampered, missing, good):
        slot = "act1" if one.free("act1") else "act2"
        one.order(Command.germinate(slot, artifact))
    reasons = culled(one)
    assert len(reasons) == 3
    assert "gate G0 failed: UnsignedArtifact" in reasons[0]
    assert "TamperedArtifact" in reasons[1]
    assert "TruncatedArtifact" in reasons[2]
    assert [r.artifact_id for r in reports] == [unsigned, tampered, missing]
    assert {r.phase for r in reports} == {"load"}
    assert one.seeds["act2/0"].stage is Stage.TRAINING


def test_keys_of_others_open_nothing(bank, shelf, blueprints):
    one = bank()
    artifact = shelf.add(blueprints["mlp"](), INTERFACE)
    shelf.keys = PublicKeys.of([SigningKey.generate()], [SigningKey.generate()])
    one.order(Command.germinate("act1", artifact))
    assert "unknown key" in culled(one)[0]


def test_a_report_that_states_no_risk_is_refused_unless_approved(bank, shelf, blueprints):
    artifact = shelf.add(blueprints["mlp"](), INTERFACE, risk=None)
    one = bank(approved=frozenset({"mlp"}))
    one.order(Command.germinate("act1", artifact))
    one.order(Command.germinate("act2", artifact, blueprint="mlp"))
    reasons = culled(one)
    assert len(reasons) == 1
    assert "states no risk" in reasons[0]
    assert one.seeds["act2/0"].stage is Stage.TRAINING


def test_a_source_that_fails_is_a_reason_not_a_crash(bank, blueprints, shelf, monkeypatch):
    one = bank()
    artifact = shelf.add(blueprints["mlp"](), INTERFACE)
    monkeypatch.setattr(shelf, "path", lambda artifact_id: (_ for _ in ()).throw(ConnectionError("library away")))
    one.order(Command.germinate("act1", artifact))
    assert "ConnectionError: library away" in culled(one)[0]
    assert bank.model is one.model


def test_without_a_source_the_seed_is_culled(host, batch, shelf, blueprints):
    one = wrap(host, "act1", batch[0])
    one.order(Command.germinate("act1", shelf.add(blueprints["mlp"](), INTERFACE)))
    assert culled(one) == ["the bank has no kernel source"]


class Slow:
    """A source that answers when it is let."""

    def __init__(self, shelf) -> None:
        self.shelf, self.keys, self.go = shelf, shelf.keys, threading.Event()

    def path(self, artifact_id):
        assert self.go.wait(20)
        return self.shelf.path(artifact_id)


def test_deterministic_banks_wait_at_the_next_boundary_and_not_before(host, batch, shelf, blueprints):
    source = Slow(shelf)
    one = wrap(host, "act1", batch[0], settings=SeedSettings(deterministic=True), source=source)
    one.order(Command.germinate("act1", shelf.add(blueprints["mlp"](), INTERFACE)))
    one.boundary(1)
    for step in range(3):  # training goes on while the kernel is under way
        one.begin_step(step)
        host(batch[0])
    assert one.seeds["act1/0"].stage is Stage.LOADING
    timer = threading.Timer(0.2, source.go.set)
    timer.start()
    one.boundary(2)
    timer.join()
    assert one.seeds["act1/0"].stage is Stage.TRAINING


def test_other_banks_go_on_until_it_is_there(host, batch, shelf, blueprints):
    source = Slow(shelf)
    one = wrap(host, "act1", batch[0], settings=SeedSettings(deterministic=False), source=source)
    artifact = shelf.add(blueprints["mlp"](), INTERFACE)
    one.order(Command.germinate("act1", artifact))
    for epoch in range(1, 5):
        one.boundary(epoch)
        assert one.seeds["act1/0"].stage is Stage.LOADING
    source.go.set()
    one.loader.poll(artifact, wait=True)
    one.boundary(5)
    assert one.seeds["act1/0"].stage is Stage.TRAINING
    assert one.state.row(0)["exec_latency_us"] > 0


def test_two_seeds_share_one_load_and_no_parameter(bank, shelf, blueprints):
    one = bank()
    artifact = shelf.add(blueprints["mlp"]("default"), INTERFACE)
    one.order(Command.germinate("act1", artifact))
    one.order(Command.germinate("act2", artifact))
    one.boundary(1)
    one.boundary(2)
    assert shelf.asked == [artifact]
    left, right = (seed.kernel for seed in one.seeds.values())
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        assert a.data_ptr() != b.data_ptr()
    assert not torch.equal(next(left.parameters()), next(right.parameters()))


def test_a_request_joins_what_was_fetched_and_fetches_again_what_is_gone(shelf, blueprints, tmp_path):
    loader, artifact = Loader(KernelCache(10**6, 4)), shelf.add(blueprints["mlp"](), INTERFACE)
    for _ in range(2):
        loader.request(artifact, shelf)
        assert loader.poll(artifact, wait=True).entry is not None
    assert shelf.asked == [artifact]
    moved = shelf.path(artifact).rename(tmp_path / "moved")
    loader.request(artifact, shelf)
    assert loader.poll(artifact, wait=True).error is not None
    moved.rename(shelf.path(artifact))
    loader.request(artifact, shelf)
    assert loader.poll(artifact, wait=True).entry is not None


def test_the_loader_ends_its_thread_and_starts_another(shelf, blueprints):
    loader = Loader(KernelCache(10**6, 4))
    for ir in (blueprints["mlp"](), blueprints["squash"]()):
        artifact = shelf.add(ir, INTERFACE)
        loader.request(artifact, shelf)
        assert loader.poll(artifact, wait=True).entry is not None
    assert loader.poll("never asked for", wait=True) is None


def test_warm_up_runs_both_passes_and_touches_nothing(blueprints):
    kernel = eager_kernel(blueprints["mlp"](), INTERFACE)
    before = [p.detach().clone() for p in kernel.parameters()]
    rng = torch.get_rng_state()
    norm, latency = warm_up(kernel, INTERFACE)
    assert norm > 0
    assert latency > 0
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(a, b) for a, b in zip(before, kernel.parameters(), strict=True))
    assert all(p.grad is None for p in kernel.parameters())
    assert warm_up(eager_kernel(blueprints["squash"](), INTERFACE), INTERFACE)[0] == 0.0


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (lambda self, u: (_ for _ in ()).throw(RuntimeError("boom")), "RuntimeError: boom"),
        (lambda self, u: u[:1], r"expected \(2, 16\)"),
        (lambda self, u: u * float("nan"), "not finite"),
        (lambda self, u: [u], "returned list"),
    ],
)
def test_kernels_that_fail_their_warm_up_are_named(blueprints, monkeypatch, broken, word):
    kernel = eager_kernel(blueprints["mlp"](), INTERFACE)
    monkeypatch.setattr(type(kernel), "forward", broken)
    with pytest.raises(KernelFault, match=word):
        warm_up(kernel, INTERFACE)


def test_a_kernel_that_fails_its_warm_up_is_culled_by_the_interface_gate(bank, shelf, blueprints, monkeypatch):
    from esper.kernel import Kernel

    one = bank()
    artifact = shelf.add(blueprints["mlp"](), INTERFACE)
    monkeypatch.setattr(Kernel, "forward", lambda self, u: u[:, :1])
    one.order(Command.germinate("act1", artifact))
    reasons = culled(one)
    assert "gate G3 failed: warm-up" in reasons[0]
