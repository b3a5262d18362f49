"""Somebody who wants kernels all the time: a new design every few seconds, asked for as a run would."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.soak.part import Part

from esper.errors import BusError, LibraryError
from esper.oona.keyfiles import TrustedFolder, load_signer
from esper.oona.pulsar import PulsarBus
from esper.process import load_settings
from esper.urza import State
from esper.weatherlight.keys import load_public_keys
from esper.weatherlight.post import Post
from esper.weatherlight.remote import RemoteKernels
from esper.weatherlight.settings import TrainSettings
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Interface, Layout
from stack import Stack

RUN = "soak-demand"
DECIDED = frozenset({State.VALIDATED, State.REJECTED, State.NOISY})


def design(number: int) -> BlueprintIR:
    """The ``number``-th of as many different designs as are wanted."""
    functions = ("relu", "gelu", "silu", "tanh")
    return BlueprintIR(
        {
            "x": node("input"),
            "up": node("linear", "x", out=4 + number // len(functions)),
            "act": node("act", "up", fn=functions[number % len(functions)]),
            "y": node("linear", "act", out="w", init="zeros"),
        },
        "y",
        (Layout.VECTOR,),
    )


class Demand(Part):
    """Asks, and never gives up on what it asked for.

    Attributes:
        asked: ids of everything asked for.
        away: how often library or bus were found to be away.
        waits: seconds from asking to the verdict, of those asked for while nothing was known to be away.
    """

    def __init__(self, stack: Stack, folder: Path, *, seed: int, gap: float) -> None:
        super().__init__("demand")
        settings = load_settings(TrainSettings, stack.settings("trainer"))
        self._bus = PulsarBus(settings.pulsar)
        self._library = settings.library.open()
        post = Post(self._bus, load_signer(settings.bus_key_file), TrustedFolder(settings.bus_trust_dir), instance=RUN)
        self.kernels = RemoteKernels(
            self._library, self._bus, post, load_public_keys(stack.public_keys), RUN, folder / "cache",
            tell=lambda words: self._tell(words),
        )  # fmt: skip
        self._draw, self._gap = random.Random(seed), gap
        self._interface = Interface(Layout.VECTOR, 16)
        self.asked: dict[str, float] = {}
        self.said: list[str] = []
        self.failures = 0

    def undecided(self) -> dict[str, str]:
        """What was asked for and has no verdict, with its state."""
        states = {artifact: self._library.record(artifact).state for artifact in self.asked}
        return {artifact: state.value for artifact, state in states.items() if state not in DECIDED}

    def settle(self, patience: float) -> Mapping[str, str]:
        """Wait until everything has its verdict; returns what has none in the end."""
        deadline = time.monotonic() + patience
        while (left := self.undecided()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def close(self) -> None:
        """Let go of everything."""
        self.kernels.close()
        self._bus.close()
        self._library.close()

    def _tell(self, words: str) -> None:
        self.said.append(words)

    def _run(self) -> None:
        for number in itertools.count():
            name = f"soak-{number}"
            while not self._stop.is_set():
                try:
                    self._ask(name, number)
                    break
                except (LibraryError, BusError):
                    self.failures += 1  # as a run would: again later
                    self._stop.wait(1.0)
            if self._stop.wait(self._draw.expovariate(1 / self._gap)):
                return

    def _ask(self, name: str, number: int) -> None:
        self._library.register_blueprint(name, design(number), 0.1)
        prepared = self.kernels.request([self._interface], [name], ["fast"])
        known: list[Any] = [*prepared.outstanding, *(each["kernel"] for each in prepared.artifacts)]
        self.asked.update(dict.fromkeys(known, time.monotonic()))
