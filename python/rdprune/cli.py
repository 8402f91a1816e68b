"""The ``rdprune`` command."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as error:
    # Said here because the entry point imports this before it can call anything.
    message = f"rdprune: error: {error.name} is missing: pip install 'rdprune-core[torch]'\n"
    sys.stderr.write(message)
    raise SystemExit(2) from None

import rdprune_core
from rdprune.bench.commands import app as bench
from rdprune.commands import iterate, measure, prune, recipe, refine, search, solve
from rdprune.commands.options import Json, example
from rdprune.console import Commands

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Give every layer of a network the compression it can bear.

    Start with: rdprune demo
    """
    if version:
        typer.echo(f"rdprune {rdprune_core.__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command(
    epilog=example(
        "rdprune demo --output rdprune-demo",
    )
)
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("rdprune-demo"),
    json: Json = None,
) -> None:
    """Prune a ResNet-20 trained on MNIST digits, in under a minute on one core."""
    from rdprune.demo.run import run

    run(output, json)


GROUPS = (measure, solve, refine, search, prune, iterate, recipe)
for group in GROUPS:
    app.registered_commands.extend(group.app.registered_commands)
app.add_typer(bench, name="bench")


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a warning as a line of the command, not of its source code."""
    del category, filename, lineno, line
    return f"rdprune: warning: {message}\n"


def main() -> None:
    """Run the command; the entry point of the ``rdprune`` script."""
    warnings.formatwarning = _warning
    app(prog_name="rdprune")


if __name__ == "__main__":
    main()
