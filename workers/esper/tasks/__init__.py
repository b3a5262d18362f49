"""What a run trains on: a model, three splits, a per-example loss and metrics.

A task is a function ``task(seed, **params) -> Task`` named in the manifest by ``module:function``. The bundled ones are
``esper.tasks.mnist1d:task``, ``esper.tasks.digits:task``, ``esper.tasks.chars:task`` and ``esper.tasks.vector:task``;
none of them needs a download.
"""

from __future__ import annotations

from esper.tasks.data import Data, TensorData, TokenData
from esper.tasks.loading import check_task, load_task
from esper.tasks.task import Factory, PerExample, Task

__all__ = ["Data", "Factory", "PerExample", "Task", "TensorData", "TokenData", "check_task", "load_task"]
