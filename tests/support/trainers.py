"""A training process of an installation, with a broker, a library service and a bucket behind it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

import gated
import real_s3
import services
from artifacts import KEYS
from brokers import settings_for
from buckets import environment
from esper.oona import Inbox, Message
from esper.oona.keyfiles import TRUSTED, TrustedFolder, load_signer, make_key
from esper.oona.pulsar import PulsarBus, provision
from esper.urza import SqlLibrary
from leyline.messages import CommandResult
from leyline.topics import EPOCHS
from real_pulsar import Address

ESPER = str(Path(sys.executable).with_name("esper"))
PATIENCE = 120.0
TRAINER_ROLES = ["tolaria", "tamiyo", "kasmina", "weatherlight"]


class Place:
    """Everything a training process needs, in a folder; ``trainer`` starts one."""

    def __init__(self, folder: Path, address: Address, library_url: str, bucket: real_s3.Bucket) -> None:
        self.folder, self.address, self.bucket = folder, address, bucket
        self.pulsar = settings_for(address)
        provision(self.pulsar, patience=60.0)
        self.bus = PulsarBus(self.pulsar)
        make_key(folder / "keys", "trainer", TRAINER_ROLES)
        make_key(folder / "keys", "person", ["person"])
        make_key(folder / "strangers", "stranger", ["person"])
        self.ring = TrustedFolder(folder / "keys" / TRUSTED)
        self.person = load_signer(folder / "keys" / "person.pem")
        (folder / "public.json").write_text(json.dumps(KEYS.to_dict()))
        (folder / "token").write_text(services.token("trainer"))
        (folder / "pulsar-token").write_text(self.pulsar.current_token() or "")
        broker = {
            "service_url": self.pulsar.service_url, "namespace": self.pulsar.namespace,
            "token_file": str(folder / "pulsar-token"),
        }  # fmt: skip
        keys = {"bus_trust_dir": str(folder / "keys" / TRUSTED)}
        self.config, self.ctl = folder / "train.yaml", folder / "ctl.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "pulsar": broker, "library": {"url": library_url, "token_file": str(folder / "token")}, **keys,
                    "bus_key_file": str(folder / "keys" / "trainer.pem"), "cache_dir": str(folder / "cache"),
                    "public_keys_file": str(folder / "public.json"),
                }
            )
        )  # fmt: skip
        self.ctl.write_text(
            yaml.safe_dump({"pulsar": broker, "bus_key_file": str(folder / "keys" / "person.pem"), **keys})
        )

    def environment(self, **more: str) -> dict[str, str]:
        """Of its processes: nothing of a broker that the tests were given."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PULSAR_", "ESPER_"))}
        return own | environment(self.bucket) | more

    def trainer(
        self, manifest: Mapping[str, Any], machine: str, prefix: str = "run", *, gate: int = 0, **more: str
    ) -> Trainer:  # fmt: skip
        """Start a training process on a machine of its own; with ``gate`` it waits at that batch for ``go``."""
        out = self.folder / machine
        out.mkdir(exist_ok=True)
        path = self.folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(dict(manifest)))
        # A task module that lies beside the manifest is found.
        shutil.copy(Path(gated.__file__), self.folder)
        go = self.folder / f"go-{machine}"
        more |= {"GATE_BATCH": str(gate), "GATE_FILE": str(go)} if gate else {}
        command = [
            ESPER, "train", "-m", str(path), "-o", str(out), "-c", str(self.config),
            "--checkpoints", f"s3://{self.bucket.name}/{prefix}",
        ]  # fmt: skip
        return Trainer(command, out, self.environment(**more), go)

    def esper(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [ESPER, *words], env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def heard(self, name: str = "watcher") -> Watcher:
        """Somebody who listens to what runs tell."""
        return Watcher(self, name)


class Watcher:
    """Takes what is told on ``system.events.epoch``."""

    def __init__(self, place: Place, name: str) -> None:
        self._subscription = place.bus.subscribe(EPOCHS, name)
        self._inbox = Inbox(self._subscription, place.ring)
        self.epochs: list[tuple[str, int]] = []
        """Message id and epoch of each packet, in the order they came."""
        self.results: list[CommandResult] = []

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Listen until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"it never came true; epochs {self.epochs}"
            self._inbox.take(self._note, 0.2)

    def _note(self, payload: Any, opened: Any, message: Message) -> None:
        if isinstance(payload, CommandResult):
            self.results.append(payload)
        else:
            self.epochs.append((message.message_id, payload.epoch))


class Trainer:
    """A running ``esper train``."""

    def __init__(self, command: list[str], out: Path, env: dict[str, str], gate: Path) -> None:
        self.out, self.log, self.gate = out, out / "log.jsonl", gate
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def address(self) -> str:
        """Of its HTTP server."""
        self.until(lambda: any(line.get("event") == "started" for line in self.lines()))
        line = next(line for line in self.lines() if line.get("event") == "started")
        return f"http://{line['http_host']}:{line['http_port']}"

    def status(self) -> dict[str, Any]:
        """Its status page; of a process that has just begun there is none yet."""
        answer = httpx.get(f"{self.address()}/api/v1/system/status", timeout=10)
        said: dict[str, Any] = answer.json() if answer.status_code == 200 else {"phase": "Starting"}
        return said

    def epoch(self) -> int:
        """Epochs it has logged as finished."""
        return max((line["epoch"] for line in self.lines() if line.get("event") == "epoch"), default=0)

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.words()}"
            assert time.monotonic() < deadline, f"it never came true:\n{self.words()}"
            time.sleep(0.05)

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end:\n{self.words()}") from None

    def go(self) -> None:
        """Open its gate."""
        self.gate.touch()

    def terminate(self) -> int:
        """SIGTERM, then go on; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.go()
        return self.ended()

    def kill(self) -> None:
        """kill -9, with all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


@contextlib.contextmanager
def place(folder: Path, address: Address) -> Iterator[Place]:
    """A place on a broker, with a library's service and a bucket of its own."""
    with (
        real_s3.bucket() as bucket,
        contextlib.closing(SqlLibrary.open(folder / "library")) as library,
        services.running(library) as url,
    ):
        made = Place(folder, address, url, bucket)
        try:
            yield made
        finally:
            made.bus.close()
