"""From a directory to a kernel: signed, whole and made for here, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from artifacts import BUILDER, KEYS, VALIDATOR, VECTOR, blobbed, certified
from esper.kernel import load_kernel, read_artifact, sign_built, sign_validated, write_artifact
from esper.kernel.backends import backend, backend_for
from esper.kernel.errors import ArtifactError, BackendUnavailable, ForeignArtifact, MalformedManifest
from esper.kernel.hardware import built_with, compiler, hardware_target, toolchain, toolchain_hash
from leyline import canonical
from leyline.identity import ArtifactId


def _resigned(root: Path, **changes: object) -> Path:
    """A certified artifact whose manifest says something else, signed as such."""
    manifest = certified(root / "original").manifest
    changed = manifest.model_copy(update=changes)
    made = ArtifactId.make(
        changed.blueprint.digest(),
        changed.slot_interface,
        changed.hardware,
        changed.strategy,
        canonical.digest(changed.toolchain),
    )
    artifact = read_artifact(write_artifact(root, changed.model_copy(update={"id": str(made)}), {}))
    sign_built(artifact, BUILDER)
    sign_validated(artifact, artifact.add_report({}), artifact.manifest.hardware, VALIDATOR)
    return artifact.path


def test_other_hardware_is_foreign(tmp_path: Path) -> None:
    with pytest.raises(ForeignArtifact, match="riscv64-scalar"):
        load_kernel(_resigned(tmp_path, hardware="riscv64-scalar"), KEYS)


def test_another_toolchain_is_foreign(tmp_path: Path) -> None:
    with pytest.raises(ForeignArtifact, match=r"torch 1\.0"):
        load_kernel(_resigned(tmp_path, toolchain={"format": "1", "torch": "1.0"}), KEYS)


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="'magic'"):
        load_kernel(_resigned(tmp_path, backend="magic"), KEYS)
    with pytest.raises(BackendUnavailable, match="'heroic'"):
        backend_for("heroic")


def test_a_pair_without_its_halves_is_malformed(tmp_path: Path) -> None:
    with pytest.raises(MalformedManifest, match=r"forward\.so"):
        load_kernel(_resigned(tmp_path, backend="aoti"), KEYS)


def test_nothing_unsigned_reaches_the_dynamic_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = blobbed(tmp_path)
    opened: list[Path] = []
    monkeypatch.setattr("esper.kernel.backends.pair.load_half", opened.append)
    with pytest.raises(ArtifactError):
        load_kernel(path, KEYS)
    assert opened == []


def test_targets_and_toolchains_name_what_matters() -> None:
    assert hardware_target() == hardware_target(torch.device("cpu"))
    assert ArtifactId.make("0" * 64, VECTOR, hardware_target(), "fast", toolchain_hash())
    assert toolchain()["torch"] == torch.__version__
    assert "compiler" not in built_with("eager")
    assert "compiler" in built_with("aoti")


def test_without_a_compiler_the_pair_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    compiler.cache_clear()
    try:
        reason = backend("aoti").unavailable()
        assert reason is not None
        assert "g++" in reason
        assert backend("eager").unavailable() is None
        with pytest.raises(BackendUnavailable, match="g\\+\\+"):
            backend("aoti").build(None, None, tmp_path)  # type: ignore[arg-type]
    finally:
        compiler.cache_clear()
