"""Training runs one after the other, each killed now and then and started again as a Job would, until it is done.

They have the same manifest but for their names, so all of them must end with the bits of the last one, which nothing
disturbs.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import yaml
from tests.soak.part import Part

from stack import ROOT, Stack

ESPER = Path(sys.executable).with_name("esper")
EXAMPLE = ROOT / "docs" / "examples" / "mnist1d.yaml"
LAST_SECONDS = 300.0
"""How long the run that is going on when the harm ends may take to finish."""
CONNECTED = b'"event": "connected"'
"""What a training process logs once it has found everything it needs."""
TRIES = 40
"""Starts of one run after which it counts as stuck."""


class Runs(Part):
    """Trains.

    Attributes:
        finished: the ids of the seeds of each finished run whose story is over.
        kills: how often a training process was killed.
        refused: how often one did not begin because something it needs was away; one that trains never ends for that.
    """

    def __init__(self, stack: Stack, folder: Path, *, seed: int, gap: float) -> None:
        super().__init__("runs")
        self._stack, self._folder, self._gap = stack, folder, gap
        self._draw = random.Random(f"runs {seed}")
        self.finished: dict[str, list[str]] = {}
        self.kills = self.refused = 0
        self._bits: dict[str, str] = {}

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            self._train(f"soak-{number}")
            number += 1
        self._train("soak-undisturbed")
        if len(set(self._bits.values())) > 1:
            self.problems.append(f"runs of one manifest ended with different bits: {self._bits}")

    def _train(self, name: str) -> None:
        out, manifest = self._folder / name, self._folder / f"{name}.yaml"
        document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        document["metadata"]["name"] = name
        document["spec"]["training"]["epochs"] = 12
        document["spec"]["kernels"]["strategies"] = ["Fast"]
        document["spec"]["controller"]["policy"] = "Always"
        manifest.write_text(yaml.safe_dump(document), encoding="utf-8")
        command = [ESPER, "train", "-m", manifest, "-o", out, "-c", self._stack.settings("trainer")]
        with open(self._folder / f"{name}.log", "ab") as log:
            for _ in range(TRIES):
                began = log.tell()
                process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
                code = self._watch(process)
                if code == 0:
                    return self._look(name, out)
                if code == 2:
                    self.problems.append(f"{name}: ended with 2: {self._words(name)}")
                    return None
                if code > 0 and CONNECTED in self._said(name, began):
                    self.problems.append(f"{name}: stopped training with {code}: {self._words(name)}")
                self.refused += code > 0
                time.sleep(1.0)
        self.problems.append(f"{name}: not done after {TRIES} starts: {self._words(name)}")
        return None

    def _watch(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the end, which may be by our hand."""
        due = time.monotonic() + self._draw.expovariate(1 / self._gap)
        end = None
        while process.poll() is None:
            now = time.monotonic()
            if self._stop.is_set():
                end = end or now + LAST_SECONDS
                if now > end:
                    process.kill()
                    self.problems.append(f"a run did not end within {LAST_SECONDS:g} s after the harm")
            elif now > due:
                process.kill()
                self.kills += 1
                process.wait()
                return -9
            time.sleep(0.1)
        return process.returncode

    def _look(self, name: str, out: Path) -> None:
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        if summary["phase"] != "Completed":
            self.problems.append(f"{name}: ended as {summary['phase']}: {summary['reason']}")
            return
        tensors = b"".join(path.read_bytes() for path in sorted((out / "model").glob("*.safetensors")))
        self._bits[name] = hashlib.sha256(tensors).hexdigest()[:16]
        self.finished[name] = [seed["id"] for seed in summary["seeds"] if seed["stage"] in ("FOSSILIZED", "CULLED")]

    def _words(self, name: str) -> str:
        return self._said(name)[-500:].decode(errors="replace")

    def _said(self, name: str, since: int = 0) -> bytes:
        return (self._folder / f"{name}.log").read_bytes()[since:]
