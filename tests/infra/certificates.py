"""Certificate authorities for tests, good for a day, and what they issue."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificates:
    """Files in PEM."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Write ``ca.pem``, ``server.pem`` and ``server-key.pem``; valid for 127.0.0.1, localhost and ``names``."""
    return Authority(folder).issue("server", "Esper test server", hosts=("127.0.0.1", "localhost", *names))


Issuer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


class Authority:
    """An authority whose certificate is ``ca.pem`` in ``folder``; what it issues is written beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._self = _certificate(_name("Esper test authority"))
        (folder / "ca.pem").write_bytes(self._self[0].public_bytes(Encoding.PEM))

    def issue(self, file: str, name: str, *groups: str, hosts: tuple[str, ...] = ()) -> Certificates:
        """A certificate for ``name``, a member of ``groups``, and for the addresses and names in ``hosts``."""
        certificate, key = _certificate(_name(name, *groups), self._self, hosts)
        made = Certificates(
            self._folder / "ca.pem", self._folder / f"{file}.pem", write_key(self._folder / f"{file}-key.pem", key)
        )
        made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        return made


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Write a private key, a new one unless given, and its public half beside it as ``.pub``."""
    path.touch(mode=0o600)
    made = key or ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.with_suffix(".pub").write_bytes(
        made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def _name(common: str, *organisations: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organisations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject: x509.Name, issuer: Issuer | None = None, hosts: tuple[str, ...] = ()) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if hosts:
        others = [_general_name(each) for each in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256()), key


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
