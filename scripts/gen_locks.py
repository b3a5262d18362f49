#!/usr/bin/env python3
"""Cut the images' lock files out of requirements.lock: only what each image runs, the same versions and hashes.

    operator/requirements.lock    operator, library, broker's client; no PyTorch
    workers/requirements.lock     training and pools, without PyTorch
    workers/torch.lock            PyTorch and what only it needs, the build for CUDA

Which packages need which is read from the environment that requirements.lock made. With --check, only say whether they
are fresh.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
NOTE = "# Cut out of requirements.lock by `make locks`; do not edit.\n"
OWN = "esper-train"
# What of the distribution's own requirements runs without PyTorch: the contracts, the library, the command line.
WITHOUT_TORCH = (
    "protobuf", "pydantic", "cryptography", "pyyaml", "sqlalchemy", "alembic", "msgspec", "typer", "rich", "psutil"
)  # fmt: skip
BUILD = ("hatchling",)


def project() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Requirements of the distribution, and of each extra."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: [Requirement(each) for each in of] for name, of in told["optional-dependencies"].items()}
    return [Requirement(each) for each in told["dependencies"]], extras


def expanded(wanted: Iterable[Requirement], extras: Mapping[str, list[Requirement]]) -> list[Requirement]:
    """Requirements with the distribution's own extras replaced by what they need."""
    found: list[Requirement] = []
    for each in wanted:
        if canonicalize_name(each.name) == OWN:
            for extra in sorted(each.extras):
                found += expanded(extras[extra], extras)
        else:
            found.append(each)
    return found


def closure(wanted: Iterable[Requirement], without: Iterable[str] = ()) -> set[str]:
    """Names of all that these need, directly or not; ``without`` are neither counted nor looked into."""
    seen: set[tuple[str, str]] = set()
    skipped, names = set(without), set()
    waiting = [(each, "") for each in wanted]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in skipped:
            continue
        names.add(name)
        for wanted_extra in ("", *sorted(requirement.extras)):
            if (name, wanted_extra) in seen:
                continue
            seen.add((name, wanted_extra))
            try:
                needs = requires(name) or []
            except PackageNotFoundError as error:
                raise SystemExit(f"{name}: not installed; run `make setup` first") from error
            waiting += [(Requirement(each), wanted_extra) for each in needs]
    return names


def blocks() -> dict[str, str]:
    """The lines of each package in requirements.lock."""
    found = {}
    for block in re.split(r"\n(?=\S)", LOCK.read_text("utf-8").rstrip("\n")):
        name = re.match(r"[A-Za-z0-9._-]+", block)
        if name is not None:
            found[canonicalize_name(name[0])] = block
    return found


def outputs() -> dict[Path, str]:
    """Every lock file with its content."""
    own, extras = project()
    light = [each for each in own if canonicalize_name(each.name) in WITHOUT_TORCH]
    if len(light) != len(WITHOUT_TORCH):
        raise SystemExit(f"pyproject.toml no longer requires all of {', '.join(WITHOUT_TORCH)}")
    build = [Requirement(each) for each in BUILD]
    service = expanded([*extras["operator"], *extras["urza"]], extras)
    control = closure([*light, *service, *build])
    worker = closure([*own, *expanded(extras["urza"], extras), *build], without={"torch"})
    heavy = closure([each for each in own if canonicalize_name(each.name) == "torch"]) - worker
    for name in ("torch", "nvidia-cudnn-cu13", "triton"):
        if name in control | worker:
            raise SystemExit(f"{name} is no package for an image without PyTorch")
    return {
        ROOT / "operator" / "requirements.lock": _lock(control),
        ROOT / "workers" / "requirements.lock": _lock(worker),
        ROOT / "workers" / "torch.lock": _lock(heavy),
    }


def _lock(names: set[str]) -> str:
    found = blocks()
    missing = sorted(names - set(found))
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not in requirements.lock; run `make lock` first")
    return NOTE + "".join(f"{found[name]}\n" for name in sorted(names))


def main() -> int:
    """Write the files, or with --check name those that are out of date; 1 if any is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    check = parser.parse_args().check
    stale = {path: text for path, text in outputs().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        name = path.relative_to(ROOT)
        if check:
            print(f"out of date: {name} (run: make locks)")
        else:
            path.write_text(text, "utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
