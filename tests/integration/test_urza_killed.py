"""The service and its writers killed at random moments, on PostgreSQL and S3.

What must hold: no row without its blob, no certificate that was acknowledged is lost, nothing is there twice.
``ESPER_KILLS`` says how often each is killed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import parts
import services
from esper.objects import S3Settings
from esper.urza import S3Blobs, SqlLibrary, State
from libraries import artifact_id, design, places

KILLS = int(os.environ.get("ESPER_KILLS", "4"))
DESIGNS = 10
WRITERS = 3
SERVE = "from esper.cli import main; main()"

# One of several writers of the same artifacts, in an order of its own; says what was acknowledged.
WRITE = """
import json, os, random, sys
from pathlib import Path
sys.path[:0] = json.loads(os.environ["SUPPORT"])
from esper.urza.client import RemoteLibrary, TransportSettings
from libraries import a_report, design, enter, validate, write_artifact
address, home, number, designs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
library = RemoteLibrary(address, os.environ["TOKEN"], TransportSettings(patience=120, connect=2, read=10))
order = list(range(1, designs + 1))
random.Random(number).shuffle(order)
with open(home / f"acknowledged-{number}", "a") as log:
    for factor in order:
        library.register_blueprint(f"mlp{factor}", design(factor), 0.1)
        identity = enter(library, f"mlp{factor}", design(factor))
        directory = write_artifact(home / f"work-{number}", identity, b"half of %d" % factor * 1000)
        for extra in ("validated.json",):
            (directory / "signatures" / extra).unlink(missing_ok=True)
        (directory / "report.json").unlink(missing_ok=True)
        library.built(identity, directory)
        library.begin_benchmark(identity)
        validate(directory, a_report())
        library.certify(identity, a_report(), directory)
        log.write(identity + "\\n")
        log.flush()
        os.fsync(log.fileno())
"""


class Place:
    """The service and its writers as processes."""

    def __init__(self, url: str, bucket: S3Settings, home: Path) -> None:
        self.home, self.port = home, parts.free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        support = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("support", "infra")]
        self.environment = os.environ | {
            "ESPER_URZA_DATABASE_URL": url,
            "ESPER_URZA_BLOBS": f"s3://{bucket.bucket}/{bucket.prefix}",
            "ESPER_URZA_S3_ENDPOINT": bucket.endpoint,
            "ESPER_URZA_S3_ACCESS_KEY": bucket.access_key,
            "ESPER_URZA_S3_SECRET_KEY": bucket.secret_key,
            "ESPER_URZA_ISSUER": services.ISSUER,
            "ESPER_URZA_JWKS_FILE": str(services.keys() / "jwks.json"),
            "ESPER_URZA_REQUESTS_PER_MINUTE": "1000000",
            "SUPPORT": json.dumps(support),
            "TOKEN": services.token(),
        }
        self.service: subprocess.Popen[bytes] | None = None
        self.writers: dict[int, subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        self.service = self._start("service", SERVE, "urza", "serve", "--port", str(self.port))

    def write(self, number: int) -> None:
        self.writers[number] = self._start(
            f"writer-{number}", WRITE, self.address, str(self.home), str(number), str(DESIGNS)
        )

    def ready(self, patience: float = 60) -> None:
        deadline = time.monotonic() + patience
        while True:
            assert self.service is not None
            assert self.service.poll() is None, self.log("service")
            try:
                if httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                assert time.monotonic() < deadline, self.log("service")
            time.sleep(0.05)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")[-4000:]

    def end(self) -> None:
        for process in (self.service, *self.writers.values()):
            if process is not None:
                process.kill()
                process.wait()

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", *command], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )


@contextmanager
def started(url: str, bucket: S3Settings, home: Path) -> Iterator[Place]:
    place = Place(url, bucket, home)
    try:
        place.serve()
        yield place
    finally:
        place.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_nothing_is_lost_dangling_or_doubled(tmp_path: Path) -> None:
    draw = random.Random(20)
    with places(own=True) as (url, bucket), started(url, bucket, tmp_path) as place:
        place.ready()
        for number in range(WRITERS):
            place.write(number)
        for _ in range(KILLS):
            # In the middle of answering, not of starting: writers must have come a little further.
            place.ready()
            time.sleep(draw.uniform(0.05, 1.0))
            assert place.service is not None
            place.service.kill()
            place.service.wait()
            place.serve()
            time.sleep(draw.uniform(0.05, 1.0))
            victim = draw.randrange(WRITERS)
            place.writers[victim].kill()
            place.writers[victim].wait()
            place.write(victim)
        place.ready()
        for number, writer in place.writers.items():
            assert writer.wait(300) == 0, place.log(f"writer-{number}")
        check(url, bucket, tmp_path)
        place.service.terminate()
        assert place.service.wait(30) == 0, "SIGTERM ends it in good order"
        assert '"event": "stopped"' in place.log("service")
        for secret in (bucket.secret_key, place.environment["TOKEN"]):
            assert secret not in (tmp_path / "service.log").read_text()


def check(url: str, bucket: S3Settings, home: Path) -> None:
    blobs = S3Blobs(bucket)
    library = SqlLibrary(url, blobs)
    wanted = {artifact_id(design(factor)) for factor in range(1, DESIGNS + 1)}
    acknowledged = {line for path in home.glob("acknowledged-*") for line in path.read_text().split()}
    assert acknowledged == wanted
    records = {record.artifact_id: record for record in library.records()}
    assert set(records) == wanted, "each once, and no other"
    named = set()
    for identity, record in records.items():
        assert record.state is State.VALIDATED
        assert [change.target for change in library.history(identity)] == [
            State.PENDING_BUILD, State.BUILT, State.PENDING_BENCHMARK, State.VALIDATED,
        ]  # fmt: skip
        assert len(library.reports(identity)) == 1
        assert library.fetch(identity, home / "fetched").is_dir()
        named |= {file.digest for file in library.files(identity)}
    library.sweep(0)
    assert {blob.digest for blob in blobs.list()} == named, "what died half-way left nothing, what is named is there"
    library.close()
    blobs.close()


def refused(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, "urza", *arguments], env=dict(environment), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_the_service_refuses_to_start_without_what_it_needs(tmp_path: Path) -> None:
    with places(own=True) as (url, bucket):
        good = Place(url, bucket, tmp_path).environment
        for change, says in (
            ({"ESPER_URZA_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/urza"}, "postgresql://127.0.0.1:1/urza"),
            ({"ESPER_URZA_DATABASE_URL": f"sqlite:///{tmp_path}/empty.sqlite"}, "esper urza migrate"),
            ({"ESPER_URZA_BLOBS": "s3://no-such-bucket/"}, "no such bucket"),
            ({"ESPER_URZA_ISSUER": ""}, "issuer must be set"),
            ({"ESPER_URZA_THREADS": "many"}, "threads"),
        ):
            code, said = refused(good | change, "serve", "--port", "0")
            assert code in (2, 3), said
            assert says in said
            assert "Traceback" not in said
            for secret in ("secret", bucket.secret_key):
                assert secret not in said.replace("SecretStr", "")
        code, _ = refused(good | {"ESPER_URZA_DATABASE_URL": f"sqlite:///{tmp_path}/new.sqlite"}, "migrate")
        assert code == 0
        assert (tmp_path / "new.sqlite").exists()
