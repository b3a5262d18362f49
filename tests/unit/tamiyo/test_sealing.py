"""Orders as signed commands: in sequence, with their reasons, opened by who knows the key."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from esper.tamiyo import Sealer, TamiyoController
from leyline.envelope import open_
from leyline.errors import StaleEnvelope
from leyline.keys import KeyRing, Signer
from leyline.messages import decode
from leyline.replay import ReplayGuard
from leyline.topics import COMMANDS
from leyline.v1 import seed_pb2


@pytest.fixture
def signer() -> Signer:
    return Signer.hmac("run-key", b"0123456789abcdef")


@pytest.fixture
def ring(signer: Signer) -> KeyRing:
    ring = KeyRing(in_process=True)
    ring.add(signer, producers={"tamiyo"}, topics={COMMANDS})
    return ring


def test_every_order_of_a_run_says_the_same_when_opened(t: SimpleNamespace, signer: Signer, ring: KeyRing) -> None:
    sim = t.Sim(t.spec(seeds={"max_active": 2}), verdicts={"blocks.0/0": False})
    sim.run(TamiyoController(sim.spec))
    sealer, guard = Sealer("digits", signer, clock=lambda: 1000.0), ReplayGuard()
    for number, (epoch, order) in enumerate(sim.history, 1):
        opened = open_(sealer.seal(order, epoch), COMMANDS, ring, 1001.0, guard)
        command = decode(opened.type, opened.payload)
        assert (opened.sequence, opened.run, command.epoch) == (number, "digits", epoch)
        assert (command.run, command.reason) == ("digits", order.reason)
        assert dict(command.numbers) == dict(order.numbers)
        action = command.WhichOneof("action")
        assert action == order.kind.value
        if action == "germinate":
            assert command.germinate.slot == order.slot
            assert command.germinate.kernel_artifact_id == order.artifact_id
            assert command.germinate.blend == seed_pb2.BLEND_RESIDUAL
        else:
            assert getattr(command, action).seed_id == order.seed
        if action == "advance":
            assert command.advance.target == order.target
    assert {order.kind.value for _, order in sim.history} == {"germinate", "advance", "cull"}


def test_the_manifests_words_are_carried(t: SimpleNamespace, signer: Signer, ring: KeyRing) -> None:
    (order,) = TamiyoController(t.spec()).decide(t.view())
    sealed = Sealer("digits", signer, clock=lambda: 0.0).seal(order, 20, objective="Shadow", schedule="Cosine")
    command = decode("leyline.v1.AdaptationCommand", open_(sealed, COMMANDS, ring, 0.0, ReplayGuard()).payload)
    assert command.germinate.objective == seed_pb2.OBJECTIVE_SHADOW
    assert command.germinate.alpha_schedule == seed_pb2.ALPHA_SCHEDULE_COSINE


def test_numbering_goes_on_after_a_checkpoint(t: SimpleNamespace, signer: Signer, ring: KeyRing) -> None:
    (order,) = TamiyoController(t.spec()).decide(t.view())
    sealed = Sealer("digits", signer, sequence=7, clock=lambda: 0.0).seal(order, 20)
    assert open_(sealed, COMMANDS, ring, 0.0, ReplayGuard()).sequence == 8


def test_an_order_is_not_carried_out_half_a_minute_later(t: SimpleNamespace, signer: Signer, ring: KeyRing) -> None:
    (order,) = TamiyoController(t.spec()).decide(t.view())
    sealed = Sealer("digits", signer, clock=lambda: 1000.0).seal(order, 20)
    with pytest.raises(StaleEnvelope):
        open_(sealed, COMMANDS, ring, 1031.0, ReplayGuard())
