"""An installation for a test: a namespace on a real broker, the library's service, keys, and processes of ``esper``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

import parts
import services
from brokers import need_broker, settings_for
from esper.kernel.signing import PublicKeys
from esper.oona.keyfiles import TRUSTED, TrustedFolder, load_signer, make_key
from esper.oona.pulsar import PulsarBus, provision
from esper.urza import KernelRecord, RemoteLibrary, SqlLibrary
from esper.urza.issuing import JWKS
from esper.weatherlight.keys import PUBLIC, load_public_keys, make_signing_key
from esper.weatherlight.post import Post
from esper.weatherlight.remote import RemoteKernels

PATIENCE = 240.0
"""Seconds something may take on a machine that does much else."""
ROLES = {"dispatcher": "urza", "tezzeret": "tezzeret", "urabrask": "urabrask", "trainer": "weatherlight"}
UNTIL_WE_DIE = ("setpriv", "--pdeathsig", "KILL", "--")
ESPER = Path(sys.executable).with_name("esper")
COMMANDS = {
    "dispatcher": ("urza", "dispatch"), "tezzeret": ("tezzeret", "work"), "urabrask": ("urabrask", "work"),
}  # fmt: skip


class Running:
    """One process of the installation."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def page(self) -> str:
        """Its metrics."""
        return httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text

    def metric(self, line: str) -> float:
        """The value of a sample, named as the page does; 0 when it is not there."""
        for each in self.page().splitlines():
            if each.startswith(f"{line} "):
                return float(each.rpartition(" ")[2])
        return 0.0

    def ready(self) -> bool:
        """Whether it says that it is."""
        assert self.process.poll() is None, self.said()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        return False

    def working(self) -> bool:
        """Whether its helper process is there, as while it is at work for the first time."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children()
            return any("esper.kernel.zygote" in " ".join(each.cmdline()) for each in found)
        return False

    def end(self, number: signal.Signals = signal.SIGTERM, patience: float = PATIENCE) -> int:
        """Signal it and wait; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(patience)

    def kill(self) -> None:
        """End it, if it has not ended by itself."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")


class Installation:
    """See the module. ``library`` is the library itself, behind the service."""

    def __init__(self, folder: Path, library: SqlLibrary, address: str) -> None:
        self.folder, self.library, self.address = folder, library, address
        self.settings = settings_for(need_broker(), redelivery_delay_seconds=0.2)
        provision(self.settings, patience=60.0)
        for name, role in ROLES.items():
            make_key(folder, name, [role])
        for purpose in ("built", "validated"):
            make_signing_key(folder / "signing", purpose)
        self.bus = PulsarBus(self.settings)
        self.post = self.post_of("dispatcher")
        self._running: list[Running] = []

    @property
    def keys(self) -> PublicKeys:
        return load_public_keys(self.folder / "signing" / PUBLIC)

    def post_of(self, name: str) -> Post:
        """What sends as one of the processes."""
        return Post(self.bus, load_signer(self.folder / f"{name}.pem"), TrustedFolder(self.folder / TRUSTED))

    def kernels(self, run: str, cache: Path | None = None) -> RemoteKernels:
        """What a trainer has; on a machine of its own with ``cache``."""
        library = RemoteLibrary(self.address, services.token("trainer", subject=run))
        return RemoteKernels(
            library, self.bus, self.post_of("trainer"), self.keys, run, cache or self.folder / "cache",
            recheck_seconds=2.0,
        )  # fmt: skip

    def file(self, name: str, **change: Any) -> Path:
        """A process's settings."""
        token = self.folder / f"{name}.token"
        token.write_text(services.token("admin" if name == "dispatcher" else "worker", subject=name))
        (self.folder / "broker.token").write_text(self.settings.current_token() or "")
        given: dict[str, Any] = {
            "pulsar": {
                "service_url": self.settings.service_url, "namespace": self.settings.namespace,
                "token_file": str(self.folder / "broker.token"), "redelivery_delay_seconds": 0.2,
            },
            "library": {"url": self.address, "token_file": str(token)},
            "bus_key_file": str(self.folder / f"{name}.pem"), "bus_trust_dir": str(self.folder / TRUSTED),
            "http_port": parts.free_port(),
        }  # fmt: skip
        if name == "dispatcher":
            given["letters_seconds"] = 1.0
            given["pulsar"]["admin_url"] = self.settings.admin_url
        else:
            purpose = "built" if name == "tezzeret" else "validated"
            given |= {
                "workdir": str(self.folder / "work" / name),
                "signing_key_file": str(self.folder / "signing" / f"{purpose}.pem"),
            }
        if name == "urabrask":
            given["public_keys_file"] = str(self.folder / "signing" / PUBLIC)
        path = self.folder / f"{name}-{given['http_port']}.yaml"
        path.write_text(yaml.safe_dump(given | change))
        return path

    def start(self, name: str, *arguments: str, environment: dict[str, str] | None = None, **change: Any) -> Running:
        """Start a process; it may not be ready yet."""
        file = self.file(name, **change)
        log = file.with_suffix(".log")
        port = yaml.safe_load(file.read_text())["http_port"]
        with log.open("wb") as said:
            # The file alone decides, also where the environment names a broker for the tests.
            clean = {key: value for key, value in os.environ.items() if "PULSAR" not in key}
            process = subprocess.Popen(
                [*UNTIL_WE_DIE, str(ESPER), *COMMANDS[name], "--config", str(file), *arguments],
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=clean | (environment or {}),
            )  # fmt: skip
        self._running.append(Running(process, port, log))
        return self._running[-1]

    def serve(self, port: int, database_url: str, blobs: Path) -> subprocess.Popen[bytes]:
        """The library's service as a process of its own, for tests that kill it; returns once it is ready."""
        settings = {
            "port": port, "database_url": database_url, "blobs": str(blobs), "issuer": services.ISSUER,
            "jwks_file": str(services.keys() / JWKS),
        }  # fmt: skip
        path = self.folder / "urza.yaml"
        path.write_text(yaml.safe_dump(settings))
        with path.with_suffix(".log").open("ab") as said:
            process = subprocess.Popen(
                [*UNTIL_WE_DIE, str(ESPER), "urza", "serve", "--config", str(path)], stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._running.append(Running(process, port, path.with_suffix(".log")))
        self.until(self._running[-1].ready)
        return process

    def until(self, what: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + patience
        while not what():
            if time.monotonic() > deadline:
                states = [f"{record.artifact_id}: {record.state.value}" for record in self.library.records()]
                raise AssertionError(
                    "\n".join(["did not happen", *states, *(each.said()[-3000:] for each in self._running)])
                )
            time.sleep(0.1)

    def record(self, identity: str) -> KernelRecord:
        """What the library knows."""
        return self.library.record(identity)

    @contextlib.contextmanager
    def guests(self) -> Iterator[None]:
        """What is started in the block ends with it."""
        hosts = list(self._running)
        try:
            yield
        finally:
            for each in self._running:
                if each not in hosts:
                    each.kill()
            self._running = hosts

    def close(self) -> None:
        """End what runs."""
        for each in self._running:
            each.kill()
        self.bus.close()

    def lines(self, running: Running) -> list[dict[str, Any]]:
        """A process's log; every line of it is one JSON object."""
        return [json.loads(line) for line in running.said().splitlines()]


@contextlib.contextmanager
def installation(folder: Path, library: SqlLibrary) -> Iterator[Installation]:
    """One for a test or a file of tests."""
    with services.running(library) as address:
        made = Installation(folder, library, address)
        try:
            yield made
        finally:
            made.close()
