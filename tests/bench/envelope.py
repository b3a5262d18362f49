"""What sealing and opening one envelope costs, with Ed25519 and with HMAC, each beside the bare signature."""

from __future__ import annotations

import os
import time

from tests.bench.analysis import median
from tests.bench.report import Report, reported

from leyline.envelope import open_, seal
from leyline.keys import KeyRing, Signer
from leyline.replay import ReplayGuard
from leyline.topics import COMMANDS

COMMAND = "leyline.v1.AdaptationCommand"
NOW = 1_800_000_000.0
PAYLOAD = 512
BLOCK = 20
"""Envelopes per observation: a single one is too short for the clock of a busy machine."""


def measure(signer: Signer, ring: KeyRing, blocks: int) -> dict[str, list[float]]:
    """Microseconds per envelope and per bare signature, a value per block, interleaved."""
    guard = ReplayGuard()
    key = signer.verification_key()
    payload = os.urandom(PAYLOAD)
    found: dict[str, list[float]] = {"seal": [], "open": [], "sign": [], "verify": []}

    def note(what: str, began: float) -> None:
        found[what].append((time.perf_counter() - began) / BLOCK * 1e6)

    sequence = 0
    for _ in range(blocks):
        began = time.perf_counter()
        sealed = [
            seal(payload, COMMAND, COMMANDS, "tamiyo", sequence + i, signer, NOW, 30.0, run="bench")
            for i in range(1, BLOCK + 1)
        ]
        note("seal", began)
        sequence += BLOCK
        began = time.perf_counter()
        for data in sealed:
            open_(data, COMMANDS, ring, NOW + 1.0, guard)
        note("open", began)
        began = time.perf_counter()
        signatures = [signer.sign(data) for data in sealed]
        note("sign", began)
        began = time.perf_counter()
        for data, signature in zip(sealed, signatures, strict=True):
            if not key.verifies(data, signature):
                raise AssertionError("a signature just made does not verify")
        note("verify", began)
    return found


def run(quick: bool = False) -> Report:
    """Measure both kinds of key."""
    report = Report()
    blocks = 30 if quick else 200
    for name, signer in (("Ed25519", Signer.generate("bench")), ("HMAC-SHA256", Signer.hmac("bench", os.urandom(32)))):
        ring = KeyRing(in_process=True)
        ring.add(signer, producers=["tamiyo"], topics=[COMMANDS])
        found = measure(signer, ring, blocks)
        report.details[name] = found
        for what, bare in (("seal", "sign"), ("open", "verify")):
            note = f"{PAYLOAD} byte payload; the bare {bare} takes {median(found[bare]).value:.3g} µs"
            report.rows.append(reported(f"{what} an envelope, {name}", median(found[what]), "µs", note))
    return report
