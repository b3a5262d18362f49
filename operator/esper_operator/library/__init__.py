"""The only place that talks to the kernel library."""

from esper_operator.library.kernels import KernelLibrary

__all__ = ["KernelLibrary"]
