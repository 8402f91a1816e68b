"""Python processes of the bench's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, ParamSpec, TypeVar

# ``python -m`` would look for the packages in the current folder first, which may be that of the
# sources, where nothing is compiled.
_START = (
    "import runpy, sys; sys.path[:] = [p for p in sys.path if p]; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)

_ERROR: Final = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
_LAUNCHERS: Final = "ChildFailedError"  # of torchrun, after the rank's own


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs an installed module in a new process."""
    return [sys.executable, "-c", _START.format(module=module), *arguments]


def finished(call: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its standard output.

    Raises
    ------
    RuntimeError
        If it fails: `what`, and the error that its last traceback ends with, a launcher's own left
        out.
    """
    done = subprocess.run(
        call,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if _ERROR.match(line) and _LAUNCHERS not in line]
        raise RuntimeError(f"{what}: {(errors or lines or ['no word'])[-1]}")
    return done.stdout


P = ParamSpec("P")
T = TypeVar("T")


def apart(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process of its own, whose peak of memory is the call's.

    It is forked from one that has only imported torch, and Dynamo, which torch imports, for
    seconds, once operations are counted.

    Raises
    ------
    RuntimeError
        If the process dies.
    Exception
        What the function raises.
    """
    context = get_context("forkserver")
    # Not the package: before Python 3.13 the server looks in the current folder first, see above.
    context.set_forkserver_preload(["torch", "torch._dynamo"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(call, *args, **kwargs).result()
        except BrokenExecutor as error:
            told = " ".join((call.__name__, *map(str, args)))
            raise RuntimeError(f"the process of its own for {told!r} died") from error
