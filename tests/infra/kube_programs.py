"""The programs of a Kubernetes cluster, built once from their Go modules into the tools folder.

The versions are those of the ``go.mod`` files in ``kubernetes/``. ``KUBEBUILDER_ASSETS`` may name a folder that holds
some of them already; what it lacks is built.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import parts

MODULES = Path(__file__).with_name("kubernetes")


@dataclass(frozen=True)
class Source:
    """Programs that are built together: the tools of the go.mod in ``module``, or ``package`` at ``fixed`` as it is."""

    package: str
    programs: tuple[str, ...]
    module: str = ""
    fixed: str = ""

    @property
    def version(self) -> str:
        """The version that go.mod asks for."""
        if self.fixed:
            return self.fixed
        found = re.search(
            rf"^(?:require)?\s+{re.escape(self.package)} (v\S+)", (self.home / "go.mod").read_text(), re.MULTILINE
        )
        assert found is not None, f"{self.home / 'go.mod'} requires no {self.package}"
        return found[1]

    @property
    def home(self) -> Path:
        """Where it is built from."""
        return MODULES / self.module

    @property
    def folder(self) -> Path:
        """Where the programs are, once built."""
        return parts.TOOLS / f"{self.module or 'kubernetes'}-{self.version}"


ETCD = Source("go.etcd.io/etcd/server/v3", ("etcd",), "etcd")
KUBERNETES = Source(
    "k8s.io/kubernetes", ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
)
CONTAINERD = Source(
    "github.com/containerd/containerd/v2", ("containerd", "containerd-shim-runc-v2", "ctr"), "containerd"
)
DNS = Source("github.com/coredns/coredns", ("coredns",), "coredns", fixed="v1.12.4")
SOURCES = (ETCD, KUBERNETES, CONTAINERD, DNS)
KWOK = Source("sigs.k8s.io/kwok/cmd/kwok", ("kwok",), "kwok", fixed="v0.8.0")
"""For benchmarks only: built when one needs it."""
_STAMP = "k8s.io/component-base/version"


def program(name: str) -> Path:
    """Where a program is, built if need be; raises ``PartMissing``."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if assets and (given := Path(assets) / name).exists():
        return given
    source = next(source for source in (*SOURCES, KWOK) if name in source.programs)
    return _built(source) / name


def _built(source: Source) -> Path:
    return parts.built(source.folder, source.folder.name, lambda into: _build(source, into))


def _build(source: Source, into: Path) -> None:
    flags = "-s -w"
    if source is KUBERNETES:
        major, minor, _ = source.version.removeprefix("v").split(".")
        stamps = {"gitVersion": source.version, "gitMajor": major, "gitMinor": minor}
        flags += "".join(f" -X {_STAMP}.{name}={value}" for name, value in stamps.items())
    what = f"{source.package}@{source.fixed}" if source.fixed else "tool"
    parts.go_install(what, into, flags=flags, home=MODULES if source.fixed else source.home)
    if (made := into / "server").exists():  # etcd's package is called so
        made.rename(into / "etcd")


if __name__ == "__main__":
    for each in SOURCES:
        print(f"{each.package}: {_built(each).name}")
