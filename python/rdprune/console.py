"""What every command does alike: errors on one line, the user's callables, JSON and tables."""

from __future__ import annotations

import errno
import functools
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import typer
from rich.console import Console
from typer.core import TyperGroup

from rdprune_core.files import atomic_write

if TYPE_CHECKING:
    from torch import nn

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
PIPE_WIDTH: Final = 160  # columns, where the output is not a terminal that knows its own


class Commands(TyperGroup):
    """The commands, with every error of the user's on one line and exit code 2.

    Errors that no input should cause keep their traceback.
    """

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run, and turn what went wrong into a line and an exit code."""
        standalone = extra.pop("standalone_mode", True)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except typer.Abort:
            code = _interrupted()
        except Exception as error:
            code = _failed(error)
        if standalone:
            sys.exit(code if isinstance(code, int) else 0)
        return code

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run one command; Ctrl-C ends it with a line and no traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_interrupted()) from None


def _interrupted() -> int:
    """Say that the user stopped the command."""
    typer.echo("rdprune: interrupted", err=True)
    return INTERRUPTED


def _failed(error: Exception) -> int:
    """Report an error that the input caused; raise any other again."""
    if hasattr(error, "format_message"):  # a wrong option or argument
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror}"
    elif isinstance(error, (ValueError, OSError)):
        text = str(error)
    elif isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "torch":
        text = "torch is missing: pip install 'rdprune-core[torch]'"
    elif isinstance(error, ImportError):
        text = str(error)
    elif isinstance(error, RuntimeError):  # torch's, where model, data and weights do not fit
        text = f"{type(error).__name__}: {error}"
    else:
        raise error
    typer.echo(f"rdprune: error: {' '.join(text.split())}", err=True)
    return BAD_INPUT


def call(option: str, spec: str) -> Any:
    """Return what calling ``module:function`` returns.

    Raises
    ------
    ValueError
        If the form is wrong, the function is missing, or importing or calling it fails.
    """
    function = find_function(option, spec)
    try:
        return function()
    except Exception as error:
        name = spec.partition(":")[2]
        raise ValueError(f"{option} {spec}: {name}() failed: {_said(error)}") from error


def find_function(option: str, spec: str) -> Callable[..., Any]:
    """Import ``module:function``, the current folder first, and return the function.

    Raises
    ------
    ValueError
        If the form is wrong, the function is missing, or importing fails.
    """
    module_name, colon, name = spec.partition(":")
    if module_name.endswith(".py"):
        dotted = ".".join(Path(module_name).with_suffix("").parts)
        raise ValueError(f"{option} must name a module, not a file: {dotted}:{name or 'function'}")
    if not (module_name and colon and name):
        raise ValueError(f"{option} must be package.module:function, got {spec!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"{option} {spec}: importing {module_name} failed: {_said(error)}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        close = get_close_matches(name, [n for n in dir(module) if callable(getattr(module, n))])
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ValueError(f"{option} {spec}: {module_name} has no function {name!r}{hint}")
    return cast("Callable[..., Any]", function)


def traced(option: str, spec: str) -> Callable[..., Any]:
    """Return a function of the user's that shows the traceback of what it raises, and ends."""
    function = find_function(option, spec)

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            inside = error.__traceback__.tb_next if error.__traceback__ else None
            traceback.print_exception(error.with_traceback(inside))
            typer.echo(f"rdprune: error: {option} {spec} failed", err=True)
            raise typer.Exit(1) from None

    return run


def _said(error: Exception) -> str:
    """Return an error's kind, message and place; the message alone where it is for the user."""
    if type(error) is ValueError:
        return str(error)
    trace = traceback.extract_tb(error.__traceback__)
    where = f" (at {trace[-1].filename}, line {trace[-1].lineno})" if trace else ""
    return f"{type(error).__name__}: {error}{where}"


def load_model(spec: str, device: str = "cpu") -> nn.Module:
    """Return the model that ``--model`` names, on the device."""
    from torch import nn

    model = call("--model", spec)
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {spec} returned {type(model).__name__}, not a torch.nn.Module")
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where CUDA is not built in
        raise ValueError(f"--device {device!r}: {error}") from error


def warn_of_other_weights(model: nn.Module, metadata: Mapping[str, Any], what: str) -> None:
    """Say so, on standard error, if a table or an allocation was measured on other weights."""
    from rdprune.layers import signature

    measured = metadata.get("model", {})
    if "digest" in measured and measured["digest"] != signature(model)["digest"]:
        typer.echo(
            f"rdprune: warning: {what} was measured on other weights than --model gives; its "
            "distortions may not hold for them",
            err=True,
        )


def load_batches(spec: str, option: str = "--data") -> Sequence[Any]:
    """Return the batches that an option names, a one-shot iterable read into a list."""
    from torch import Tensor

    data = call(option, spec)
    if isinstance(data, (Tensor, dict, str, bytes)) or not isinstance(data, Iterable):
        raise ValueError(f"{option} {spec} returned {type(data).__name__}, not batches")
    try:
        return data if isinstance(data, tuple) else list(data)  # a tuple may be one batch
    except Exception as error:  # of the user's own generator
        raise ValueError(f"{option} {spec}: reading batches failed: {_said(error)}") from error


def pairs(option: str, form: str, entries: Sequence[str] | None) -> dict[str, int | str] | None:
    """Return ``name=amount`` entries as a dict, None where there are none.

    Raises
    ------
    ValueError
        If an entry is not of the form or a name comes twice.
    """
    found: dict[str, int | str] = {}
    for entry in entries or ():
        name, equals, value = entry.rpartition("=")
        if not (name and equals and value):
            raise ValueError(f"{option} must be {form}, got {entry!r}")
        if name in found:
            raise ValueError(f"{option} names {name!r} twice")
        found[name] = amount(value)
    return found or None


def amount(text: str) -> int | str:
    """Return a whole number as an int, anything else for the solver to judge."""
    try:
        return int(text)
    except ValueError:
        return text


def check_folders(*paths: Path | str | None) -> None:
    """Check, before the work and not after it, that each file can be written.

    Raises
    ------
    OSError
        If there is no such folder, it cannot be written to, or a folder has the file's name; None
        and ``"-"`` need nothing.
    """
    for path in paths:
        if path in (None, "-"):
            continue
        file = Path(str(path))
        if not file.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file.parent))


def emit(target: str | None, payload: Any, show: Callable[[Console], None]) -> None:
    """Write the JSON where it is wanted, and show the tables unless stdout is taken by it."""
    text = json.dumps(payload, indent=2, allow_nan=False, default=_plain) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    if target is not None:
        with atomic_write(target) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
    show(console())


def console() -> Console:
    """Return a console on standard output, wide where nobody's terminal says how wide."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def _plain(value: Any) -> Any:
    """Return a numpy array or number as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
