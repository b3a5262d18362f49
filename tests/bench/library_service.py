"""The library over REST: 100,000 artifacts and 300,000 tags on PostgreSQL, blobs in S3, 8 clients at once.

The service is a process of its own, and so is each client. In the first part each client asks ten times a second, with
the gaps drawn at random; in the second it asks again as soon as it is answered, which shows how much the service can
answer. Every time runs from the call to the records in the client's hands. Then an artifact is fetched, verified and
loaded as a kernel, again and again into new directories.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from tests.bench.analysis import bootstrap, median, percentile
from tests.bench.common import ROOT
from tests.bench.report import BELOW, Report, bounded, reported

sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "infra")]

CLIENTS = 8
PER_SECOND = 10.0
P50_MS, P99_MS, FETCH_MS = 5.0, 50.0, 10.0
HARDWARE, TOOLCHAIN = "x86_64-avx2", "01234567"
TAGS = ("high_speed", "low_memory", "numerically_stable", "low_power", "high_throughput", "low_latency")
BODY = {"ratio": 0.9, "latency_ms_mean": 1.0, "samples": list(range(100)), "environment": {"cpu": "x" * 200}}
OF_EACH = 200
QUESTIONS = ("a slot's portfolio", "every kernel of an interface")

# A client: asks at random moments or without a pause, and writes down how long each answer took.
CLIENT = """
import json, os, random, sys, time
from esper.urza.client import RemoteLibrary
from esper.urza.library import KernelQuery
from leyline.interface import Interface, Layout
address, kind, interfaces, seconds, rate, seed = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:7])
draw = random.Random(int(seed))
library = RemoteLibrary(address, os.environ["TOKEN"])
def question():
    interface = Interface(Layout.VECTOR, 16 + draw.randrange(int(interfaces)))
    if kind == "every kernel of an interface":
        return KernelQuery(interface, "x86_64-avx2", toolchain="01234567")
    names = [f"b{number}" for number in draw.sample(range(50), 4)]
    return KernelQuery(
        interface, "x86_64-avx2", max_risk=0.6, strategies=("fast",), toolchain="01234567", blueprints=names
    )
library.query(question())
print("ready", flush=True)
sys.stdin.readline()
times, found, end = [], 0, time.perf_counter() + seconds
while True:
    if rate:
        time.sleep(draw.expovariate(rate))
    if time.perf_counter() > end:
        break
    asked = question()
    began = time.perf_counter()
    found += len(library.query(asked))
    times.append((time.perf_counter() - began) * 1e3)
print(json.dumps({"times": times, "found": found}))
"""


def fill(url: str, artifacts: int, digests: Sequence[str]) -> int:
    """Copy rows straight into the tables; returns how many interfaces there are."""
    from leyline.interface import Interface, Layout

    draw = random.Random(0)
    interfaces = [Interface(Layout.VECTOR, 16 + number).digest() for number in range(artifacts // OF_EACH)]
    names = [f"{number:016x}-{HARDWARE}-fast-{TOOLCHAIN}" for number in range(artifacts)]
    tags = [sorted(draw.sample(TAGS, 3)) for _ in names]
    body = json.dumps(BODY, separators=(",", ":"))
    tables: dict[str, Iterator[tuple[Any, ...]]] = {
        "artifacts": (
            (
                name, f"{number:016x}", digests[number // len(interfaces) % len(digests)],
                interfaces[number % len(interfaces)], "{}", "fast", HARDWARE, TOOLCHAIN,
                "Validated" if draw.random() < 0.75 else "Rejected", "", 1, 1, 0.9, 1.0, 1.0, draw.random(),
                number + 1, 0, 0, " ".join(tags[number]),
            )
            for number, name in enumerate(names)
        ),
        "reports": ((number + 1, name, "Validated", "0" * 64, body, 0) for number, name in enumerate(names)),
        "artifact_tags": ((name, tag) for name, carried in zip(names, tags, strict=True) for tag in carried),
    }  # fmt: skip
    with psycopg.connect(url.replace("+psycopg", "")) as connection, connection.cursor() as cursor:
        for table, rows in tables.items():
            with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SELECT setval(pg_get_serial_sequence('reports', 'id'), %s)", (artifacts,))
        connection.execute("VACUUM ANALYZE")
    return len(interfaces)


@contextlib.contextmanager
def served(url: str, bucket: Any) -> Iterator[tuple[str, str]]:
    """The service in a process; its address and a token."""
    import httpx

    import parts
    import services

    port = parts.free_port()
    environment = os.environ | {
        "ESPER_URZA_DATABASE_URL": url, "ESPER_URZA_BLOBS": f"s3://{bucket.bucket}/{bucket.prefix}",
        "ESPER_URZA_S3_ENDPOINT": bucket.endpoint, "ESPER_URZA_S3_ACCESS_KEY": bucket.access_key,
        "ESPER_URZA_S3_SECRET_KEY": bucket.secret_key, "ESPER_URZA_ISSUER": services.ISSUER,
        "ESPER_URZA_JWKS_FILE": str(services.keys() / "jwks.json"), "ESPER_URZA_REQUESTS_PER_MINUTE": "10000000",
    }  # fmt: skip
    command = [sys.executable, "-c", "from esper.cli import main; main()", "urza", "serve", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                        break
                if time.monotonic() > deadline or process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"the service did not start: {io.TextIOWrapper(log).read()[-2000:]}")
                time.sleep(0.1)
            yield address, services.token()
        finally:
            process.terminate()
            process.wait(30)


def ask(address: str, token: str, kind: str, interfaces: int, seconds: float, rate: float) -> dict[str, Any]:
    """Let every client ask for so long; all their times, and how many kernels were found a question."""
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, address, kind, str(interfaces), str(seconds), str(rate), str(seed)],
            env=os.environ | {"TOKEN": token}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for seed in range(CLIENTS)
    ]  # fmt: skip
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n", "a client could not ask"
    began = time.perf_counter()
    answers = [json.loads(client.communicate("go\n")[0]) for client in _all_started(clients)]
    lasted = time.perf_counter() - began
    times = [value for answer in answers for value in answer["times"]]
    found = sum(answer["found"] for answer in answers) / max(1, len(times))
    return {"times": times, "found": found, "per_second": len(times) / lasted}


def _all_started(clients: Sequence[subprocess.Popen[str]]) -> Sequence[subprocess.Popen[str]]:
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    return clients


def fetch_and_load(address: str, token: str, home: Path, repeats: int) -> dict[str, list[float]]:
    """Times from asking for an artifact to the kernel, by how it was built, in milliseconds."""
    import artifacts
    from esper.karn.catalogue import CATALOGUE
    from esper.kernel import load_kernel
    from esper.kernel.hardware import toolchain_hash
    from esper.urza import RemoteLibrary

    library = RemoteLibrary(address, token)
    certified = artifacts.certified(home / "built")
    library.register_blueprint("bottleneck", CATALOGUE["bottleneck"].ir, 0.1)
    library.begin(certified.id, "bottleneck", artifacts.VECTOR, "fast", certified.manifest.hardware, toolchain_hash())
    library.built(certified.id, certified.path)
    library.begin_benchmark(certified.id)
    library.certify(certified.id, artifacts.REPORT, certified.path)
    times: dict[str, list[float]] = {"fetched": [], "fetched, verified and loaded": []}
    for number in range(repeats + 5):
        began = time.perf_counter()
        path = library.fetch(certified.id, home / f"into-{number}")
        fetched = time.perf_counter()
        load_kernel(path, artifacts.KEYS)
        done = time.perf_counter()
        if number >= 5:
            times["fetched"].append((fetched - began) * 1e3)
            times["fetched, verified and loaded"].append((done - began) * 1e3)
    library.close()
    return times


def run(quick: bool = False) -> Report:
    """Fill, serve, ask, fetch."""
    import libraries
    from esper.urza import S3Blobs, SqlLibrary
    from leyline.blueprint import BlueprintIR, node
    from leyline.interface import Layout

    artifacts, seconds, repeats = (20_000, 4.0, 20) if quick else (100_000, 20.0, 100)
    report = Report()
    with libraries.places(own=True) as (url, bucket), tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        library = SqlLibrary(url, S3Blobs(bucket))
        digests = [
            library.register_blueprint(
                f"b{number}",
                BlueprintIR(
                    {"x": node("input"), "up": node("linear", "x", out=f"{number + 1}w"),
                     "y": node("linear", "up", out="w")}, "y", (Layout.VECTOR,),
                ), 0.2,
            )
            for number in range(50)
        ]  # fmt: skip
        library.close()
        interfaces = fill(url, artifacts, digests)
        print(f"filled with {artifacts:,} artifacts", flush=True)
        with served(url, bucket) as (address, token):
            for kind in QUESTIONS:
                _queries(report, address, token, kind, interfaces, seconds, artifacts)
            loaded = fetch_and_load(address, token, Path(folder), repeats)
    for name, times in loaded.items():
        what = f"artifact {name} through the service, median"
        note = "a fast (eager) kernel of four small files, which come inside one answer; the service has them in memory"
        report.rows.append(bounded(what, f"<= {FETCH_MS:g} ms", median(times), "ms", BELOW, FETCH_MS, note))
        report.details[name] = times
    return report


def _queries(
    report: Report, address: str, token: str, kind: str, interfaces: int, seconds: float, artifacts: int
) -> None:
    paced = ask(address, token, kind, interfaces, seconds, PER_SECOND)
    full = ask(address, token, kind, interfaces, seconds / 2, 0.0)
    load = f"{CLIENTS} clients, {PER_SECOND:g} questions a second each"
    what = f"query over REST for {kind} ({artifacts:,} artifacts, 3 tags each, PostgreSQL)"
    note = f"{load}; {paced['found']:.1f} kernels with their reports a question; clients and servers share the machine"
    times = paced["times"]
    report.rows.append(bounded(f"{what}, median", f"<= {P50_MS:g} ms", median(times), "ms", BELOW, P50_MS, note))
    for share, bound in ((0.95, None), (0.99, P99_MS)):
        if percentile(times, share) is None:
            continue
        late = bootstrap(times, lambda values, share=share: float(percentile(values.tolist(), share) or 0.0))
        name = f"{what}, {share * 100:g}th percentile"
        if bound is None:
            report.rows.append(reported(name, late, "ms", note))
        else:
            report.rows.append(bounded(name, f"<= {bound:g} ms", late, "ms", BELOW, bound, note))
    busy = f"{CLIENTS} clients that ask again at once: {full['per_second']:.0f} answers a second"
    report.rows.append(reported(f"{what}, median when saturated", median(full["times"]), "ms", busy))
    report.details[kind] = {"paced": paced, "saturated": full}
