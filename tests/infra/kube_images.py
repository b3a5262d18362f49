"""The image of the node tests, an OCI archive of one layer: two static programs and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import parts

SOURCE = Path(__file__).with_name("kubernetes") / "container"
NAME = "localhost/esper-test:1"
"""Image names need a registry part; this one can be fetched from nowhere."""
DIRECTORIES = ("tmp", "etc", "usr", "usr/bin", "var", "var/lib", "var/cache", "proc", "dev", "sys")


def archive() -> Path:
    """The archive, built once for the source it is made of; raises ``PartMissing``."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCE.iterdir()))).hexdigest()[:16]
    path = parts.TOOLS / f"kube-image-{digest}.tar"
    with parts.locked(parts.TOOLS / "kube-image.lock"):
        if not path.exists():
            if shutil.which("go") is None:
                raise parts.PartMissing("the test image can't be built: there is no Go (1.26 or newer) on the PATH")
            program = path.with_suffix(".program")
            subprocess.run(
                ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), "."], cwd=SOURCE, check=True,
                env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
            )  # fmt: skip
            new = path.with_suffix(".new")
            new.write_bytes(_archive(program.read_bytes()))
            new.rename(path)
            program.unlink()
    return path


def _archive(program: bytes) -> bytes:
    layer = _layer(program)
    packed = gzip.compress(layer, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/usr/bin/pause"], "Env": ["PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()  # fmt: skip
    manifest = json.dumps(
        {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        }
    ).encode()  # fmt: skip
    named = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest) | {
        "annotations": {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME.rpartition(":")[2]}
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    files |= {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (packed, config, manifest)}
    return _tar({name: (data, 0o644) for name, data in files.items()})


def _layer(program: bytes) -> bytes:
    return _tar({"usr/bin/pause": (program, 0o755), "usr/bin/esper": (program, 0o755)}, DIRECTORIES)


def _tar(files: dict[str, tuple[bytes, int]], directories: tuple[str, ...] = ()) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}
