"""What children of tests find loaded (see ``forks``): all that would take each of them seconds, and one data set.

Some of it is imported by PyTorch and by the tasks only when they first need it.
"""

from __future__ import annotations

import importlib

import torch

from esper.tasks import load_task

for name in (
    "esper.cli",
    "esper.kernel.backends.aoti",
    "esper.kernel.backends.eager",
    "esper.weatherlight.run",
    "esper_operator.main",
    "torch._dynamo",
    "torch._inductor",
    "torch.autograd.profiler",
    "torch.fx.experimental.symbolic_shapes",
    "torch.onnx",
    "torch.utils.tensorboard",
):
    importlib.import_module(name)

torch.set_num_threads(1)  # a team of threads does not survive a fork: a child that used it would wait for ever
load_task("esper.tasks.mnist1d:task", {}, 0)
