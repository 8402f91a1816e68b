"""Python processes of the bench's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any, Final, TypeVar, cast

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


T = TypeVar("T")


def apart(call: Callable[..., T], *args: Any) -> T:
    """Call a function in a process of its own, whose peak of memory is the call's and torch's.

    It is forked from one that has only imported torch, and Dynamo, which torch imports, for
    seconds, once operations are counted. What it prints goes to standard error.

    Parameters
    ----------
    call : callable
        Of a module; its arguments and its result can be pickled.

    Raises
    ------
    RuntimeError
        If the function raises, with the error, or the process dies.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo"])
    with _at_root():  # the server looks for torch in the current folder first
        ensure_running()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, dict(os.environ), call, args))
    process.start()
    sender.close()
    what = " ".join((call.__name__.strip("_"), *map(str, args)))
    try:
        error, result = receiver.recv()
    except EOFError:
        raise RuntimeError(f"{what}: the process died") from None
    finally:
        process.kill()
        process.join()
    if error:
        raise RuntimeError(f"{what}: {error}")
    return cast(T, result)


@contextmanager
def _at_root() -> Iterator[None]:
    """Change into the root folder, which lasts and has no modules, for a while."""
    before = Path.cwd()
    os.chdir(before.anchor)
    try:
        yield
    finally:
        os.chdir(before)


def _answer(
    sender: Connection, environment: dict[str, str], call: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """Send the error, if there is one, and the result; runs in the other process."""
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(2, 1)
    try:
        result = call(*args)
    except Exception as error:
        traceback.print_exc()
        sender.send((f"{type(error).__name__}: {error}", None))
    else:
        sender.send((None, result))
