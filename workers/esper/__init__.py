"""Esper: PyTorch models that grow themselves.

The names below are imported when they are first used: torch alone takes seconds, ``import esper`` none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.kasmina import bank_of
    from esper.persist import load_model, save_model
    from esper.sdk import TolariaTrainer, load_config, load_task, wrap
    from esper.tamiyo import TamiyoController
    from esper.tasks import Task, TensorData, TokenData

_HOMES = {
    "Task": "esper.tasks",
    "TensorData": "esper.tasks",
    "TokenData": "esper.tasks",
    "TamiyoController": "esper.tamiyo",
    "TolariaTrainer": "esper.sdk",
    "bank_of": "esper.kasmina",
    "load_config": "esper.sdk",
    "load_model": "esper.persist",
    "load_task": "esper.sdk",
    "save_model": "esper.persist",
    "wrap": "esper.sdk",
}

__all__ = [
    "TamiyoController",
    "Task",
    "TensorData",
    "TokenData",
    "TolariaTrainer",
    "bank_of",
    "load_config",
    "load_model",
    "load_task",
    "save_model",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'esper' has no attribute {name!r}; it has: {', '.join(__all__)}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
