"""``python -m esper``: the command line, for launchers that start a module (``torchrun -m esper run FILE``)."""

from __future__ import annotations

from esper.cli import main

if __name__ == "__main__":
    main()
