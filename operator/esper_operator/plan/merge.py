"""A user's partial pod template laid over the operator's, as ``kubectl patch`` would: lists of named things by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "schedulingGates": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Kubernetes' own patch merge keys; a list that is not here is replaced as a whole. Tolerations are added up."""


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``; a null removes a field. Neither argument is changed."""
    result = dict(base)
    for name, value in over.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _one(name, base.get(name), value)
    return result


def _one(name: str, old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return merged(old, new)
    if isinstance(old, list) and isinstance(new, list):
        if name == "tolerations":
            return [*old, *(each for each in new if each not in old)]
        if (key := MERGE_KEYS.get(name)) is not None:
            return _by_key(key, old, new)
    return new


def _by_key(key: str, old: list[Any], new: list[Any]) -> list[Any]:
    result = list(old)
    for item in new:
        wanted = item.get(key) if isinstance(item, Mapping) else None
        place = next((at for at, each in enumerate(result) if wanted is not None and each.get(key) == wanted), None)
        if place is None:
            result.append(item)
        else:
            result[place] = merged(result[place], item)
    return result
