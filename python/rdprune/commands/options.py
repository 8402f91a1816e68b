"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def example(*lines: str) -> str:
    """Return the end of a command's help; the backspace keeps its lines as they are."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in lines)))


TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="Table that measure wrote.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; '-' for stdout, alone."),
]
ModelSpec = Annotated[
    str, typer.Option("--model", metavar="MODULE:FUNCTION", help="Callable returning the model.")
]
DataSpec = Annotated[
    str, typer.Option("--data", metavar="MODULE:FUNCTION", help="Callable returning batches.")
]
Device = Annotated[str, typer.Option(help="Where the model runs, as torch names it.")]
AllocationPath = Annotated[Path, typer.Option(help="Allocation that allocate wrote.")]
Sparsities = Annotated[
    list[float] | None,
    typer.Option("--sparsity", metavar="FRACTION", help="Fraction to remove; repeatable."),
]
