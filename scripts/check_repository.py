"""Rules about the tree itself that no other tool holds.

- ``operator/`` has no ``__init__.py``: it would shadow the standard library's ``operator``.
- Set-up files name no package registry: the user's own configuration decides where packages come from.
- Nothing loads pickles, and no exception is swallowed without a word.
- Links in the documentation lead to files that exist.
- Hand-written Python files stay under a size at which one still does one thing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
SETUP_FILES = re.compile(
    r"(\.lock|requirements[^/]*\.txt|pom\.xml|Makefile|Dockerfile[^/]*|\.sh|pip\.conf|\.npmrc)$|^\.ci/"
)
ADDRESS = re.compile(r"https?://(?!127\.0\.0\.1|localhost|\[::1\])[^\s\"')]+")
UNSAFE = re.compile(
    r"(?<!safetensors\.)torch\.load\(|pickle\.loads?\(|weights_only=False|yaml\.load\(|yaml\.unsafe_load"
)
SWALLOWED = re.compile(r"except[^\n]*:\s*\n\s+pass\b")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def tracked() -> list[Path]:
    """Files git knows or would add."""
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [Path(line) for line in out.stdout.splitlines() if (ROOT / line).is_file()]


def problems() -> list[str]:
    """One line for each rule that is broken."""
    found = []
    if (ROOT / "operator" / "__init__.py").exists():
        found.append("operator/__init__.py shadows the standard library's operator; delete it")
    for path in tracked():
        name = path.as_posix()
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if SETUP_FILES.search(name):
            found += [f"{name}: names an address: {match}" for match in ADDRESS.findall(text)]
        if name.endswith(".py"):
            if not name.startswith(("tests/", "scripts/")):
                found += [f"{name}: unsafe loading: {match}" for match in UNSAFE.findall(text)]
            if SWALLOWED.search(text):
                found.append(f"{name}: an exception is swallowed without a word")
            lines = text.count("\n")
            if lines > MAX_LINES and "_pb2" not in name:
                found.append(f"{name}: {lines} lines; split it (at most {MAX_LINES})")
        if name.endswith(".md"):
            for target in LINK.findall(text):
                if not (ROOT / path.parent / target).exists():
                    found.append(f"{name}: link to {target}, which does not exist")
        if str(ROOT) + "/" in text:
            found.append(f"{name}: holds a path of this machine")
    return found


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    found = problems()
    for line in found:
        print(line)
    print(f"{'ok' if not found else 'broken'}: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
