"""A real Kubernetes control plane for tests: etcd, API server, controller manager and scheduler on loopback.

One for a test run, a namespace for a test. ``KUBECONFIG`` names a running cluster to be used instead.
"""

from __future__ import annotations

import base64
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import parts
from certificates import Authority, Certificates, write_key
from kube_programs import program

CRDS = Path(__file__).resolve().parents[2] / "crds"
SERVICES = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"


@dataclass(frozen=True)
class Ports:
    """Where the programs listen, on loopback."""

    etcd: int
    peers: int
    api: int


@dataclass(frozen=True)
class Process:
    """A program of the cluster and its arguments."""

    name: str
    command: list[str]


def free_ports() -> Ports:
    """Ports nobody uses now."""
    return Ports(parts.free_port(), parts.free_port(), parts.free_port())


def prepare(home: Path, ports: Ports, *hosts: str) -> None:
    """Write what the programs read: certificates for loopback and ``hosts``, keys, one kubeconfig for each identity."""
    pki = home / "pki"
    pki.mkdir()
    authority = Authority(pki)
    names = ("127.0.0.1", "localhost", FIRST_SERVICE, "kubernetes.default.svc", "kubernetes.default", *hosts)
    authority.issue("apiserver", "kube-apiserver", hosts=names)
    authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
    write_key(pki / "service-accounts.pem")
    authority.issue("admin", "esper-tests", "system:masters")
    write_admin(home, ports.api)
    identities = {
        "controller-manager": ("system:kube-controller-manager",),
        "scheduler": ("system:kube-scheduler",),
        "proxy": ("system:kube-proxy", "system:node-proxier"),
        "dns": ("coredns", "system:masters"),
        "kubelet": ("system:node:node", "system:nodes"),
    }
    for name, identity in identities.items():
        write_kubeconfig(home / f"{name}.kubeconfig", ports.api, authority.issue(name, *identity))


def write_admin(home: Path, port: int) -> None:
    """The tests' own kubeconfig, for the port at which they reach the API server."""
    pki = home / "pki"
    admin = Certificates(pki / "ca.pem", pki / "admin.pem", pki / "admin-key.pem")
    write_kubeconfig(home / "admin.kubeconfig", port, admin)


def write_kubeconfig(path: Path, port: int, identity: Certificates) -> None:
    """A kubeconfig that carries everything it needs."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    user = {"client-certificate-data": inline(identity.certificate), "client-key-data": inline(identity.key)}
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": inline(identity.ca)}
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}], "users": [{"name": "test", "user": user}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )  # fmt: skip


def processes(home: Path, ports: Ports, *, bind: str = "127.0.0.1", advertise: str = "127.0.0.1") -> list[Process]:
    """The four programs of the control plane, in the order they are to be started."""
    pki = home / "pki"
    etcd = f"http://127.0.0.1:{ports.etcd}"
    return [
        Process("etcd", [
            str(program("etcd")), "--data-dir", str(home / "etcd-data"), "--unsafe-no-fsync", "--log-level=warn",
            "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
            "--listen-peer-urls", f"http://127.0.0.1:{ports.peers}", "--quota-backend-bytes", str(4 << 30),
        ]),
        Process("apiserver", [
            str(program("kube-apiserver")), f"--etcd-servers={etcd}", f"--bind-address={bind}",
            f"--advertise-address={advertise}", f"--secure-port={ports.api}", "--authorization-mode=Node,RBAC",
            f"--tls-cert-file={pki}/apiserver.pem", f"--tls-private-key-file={pki}/apiserver-key.pem",
            f"--client-ca-file={pki}/ca.pem", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/service-accounts.pub",
            f"--service-account-signing-key-file={pki}/service-accounts.pem",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet.pem",
            f"--kubelet-client-key={pki}/apiserver-kubelet-key.pem", "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true",
            *(["--endpoint-reconciler-type=none"] if advertise == "127.0.0.1" else []),
        ]),
        Process("controller-manager", [
            str(program("kube-controller-manager")), f"--kubeconfig={home}/controller-manager.kubeconfig",
            f"--service-account-private-key-file={pki}/service-accounts.pem", f"--root-ca-file={pki}/ca.pem",
            "--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
            "--kube-api-qps=200", "--kube-api-burst=400", "--concurrent-gc-syncs=4",
        ]),
        Process("scheduler", [
            str(program("kube-scheduler")), f"--kubeconfig={home}/scheduler.kubeconfig", "--leader-elect=false",
            "--bind-address=127.0.0.1", "--secure-port=0",
        ]),
    ]  # fmt: skip


def ready(home: Path, port: int) -> bool:
    """Whether the API server says it is."""
    context = ssl.create_default_context(cafile=str(home / "pki/ca.pem"))
    context.load_cert_chain(home / "pki/admin.pem", home / "pki/admin-key.pem")
    try:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def launch(home: Path, ports: Ports, programs: Iterable[Process]) -> None:
    """Start programs of the control plane, each in a folder of its name; what follows the API server waits for it."""
    for process in programs:
        part = home / process.name
        part.mkdir()
        parts.launch(process.command, part)
        if process.name == "apiserver":
            parts.await_ready(lambda: ready(home, ports.api), part, patience=60)


def start(home: Path) -> dict[str, Any]:
    """Start a control plane in ``home`` and give it the custom resources; returns its ``kubeconfig``."""
    ports = free_ports()
    prepare(home, ports)
    launch(home, ports, processes(home, ports))
    return {"kubeconfig": str(home / "admin.kubeconfig"), "home": str(home), "port": ports.api}


def control_plane() -> dict[str, Any]:
    """The control plane of this test run, with ``kubeconfig``; skipped, or failed in CI, where there is none."""
    given = os.environ.get("KUBECONFIG", "")
    if given:
        return {"kubeconfig": given}
    try:
        return parts.shared("kubernetes", start)
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))
