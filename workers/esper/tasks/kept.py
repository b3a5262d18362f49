"""Data that take seconds to make, kept between processes: each test, twin and pod would make them anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper.cache import cache_directory
from esper.errors import BadInput
from esper.files import write_file

_LOG = logging.getLogger(__name__)
Tensors: TypeAlias = dict[str, Tensor]


def kept(name: str, make: Callable[[], Tensors]) -> Tensors:
    """What ``make`` returns, from the user's cache where it is there already.

    A file that can't be read is made again, and a cache that can't be used is done without: both are logged.

    Args:
        name: of the file; says everything that what is made depends on.
        make: makes them, the same each time.
    """
    try:
        path = cache_directory("data") / f"{name}.safetensors"
    except BadInput as error:
        _LOG.info("%s is made without a cache: %s", name, error)
        return make()
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        _LOG.debug("%s is made for the first time", path)
    except (OSError, SafetensorError) as error:
        _LOG.warning("%s is made again: %s", path, error)
    made = make()
    try:
        write_file(path, save(made), mode=0o600)
    except OSError as error:
        _LOG.info("%s is not kept: %s", path, error.strerror)
    return made
