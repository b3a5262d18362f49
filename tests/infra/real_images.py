"""The images that the chart installs, built by buildah from the project's own Dockerfiles on debootstrap's Debian.

The worker's is built without PyTorch, which would make it 5 GB: pods find it, with everything else of this environment,
on a volume (``packages``). Beside them one with the servers of a trial, made of the programs that all tests use. Layers
and archives are kept in the tools folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import parts
import real_pulsar
import real_s3

PROJECT = Path(__file__).resolve().parents[2]
SUITE, PYTHON = "bookworm", (3, 11)
"""The Debian of the base, and its Python; wheels of this environment must be for the same."""
BASE = f"localhost/esper-base:{SUITE}"
TAG = "test"
FILES = {"operator": "operator/Dockerfile", "worker": "workers/Dockerfile"}
ARGUMENTS: dict[str, dict[str, str]] = {"operator": {}, "worker": {"TORCH": "none"}}
CONTEXT = ("pyproject.toml", "README.md", "LICENSE", "contracts", "workers", "operator")
SERVERS = Path(__file__).with_name("servers") / "Dockerfile"
PULSAR = f"""#!/bin/sh
# As the official image's bin/pulsar, for the one command that is used.
[ "$1" = standalone ] || exit 2
shift
exec java $PULSAR_MEM $PULSAR_GC {shlex.join(real_pulsar.program("/opt/pulsar/*"))} -c "$PULSAR_STANDALONE_CONF" "$@"
"""
STORE = parts.TOOLS / "buildah"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MOST_LAYERS = 80
"""Builds leave the layers of earlier ones behind, some 8 GB by then; with more of them all is built afresh."""
NEEDED = {"buildah": "buildah", "debootstrap": "debootstrap"}


def missing() -> str:
    """Why no image can be built here; empty when one can."""
    if os.getuid() != 0:
        return "images are built by root here"
    if sys.version_info[:2] != PYTHON:
        found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], PYTHON))
        return f"packages for Python {found} can't be lent to an image with Python {wanted}"
    lacking = [package for name, package in NEEDED.items() if shutil.which(name) is None]
    return f"images need {' '.join(lacking)}" if lacking else ""


def name(part: str) -> str:
    """What the image of ``operator``, ``worker`` or ``servers`` is called."""
    return f"localhost/esper-{part}:{TAG}"


def archives() -> dict[str, Path]:
    """An OCI archive of each image, built once for the source it is made of; raises ``PartMissing``."""
    return {part: _archive(part, source(part), functools.partial(build, part)) for part in FILES}


def servers() -> Path:
    """An OCI archive with PostgreSQL, the S3 server and Pulsar, called ``name("servers")``; raises ``PartMissing``."""
    return _archive("servers", _hash((SUITE, real_s3.VERSION, real_pulsar.VERSION, PULSAR), [SERVERS]), _build_servers)


def _archive(part: str, made_of: str, build: Callable[[], object]) -> Path:
    """The archive of an image, built unless there is one made of the same."""
    if reason := missing():
        raise parts.PartMissing(reason)
    folder = parts.TOOLS / "images"
    path = folder / f"{part}-{made_of}.tar"
    with parts.locked(parts.TOOLS / "images.lock"):
        if not path.exists():
            if len(list(STORE.glob("overlay/*"))) > MOST_LAYERS:
                shutil.rmtree(STORE)
            print(f"building the image of {part} (minutes at first, then seconds)", file=sys.stderr, flush=True)
            _ensure_base()
            build()
            for old in folder.glob(f"{part}-*"):
                old.unlink()
            folder.mkdir(exist_ok=True)
            # Not compressed: it never leaves this machine.
            aside = path.with_suffix(".new")
            aside.unlink(missing_ok=True)
            _buildah("push", "--quiet", "--disable-compression", name(part), f"oci-archive:{aside}:{name(part)}")
            aside.rename(path)
    return path


def source(part: str) -> str:
    """Short hash of what an image is built of."""
    return _hash((SUITE, FILES[part], ARGUMENTS[part]), _files())


def _hash(facts: tuple[object, ...], files: Iterable[Path]) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        digest.update(f"{file.relative_to(PROJECT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def build(part: str, *options: str, into: str = "") -> None:
    """Build an image as its Dockerfile says; its layers are kept for the next time."""
    arguments = {"BASE": BASE} | ARGUMENTS[part]
    given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as context:
        for file in _files():
            copy = Path(context) / file.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
            os.utime(copy, (0, 0))
        _buildah(
            "build", "--quiet", "--layers", "--isolation", "chroot", "--network", "host", *given, *options,
            "-f", f"{context}/{FILES[part]}", "-t", into or name(part), context,
        )  # fmt: skip


def _build_servers() -> None:
    jars, gateway = real_pulsar.jars(), real_s3.program()
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(jars, f"{context}/jars")
        shutil.copy2(gateway, context)
        script = Path(context) / "pulsar"
        script.write_text(PULSAR)
        script.chmod(0o755)
        _buildah(
            "build", "--quiet", "--layers", "--isolation", "chroot", "--network", "host", "--build-arg", f"BASE={BASE}",
            "-f", str(SERVERS), "-t", name("servers"), context,
        )  # fmt: skip


def inspected(image: str, form: str) -> str:
    """What buildah says of an image, in a Go template."""
    return _buildah("inspect", "--type", "image", "--format", form, image).strip()


def _files() -> Iterator[Path]:
    for name in CONTEXT:
        path = PROJECT / name
        found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        yield from (file for file in found if "__pycache__" not in file.parts)


def _ensure_base() -> None:
    if _buildah("images", "--quiet", "--filter", f"reference={BASE}").strip():
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        wanted = "python3,python3-venv,ca-certificates"
        _run("debootstrap", "--variant=minbase", f"--include={wanted}", SUITE, str(root))
        for leftovers in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / leftovers)
            (root / leftovers).mkdir()
        if CERTIFICATES.exists():
            # Machines behind a proxy trust more than Debian does.
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        container = _buildah("from", "scratch").strip()
        _buildah("copy", "--quiet", container, f"{root}/", "/")
        _buildah("commit", "--quiet", "--rm", container, BASE)


def _buildah(*words: str) -> str:
    runs = Path(tempfile.gettempdir()) / f"esper-buildah-{os.getuid()}"
    return _run("buildah", "--root", str(STORE), "--runroot", str(runs), "--storage-driver", "overlay", *words)


def _run(*command: str) -> str:
    done = subprocess.run(["nice", *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise parts.PartMissing(f"{' '.join(command[:1])} failed: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    for built in (*archives().values(), servers()):
        print(built.name)
