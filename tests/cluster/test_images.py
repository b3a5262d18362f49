"""The images as they were built: who runs in them, what is in them, and how much of them a new version changes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import parts
import real_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = 10_000_000
"""Bytes, packed, that a version with the same packages may add."""


class Image:
    """An OCI archive."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115 - read again and again
        index = self._json("index.json")
        self.manifest = self._blob(index["manifests"][0]["digest"])
        self.config: dict[str, Any] = self._blob(self.manifest["config"]["digest"])

    def layer(self, number: int) -> list[tarfile.TarInfo]:
        """Files of a layer."""
        digest = self.manifest["layers"][number]["digest"]
        data = self._read(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        opened = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return tarfile.open(fileobj=io.BytesIO(opened)).getmembers()

    def size(self, number: int) -> int:
        """Bytes of a layer as it is sent."""
        return int(self.manifest["layers"][number]["size"])

    def files(self) -> list[tarfile.TarInfo]:
        """Files of every layer."""
        return [file for number in range(len(self.manifest["layers"])) for file in self.layer(number)]

    def _read(self, name: str) -> bytes:
        found = self._tar.extractfile(name)
        assert found is not None
        return found.read()

    def _json(self, name: str) -> Any:
        return json.loads(self._read(name))

    def _blob(self, digest: str) -> Any:
        return self._json(f"blobs/sha256/{digest.removeprefix('sha256:')}")


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    try:
        return {part: Image(path) for part, path in real_images.archives().items()}
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


@pytest.mark.parametrize("part", ["operator", "worker"])
def test_nobody_is_root_and_the_user_has_a_name(images: dict[str, Image], part: str) -> None:
    config = images[part].config["config"]
    assert config["User"] == "65532:65532"
    variables = dict(entry.split("=", 1) for entry in config["Env"])
    assert variables["USER"], "libraries ask for it, and the number is in no list of users"
    assert variables["HOME"] == "/tmp"


def test_the_operators_image_has_no_pytorch(images: dict[str, Image]) -> None:
    packages = {
        name.split("site-packages/")[1].split("/")[0] for file in images["operator"].files()
        if "site-packages/" in (name := file.name)
    }  # fmt: skip
    assert {"esper", "esper_operator", "leyline", "kopf"} <= packages
    assert not {name for name in packages if name.startswith(("torch", "nvidia", "triton"))}


def test_the_workers_image_can_compile_kernels(images: dict[str, Image]) -> None:
    assert "usr/bin/g++" in {file.name for file in images["worker"].files()}


@pytest.mark.parametrize("part", ["operator", "worker"])
def test_a_version_with_the_same_packages_is_one_small_layer(images: dict[str, Image], part: str) -> None:
    image = images[part]
    places = [number for number in range(len(image.manifest["layers"]))
              if any(file.name.startswith("opt/esper/") for file in image.layer(number))]  # fmt: skip
    assert len(places) == 1
    assert image.size(places[0]) < SMALL
    assert places[0] >= len(image.manifest["layers"]) - 2, "nothing large comes after it"


@pytest.mark.parametrize("part", ["operator", "worker"])
def test_what_is_needed_to_build_is_not_in_it(images: dict[str, Image], part: str) -> None:
    ours = [file.name for file in images[part].files() if file.name.startswith("opt/")]
    assert ours
    for name in ("/pip/", "/hatchling/", "/.git/", "requirements.lock"):
        assert not [each for each in ours if name in each and "/_vendor/" not in each], name
