"""What a trainer says on the bus, said without one."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from esper.oona import Bus
from esper.oona.keyfiles import load_signer, make_key
from leyline.envelope import seal
from leyline.messages import SystemStatePacket, encode, type_of
from leyline.topics import EPOCHS

_numbers = itertools.count(1)


class Trainer:
    """Says what a trainer would, with a key of its own, which ``folder``'s ``trusted`` has then."""

    def __init__(self, bus: Bus, folder: Path, name: str) -> None:
        make_key(folder, name, ["tolaria"])
        self._bus, self._signer = bus, load_signer(folder / f"{name}.pem")

    def say(self, run: str, epoch: int, accuracy: float, *, epochs: int = 20, flush: bool = True, **more: Any) -> None:
        """An epoch of a run has ended."""
        packet = SystemStatePacket(
            run=run, epoch=epoch, epochs=epochs, epoch_seconds=2.0, controller_metrics={"accuracy": accuracy}, **more
        )
        data = seal(
            encode(packet), type_of(packet), EPOCHS, f"tolaria/{run}", next(_numbers), self._signer, time.time(),
            3600.0, run=run,
        )  # fmt: skip
        self._bus.publish(EPOCHS, data, key=run)
        if flush:
            assert self._bus.flush(10.0) == 0


def following(bus: Any, folder: Path) -> dict[str, str]:
    """Variables of an operator that follows a bus on a broker and trusts the keys of ``folder``."""
    given = bus.settings
    (folder / "trusted").mkdir(exist_ok=True)
    variables = {
        "ESPER_PULSAR_SERVICE_URL": given.service_url, "ESPER_PULSAR_NAMESPACE": given.namespace,
        "ESPER_OPERATOR_BUS_TRUST_DIR": str(folder / "trusted"),
    }  # fmt: skip
    return variables | ({} if given.token is None else {"ESPER_PULSAR_TOKEN": given.token.get_secret_value()})
