"""A cluster of its own with all that an installation needs: images, and PostgreSQL, S3 and Pulsar its pods can reach.

The servers run in the node's network, at the address of its bridge, and may be killed and started again; those of a
trial are pods of the chart's, and ``node`` has only images. Not shared between test runs; who kills a part of it kills
it for every test that runs meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from sqlalchemy.engine import URL

import inside
import parts
import real_cluster
import real_images
import real_postgres
import real_s3
from kube_programs import program
from real_pulsar import Broker
from real_s3 import Bucket

HOST = real_cluster.NODE
PODS = "10.244.0.0/24"
DATABASE_PORT, OBJECTS_PORT = 5432, 9000
BUCKETS = ("kernels", "checkpoints")


@dataclass
class Node:
    """A cluster. ``packages`` is a folder of this environment's packages, ``runs`` one that pods may fill."""

    home: Path
    kubeconfig: str

    @property
    def packages(self) -> Path:
        """Where this environment's packages are."""
        return Path(psycopg.__file__).parents[1]

    @property
    def runs(self) -> Path:
        """A folder that pods may fill."""
        return self.home / "runs"

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread's new sockets are the node's."""
        with inside.network(self.home):
            yield


@dataclass
class Site(Node):
    """A cluster with servers beside it."""

    broker: Broker
    access_key: str = "esper"
    secret_key: str = "kept-on-this-machine"

    @property
    def password(self) -> str:
        """Of PostgreSQL's administrator ``esper``."""
        return (self.home / "postgres/secret").read_text()

    def pid(self, part: str) -> int:
        """Process id of ``postgres``, ``s3`` or ``pulsar``."""
        return parts.server_pid(self.home / part)

    def start_database(self) -> None:
        """Start PostgreSQL and wait until it takes connections."""
        home, user = self.home / "postgres", pwd.getpwnam(real_postgres.run_as())
        words = [*real_postgres.command(home, DATABASE_PORT), "-c", f"listen_addresses={HOST}"]
        command = inside.command(self.home, *words, user=user.pw_uid, group=user.pw_gid)
        parts.launch(command, home, stop=signal.SIGINT)
        with self.network():
            parts.await_ready(lambda: real_postgres.accepts(self._database), home)

    def start_objects(self) -> None:
        """Start the S3 server."""
        home = self.home / "s3"
        command = inside.command(self.home, *real_s3.command(home, OBJECTS_PORT, HOST))
        parts.launch(command, home, **real_s3.environment(self.access_key, self.secret_key))
        with self.network():
            parts.await_ready(lambda: parts.answers(OBJECTS_PORT, HOST), home)

    def start_broker(self) -> None:
        """Start Pulsar and wait until it takes orders."""
        parts.launch(inside.command(self.home, *self.broker.command()), self.broker.home, stop=signal.SIGKILL)
        with self.network():
            self.broker.wait()

    def kill(self, part: str) -> None:
        """SIGKILL to one of the servers; what it has stored stays."""
        os.kill(self.pid(part), signal.SIGKILL)
        parts.stop(self.home / part)

    @contextlib.contextmanager
    def stopped(self, program: str) -> Iterator[None]:
        """A program of the node, such as ``kubelet``, hangs meanwhile."""
        node = psutil.Process(parts.server_pid(self.home))
        (found,) = [each for each in node.children(recursive=True) if Path(each.exe()).name == program]
        found.suspend()
        try:
            yield
        finally:
            found.resume()

    def prepare(self) -> None:
        """Make what the chart expects to be there: the library's database and the buckets."""
        with self.network():
            real_postgres.ensure(self._database, "library")
            for name in BUCKETS:
                bucket = Bucket(f"http://{HOST}:{OBJECTS_PORT}", name, self.access_key, self.secret_key)
                real_s3.client(bucket).create_bucket(Bucket=name)

    @property
    def _database(self) -> URL:
        return URL.create("postgresql+psycopg", "esper", self.password, HOST, DATABASE_PORT, "postgres")


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A cluster with its servers, ended with the block; skipped, or failed in CI, where there can't be one."""
    try:
        images = real_images.archives()
        with parts.private("installation") as home:
            made = Site(home, _cluster(home), _servers(home))
            made.start_broker()
            made.start_database()
            made.start_objects()
            made.prepare()
            _fetch(home, list(images.values()))
            yield made
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


@contextlib.contextmanager
def node() -> Iterator[Node]:
    """A cluster with images, also of a trial's servers, and no servers; as ``site``."""
    try:
        images = [*real_images.archives().values(), real_images.servers()]
        with parts.private("trial") as home:
            made = Node(home, _cluster(home))
            _fetch(home, images)
            yield made
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


def _cluster(home: Path) -> str:
    facts = real_cluster.start(home)
    (home / "runs").mkdir()
    (home / "runs").chmod(0o777)
    return str(facts["kubeconfig"])


def _servers(home: Path) -> Broker:
    for part in ("postgres", "s3/data", "pulsar"):
        (home / part).mkdir(parents=True)
    real_postgres.make(home / "postgres", DATABASE_PORT)
    with open(home / "postgres/data/pg_hba.conf", "a") as rules:
        rules.write(f"host all all {PODS} scram-sha-256\n")
    return Broker(home / "pulsar", host=HOST)


def _fetch(home: Path, images: list[Path]) -> None:
    for image in images:
        to = ["--address", f"{home}/containerd.sock", "-n", "k8s.io"]
        subprocess.run([program("ctr"), *to, "images", "import", image], check=True, capture_output=True)
