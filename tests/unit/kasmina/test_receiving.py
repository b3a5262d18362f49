"""Signed commands: what is forged, replayed, stale or nonsense changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina import Command, wrap
from leyline.envelope import seal
from leyline.keys import KeyRing, Signer
from leyline.lifecycle import Stage
from leyline.messages import AdaptationCommand, SystemStatePacket, type_of
from leyline.topics import COMMANDS, EPOCHS

NOW = 1_800_000_000.0
KEY = Signer.ed25519("run-1", b"k" * 32)
GOVERNOR = Signer.ed25519("governor-1", b"g" * 32)


class Sender:
    def __init__(self, signer=KEY, producer="tamiyo", actor=1, run="digits") -> None:
        self.signer, self.producer, self.actor, self.run, self.sequence = signer, producer, actor, run, 0

    def seal(self, message=None, *, sequence=None, now=NOW, topic=COMMANDS, payload=None, run=None, **fields) -> bytes:
        message = message or AdaptationCommand(run=self.run, actor=self.actor, reason="because", **fields)
        self.sequence += 1
        return seal(
            message.SerializeToString() if payload is None else payload, type_of(message), topic, self.producer,
            self.sequence if sequence is None else sequence, self.signer, now, 30.0,
            run=self.run if run is None else run,
        )  # fmt: skip


@pytest.fixture
def bank(host, batch, shelf):
    bank = wrap(host, ["act1", "act2"], batch[0], source=shelf)
    ring = KeyRing()
    ring.add(KEY, producers=["tamiyo"], topics=[COMMANDS])
    ring.add(GOVERNOR, producers=["tolaria"], topics=[COMMANDS])
    bank.trust(ring, "digits", clock=lambda: NOW)
    bank.host = host
    return bank


@pytest.fixture
def germinate(bank, shelf, blueprints):
    artifact = shelf.add(blueprints["mlp"](), bank.slots["act1"].interface)
    return {"slot": "act1", "kernel_artifact_id": artifact, "blueprint": "mlp", "blend": 2, "objective": 3,
            "alpha_schedule": 2}  # fmt: skip


def test_a_signed_command_is_carried_out_as_it_says(bank, germinate):
    sender = Sender()
    applied = bank.execute(sender.seal(germinate=germinate, numbers={"drop": 0.25}))
    assert applied.accepted, applied.reason
    seed = bank.seeds["act1/0"]
    assert (seed.blueprint, seed.blend, seed.objective, seed.schedule) == ("mlp", "Convex", "Shadow", "Cosine")
    assert applied.event.reason == "because"
    assert applied.event.numbers == {"drop": 0.25}
    assert applied.event.actor == "tamiyo"
    applied = bank.execute(sender.seal(cancel={"seed_id": "act1/0"}))
    assert applied.event.target is Stage.CANCELLED


def test_the_governor_may_roll_back_and_no_more(bank, germinate):
    sender, governor = Sender(), Sender(GOVERNOR, "tolaria", 3)
    bank.execute(sender.seal(germinate=germinate))
    assert bank.execute(governor.seal(cancel={"seed_id": "act1/0"})).error == "LifecycleError"
    assert bank.execute(governor.seal(rollback={"seed_id": "act1/0"})).event.target is Stage.ROLLED_BACK


def test_every_other_envelope_is_refused_and_changes_nothing(bank, germinate):
    sender = Sender()
    good = sender.seal(germinate=germinate)
    assert bank.execute(good).accepted
    before = bank.export_state()[1]
    stranger = Signer.generate("stranger")
    forged = bytearray(sender.seal(cancel={"seed_id": "act1/0"}))
    forged[-70] ^= 1
    cases = [
        (good, "ReplayedEnvelope"),
        (bytes(forged), "ForgedEnvelope"),
        (Sender(stranger).seal(cancel={"seed_id": "act1/0"}, sequence=90), "UnknownKey"),
        (Sender(KEY, "tolaria", 3).seal(cancel={"seed_id": "act1/0"}, sequence=91), "UnknownKey"),
        (sender.seal(cancel={"seed_id": "act1/0"}, now=NOW - 31), "StaleEnvelope"),
        (sender.seal(cancel={"seed_id": "act1/0"}, now=NOW + 60), "StaleEnvelope"),
        (sender.seal(cancel={"seed_id": "act1/0"}, sequence=1), "OutOfSequence"),
        (Sender(GOVERNOR, "tolaria").seal(SystemStatePacket(), topic=EPOCHS), "WrongTopic"),
        (b"", "MalformedEnvelope"),
        (b"\x00" * 100, "MalformedEnvelope"),
        (good[:-10], "MalformedEnvelope"),
    ]
    for envelope, error in cases:
        applied = bank.execute(envelope)
        assert not applied.accepted
        assert applied.error == error, applied.reason
    assert bank.export_state()[1] == before


def test_well_signed_nonsense_is_refused_too(bank, germinate):
    sender = Sender()
    bank.execute(sender.seal(germinate=germinate))
    stages = bank.stage_counts()
    cases = [
        sender.seal(payload=b"\xff\xff\xff"),
        sender.seal(),
        sender.seal(pause={"seed_id": "act1/0"}),
        sender.seal(optimizer_change={"learning_rate_scale": 100.0}),
        sender.seal(AdaptationCommand(run="letters", actor=1, cancel={"seed_id": "act1/0"})),
        sender.seal(run="letters", cancel={"seed_id": "act1/0"}),
        sender.seal(AdaptationCommand(run="digits", actor=3, cancel={"seed_id": "act1/0"})),
        sender.seal(AdaptationCommand(run="digits", cancel={"seed_id": "act1/0"})),
        sender.seal(advance={"seed_id": "act1/0", "target": 99}),
    ]
    for envelope in cases:
        applied = bank.execute(envelope)
        assert not applied.accepted
        assert applied.error == "MalformedCommand", applied
    assert bank.execute(sender.seal(advance={"seed_id": "act7/0"})).error == "UnknownSeed"
    assert bank.execute(sender.seal(advance={"seed_id": "act1/0", "target": 9})).error == "LifecycleError"
    assert bank.stage_counts() == stages


def test_a_bank_without_keys_takes_no_signed_command(host, batch, germinate):
    bank = wrap(type(host)(), "act1", batch[0])
    applied = bank.execute(Sender().seal(germinate=germinate))
    assert applied.error == "NoKeys"


def test_sequences_go_with_the_state_and_nonces_stay(bank, germinate):
    sender = Sender()
    tensors, meta = bank.export_state()
    undone = sender.seal(germinate=germinate)
    assert bank.execute(undone).accepted
    bank.import_state(tensors, meta)
    assert bank.seeds == {}
    # a command of the undone stretch can't be played again, a new one with its number can
    assert bank.execute(undone).error == "ReplayedEnvelope"
    assert bank.execute(sender.seal(germinate=germinate, sequence=1)).accepted
    tensors, meta = bank.export_state()
    bank.import_state(tensors, meta)
    assert bank.execute(sender.seal(cancel={"seed_id": "act1/0"}, sequence=1)).error == "OutOfSequence"
    assert bank.execute(sender.seal(cancel={"seed_id": "act1/0"}, sequence=2)).accepted


def test_redelivery_of_a_handled_command_does_nothing(bank, germinate):
    envelope = Sender().seal(germinate=germinate)
    assert bank.execute(envelope, message_id="m1").accepted
    assert not bank.execute(envelope, message_id="m1").accepted
    assert len(bank.seeds) == 1


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_no_bytes_do_harm(data):
    import torch

    bank = _bank_for_bytes(torch)
    applied = bank.execute(data)
    assert not applied.accepted
    assert bank.seeds == {}


def _bank_for_bytes(torch, kept={}):  # noqa: B006  one bank for all examples
    if not kept:
        kept["model"] = torch.nn.Sequential(torch.nn.Linear(2, 2))
        kept["bank"] = wrap(kept["model"], "0", torch.ones(2, 2))
        ring = KeyRing()
        ring.add(KEY, producers=["tamiyo"], topics=[COMMANDS])
        kept["bank"].trust(ring, "digits", clock=lambda: NOW)
    return kept["bank"]


def test_orders_of_the_process_itself_need_no_envelope(bank, germinate):
    assert bank.order(Command.germinate("act1", germinate["kernel_artifact_id"])).accepted
