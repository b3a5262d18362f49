"""What the contract tests of kernel libraries share: the adapters, a small design, and the way to each state."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

import real_postgres
import real_s3
import services
from esper.objects import S3Settings
from esper.urza import FieldReport, Library, RemoteLibrary, S3Blobs, SqlLibrary, State
from esper.urza.database import Database
from esper.urza.models import Base
from esper.urza.schema import HEAD, MIGRATIONS, upgrade
from leyline import canonical
from leyline.blueprint import BlueprintIR, node
from leyline.identity import ArtifactId
from leyline.interface import Interface, Layout

Opener = Callable[[Path], Library]


@contextlib.contextmanager
def on_sqlite(own: bool = False) -> Iterator[Opener]:
    """A SQLite file and a directory."""
    yield lambda tmp: SqlLibrary.open(tmp / "library")


@contextlib.contextmanager
def on_servers(own: bool = False) -> Iterator[Opener]:
    """PostgreSQL and S3."""
    with places(own) as (url, settings):
        yield lambda tmp: SqlLibrary(url, S3Blobs(settings))


@contextlib.contextmanager
def through_the_service(own: bool = False) -> Iterator[Opener]:
    """A client, a service on loopback, and PostgreSQL and S3 behind it."""
    with places(own) as (url, settings):
        library = SqlLibrary(url, S3Blobs(settings))
        with services.running(library) as address:
            yield lambda tmp: RemoteLibrary(address, services.token())
        library.close()


@contextlib.contextmanager
def places(own: bool = False) -> Iterator[tuple[str, S3Settings]]:
    """An empty database and an empty place in a bucket; with ``own`` nobody else's, which takes longer."""
    if own:
        with urza_database() as url, real_s3.bucket() as bucket:
            yield url, settings_of(bucket)
        return
    url, bucket = _process_places()
    _empty(url)
    yield url, settings_of(bucket, prefix=f"{secrets.token_hex(4)}/")


@functools.cache
def _process_places() -> tuple[str, real_s3.Bucket]:
    """One database and one bucket for the tests of this process, one after the other."""
    stack = contextlib.ExitStack()
    url, bucket = stack.enter_context(urza_database()), stack.enter_context(real_s3.bucket())
    atexit.register(stack.close)
    return url, bucket


def _empty(url: str) -> None:
    names = [table.name for table in Base.metadata.sorted_tables]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=False) as connection:
        for name in names:
            connection.execute(f'ALTER TABLE "{name}" DISABLE TRIGGER USER')
        connection.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")
        for name in names:
            connection.execute(f'ALTER TABLE "{name}" ENABLE TRIGGER USER')


@contextlib.contextmanager
def urza_database() -> Iterator[str]:
    """URL of a PostgreSQL database with the library's tables, empty."""
    written = b"".join(path.read_bytes() for path in sorted(MIGRATIONS.rglob("*.py")))
    name = f"urza_{HEAD}_{hashlib.sha256(written).hexdigest()[:12]}"
    with real_postgres.database(real_postgres.template(name, prepare)) as url:
        yield url


def prepare(url: str) -> None:
    """Bring an empty database to the newest schema."""
    database = Database(url)
    upgrade(database)
    database.close()


def settings_of(bucket: real_s3.Bucket, prefix: str = "urza/", **more: Any) -> S3Settings:
    return S3Settings(
        bucket.name, prefix, bucket.endpoint, bucket.region, bucket.access_key, bucket.secret_key, **more
    )  # fmt: skip


ADAPTERS: dict[str, Callable[..., contextlib.AbstractContextManager[Opener]]] = {
    "sqlite+directory": on_sqlite,
    "postgresql+s3": on_servers,
    "service+postgresql+s3": through_the_service,
}

VECTOR = Interface(Layout.VECTOR, 16)
OTHER = Interface(Layout.VECTOR, 32)
HARDWARE = "x86_64-avx2"
TOOLCHAIN = "0123456789abcdef"


def design(factor: int = 1) -> BlueprintIR:
    return BlueprintIR(
        {"x": node("input"), "up": node("linear", "x", out=f"{factor}w"), "down": node("linear", "up", out="w")},
        "down",
        (Layout.VECTOR,),
    )


def artifact_id(ir: BlueprintIR, interface: Interface = VECTOR, strategy: str = "fast", **other: str) -> str:
    hardware, toolchain = other.get("hardware", HARDWARE), other.get("toolchain", TOOLCHAIN)
    return str(ArtifactId.make(ir.digest(), interface, hardware, strategy, toolchain))


def write_artifact(root: Path, identity: str, content: bytes = b"forward half") -> Path:
    """The shape of an artifact directory; what is in it is not the library's business."""
    directory = root / identity
    (directory / "blobs").mkdir(parents=True, exist_ok=True)
    (directory / "signatures").mkdir(exist_ok=True)
    blob = hashlib.sha256(content).hexdigest()
    (directory / "blobs" / blob).write_bytes(content)
    (directory / "manifest.json").write_bytes(canonical.dumps({"id": identity, "blobs": [blob]}))
    (directory / "signatures" / "built.json").write_bytes(b'{"purpose":"built"}')
    return directory


def a_report(**values: Any) -> dict[str, Any]:
    return {"ratio": 0.8, "latency_ms_mean": 1.5, "memory_mb_peak": 3.0, "tags": ["high_speed"], "risk": 0.2} | values


def validate(directory: Path, report: Mapping[str, Any]) -> None:
    (directory / "signatures" / "validated.json").write_bytes(b'{"purpose":"validated"}')
    (directory / "report.json").write_bytes(canonical.dumps(dict(report)))


def enter(library: Library, name: str, ir: BlueprintIR, interface: Interface = VECTOR, strategy: str = "fast") -> str:
    identity = artifact_id(ir, interface, strategy)
    library.begin(identity, name, interface, strategy, HARDWARE, TOOLCHAIN)
    return identity


def bring_to(library: Library, tmp: Path, identity: str, state: State, **report: Any) -> Path:
    """Take an artifact from PENDING_BUILD to ``state`` by the way a worker would."""
    directory = write_artifact(tmp / "work", identity)
    if state is State.PENDING_BUILD:
        return directory
    library.built(identity, directory)
    if state is State.BUILT:
        return directory
    library.begin_benchmark(identity)
    if state is State.NOISY:
        library.noisy(identity, "restless machine")
    elif state is State.REJECTED:
        library.reject(identity, "wrong gradient")
    elif state in (State.VALIDATED, State.RETIRED):
        validate(directory, a_report(**report))
        library.certify(identity, a_report(**report), directory)
        if state is State.RETIRED:
            library.retire(identity, "raised at run time")
    return directory


def stock(library: SqlLibrary, tmp: Path) -> list[str]:
    """Some of everything a library holds; returns ids and digests that are in it."""
    library.register_blueprint("mlp", design(), 0.3)
    library.register_blueprint("mlp2", design(2), 0.3, parents=["mlp"])
    first, second = enter(library, "mlp", design()), enter(library, "mlp2", design(2))
    bring_to(library, tmp, first, State.VALIDATED)
    bring_to(library, tmp, second, State.BUILT)
    library.field_report(FieldReport("m", "run", "seed", "mlp", first, "CULLED"))
    library.lease("run", [first], 600)
    digests = [file.digest for file in library.files(first)]
    return [first, second, *digests[:2]]
