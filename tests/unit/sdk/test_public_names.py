"""What users may rely on: the names of ``esper``, and the tree of errors with its exit codes. Change it knowingly."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import esper
import esper.errors
import leyline.errors
from esper.errors import EsperError
from leyline.errors import LeylineError

NAMES = [
    "TamiyoController", "Task", "TensorData", "TokenData", "TolariaTrainer", "bank_of", "load_config", "load_model",
    "load_task", "save_model", "wrap",
]  # fmt: skip

#: class: (parent, exit code)
ERRORS = {
    "EsperError": ("Exception", 3),
    "BadInput": ("EsperError", 2),
    "ManifestError": ("BadInput", 2),
    "TaskError": ("BadInput", 2),
    "SlotError": ("BadInput", 2),
    "BudgetTooSmall": ("BadInput", 2),
    "ArtifactError": ("BadInput", 2),
    "ModelError": ("BadInput", 2),
    "CheckpointMismatch": ("BadInput", 2),
    "OutputDirectoryError": ("BadInput", 2),
    "RankFailed": ("RunFailed", 3),
    "RankLost": ("RunFailed", 3),
    "RanksDisagree": ("RunFailed", 3),
    "RunFailed": ("EsperError", 3),
    "Diverged": ("RunFailed", 3),
    "StateCorruption": ("RunFailed", 3),
    "NumericalFault": ("RunFailed", 3),
    "StepTimeout": ("RunFailed", 3),
    "TaskFailed": ("RunFailed", 3),
    "KernelBuildError": ("RunFailed", 3),
    "LibraryError": ("RunFailed", 3),
    "BusError": ("RunFailed", 3),
    "ObjectStoreError": ("RunFailed", 3),
    "CheckpointsUnavailable": ("RunFailed", 3),
    "RunTaken": ("RunFailed", 3),
    "TwinError": ("RunFailed", 3),
    "StorageFull": ("RunFailed", 3),
    "Interrupted": ("EsperError", 130),
}
CONTRACT_ERRORS = {
    "LeylineError": "Exception",
    "FieldError": "_Located",
    "BlueprintError": "_Located",
    "InterfaceError": "_Located",
    "LifecycleError": "_Located",
    "IdentityError": "_Located",
    "EnvelopeError": "LeylineError",
    "MalformedEnvelope": "EnvelopeError",
    "ForgedEnvelope": "EnvelopeError",
    "ReplayedEnvelope": "EnvelopeError",
    "ReplayGuardFull": "EnvelopeError",
    "StaleEnvelope": "EnvelopeError",
    "WrongTopic": "EnvelopeError",
    "OutOfSequence": "EnvelopeError",
    "UnknownKey": "EnvelopeError",
}
#: Exceptions that never leave the package they are raised in.
INTERNAL = {"Stopped", "TooSymmetric", "RuleBreach"}


def _exceptions(module):
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__
    }


def test_the_names_of_esper():
    assert sorted(esper.__all__) == sorted(NAMES)
    assert dir(esper) == sorted(NAMES)
    for name in NAMES:
        found = getattr(esper, name)
        assert callable(found)
        assert found.__doc__, f"esper.{name} has no docstring"
    with pytest.raises(AttributeError, match="load_model"):
        esper.load_modle  # noqa: B018  the access is what is tested


def test_the_error_tree():
    found = {name: (kind.__base__.__name__, kind.exit_code) for name, kind in _exceptions(esper.errors).items()}
    assert found == ERRORS
    drawing = esper.errors.__doc__ or ""
    for name in ERRORS:
        assert name in drawing, f"{name} is not in the drawing at the top of esper/errors.py"


def test_the_contracts_errors():
    found = {name: kind.__base__.__name__ for name, kind in _exceptions(leyline.errors).items() if name[0] != "_"}
    assert found == CONTRACT_ERRORS
    assert all(issubclass(getattr(leyline.errors, name), LeylineError) for name in CONTRACT_ERRORS)


def test_every_exception_of_the_packages_hangs_in_the_tree():
    strangers = []
    for package in (esper, leyline):
        for entry in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if ".migrations" in entry.name or entry.name.endswith("__main__"):
                continue
            for name, kind in _exceptions(importlib.import_module(entry.name)).items():
                if (
                    not name.startswith("_")
                    and name not in INTERNAL
                    and not issubclass(kind, EsperError | LeylineError)
                ):
                    strangers.append(f"{entry.name}.{name}")
    assert strangers == []
