#!/usr/bin/env python3
"""Generate the protobuf code from contracts/proto. With --check, only say whether it is up to date (exit code 1)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "contracts" / "proto"
TARGET = ROOT / "contracts" / "leyline" / "v1"


def generate(into: Path) -> None:
    """Run protoc on every source; files land under ``into/leyline/v1``."""
    sources = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    arguments = ["protoc", f"-I{SOURCES}", f"--python_out={into}", f"--pyi_out={into}", *sources]
    if protoc.main(arguments) != 0:
        sys.exit("protoc refused the sources; see above")


def outdated(fresh: Path) -> list[str]:
    """Names of generated files that differ from the committed ones, are missing, or have no source any more."""
    wanted = {path.name: path.read_bytes() for path in fresh.iterdir()}
    present = {path.name: path.read_bytes() for path in TARGET.glob("*_pb2.py*")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        fresh = Path(directory) / "leyline" / "v1"
        stale = outdated(fresh)
        if check:
            for name in stale:
                print(f"out of date: contracts/leyline/v1/{name} (run: make proto)")
            return 1 if stale else 0
        for name in stale:
            source = fresh / name
            if source.exists():
                (TARGET / name).write_bytes(source.read_bytes())
            else:
                (TARGET / name).unlink()
            print(f"wrote contracts/leyline/v1/{name}" if source.exists() else f"removed contracts/leyline/v1/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
