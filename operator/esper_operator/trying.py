"""``esper-operator-try MANIFEST NAMESPACE``: does an installation train? Makes a run, waits for its end, says why not.

What ``helm test`` runs. The run is deleted when it ended well, and left for ``kubectl esper why`` when it did not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from esper_operator.cluster.reading import NotAllowed, NotThere, Reader, Unreachable
from esper_operator.kubectl.found import Found
from esper_operator.kubectl.reasons import why

DONE, BAD_INPUT, FAILED = 0, 2, 3
LOOK_SECONDS = 2.0
SECONDS = "ESPER_TRY_SECONDS"
"""Variable with how long the run may take."""


def attempt(
    reader: Reader, namespace: str, manifest: dict[str, Any], seconds: float, tell: Callable[[str], object]
) -> bool:
    """Whether a run of this manifest succeeded within ``seconds``; ``tell`` hears of every change.

    Raises:
        NotAllowed, Unreachable: the cluster refuses the run, or does not answer.
    """
    name = reader.create(namespace, manifest)
    tell(f"made training run {namespace}/{name}")
    deadline = time.monotonic() + seconds
    before = ""
    while True:
        found = Found(reader.run(namespace, name))
        said = why(found).headline
        if said != before:
            tell(said)
            before = said
        if found.phase == "Succeeded":
            reader.delete(namespace, name)
            return True
        if found.ended() or time.monotonic() > deadline:
            for who, words in why(found).findings:
                tell(f"  {who}: {words}")
            tell(f"{'it failed' if found.ended() else f'not within {seconds:g} s'}; it is left for you: "
                 f"kubectl esper why {name} -n {namespace}")  # fmt: skip
            return False
        time.sleep(LOOK_SECONDS)


def main() -> None:
    """Run once. Exit codes: 0 it trains, 2 the arguments are wrong, 3 it does not train, or nobody can tell."""
    try:
        file, namespace = sys.argv[1:]
        manifest = yaml.safe_load(Path(file).read_text("utf-8"))
        seconds = float(os.environ.get(SECONDS, "600"))
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"esper-operator-try MANIFEST NAMESPACE: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    try:
        reader = Reader()
        try:
            done = attempt(reader, namespace, manifest, seconds, lambda words: print(words, flush=True))
        finally:
            reader.close()
    except (NotAllowed, NotThere, Unreachable) as error:
        print(f"esper-operator-try: {error}", file=sys.stderr)
        sys.exit(FAILED)
    sys.exit(DONE if done else FAILED)


if __name__ == "__main__":
    main()
