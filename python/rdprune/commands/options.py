"""Options that several commands share."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import typer


def example(*lines: str) -> str:
    """Return the end of a command's help; the backspace keeps its lines as they are."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in lines)))


def fraction(text: str) -> float:
    """Return a fraction that is written as one, or in per cent."""
    try:
        # In decimals: 0.9 / 100 is not the double that 0.009 is.
        return float(Decimal(text[:-1]).scaleb(-2)) if text.endswith("%") else float(text)
    except (ValueError, InvalidOperation):
        raise typer.BadParameter(f"{text!r} is not a fraction such as 0.8 or 80%") from None


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
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", help="Option more: 2:4, 4x2:0.5 (blocks), out:0.5, in:0.5; repeatable."
    ),
]
Criterion = Annotated[
    str, typer.Option(help="What a mask keeps first: magnitude, wanda, or taylor (with labels).")
]
Sparsity = Annotated[
    float | None,
    typer.Option(
        "--sparsity", metavar="FRACTION", parser=fraction, help="Fraction to remove: 0.8 or 80%."
    ),
]
Sparsities = Annotated[
    list[float] | None,
    typer.Option(
        "--sparsity",
        metavar="FRACTION",
        parser=fraction,
        help="Fraction to remove: 0.8 or 80%; repeatable.",
    ),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="[COST=]AMOUNT", help="Most of a cost: 20%, macs=35%, macs=90000."
    ),
]
Floors = Annotated[
    list[str] | None, typer.Option("--floor", metavar="LAYER=COST", help="Least cost of a layer.")
]
Caps = Annotated[
    list[str] | None, typer.Option("--cap", metavar="LAYER=COST", help="Most cost of a layer.")
]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Run folder: go on where a run on it stopped."),
]
