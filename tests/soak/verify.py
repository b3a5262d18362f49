"""What must be true when the harm is over: nothing lost, nothing twice, nothing dangling."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psycopg

import real_s3
from esper.kernel import load_kernel
from esper.urza import State
from esper.weatherlight.keys import load_public_keys
from stack import Stack


def artifacts(stack: Stack, asked: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """Verdicts of what was asked for, and what is wrong with it."""
    problems: list[str] = []
    found: Counter[str] = Counter()
    keys = load_public_keys(stack.public_keys)
    library = stack.library()
    with tempfile.TemporaryDirectory(prefix="esper-soak-") as folder:
        for artifact in asked:
            record = library.record(artifact)
            found[record.state.value] += 1
            certified = [each for each in library.history(artifact) if each.target is State.VALIDATED]
            if len(certified) > 1:
                problems.append(f"{artifact}: certified {len(certified)} times")
            if record.state is State.VALIDATED:
                load_kernel(library.fetch(artifact, Path(folder)), keys)  # every byte and both signatures
            elif record.state is State.REJECTED:
                problems.append(f"{artifact}: rejected: {record.cause}")
    library.close()
    return found, problems


def field_reports(stack: Stack, finished: Mapping[str, Sequence[str]]) -> list[str]:
    """What the library does not know, or knows twice, of the seeds of finished runs; ``finished``: their seeds' ids."""
    library = stack.library()
    problems: list[str] = []
    for run, seeds in finished.items():
        told = Counter(report.seed for report in library.field_reports(run))
        problems += [f"{run}: no field report of {seed}" for seed in seeds if not told[seed]]
        problems += [f"{run}: {count} field reports of {seed}" for seed, count in told.items() if count > 1]
    library.close()
    return problems


def rows(stack: Stack) -> list[str]:
    """What in the database does not agree with itself or with the bucket."""
    facts = stack.facts()
    url = facts["postgres"]["url"].replace("+psycopg", "").rsplit("/", 1)[0] + "/esper"
    with psycopg.connect(url) as connection:
        wanted = {row[0] for row in connection.execute("SELECT DISTINCT digest FROM artifact_files")}
    bucket = stack.bucket()
    store = real_s3.client(bucket)
    there = {
        item["Key"].rsplit("/", 1)[-1]
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        for item in page.get("Contents", ())
    }
    store.close()
    return [f"file row without its blob: {digest}" for digest in sorted(wanted - there)]
