"""The artifact format: what was written is read back, and anything else is refused for what it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts import blobbed, built, certified, digests
from esper.errors import ArtifactError
from esper.kernel import manifest_for, read_artifact, write_artifact
from esper.kernel.errors import (
    MalformedManifest,
    TamperedArtifact,
    TruncatedArtifact,
    UnsafeArtifact,
    UnsignedArtifact,
)
from esper.kernel.reading import MAX_MANIFEST, parse_manifest
from leyline import canonical


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return blobbed(tmp_path)[0]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path, manifest = blobbed(tmp_path)
    found = read_artifact(path)
    assert found.manifest == manifest
    assert found.id == path.name == manifest.id
    assert found.blob("forward.so") == b"forward" * 40
    assert found.digest == manifest.digest
    assert found.signatures == {}


def test_writing_it_again_keeps_the_signatures(tmp_path: Path) -> None:
    first = certified(tmp_path)
    before = digests(first.path)
    assert write_artifact(tmp_path, first.manifest, {}) == first.path
    assert digests(first.path) == before
    assert [path.name for path in tmp_path.iterdir()] == [first.id]


def test_an_equal_id_with_other_bytes_is_replaced_without_its_signatures(tmp_path: Path) -> None:
    path, manifest = blobbed(tmp_path)
    other = manifest.model_copy(update={"saved_bytes_per_sample": 99})
    blobs = {name: read_artifact(path).blob(name) for name in manifest.blobs}
    (path / "signatures" / "built.json").write_text("{}")
    write_artifact(tmp_path, other, blobs)
    found = read_artifact(path)
    assert found.manifest.saved_bytes_per_sample == 99
    assert found.signatures == {}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_blobs_that_are_not_the_manifests_are_not_written(tmp_path: Path) -> None:
    _, manifest = blobbed(tmp_path / "a")
    for blobs in ({}, {"forward.so": b"forward" * 40, "backward.so": b"other"}):
        with pytest.raises(ArtifactError, match=r"forward\.so|backward\.so"):
            write_artifact(tmp_path / "b", manifest, blobs)
    assert not (tmp_path / "b").exists() or not list((tmp_path / "b").iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, manifest = blobbed(tmp_path / "a")
    blobs = {name: read_artifact(path).blob(name) for name in manifest.blobs}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("esper.kernel.artifact.write_file", full)
    with pytest.raises(OSError, match="No space"):
        write_artifact(tmp_path / "b", manifest, blobs)
    assert list((tmp_path / "b").iterdir()) == []


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_every_file_cut_short_is_noticed(tmp_path: Path) -> None:
    whole, _ = blobbed(tmp_path)
    for file in _files(whole):
        for size in (0, 1, file.stat().st_size - 1):
            copy = tmp_path / "copy" / whole.name
            shutil.copytree(whole, copy)
            os.truncate(copy / file.relative_to(whole), size)
            with pytest.raises((TruncatedArtifact, MalformedManifest)):
                read_artifact(copy)
            shutil.rmtree(copy)


def test_every_missing_file_is_noticed(tmp_path: Path) -> None:
    whole, _ = blobbed(tmp_path)
    for file in _files(whole):
        copy = tmp_path / "copy" / whole.name
        shutil.copytree(whole, copy)
        (copy / file.relative_to(whole)).unlink()
        with pytest.raises(TruncatedArtifact, match="missing"):
            read_artifact(copy)
        shutil.rmtree(copy)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed(artifact: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(_files(artifact)))
    content = file.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    before = read_artifact(artifact)
    file.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
    try:
        digest = read_artifact(artifact).digest
    except ArtifactError:
        digest = ""
    finally:
        file.write_bytes(content)
    # A digit of a number nothing follows from may change without harm to the form; then the digest, which is what gets
    # signed, is another.
    assert digest != before.digest


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400))
def test_noise_instead_of_a_manifest_is_malformed(artifact: Path, noise: bytes) -> None:
    manifest = artifact / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(noise)
    try:
        with pytest.raises(MalformedManifest):
            read_artifact(artifact)
    finally:
        manifest.write_bytes(content)


def _grow(path: Path) -> None:
    blob = next((path / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes() + b"x")


def _swap(path: Path) -> None:
    one, two = sorted((path / "blobs").iterdir())
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def _link(path: Path) -> None:
    blob = next((path / "blobs").iterdir())
    blob.rename(path.parent / "elsewhere")
    blob.symlink_to(path.parent / "elsewhere")


def _pipe(path: Path) -> None:
    blob = next((path / "blobs").iterdir())
    blob.unlink()
    os.mkfifo(blob)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda path: (path / "setup.py").write_text("boom"), TamperedArtifact),
        (lambda path: (path / "blobs" / ("0" * 64)).write_text("boom"), TamperedArtifact),
        (lambda path: (path / "signatures" / "third.json").write_text("{}"), TamperedArtifact),
        (lambda path: (path / "signatures" / "built.json").write_text("{}"), UnsignedArtifact),
        (lambda path: (path / "signatures" / "built.json").write_text("["), UnsignedArtifact),
        (lambda path: (path / "signatures" / "built.json").write_text("x" * 5000), UnsignedArtifact),
        (lambda path: (path / "report.json").write_bytes(b"x" * (2 << 20)), TamperedArtifact),
        (lambda path: (path / "manifest.json").write_bytes(b" " * (MAX_MANIFEST + 1)), MalformedManifest),
        (_grow, TamperedArtifact),
        (_swap, (TamperedArtifact, TruncatedArtifact)),
        (_link, UnsafeArtifact),
        (_pipe, UnsafeArtifact),
        (lambda path: shutil.rmtree(path / "blobs"), TruncatedArtifact),
    ],
)
def test_what_does_not_belong_there_is_refused(
    artifact: Path, damage: Callable[[Path], object], error: type[ArtifactError]
) -> None:
    damage(artifact)
    with pytest.raises(error, match=artifact.name[:16]):
        read_artifact(artifact)


def test_an_artifact_under_another_name_is_refused(artifact: Path) -> None:
    other = artifact.with_name(artifact.name.replace("standard", "fast"))
    artifact.rename(other)
    with pytest.raises(TamperedArtifact, match="names another"):
        read_artifact(other)


def test_a_link_to_an_artifact_is_refused(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / artifact.name
    link.symlink_to(artifact)
    with pytest.raises(UnsafeArtifact):
        read_artifact(link)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "a\0b", "/etc/passwd"])
def test_a_path_that_is_no_artifact_is_refused(path: str) -> None:
    with pytest.raises((TruncatedArtifact, UnsafeArtifact)):
        read_artifact(path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("id",), "../../etc/passwd"),
        (("id",), 7),
        (("format",), 2),
        (("strategy",), "Fast"),
        (("backend",), "../x"),
        (("unknown",), 1),
        (("trainable",), False),
        (("flops_per_sample",), 10**30),
        (("flops_per_sample",), 1),
        (("saved_bytes_per_sample",), -1),
        (("parameters",), []),
        (("interface", "width"), 16),
        (("interface", "layout"), "tesseract"),
        (("ir", "output"), "nothing"),
        (("blobs", "forward.so", "size"), -1),
        (("blobs", "forward.so", "size"), 2**40),
        (("blobs", "forward.so", "sha256"), "../../../../etc/passwd"),
        (("blobs", "../forward.so"), {"sha256": "0" * 64, "size": 1}),
        (("pair", "backward"), ["p99", "u", "t"]),
        (("pair", "backward"), ["s7"]),
        (("pair", "backward"), ["t", "t"]),
        (("pair", "backward"), ["x0"]),
        (("pair", "batch"), [9, 3]),
        (("pair", "saved"), 10**6),
        (("toolchain",), {"torch": "0.0"}),
    ],
)
def test_hostile_manifests_are_malformed(artifact: Path, where: tuple[str, ...], value: object) -> None:
    raw = json.loads((artifact / "manifest.json").read_bytes())
    place = raw
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(MalformedManifest):
        parse_manifest(canonical.dumps(raw), "test")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"format":NaN}',
        b'{"format":1,"format":1}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"format":' + b"9" * 10_000 + b"}",
        b"\xff\xfe\x00",
        b'"\\ud800"',
    ],
)
def test_hostile_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedManifest):
        parse_manifest(data, "test")


def test_another_spelling_of_the_same_manifest_is_malformed(artifact: Path) -> None:
    raw = json.loads((artifact / "manifest.json").read_bytes())
    with pytest.raises(MalformedManifest, match="canonical"):
        parse_manifest(json.dumps(raw, indent=1).encode(), "test")


def test_a_blob_that_changes_after_the_check_is_noticed(artifact: Path) -> None:
    found = read_artifact(artifact)
    digest = found.manifest.blobs["forward.so"].sha256
    (artifact / "blobs" / digest).write_bytes(b"malware" * 40)
    with pytest.raises(TamperedArtifact, match=r"forward\.so"):
        found.blob("forward.so")


def test_equal_designs_give_equal_manifests(tmp_path: Path) -> None:
    first = built(tmp_path)
    manifest = first.manifest
    again = manifest_for(
        manifest.blueprint,
        manifest.slot_interface,
        "fast",
        "eager",
        {},
        saved_bytes_per_sample=manifest.saved_bytes_per_sample,
    )
    assert again.to_bytes() == manifest.to_bytes()
    assert again.digest == first.digest
