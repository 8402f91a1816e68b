"""Python processes of the bench's own."""

from __future__ import annotations

import sys

# ``python -m`` would look for the packages in the current folder first, which may be that of the
# sources, where nothing is compiled.
_START = (
    "import runpy, sys; sys.path[:] = [p for p in sys.path if p]; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs an installed module in a new process."""
    return [sys.executable, "-c", _START.format(module=module), *arguments]
