"""The host's optimizer: groups that come with a grafted seed and go with a culled one.

Every parameter has a name here (the host's own, or ``seed:<id>:<name>``), because state is exported, restored and
compared by name: positions change whenever a group joins or leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leyline.resources import OptimizerSpec

HOST = "host"


class GrowingOptimizer:
    """A torch optimizer whose parameter groups are added and removed by name.

    A group's learning rate is ``base * scale * multiplier``; the multiplier is the schedule's and set per step.
    """

    def __init__(self, spec: OptimizerSpec, host: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._spec = spec
        self._names: dict[Tensor, str] = {}
        parameters = self._adopt(host)
        self.inner = _build(spec, parameters)
        self.inner.param_groups[0].update(group=HOST, scale=1.0)

    def _adopt(self, named: Iterable[tuple[str, nn.Parameter]]) -> list[nn.Parameter]:
        added = []
        for name, parameter in named:
            self._names[parameter] = name
            added.append(parameter)
        return added

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, the host's first."""
        return tuple(group["group"] for group in self.inner.param_groups)

    def parameter_names(self) -> set[str]:
        """The names of all parameters that hold a place in the optimizer."""
        return {self._names[p] for group in self.inner.param_groups for p in group["params"]}

    def join(self, group: str, named: Iterable[tuple[str, nn.Parameter]], scale: float) -> None:
        """Add a grafted seed's parameters with fresh optimizer state."""
        if group in self.groups:
            raise ValueError(f"parameter group {group!r} is already in the optimizer")
        parameters = self._adopt((f"{group}:{name}", parameter) for name, parameter in named)
        self.inner.add_param_group({"params": parameters, "group": group, "scale": scale})

    def leave(self, group: str) -> None:
        """Remove a group and every trace of its parameters' state."""
        for index, entry in enumerate(self.inner.param_groups):
            if entry["group"] == group and index > 0:
                for parameter in entry["params"]:
                    self.inner.state.pop(parameter, None)
                    del self._names[parameter]
                del self.inner.param_groups[index]
                return
        raise KeyError(f"no parameter group {group!r} in the optimizer; there are: {', '.join(self.groups)}")

    def set_multiplier(self, multiplier: float) -> None:
        """Set every group's learning rate for the next step."""
        for entry in self.inner.param_groups:
            entry["lr"] = self._spec.learning_rate * entry["scale"] * multiplier

    def parameters(self) -> Iterable[nn.Parameter]:
        """All parameters, group by group."""
        for entry in self.inner.param_groups:
            yield from entry["params"]

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of the state tensors as ``<parameter name>|<key>``, and the groups in order."""
        tensors: dict[str, Tensor] = {}
        for parameter, state in self.inner.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{self._names[parameter]}|{key}"] = value.detach().clone()
        return tensors, {"groups": [{"group": g["group"], "scale": g["scale"]} for g in self.inner.param_groups]}

    def import_state(
        self,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        grafted: Mapping[str, Iterable[tuple[str, nn.Parameter]]],
    ) -> None:
        """Make the groups and their state exactly what was exported.

        Args:
            tensors: from :meth:`export_state`.
            meta: from :meth:`export_state`.
            grafted: the parameters that belong to each group other than the host's.
        """
        for group in self.groups[1:]:
            self.leave(group)
        for entry in meta["groups"][1:]:
            self.join(entry["group"], grafted[entry["group"]], entry["scale"])
        self.inner.state.clear()
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            owner, key = name.rsplit("|", 1)
            by_parameter.setdefault(owner, {})[key] = tensor
        for parameter, owner in self._names.items():
            if owner in by_parameter:
                self.inner.state[parameter] = {k: value.detach().clone() for k, value in by_parameter[owner].items()}


def _build(spec: OptimizerSpec, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    # fused: one call for all parameters; with the for-loop version the optimizer is most of a small network's step
    fused = all(p.is_floating_point() for p in parameters)
    if spec.name == "SGD":
        return torch.optim.SGD(
            parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if spec.name == "Adam" else torch.optim.AdamW
    betas = (spec.betas[0], spec.betas[1])
    return kind(parameters, lr=spec.learning_rate, betas=betas, weight_decay=spec.weight_decay, fused=fused)
