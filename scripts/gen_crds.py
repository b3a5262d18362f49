#!/usr/bin/env python3
"""Generate crds/*.yaml, the chart's copy of them and docs/manifest.md from leyline.resources.

With --check, only say whether they are fresh.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from leyline.resources.crd import DEFINITIONS, definition
from leyline.resources.reference import manifest_reference

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT / "crds", ROOT / "charts" / "esper" / "files" / "crds")
"""For people and kubectl, and for the chart, which may not read outside of its folder."""
NOTE = "# Generated from leyline.resources by `make crds`; do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Safe dumper that never writes anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def outputs() -> dict[Path, str]:
    """Every generated file with its content."""
    files = {
        folder / f"{of.plural}.yaml": NOTE
        + yaml.dump(definition(of), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        for of in DEFINITIONS
        for folder in FOLDERS
    }
    files[ROOT / "docs" / "manifest.md"] = manifest_reference()
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text("utf-8") != text]
    for folder in FOLDERS:
        stale += [path for path in folder.glob("*.yaml") if path not in outputs()]
    for path in stale:
        name = path.relative_to(ROOT)
        if check:
            print(f"out of date: {name} (run: make crds)")
        elif path not in outputs():
            path.unlink()
            print(f"removed {name}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(outputs()[path], "utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
