"""Checkpoints below a prefix of an S3 bucket, written so that any machine can go on with the run.

    commits/<number>.json          what there is: checkpoints, logs, owner; written last, and only as a new object
    blobs/<generation>/<sha256>    parts of checkpoint files and of logs, under their content
    output/<name>                  what the run leaves: manifest, summary, report, model

A commit is the object of its number. Putting it is one conditional request ("only if there is none"), so it is there
whole or not at all, and of two trainers only one can write it: that is the fence. Claiming a run is such a commit too,
with a new owner; its number is the owner's generation. A trainer that finds its next number taken, or a later one,
has lost the run. Objects of a generation are removed only by a trainer of that generation or a later one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import CheckpointMismatch, RunTaken
from esper.objects import ObjectMissing, ObjectStoreUnavailable
from esper.output.files import disk_errors, write_atomic
from esper.tolaria.store.journal import JOURNAL, Journal
from esper.tolaria.store.port import FORMAT, Checkpoint, Commit, unpack
from leyline.canonical import digest

if TYPE_CHECKING:
    from esper.objects import ObjectStore

_LOG = logging.getLogger(__name__)

PART = 64 << 20
"""Bytes of a file in one object: what is sent again when the store goes away, and far below any store's limit."""
CHUNK = 256 << 10
"""Bytes of a log in one object; a commit sends the last one anew until it is full."""
CLAIMS = 16
"""Attempts to claim a run that others claim at the same moment."""


class BucketStore:
    """A ``CheckpointStore`` in a bucket; the journal and the logs are mirrored from the output directory.

    Args:
        objects: the run's own prefix.
        out: the output directory on this machine.
        keep: how many of the newest checkpoints to keep.

    Raises:
        ObjectStoreUnavailable: from every method; trying again helps when the store is back.
    """

    def __init__(self, objects: ObjectStore, out: Path, keep: int = 3) -> None:
        self._objects, self._out, self.keep = objects, out, max(1, keep)
        self.place = objects.place
        self.journal = Journal(out / JOURNAL)
        self._owner = secrets.token_hex(16)
        self._generation = 0
        self._bodies: dict[int, dict[str, Any]] = {}
        """The last two commit objects, by number: what may not be removed."""
        self._stored: set[str] = set()
        self._garbage: set[str] = set()
        self._problems: list[str] = []

    def holds_run(self) -> bool:
        """See ``CheckpointStore``."""
        return bool(self._numbers())

    def claim(self) -> None:
        """See ``CheckpointStore``."""
        self._objects.probe()
        for _ in range(CLAIMS):
            numbers = self._numbers()
            before, body = self._newest_body(numbers)
            number = max(numbers, default=0) + 1
            claim = {**body, "number": number, "generation": number, "owner": self._owner}
            if not self._put_body(claim):
                continue  # somebody else claims it now: look again
            self._generation = number
            self._bodies = {before: body, number: claim} if body["checkpoints"] else {number: claim}
            self._sweep([known for known in numbers if known != before])
            return
        raise RunTaken(f"{self.place}: other trainers claim this run again and again; stop all but one")

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """See ``CheckpointStore``."""
        body, problems = self._bodies[max(self._bodies)], list(self._problems)
        entries = list(body["checkpoints"])
        while entries:
            index = entries[-1]
            try:
                found = unpack(self.place + index["name"], index["name"], index, lambda key: self._read(index, key))  # noqa: B023
            except CheckpointMismatch as error:
                problems.append(str(error))
                entries.pop()
                continue
            self._go_back(body, entries)
            return found, problems
        return None, problems

    def commit(self, commit: Commit) -> None:
        """See ``CheckpointStore``."""
        if not self._generation:
            self.claim()
        last = self._bodies[max(self._bodies)]
        number = last["number"] + 1
        logs = {**commit.logs, JOURNAL: self.journal.put(commit.entry)}
        index = commit.index() | {"name": commit.name, "logs": logs}
        for name, data in commit.files.items():
            index["files"][name]["parts"] = [self._put(data[at : at + PART]) for at in range(0, len(data), PART)]
        kept = [entry for entry in last["checkpoints"] if entry["name"] != commit.name]
        body = {
            **last,
            "number": number,
            "checkpoints": [*kept, index][-self.keep :],
            "logs": {name: self._mirror(name, last["logs"].get(name, []), length) for name, length in logs.items()},
        }
        self._check_owner(number)
        if not self._put_body(body) and self._body(number) != body:
            raise self._taken()
        self._check_owner(number + 1)
        self._bodies[number] = body
        self._retire()

    def leave(self, name: str, path: Path) -> None:
        """See ``CheckpointStore``."""
        self._check_owner(max(self._bodies) + 1)
        with disk_errors(path, "reading"), open(path, "rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        self._objects.put(f"output/{name}", known, path)

    def close(self) -> None:
        """See ``CheckpointStore``."""
        self._objects.close()

    # -- commit objects ------------------------------------------------------------------------------------------------

    def _numbers(self) -> list[int]:
        found = []
        for item in self._objects.list("commits/"):
            stem = item.key.removeprefix("commits/").removesuffix(".json")
            if stem.isdecimal():
                found.append(int(stem))
        return sorted(found)

    def _put_body(self, body: Mapping[str, Any]) -> bool:
        """Write a commit object; false when there is one of this number."""
        data = json.dumps({"digest": digest(body), "body": body}, sort_keys=True).encode()
        return self._objects.put(_commit(body["number"]), hashlib.sha256(data).hexdigest(), data, only_new=True)

    def _body(self, number: int) -> dict[str, Any]:
        """A commit object, verified; raises ``CheckpointMismatch``."""
        key = _commit(number)
        try:
            found = json.loads(self._objects.get(key))
            body: dict[str, Any] = found["body"]
            if found["digest"] != digest(body) or body["number"] != number:
                raise CheckpointMismatch(f"{self.place}{key} does not have the digest that was recorded")
            if body["format"] != FORMAT:
                raise CheckpointMismatch(f"{self.place}{key} has format {body['format']}; this version reads {FORMAT}")
        except (ObjectMissing, KeyError, TypeError, ValueError) as error:
            raise CheckpointMismatch(f"{self.place}{key} is damaged ({type(error).__name__}: {error})") from error
        return body

    def _newest_body(self, numbers: list[int]) -> tuple[int, dict[str, Any]]:
        """The newest commit that verifies with its logs, which are brought into the output directory."""
        self._problems = []
        for number in reversed(numbers):
            try:
                body = self._body(number)
                for name, chunks in body["logs"].items():
                    write_atomic(self._out / name, b"".join(self._verified(chunk) for chunk in chunks))
            except CheckpointMismatch as error:
                self._problems.append(str(error))
                continue
            self.journal = Journal(self._out / JOURNAL)
            return number, body
        if self._problems:
            raise CheckpointMismatch(
                f"{self.place}: nothing of the run can be used; start anew under another prefix:\n  "
                + "\n  ".join(self._problems)
            )
        return 0, {"format": FORMAT, "checkpoints": [], "logs": {}}

    def _check_owner(self, number: int) -> None:
        """Refuse to go on when somebody has written a commit of this number or a later one."""
        later = [known for known in self._numbers() if known >= number]
        if later and not (later == [number] and self._body(number)["owner"] == self._owner):
            raise self._taken()

    def _taken(self) -> RunTaken:
        return RunTaken(
            f"{self.place}: another trainer owns this run; what this one did since is not part of it. Stop one of them"
        )

    def _go_back(self, body: dict[str, Any], entries: list[dict[str, Any]]) -> None:
        """Forget, on this machine, what was committed after the last of these checkpoints; the next commit follows."""
        logs: dict[str, list[dict[str, Any]]] = {}
        for name, chunks in body["logs"].items():
            logs[name], length = [], entries[-1]["logs"][name]
            for chunk in chunks:
                length -= chunk["size"]
                if length < 0:
                    break
                logs[name].append(chunk)
        self._bodies[body["number"]] = {**body, "checkpoints": entries, "logs": logs}
        self.journal.truncate_after(entries[-1]["commit"])

    # -- what they name ------------------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> str:
        """Store bytes under their content, if this trainer has not already; returns the key."""
        known = hashlib.sha256(data).hexdigest()
        key = f"blobs/{self._generation:012d}/{known}"
        if key not in self._stored:
            self._objects.put(key, known, data)
            self._stored.add(key)
            self._garbage.discard(key)
        return key

    def _mirror(self, name: str, chunks: list[dict[str, Any]], length: int) -> list[dict[str, Any]]:
        """The chunks of a log up to ``length`` bytes; what is not stored yet is read from the output directory."""
        kept = chunks[:-1] if chunks and chunks[-1]["size"] < CHUNK else list(chunks)
        begin = sum(chunk["size"] for chunk in kept)
        if begin == length:
            return kept
        path = self._out / name
        with disk_errors(path, "reading"), open(path, "rb") as file:
            file.seek(begin)
            data = file.read(length - begin)
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            kept.append({"key": self._put(piece), "size": len(piece)})
        return kept

    def _read(self, index: Mapping[str, Any], name: str) -> bytes:
        return b"".join(self._verified({"key": key}) for key in index["files"][name]["parts"])

    def _verified(self, chunk: Mapping[str, Any]) -> bytes:
        key = str(chunk["key"])
        try:
            data = self._objects.get(key)
        except ObjectMissing as error:
            raise CheckpointMismatch(str(error)) from error
        if hashlib.sha256(data).hexdigest() != key.rpartition("/")[2]:
            raise CheckpointMismatch(f"{self.place}{key}: {len(data)} bytes do not have the digest they are named by")
        return data

    # -- what nobody needs any more ------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """Keep the last two commits; what only older ones name goes, now or when the store lets it."""
        for old in sorted(self._bodies)[:-2]:
            self._garbage |= {_commit(old), *_named(self._bodies.pop(old))}
        self._garbage -= {key for body in self._bodies.values() for key in _named(body)}
        try:
            for key in sorted(self._garbage, reverse=True):  # commits before the blobs they name
                self._objects.delete(key)
                self._garbage.discard(key)
                self._stored.discard(key)
        except ObjectStoreUnavailable as error:
            _LOG.warning("%s; %d objects stay for the next attempt", error, len(self._garbage))

    def _sweep(self, numbers: list[int]) -> None:
        """Remove what trainers before this one have left behind, whole or half."""
        self._garbage = {_commit(number) for number in numbers}
        for item in self._objects.list("blobs/"):
            generation = item.key.split("/")[1]
            if generation.isdecimal() and int(generation) < self._generation:
                self._garbage.add(item.key)
        self._retire()


def _commit(number: int) -> str:
    return f"commits/{number:012d}.json"


def _named(body: Mapping[str, Any]) -> Iterator[str]:
    """The keys a commit relies on."""
    for index in body["checkpoints"]:
        for file in index["files"].values():
            yield from file["parts"]
    for chunks in body["logs"].values():
        for chunk in chunks:
            yield chunk["key"]
