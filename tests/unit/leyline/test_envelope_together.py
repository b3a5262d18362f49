"""Envelopes that share one signature: each is as hard to forge, move, alter and repeat as one sealed alone."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyline import merkle
from leyline.envelope import MAGIC, MAX_TOGETHER, TOGETHER, Draft, claims, draft, open_, seal_together
from leyline.errors import (
    EnvelopeError,
    ForgedEnvelope,
    MalformedEnvelope,
    OutOfSequence,
    ReplayedEnvelope,
    StaleEnvelope,
    UnknownKey,
    WrongTopic,
)
from leyline.keys import KeyRing, Signer
from leyline.replay import ReplayGuard
from leyline.topics import EPOCHS, FIELD_REPORTS, TOPICS

NOW = 1_800_000_000.0
REPORT, STATE = "leyline.v1.FieldReport", "leyline.v1.SystemStatePacket"
SIGNER = Signer.ed25519("run-1", bytes(range(32)))


def ring(*signers: Signer) -> KeyRing:
    made = KeyRing()
    for signer in signers or (SIGNER,):
        made.add(signer, producers={"tamiyo", "tolaria"}, topics={FIELD_REPORTS, EPOCHS})
    return made


def report(number: int, signer: Signer = SIGNER, payload: bytes | None = None) -> Draft:
    content = b"report %d" % number if payload is None else payload
    return draft(content, REPORT, FIELD_REPORTS, "tamiyo", number, signer, NOW, 60, nonce=number.to_bytes(16, "big"))


def state(number: int, signer: Signer = SIGNER) -> Draft:
    return draft(b"state", STATE, EPOCHS, "tolaria", number, signer, NOW, 60, run="r")


def opens(data: bytes, topic: str = FIELD_REPORTS, keys: KeyRing | None = None, guard: ReplayGuard | None = None):
    # An empty ring and an empty guard are false, and are not none.
    return open_(data, topic, ring() if keys is None else keys, NOW, ReplayGuard() if guard is None else guard)


def parts(data: bytes) -> list[bytes]:
    """The twelve fields."""
    found, at = [], len(MAGIC)
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def joined(fields: list[bytes], magic: bytes = TOGETHER) -> bytes:
    return magic + b"".join(struct.pack(">I", len(field)) + field for field in fields)


@pytest.mark.parametrize("count", [1, 2, 3, 31, 64, MAX_TOGETHER])
def test_each_opens_alone_to_what_was_drafted(count: int) -> None:
    sealed = seal_together([report(number) for number in range(count)])
    assert len(sealed) == count
    for number, data in random.Random(1).sample(list(enumerate(sealed)), min(count, 20)):
        opened = opens(data)
        assert (opened.payload, opened.sequence, opened.producer) == (b"report %d" % number, number, "tamiyo")
        assert claims(data) == opened
    assert sealed[0].startswith(MAGIC if count == 1 else TOGETHER), "alone it has the plain form"


def test_one_signature_serves_all_and_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    sign, verifies = Signer.sign, type(SIGNER.verification_key()).verifies
    monkeypatch.setattr(Signer, "sign", lambda self, data: asked.append("sign") or sign(self, data))
    monkeypatch.setattr(
        "leyline.keys.VerificationKey.verifies", lambda *given: asked.append("verify") or verifies(*given)
    )
    signer = Signer.generate("once")
    sealed = seal_together([report(number, signer) for number in range(64)])
    keys, guard = ring(signer), ReplayGuard()
    for data in sealed:
        opens(data, keys=keys, guard=guard)
    assert asked == ["sign", "verify"]


def test_drafts_of_several_signers_or_too_many_are_refused() -> None:
    assert seal_together([]) == []
    with pytest.raises(EnvelopeError, match="one signer"):
        seal_together([report(1), report(2, Signer.generate("other"))])
    with pytest.raises(EnvelopeError, match=f"at most {MAX_TOGETHER}"):
        seal_together([report(number) for number in range(MAX_TOGETHER + 1)])


def test_hmac_keys_seal_together_too() -> None:
    signer = Signer.hmac("secret", b"s" * 32)
    keys = KeyRing(in_process=True)
    keys.add(signer, producers={"tamiyo"}, topics=TOPICS)
    sealed = seal_together([report(number, signer) for number in range(3)])
    assert [opens(data, keys=keys).sequence for data in sealed] == [0, 1, 2]
    other = Signer.hmac("secret", b"t" * 32)
    forged = seal_together([report(number, other) for number in range(3)])
    with pytest.raises(ForgedEnvelope):
        opens(forged[0], keys=keys)


@pytest.mark.parametrize("kind", ["bit", "byte"])
def test_every_single_change_is_noticed(kind: str) -> None:
    data = seal_together([report(number) for number in range(5)])[3]
    guard, keys = ReplayGuard(), ring()
    opens(data)  # the root is known from now on
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8) if kind == "bit" else 0xFF
        with pytest.raises(EnvelopeError):
            opens(bytes(changed), keys=keys, guard=guard)
    assert len(guard) == 0
    assert opens(data, keys=keys, guard=guard)


@settings(max_examples=200)
@given(st.data())
def test_pieces_of_two_batches_make_no_third(data: st.DataObject) -> None:
    """Any splice of honest envelopes, of whole fields or of bytes, is refused unless it is one of them."""
    one = seal_together([report(number) for number in range(4)])
    two = seal_together([report(number) for number in range(10, 15)])
    honest = one + two
    left, right = data.draw(st.sampled_from(honest)), data.draw(st.sampled_from(honest))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, 12))
        spliced = joined(parts(left)[:cut] + parts(right)[cut:])
    else:
        spliced = left[: data.draw(st.integers(0, len(left)))] + right[data.draw(st.integers(0, len(right))) :]
    if spliced in honest:
        return
    with pytest.raises(EnvelopeError):
        opens(spliced)


def test_a_message_does_not_move_between_batches_or_places() -> None:
    one = [parts(each) for each in seal_together([report(number) for number in range(4)])]
    two = [parts(each) for each in seal_together([report(number) for number in range(4, 8)])]
    for mine in one:
        for other in two + [each for each in one if each is not mine]:
            with pytest.raises(ForgedEnvelope):
                opens(joined([*mine[:10], *other[10:]]))


def test_a_message_does_not_move_to_another_topic_with_its_batch() -> None:
    reports, states = [report(1), report(2)], [state(1), state(2)]
    mixed = seal_together([*reports, *states])
    assert opens(mixed[1]).sequence == 2
    assert opens(mixed[3], EPOCHS).sequence == 2
    with pytest.raises(WrongTopic):
        opens(mixed[3])
    with pytest.raises(WrongTopic):
        opens(mixed[1], EPOCHS)
    moved = parts(mixed[1])
    moved[0] = EPOCHS.encode()
    moved[1], moved[2] = STATE.encode(), b"tolaria"
    with pytest.raises(ForgedEnvelope):
        opens(joined(moved), EPOCHS)


def test_both_forms_of_one_draft_are_signed_apart() -> None:
    """A signature made for one form never fits the other, whatever is put where."""
    alone, together = parts(report(1).seal()), parts(seal_together([report(1), report(2)])[0])
    for fake in (
        joined([*together[:10], together[11]], MAGIC),
        joined([*alone[:10], together[10], alone[10]]),
        joined([*together[:10], together[10], together[11]], MAGIC),
        joined(alone),
    ):
        with pytest.raises(EnvelopeError):
            opens(fake)


def test_a_signed_message_does_not_pass_for_a_root_nor_a_root_for_a_message() -> None:
    """What a signer signs of others' making, a payload, is no tree: neither begins as the other does."""
    evil = b"ESPER-ENVELOPE-1 evil"
    count, root = 2, merkle.tree([merkle.leaf(TOGETHER + evil), merkle.leaf(b"x")])[0]
    bait = b"ESPER-ENVELOPE-ROOT-1" + struct.pack(">I", count) + root
    signature = parts(report(1, payload=bait).seal())[10]
    fields = parts(seal_together([report(1), report(2)])[0])
    with pytest.raises(ForgedEnvelope):
        opens(joined([*fields[:11], signature]))
    node = merkle.leaf(b"a") + merkle.leaf(b"b")
    with pytest.raises(EnvelopeError):
        opens(joined([*fields[:9], node, *fields[10:]]))


def test_a_subtree_does_not_pass_for_a_smaller_batch() -> None:
    """The number of messages is signed: the inner nodes of a tree are no roots."""
    sealed = seal_together([report(number) for number in range(4)])
    fields = parts(sealed[0])
    path = fields[10][8:]
    for place in (struct.pack(">II", 0, 2) + path[:32], struct.pack(">II", 0, 2) + path[32:],
                  struct.pack(">II", 0, 3) + path, struct.pack(">II", 0, 8) + path + path[:32]):  # fmt: skip
        with pytest.raises(ForgedEnvelope):
            opens(joined([*fields[:10], place, fields[11]]))


@pytest.mark.parametrize(
    "place",
    [
        b"", b"\0" * 7, struct.pack(">II", 0, 0), struct.pack(">II", 0, 1), struct.pack(">II", 2, 2),
        struct.pack(">II", 0, MAX_TOGETHER + 1), struct.pack(">II", 0, 2**32 - 1), struct.pack(">II", 0, 2) + b"x" * 31,
        struct.pack(">II", 0, MAX_TOGETHER) + bytes(32 * 9), struct.pack(">II", 0, 2) + bytes(4_000_000),
    ],
)  # fmt: skip
def test_places_that_can_not_be_are_malformed(place: bytes) -> None:
    fields = parts(seal_together([report(1), report(2)])[0])
    with pytest.raises(MalformedEnvelope):
        opens(joined([*fields[:10], place, fields[11]]))


def test_what_was_verified_once_helps_no_forger() -> None:
    """Roots that were verified are remembered: by key, root and signature, so that none stands in for another."""
    honest = seal_together([report(number) for number in range(4)])
    stranger = Signer.ed25519("run-1", b"s" * 32)
    forged = seal_together([report(number, stranger) for number in range(4)])
    for _ in range(2):  # refused first does not spoil, and accepted first does not help
        for data in forged:
            with pytest.raises(ForgedEnvelope):
                opens(data)
        for data in honest:
            assert opens(data)
            fields = parts(data)
            with pytest.raises(ForgedEnvelope):
                opens(joined([*fields[:11], parts(forged[0])[11]]))
            with pytest.raises(ForgedEnvelope):
                opens(data, keys=ring(stranger))


def test_a_key_that_left_the_ring_opens_nothing_that_was_verified_before() -> None:
    sealed = seal_together([report(1), report(2)])
    keys = ring()
    opens(sealed[0], keys=keys)
    keys.remove("run-1")
    with pytest.raises(UnknownKey):
        opens(sealed[1], keys=keys)


def test_replay_order_and_age_bind_each_message_of_a_batch() -> None:
    keys, guard = ring(), ReplayGuard()
    sealed = seal_together([state(number) for number in range(1, 5)])
    for number, data in enumerate(sealed[:3]):
        open_(data, EPOCHS, keys, NOW, guard, message_id=f"m{number}")
    assert open_(sealed[1], EPOCHS, keys, NOW, guard, message_id="m1").redelivery
    with pytest.raises(ReplayedEnvelope):
        open_(sealed[1], EPOCHS, keys, NOW, guard, message_id="another")
    assert open_(sealed[3], EPOCHS, keys, NOW, guard)
    late = ReplayGuard()
    open_(sealed[3], EPOCHS, keys, NOW, late)
    with pytest.raises(OutOfSequence):
        open_(sealed[0], EPOCHS, keys, NOW, late)
    with pytest.raises(StaleEnvelope):
        open_(sealed[0], EPOCHS, keys, NOW + 61, ReplayGuard())


@given(st.binary(max_size=400))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        opens(TOGETHER + data)
