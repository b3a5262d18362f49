"""What the operator may do in a cluster, and no more: Roles are made of this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esper_operator.keys import DOMAIN

READ = ("get", "list", "watch")


@dataclass(frozen=True)
class Permission:
    """Verbs on resources of one API group, and why they are needed."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str

    def rule(self) -> dict[str, Any]:
        """As a Role has it."""
        return {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}


PERMISSIONS: tuple[Permission, ...] = (
    Permission(DOMAIN, ("trainingruns", "blueprints"), READ, "what is wanted"),
    Permission(DOMAIN, ("kernelartifacts",), (*READ, "create", "delete"), "a blueprint's targets"),
    Permission(DOMAIN, ("trainingruns/status", "blueprints/status", "kernelartifacts/status"), ("patch",), "what is"),
    Permission("batch", ("jobs",), (*READ, "create", "patch", "delete"), "an idle Job gives way to another priority"),
    Permission("", ("configmaps", "services"), (*READ, "create", "patch"), "snapshots and names of ranks"),
    Permission("", ("pods",), ("list", "watch"), "why a run does not get on"),
    Permission("events.k8s.io", ("events",), ("create",), "to tell users"),
)
"""In every namespace the operator works in."""

POOL_PERMISSIONS: tuple[Permission, ...] = (
    Permission("", ("podtemplates",), ("list",), "which pools there are"),
    Permission(
        "batch", ("jobs",), ("get", "list", "create", "patch", "delete"), "pods of pools; an earlier template's go"
    ),
    Permission("events.k8s.io", ("events",), ("create",), "to tell of pools"),
)
"""In the namespace of the pools, where the operator scales them."""

LEASE_PERMISSIONS: tuple[Permission, ...] = (
    Permission("coordination.k8s.io", ("leases",), ("get", "create", "update"), "one replica leads"),
)
"""In the namespace of the Lease."""
