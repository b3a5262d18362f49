"""A real cluster of one node for tests: containerd, kubelet, kube-proxy and DNS beside a control plane of its own.

Everything runs in namespaces that end with their first process (``kube_init``); the API server is reached through
a port of loopback. Only root can make one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

import kube_images
import parts
from kube_init import ADDRESS, API, BRIDGE, CGROUPS
from kube_programs import program
from real_kubernetes import Ports, Process, prepare, processes, ready, write_admin

INIT = Path(__file__).with_name("kube_init.py")
NODE = ADDRESS.partition("/")[0]
DOMAIN = "cluster.local"
NEEDED = {
    "runc": "runc", "iptables": "iptables", "ip": "iproute2", "conntrack": "conntrack", "unshare": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}  # fmt: skip


def missing() -> str:
    """Why no node can be had here; empty when one can."""
    if os.getuid() != 0:
        return "a node needs root"
    lacking = [package for name, package in NEEDED.items() if not (shutil.which(name) or Path(name).exists())]
    return f"a node needs {' '.join(lacking)}" if lacking else ""


def start(home: Path) -> dict[str, Any]:
    """Start a cluster in ``home``; returns its ``kubeconfig`` and the name of the ``image`` it has."""
    if reason := missing():
        raise parts.PartMissing(reason)
    sweep_cgroups()
    inside, port = Ports(2379, 2380, API), parts.free_port()
    prepare(home, inside, NODE)
    write_admin(home, port)
    image = kube_images.archive()
    plan = {"cgroup": cgroup_of(home), "processes": [_entry(home, each) for each in _node(home, inside, image)]}
    (home / "processes.json").write_text(json.dumps(plan))
    # Killed at once: a node has nothing to put in order, and the keeper of namespaces ignores SIGTERM.
    parts.launch([sys.executable, "-S", str(INIT), str(home), str(port)], home, stop=signal.SIGKILL)
    parts.await_ready(lambda: ready(home, port), home, patience=90)
    return {"kubeconfig": str(home / "admin.kubeconfig"), "home": str(home), "image": kube_images.NAME}


def cluster() -> dict[str, Any]:
    """The cluster of this test run; skipped, or failed in CI, where there can't be one."""
    try:
        return parts.shared("cluster", start)
    except parts.PartMissing as gone:
        parts.unavailable(str(gone))


def cgroup_of(home: Path) -> str:
    """Name of the cgroup, in every hierarchy, below which the pods of this home are."""
    return f"esper-{home.name}"


def sweep_cgroups() -> None:
    """Remove the cgroups of clusters that are no more; one that still has processes stays."""
    for made in CGROUPS.glob("*/esper-cluster*"):
        if not (parts.HOMES / made.name.removeprefix("esper-") / "processes.json").exists():
            for folder, _, _ in os.walk(made, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _entry(home: Path, process: Process) -> dict[str, Any]:
    after = {"kubelet": str(home / "imported"), "images": str(home / "containerd.sock")}.get(process.name, "")
    return {"name": process.name, "command": process.command, "after": after, "once": process.name == "images"}


def _node(home: Path, ports: Ports, image: Path) -> list[Process]:
    """The control plane, bound to the bridge as well, and after it what makes a node."""
    _write_configs(home)
    ctr = f"{program('ctr')} --address {home}/containerd.sock -n k8s.io images import {image}"
    path = f"PATH={program('containerd').parent}:{os.environ['PATH']}"
    return [
        *processes(home, ports, bind="0.0.0.0", advertise=NODE),
        Process("containerd", ["env", path, str(program("containerd")), "--config", f"{home}/containerd.toml"]),
        Process("images", ["sh", "-c", f"until {ctr}; do sleep 0.1; done; touch {home}/imported"]),
        Process("kubelet", [
            str(program("kubelet")), f"--kubeconfig={home}/kubelet.kubeconfig", f"--config={home}/kubelet.yaml",
            f"--root-dir={home}/kubelet", f"--node-ip={NODE}", "--hostname-override=node",
        ]),
        Process("kube-proxy", [
            str(program("kube-proxy")), f"--kubeconfig={home}/proxy.kubeconfig", "--proxy-mode=iptables",
            "--conntrack-max-per-core=0", "--hostname-override=node", f"--cluster-cidr={ADDRESS}",
        ]),
        Process("coredns", [str(program("coredns")), "-conf", f"{home}/Corefile"]),
    ]  # fmt: skip


def _write_configs(home: Path) -> None:
    (home / "cni").mkdir()
    (home / "cni/10-bridge.conflist").write_text(
        json.dumps(
            {
                "cniVersion": "1.0.0", "name": "pods",
                "plugins": [
                    {
                        "type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True,
                        "ipam": {
                            "type": "host-local", "dataDir": f"{home}/addresses", "routes": [{"dst": "0.0.0.0/0"}],
                            "ranges": [[{"subnet": "10.244.0.0/24", "gateway": NODE}]],
                        },
                    },
                    {"type": "portmap", "capabilities": {"portMappings": True}},
                ],
            }
        )
    )  # fmt: skip
    (home / "containerd.toml").write_text(
        f"""version = 3
root = "{home}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "{home}/containerd.sock"
[ttrpc]
address = "{home}/containerd.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{kube_images.NAME}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{home}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
"""
    )
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": f"{home}/pki/ca.pem"}, "anonymous": {"enabled": False}},
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{cgroup_of(home)}", "failCgroupV1": False, "failSwapOn": False,
        "clusterDNS": [NODE], "clusterDomain": DOMAIN, "address": NODE, "readOnlyPort": 0, "healthzPort": 0,
        "containerRuntimeEndpoint": f"unix://{home}/containerd.sock", "podLogsDir": f"{home}/logs",
        "volumePluginDir": f"{home}/plugins", "featureGates": {"KubeletInUserNamespace": True},
        "evictionHard": {"nodefs.available": "1%", "memory.available": "50Mi"}, "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False, "registerNode": True, "serverTLSBootstrap": False,
        "nodeStatusUpdateFrequency": "5s", "syncFrequency": "10s", "resolvConf": f"{home}/resolv.conf",
    }  # fmt: skip
    (home / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))
    (home / "resolv.conf").write_text("")
    (home / "Corefile").write_text(
        f"""{DOMAIN}:53 {{
  bind {NODE}
  kubernetes {DOMAIN} {{
    kubeconfig {home}/dns.kubeconfig
  }}
}}
"""
    )
