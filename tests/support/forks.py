"""Running something in a child that may die.

Children are forked from a server that has imported what takes long (see ``nursery``) and runs nothing: they begin at
once, and what other threads of the tests' own process hold at that moment (a lock in the broker's client, OpenMP's
team) is not theirs to wait for. What a child is to do is sent to it: a closure, with whatever can be pickled.
"""

from __future__ import annotations

import copyreg
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import NoReturn

import cloudpickle
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["nursery"])
FAILED = 70
"""Exit status of a child whose work raised; what it raised is among what it wrote."""


class Child:
    """A child at work.

    Args:
        work: what it does; it may exit with a status of its own.
        log: file that gets what it writes; a temporary one if not given, see ``written``.
    """

    def __init__(self, work: Callable[[], object], log: Path | None = None) -> None:
        if log is None:
            handle, name = tempfile.mkstemp(prefix="esper-child-")
            os.close(handle)
            log = Path(name)
        self.log = log
        for name, module in list(sys.modules.items()):
            if name.startswith("tests."):  # pytest's own names for them: a child could not import these
                cloudpickle.register_pickle_by_value(module)
        start_server()
        given = (cloudpickle.dumps(work), str(log), dict(os.environ), os.getcwd())
        self._process = _SERVER.Process(target=_work, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or minus the signal that ended it; None when it is not done in time."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """``kill -9``, if it still runs."""
        self._process.kill()

    @property
    def written(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")


def forked(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Run ``work`` in a child; returns its exit status, or minus the signal that ended it.

    ``kill_after``: seconds after which the child gets SIGKILL.
    """
    child = Child(work)
    status = child.wait(kill_after)
    if status is None:
        child.kill()
        status = child.wait()
        assert status is not None
    print(child.written, end="")
    child.log.unlink()
    return status


def die() -> None:
    """kill -9 this process."""
    os.kill(os.getpid(), signal.SIGKILL)


@functools.cache
def start_server() -> None:
    """Start what children are forked from, which else happens with the first of them.

    For those who measure how long a child takes.
    """
    # It looks for what it is to load where any interpreter looks, and not where its parent does.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        forkserver.ensure_running()


def _reduced(key: Ed25519PublicKey | Ed25519PrivateKey) -> tuple[Callable[[bytes], object], tuple[bytes]]:
    if isinstance(key, Ed25519PublicKey):
        return _public, (key.public_bytes_raw(),)
    return _private, (key.private_bytes_raw(),)


def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def _private(raw: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(raw)


# A test hands its keys to its child; they are no class of Python's, and don't say how they are pickled.
_KEY = Ed25519PrivateKey.generate()
for _kind in (type(_KEY), type(_KEY.public_key())):
    copyreg.pickle(_kind, _reduced)  # type: ignore[arg-type]


def _work(payload: bytes, log: str, variables: Mapping[str, str], folder: str) -> NoReturn:
    status = FAILED
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - for as long as it lives
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
        cloudpickle.loads(payload)()  # what its own parent sent it, through the server's pipe
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - it must end with a status of its own, whatever it was
        traceback.print_exc()
    finally:
        os._exit(status)
