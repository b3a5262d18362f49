"""Every error Esper raises on purpose, drawn in one place.

    EsperError                      exit code
    ├── BadInput                        2      the user can mend it: a manifest, a file, a path
    │   ├── ManifestError                      fields of a manifest (all of them at once)
    │   ├── TaskError                          a task that can't be imported or whose parts disagree
    │   ├── SlotError                          a slot glob that matches nothing, a module that can't carry a seed
    │   ├── BudgetTooSmall                     less than the host alone needs
    │   ├── ArtifactError                      truncated, tampered, unsigned or unsafe kernel artifacts
    │   ├── ModelError                         a saved model that is damaged or belongs to another host
    │   ├── CheckpointMismatch                 a checkpoint of another run or another model
    │   └── OutputDirectoryError               not writable, not empty, not a run
    ├── RunFailed                       3      the input was fine, the work could not be finished
    │   ├── Diverged                           more rollbacks than the governor allows
    │   ├── StateCorruption                    the seed state's CRC does not fit (handled by a rollback)
    │   ├── NumericalFault                     NaN, infinity or a loss spike (handled by a rollback)
    │   ├── StepTimeout                        a step outlasted the watchdog
    │   ├── TaskFailed                         the task's own code raised while the run went on
    │   ├── KernelBuildError                   the compiler or the benchmark could not produce a verdict
    │   ├── LibraryError                       the kernel library can't be used
    │   ├── BusError                           the message bus refused
    │   ├── ObjectStoreError                   an object store can't be used
    │   ├── CheckpointsUnavailable             checkpoints could not be stored for too long
    │   ├── RunTaken                           another trainer owns this run
    │   ├── TwinError                          the twin's process died or answered nonsense
    │   ├── RankLost                           another rank of the run is gone or does not answer
    │   ├── RankFailed                         another rank failed in a way this one has no word for
    │   ├── RanksDisagree                      two ranks that must hold the same bits do not
    │   └── StorageFull                        no space left on the device
    └── Interrupted                   130      Ctrl-C; a checkpoint was written

A message names the thing, says what was wrong with it and what to do; it never holds a secret.
"""

from __future__ import annotations

from collections.abc import Sequence


class EsperError(Exception):
    """Base of all; ``exit_code`` is what the command line returns.

    ``told``: another process of the same run tells the user about it.
    """

    exit_code = 3
    told = False


class BadInput(EsperError):
    """Something the user gave is wrong; nothing was changed."""

    exit_code = 2


class ManifestError(BadInput):
    """One or more fields of a manifest are wrong; ``problems`` holds a line for each."""

    def __init__(self, problems: Sequence[str], source: str = "manifest") -> None:
        self.problems = tuple(problems)
        self.source = source
        head = f"{source}: {len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {line}" for line in self.problems)]))


class TaskError(BadInput):
    """A task reference can't be imported, or its model, data, loss and metrics disagree."""


class SlotError(BadInput):
    """A slot can't be had: no such module, or a module that can't carry a seed."""


class BudgetTooSmall(BadInput):
    """The budget is below what the host alone needs."""


class ArtifactError(BadInput):
    """A kernel artifact is damaged, unsigned or unsafe; it was not opened."""


class ModelError(BadInput):
    """A saved model is damaged, of an unknown version, or does not fit the host it was given."""


class CheckpointMismatch(BadInput):
    """A checkpoint belongs to another run, another manifest or another model."""


class OutputDirectoryError(BadInput):
    """The output directory can't be written, or holds something a run must not overwrite."""


class RunFailed(EsperError):
    """The input was fine but the run could not be finished."""

    exit_code = 3


class Diverged(RunFailed):
    """The governor rolled back more often than ``governor.maxRollbacks`` allows."""


class StateCorruption(RunFailed):
    """The seed state's checksum does not fit its content."""


class NumericalFault(RunFailed):
    """A loss or a parameter is not finite, or the loss jumped far outside its usual spread."""


class StepTimeout(RunFailed):
    """One training step took longer than ``governor.stepTimeoutSeconds``."""


class TaskFailed(RunFailed):
    """The task's own code (model, data, loss or a metric) raised while the run went on."""


class KernelBuildError(RunFailed):
    """A kernel could not be built or measured."""


class LibraryError(RunFailed):
    """The kernel library can't be read or written."""


class BusError(RunFailed):
    """The message bus refused a message or is closed."""


class ObjectStoreError(RunFailed):
    """An object store can't be read or written."""


class CheckpointsUnavailable(RunFailed):
    """Checkpoints could not be stored for longer than the run was told to put up with."""


class RunTaken(RunFailed):
    """Another trainer has taken the run over; what this one did since is not part of it."""


class TwinError(RunFailed):
    """The twin's process died or gave an answer that makes no sense."""


class RankLost(RunFailed):
    """Another rank of the run is gone or does not answer."""


class RankFailed(RunFailed):
    """Another rank of the run failed; the message says which and how."""


class RanksDisagree(RunFailed):
    """Ranks that must hold the same bits do not."""


class StorageFull(RunFailed):
    """No space is left; what was there before is untouched."""


class Interrupted(EsperError):
    """The user asked to stop; a checkpoint was written first."""

    exit_code = 130
