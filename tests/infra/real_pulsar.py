"""A Pulsar broker for tests: standalone on loopback, with tokens and TLS, one shared by a test run.

Every broker asks for a token and listens in the clear and with TLS. Tests keep apart by namespaces. One that kills or
pauses its broker starts its own: what the broker stored outlives ``kill`` and ``restart``, not ``stop``.

A broker that is there already is used when ``PULSAR_SERVICE_URL`` names it, with ``ESPER_PULSAR_ADMIN_URL`` and
``ESPER_PULSAR_TOKEN``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import jwt

import parts
from certificates import make_certificates

VERSION = "4.0.7"
ADMIN, STRANGER = "esper-admin", "stranger"
START_SECONDS = 120.0
STARTS = 4
UNREGISTERED, MOST_UNREGISTERED = b"deleted. path: /ledgers/available/", 20
"""What a broker logs when its bookie's registration goes, and how often it may do so while it starts."""
_POM = Path(__file__).with_name("pulsar-pom.xml")
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_OPENS = [
    *(f"java.base/{name}" for name in (
        "java.io", "java.util.zip", "java.nio", "java.lang", "jdk.internal.misc", "jdk.internal.platform", "sun.net",
    )),
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
]  # fmt: skip
_MEMORY = ["-Xms128m", "-Xmx512m", "-XX:MaxDirectMemorySize=384m", "-XX:+UseSerialGC"]
_FLAGS = [
    "-XX:TieredStopAtLevel=1",
    "-Dio.netty.tryReflectionSetAccessible=true", "-Djava.net.preferIPv4Stack=true",
    "-Dbookkeeper.metadata.bookie.drivers=org.apache.pulsar.metadata.bookkeeper.PulsarMetadataBookieDriver",
    "-Dbookkeeper.metadata.client.drivers=org.apache.pulsar.metadata.bookkeeper.PulsarMetadataClientDriver",
]  # fmt: skip


@dataclass(frozen=True)
class Address:
    """Where a broker is and how it lets one in; ``stranger`` is a token of a role that may do nothing."""

    service_url: str
    service_url_tls: str
    admin_url: str
    token: str = field(repr=False)
    stranger: str = field(repr=False)
    ca: str


def jars() -> Path:
    """The directory of the broker's jars, resolved by Maven once for each version and kept under ``.tools``.

    Raises:
        PartMissing: Java or Maven is missing, or Maven could not resolve them.
    """
    home = parts.TOOLS / f"pulsar-{VERSION}"
    if shutil.which("java") is None:
        raise parts.PartMissing("Pulsar: there is no java (17 or newer)")
    if home.is_dir():
        return home
    if shutil.which("mvn") is None:
        raise parts.PartMissing("Pulsar: there is no mvn (Maven)")
    with parts.locked(parts.TOOLS / "pulsar.lock"):
        if home.is_dir():
            return home
        aside = home.with_name(home.name + ".part")
        print(f"resolving Pulsar {VERSION} (once; about 240 MB)", file=sys.stderr, flush=True)
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(_POM), f"-Dpulsar.version={VERSION}", _PLUGIN, "-DincludeScope=runtime",
             f"-DoutputDirectory={aside}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            words = (done.stdout + done.stderr)[-2000:]
            raise parts.PartMissing(f"Pulsar {VERSION}: Maven could not resolve it; it said: {words}")
        os.replace(aside, home)
    return home


def program(classpath: str) -> list[str]:
    """What follows ``java`` and its options for memory; the broker's own options come after it."""
    opens = [part for name in _OPENS for part in ("--add-opens", f"{name}=ALL-UNNAMED")]
    return [*_FLAGS, *opens, "-cp", classpath, "org.apache.pulsar.PulsarStandaloneStarter"]


def shared_broker() -> Address:
    """The broker of this test run; raises ``PartMissing``."""
    if (url := os.environ.get("PULSAR_SERVICE_URL")) is not None:
        admin = os.environ.get("ESPER_PULSAR_ADMIN_URL")
        if not admin:
            raise parts.PartMissing(f"Pulsar: PULSAR_SERVICE_URL is {url}, but ESPER_PULSAR_ADMIN_URL is not set")
        return Address(url, "", admin, os.environ.get("ESPER_PULSAR_TOKEN", ""), "", "")
    return Address(**parts.shared("pulsar", lambda home: asdict(Broker(home).start().address)))


class Broker:
    """One broker with its data in ``home``, which is made if it is not there. A context manager that removes it.

    Args:
        address: of a broker that was made in ``home`` before; a new one is made if not given.
        host: the address it listens on.
    """

    def __init__(self, home: Path, address: Address | None = None, host: str = "127.0.0.1") -> None:
        self.home, self._host = home, host
        home.mkdir(parents=True, exist_ok=True)
        self.address = address or self._prepare()

    @property
    def pid(self) -> int:
        """The process id of the broker itself."""
        return parts.server_pid(self.home)

    def start(self) -> Self:
        """Start it and wait until it is healthy; raises ``PartMissing`` with its last words.

        A broker that was killed finds its bookie's registration from before, and may then, by a race in itself, take it
        out and put it back without end, which takes most of a core. Such a one is killed and started anew.
        """
        for _ in range(STARTS):
            said = self._log.stat().st_size if self._log.exists() else 0
            self.launch()
            self.wait()
            with self._log.open("rb") as log:
                log.seek(said)
                if log.read().count(UNREGISTERED) < MOST_UNREGISTERED:
                    return self
            self.kill()
        raise parts.PartMissing(f"Pulsar: its bookie registers itself without end, see {self._log}")

    @property
    def _log(self) -> Path:
        return self.home / "server.log"

    def launch(self) -> None:
        """Start it without waiting."""
        # Nothing it holds is wanted when it ends: an orderly shutdown would take ten seconds.
        parts.launch(self.command(), self.home, stop=signal.SIGKILL)

    def command(self) -> list[str]:
        """What starts it."""
        conf = self.home / "conf"
        command = ["java", *_MEMORY, *program(f"{conf}:{jars()}/*"), "-c", str(conf / "standalone.conf")]
        command += ["-nfw", "-nss", "--metadata-dir", str(self.home / "meta")]
        command += ["--bookkeeper-dir", str(self.home / "bk")]
        return [*command, "-a", self._host]

    def wait(self) -> None:
        """Until it says that it is healthy."""
        parts.await_ready(self.healthy, self.home, START_SECONDS)

    def kill(self) -> None:
        """Kill -9; what it had stored stays for ``restart``."""
        pid = self.pid
        since = parts.started(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while since and parts.started(pid) == since:
            time.sleep(0.02)
        parts.stop(self.home)

    def restart(self) -> None:
        """Kill -9 and start again on the same ports with the same data."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it from running (SIGSTOP), its connections open; it goes on afterwards."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its data."""
        parts.stop(self.home)
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def healthy(self) -> bool:
        """Whether it takes orders."""
        headers = {"Authorization": f"Bearer {self.address.token}"}
        try:
            # The second path fails until the first tenant is there, which is the last thing standalone makes.
            for path in ("/admin/v2/brokers/health", "/admin/v2/namespaces/public/default"):
                httpx.get(self.address.admin_url + path, headers=headers, timeout=5).raise_for_status()
        except httpx.HTTPError:
            return False
        return True

    def _prepare(self) -> Address:
        conf = self.home / "conf"
        conf.mkdir(exist_ok=True, mode=0o700)
        ports: set[int] = set()
        while len(ports) < 3:
            ports.add(parts.free_port())
        plain, tls, web = ports
        secret = secrets.token_bytes(32)
        tokens = {role: jwt.encode({"sub": role}, secret, algorithm="HS256") for role in (ADMIN, STRANGER)}
        certificates = make_certificates(conf)
        settings: dict[str, Any] = {
            "clusterName": "standalone",
            "brokerServicePort": plain,
            "brokerServicePortTls": tls,
            "webServicePort": web,
            "bindAddress": self._host,
            "advertisedAddress": self._host,
            "tlsCertificateFilePath": certificates.certificate,
            "tlsKeyFilePath": certificates.key,
            "tlsTrustCertsFilePath": certificates.ca,
            "authenticationEnabled": "true",
            "authenticationProviders": "org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
            "tokenSecretKey": "data:;base64," + base64.b64encode(secret).decode(),
            "authorizationEnabled": "true",
            "superUserRoles": ADMIN,
            "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
            "brokerClientAuthenticationParameters": json.dumps({"token": tokens[ADMIN]}),
            "managedLedgerDefaultEnsembleSize": 1,
            "managedLedgerDefaultWriteQuorum": 1,
            "managedLedgerDefaultAckQuorum": 1,
            "managedLedgerCacheSizeMB": 32,
            "loadBalancerEnabled": "false",
            # What was not provisioned is a mistake that must show.
            "allowAutoTopicCreation": "false",
            "transactionCoordinatorEnabled": "false",
            "activeConsumerFailoverDelayTimeMillis": 100,
            "numIOThreads": 2,
            "numHttpServerThreads": 8,
            "keepAliveIntervalSeconds": 10,
            "dbStorage_writeCacheMaxSizeMb": 32,
            "dbStorage_readAheadCacheMaxSizeMb": 32,
            # A nearly full disk is not what is tested here.
            "diskUsageThreshold": 0.99,
            "diskUsageWarnThreshold": 0.98,
        }
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (conf / "standalone.conf").write_text(text, encoding="utf-8")
        return Address(
            service_url=f"pulsar://{self._host}:{plain}",
            service_url_tls=f"pulsar+ssl://{self._host}:{tls}",
            admin_url=f"http://{self._host}:{web}",
            token=tokens[ADMIN],
            stranger=tokens[STRANGER],
            ca=str(certificates.ca),
        )
