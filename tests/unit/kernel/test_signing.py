"""Two signatures, each for its own purpose, by keys that are known for it; keys that only their owner can read."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from artifacts import BUILDER, KEYS, VALIDATOR, built, certified
from esper.errors import BadInput
from esper.kernel import PublicKeys, SigningKey, load_kernel, read_artifact, sign_built, sign_validated, verify
from esper.kernel.errors import UnsignedArtifact
from leyline import canonical


def test_both_signatures_open_the_kernel(tmp_path: Path) -> None:
    artifact = certified(tmp_path)
    verify(artifact, KEYS)
    assert load_kernel(artifact.path, KEYS).manifest.id == artifact.id
    assert load_kernel(artifact.path, KEYS, artifact.signatures["validated"].report).manifest.id == artifact.id


def test_one_signature_is_not_enough(tmp_path: Path) -> None:
    artifact = built(tmp_path)
    verify(artifact, KEYS, validated=False)
    with pytest.raises(UnsignedArtifact, match="'validated' signature is missing"):
        load_kernel(artifact.path, KEYS)
    artifact = certified(tmp_path)
    (artifact.path / "signatures" / "built.json").unlink()
    with pytest.raises(UnsignedArtifact, match="'built' signature is missing"):
        load_kernel(artifact.path, KEYS)


def test_a_key_is_known_for_its_own_purpose_only(tmp_path: Path) -> None:
    artifact = built(tmp_path)
    sign_validated(artifact, "0" * 64, artifact.manifest.hardware, BUILDER)
    with pytest.raises(UnsignedArtifact, match=f"unknown key {BUILDER.id}"):
        verify(read_artifact(artifact.path), KEYS)
    swapped = PublicKeys.of([VALIDATOR], [BUILDER])
    with pytest.raises(UnsignedArtifact, match="unknown key"):
        verify(certified(tmp_path), swapped)


def test_a_stranger_can_sign_nothing(tmp_path: Path) -> None:
    artifact = certified(tmp_path)
    sign_built(artifact, SigningKey.generate())
    with pytest.raises(UnsignedArtifact, match="unknown key"):
        load_kernel(artifact.path, KEYS)


def test_a_signature_under_a_known_keys_name_is_checked(tmp_path: Path) -> None:
    artifact = certified(tmp_path)
    forged = dataclasses.replace(SigningKey.generate().sign("built", artifact.digest), key=BUILDER.id)
    artifact.add_signature(forged)
    with pytest.raises(UnsignedArtifact, match="is wrong"):
        load_kernel(artifact.path, KEYS)
    artifact.add_signature(dataclasses.replace(forged, signature="not hexadecimal"))
    with pytest.raises(UnsignedArtifact, match="is wrong"):
        load_kernel(artifact.path, KEYS)


@pytest.mark.parametrize("field", ["manifest", "report", "hardware", "purpose"])
def test_no_signed_field_can_be_changed(tmp_path: Path, field: str) -> None:
    artifact = certified(tmp_path)
    signature = artifact.signatures["validated"]
    changed = dataclasses.replace(signature, **{field: "0" * 64})
    path = artifact.path / "signatures" / "validated.json"
    path.write_bytes(canonical.dumps(changed.to_dict()))
    with pytest.raises(UnsignedArtifact):
        load_kernel(artifact.path, KEYS)


def test_a_signature_of_another_artifact_does_not_do(tmp_path: Path) -> None:
    one, two = certified(tmp_path, "bottleneck"), certified(tmp_path, "low_rank")
    for purpose in ("built", "validated"):
        two.add_signature(one.signatures[purpose])
    with pytest.raises(UnsignedArtifact, match="over another manifest"):
        load_kernel(two.path, KEYS)


def test_the_validators_word_holds_for_its_hardware_and_report_only(tmp_path: Path) -> None:
    artifact = certified(tmp_path)
    with pytest.raises(UnsignedArtifact, match="another report"):
        load_kernel(artifact.path, KEYS, report="f" * 64)
    sign_validated(artifact, "0" * 64, "riscv64-scalar", VALIDATOR)
    with pytest.raises(UnsignedArtifact, match="validated on 'riscv64-scalar'"):
        load_kernel(artifact.path, KEYS)


def test_purposes_cannot_be_confused() -> None:
    key = SigningKey.generate()
    assert key.sign("built", "a", "b").signature != key.sign("validated", "a", "b").signature
    assert key.sign("built", "ab", "").signature != key.sign("built", "a", "b").signature


def test_a_saved_key_is_its_owners_and_comes_back(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "keys" / "built.pem"
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = SigningKey.load(path)
    assert again.public == key.public
    assert repr(again) == f"SigningKey({key.id})"
    assert key.id not in path.read_text()


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_key_everybody_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "built.pem"
    SigningKey.generate().save(path)
    path.chmod(mode)
    with pytest.raises(BadInput, match="chmod 600"):
        SigningKey.load(path)


def test_a_file_that_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(BadInput, match="can't be read"):
        SigningKey.load(path)
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(BadInput, match="PEM"):
        SigningKey.load(path)
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(other)
    with pytest.raises(BadInput, match="Ed25519"):
        SigningKey.load(path)


def test_public_keys_survive_their_json_form() -> None:
    assert PublicKeys.from_dict(KEYS.to_dict()).to_dict() == KEYS.to_dict()
    with pytest.raises(BadInput, match="'secret'"):
        PublicKeys.from_dict({"secret": []})
    with pytest.raises(BadInput, match="32 bytes"):
        PublicKeys.from_dict({"built": ["abcd"]})
