"""Finding, calling and checking a task function."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import numpy
import torch
from torch import Tensor, nn

from esper.errors import TaskError
from esper.tasks.data import Data
from esper.tasks.task import Factory, PerExample, Task

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PROBE = 4
_SCALARS: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def load_task(
    ref: str, params: Mapping[str, object] | None = None, seed: int = 0, search: Sequence[Path] | None = None
) -> Task:
    """Import ``ref`` (``module:function``), call it as ``function(seed=seed, **params)`` and check what it returns.

    Python's, NumPy's and torch's global generators are seeded with ``seed`` for the call and restored after it, so the
    same arguments give the same initial parameters and the caller's random numbers are untouched. ``search`` are the
    directories where a module outside the installed packages is looked for (default: the current one); installed
    modules win. Raises ``TaskError``.
    """
    given = dict(params or {})
    if not _REFERENCE.fullmatch(ref):
        raise TaskError(f"task {ref!r}: not a reference; write 'module:function', such as 'esper.tasks.mnist1d:task'")
    module_name, _, name = ref.partition(":")
    directories = [str(path.resolve()) for path in (search if search is not None else [Path.cwd()])]
    with _importable_from(directories):
        function = _function(ref, _import(ref, module_name, directories), name)
        _check_params(ref, function, given)
        with _seeded(seed):
            try:
                task = function(seed=seed, **given)
            except TaskError as error:
                raise TaskError(f"task {ref!r}: {error}") from error
            except Exception as error:
                raise TaskError(
                    f"task {ref!r}: the function raised {type(error).__name__}: {error}; "
                    f"it was called with seed={seed} and params {given}"
                ) from error
    if not isinstance(task, Task):
        raise TaskError(
            f"task {ref!r}: the function returned {type(task).__name__}; it must return an esper.tasks.Task"
        )
    check_task(task, ref)
    return dataclasses.replace(task, factory=Factory(ref, given, seed))


def check_task(task: Task, name: str = "task") -> None:
    """Check a task's parts against each other with one small batch of each split.

    The model runs in evaluation mode on its initial parameters; its mode and the global generators are left as they
    were. Raises ``TaskError`` naming the part that does not fit.
    """
    where = f"task {name!r}"
    if not isinstance(task.model, nn.Module):
        raise TaskError(f"{where}: model is {type(task.model).__name__}, it must be a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in task.model.parameters()):
        raise TaskError(f"{where}: the model has no parameter that requires a gradient; there is nothing to train")
    if task.metric not in task.metrics:
        raise TaskError(f"{where}: metric {task.metric!r} is not one of its metrics {sorted(task.metrics)}")
    splits: dict[str, Data] = {"train": task.train, "controller": task.controller, "report": task.report}
    for split, data in splits.items():
        if not isinstance(data, Data):
            raise TaskError(f"{where}: {split} is {type(data).__name__}; it needs __len__ and batch(indices)")
    if len({id(data) for data in splits.values()}) < 3:
        raise TaskError(f"{where}: train, controller and report must be three different data sets")
    modes = [(module, module.training) for module in task.model.modules()]
    try:
        task.model.eval()
        with _seeded(0):
            for split, data in splits.items():
                _check_split(where, split, data, task)
    finally:
        for module, training in modes:
            module.training = training


def _check_split(where: str, split: str, data: Data, task: Task) -> None:
    count = min(_PROBE, len(data))
    if count == 0:
        raise TaskError(f"{where}: {split} is empty; it needs at least one example")
    batch = _guarded(f"{where}: {split}.batch", lambda: data.batch(torch.arange(count)))
    if not (isinstance(batch, tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise TaskError(f"{where}: {split}.batch must return two tensors (inputs, targets), not {_describe(batch)}")
    inputs, targets = batch
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != count or len(targets) != count:
        raise TaskError(
            f"{where}: {split}.batch of {count} indices gave inputs {tuple(inputs.shape)} and targets "
            f"{tuple(targets.shape)}; both must have {count} rows"
        )
    outputs = _guarded(
        f"{where}: the model does not accept {split} inputs {tuple(inputs.shape)} {inputs.dtype}",
        lambda: task.model(inputs),
    )
    loss = _per_example(f"{where}: loss on {split}", task.loss, outputs, targets, count)
    if not loss.requires_grad:
        raise TaskError(f"{where}: the loss on {split} does not depend on the model's parameters (no gradient)")
    for key, metric in task.metrics.items():
        _per_example(f"{where}: metric {key!r} on {split}", metric, outputs, targets, count)


def _per_example(what: str, function: PerExample, outputs: object, targets: Tensor, count: int) -> Tensor:
    values = _guarded(what, lambda: function(outputs, targets))  # type: ignore[arg-type]
    if not isinstance(values, Tensor) or tuple(values.shape) != (count,) or not values.is_floating_point():
        raise TaskError(
            f"{what}: gave {_describe(values)}; it must give one float for each of the {count} examples, shape "
            f"({count},); use reduction='none' and average only within an example"
        )
    if not bool(torch.isfinite(values).all()):
        raise TaskError(f"{what}: gave {values.tolist()} at the initial parameters; every value must be finite")
    return values


def _guarded(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise TaskError(f"{what}: raised {type(error).__name__}: {error}") from error


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _import(ref: str, module_name: str, directories: list[str]) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise TaskError(
                f"task {ref!r}: there is no module {error.name!r}{_nearest_module(error.name, directories)}; it must "
                f"be installed, or be in {' or '.join(directories) or 'a search directory'}"
            ) from error
        raise TaskError(
            f"task {ref!r}: the module {module_name!r} needs {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise TaskError(f"task {ref!r}: importing {module_name!r} raised {type(error).__name__}: {error}") from error


def _function(ref: str, module: ModuleType, name: str) -> Callable[..., object]:
    found = getattr(module, name, None)
    if found is None:
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        public = [value.__name__ for value in own if inspect.isfunction(value) and not value.__name__.startswith("_")]
        raise TaskError(f"task {ref!r}: {module.__name__} has no {name!r}{_nearest(name, public)}")
    if not callable(found):
        raise TaskError(f"task {ref!r}: {name!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _check_params(ref: str, function: Callable[..., object], params: Mapping[str, object]) -> None:
    signature = inspect.signature(function)
    accepted = [name for name in signature.parameters if name != "seed"]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    if "seed" in params:
        raise TaskError(f"task {ref!r}: params.seed is not possible; the run's own seed is handed to the function")
    for name in params:
        if name not in accepted and not takes_any:
            raise TaskError(f"task {ref!r}: there is no parameter {name!r}{_nearest(name, accepted)}")
    try:
        signature.bind(seed=0, **params)
    except TypeError as error:
        raise TaskError(
            f"task {ref!r}: {error}; the function must be callable as function(seed=..., **params)"
        ) from error
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):
        return  # annotations that can't be evaluated are the author's business; the call itself still checks
    for name, value in params.items():
        hint = hints.get(name)
        if hint in _SCALARS and type(value) not in _SCALARS[hint]:
            raise TaskError(
                f"task {ref!r}: params.{name} is {value!r}; it must be of type {_SCALARS[hint][-1].__name__}"
            )


def _nearest_module(name: str, directories: list[str]) -> str:
    """The module most like ``name`` in its own package, or beside the manifest."""
    package, _, leaf = name.rpartition(".")
    places = list(getattr(sys.modules.get(package), "__path__", [])) if package else directories
    names = [found.name for found in pkgutil.iter_modules(places)]
    close = difflib.get_close_matches(leaf, names, n=1)
    return f", did you mean {f'{package}.{close[0]}'.lstrip('.')!r}?" if close else ""


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (it has: {', '.join(sorted(known)) or 'nothing'})"


@contextlib.contextmanager
def _importable_from(directories: list[str]) -> Iterator[None]:
    # At the end of the path: a file beside a manifest must not replace an installed module.
    added = [directory for directory in directories if directory not in sys.path]
    sys.path.extend(added)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for directory in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(directory)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python_state = random.getstate()
    numpy_state = numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
