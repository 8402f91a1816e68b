"""What the accuracy experiment shows: tables, and a picture of who keeps which layers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from rdprune import report
from rdprune.bench.accuracy import DENSE, Plan
from rdprune.bench.ledger import grouped
from rdprune_core.files import atomic_write

Rows = Sequence[Mapping[str, Any]]

COLOURS: Final = 10
"""Of matplotlib's cycle; then another kind of line."""
LINES: Final = ("-", "--", ":")
FIGURES: Final = {"calibration": "calibration", "mse": "test", "kl": "KL", "top1": "top-1"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of figures; `sign` is -1 where more is better."""

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    text: Callable[[Mapping[str, Any]], str]
    sign: int


def show(plan: Plan, rows: Rows) -> list[Table]:
    """Return a table for each network and sparsity; the best of a column is in bold."""
    columns = [
        *(_figure(state, name) for state in plan.states for name in FIGURES),
        *(_tuned(state) for state in plan.tuned if plan.seeds),
    ]
    return [shown(columns, *group, members) for group, members in grouped(rows).items()]


def shown(columns: Sequence[Column], network: str, sparsity: float, rows: Rows) -> Table:
    """Return a table of methods, their passes and these columns; the best of a column is bold."""
    grid = report.new_grid("method", "passes", *(column.title for column in columns))
    pruned = [row for row in rows if row["method"] != DENSE]
    best = []
    for column in columns:
        known = [value for row in pruned if (value := column.value(row)) is not None]
        best.append(min(known, key=lambda v, sign=column.sign: sign * v, default=None))  # type: ignore[misc]
    for row in rows:
        passes = report.MISSING if row["passes"] is None else f"{row['passes']:,}"
        cells = [
            f"[bold]{column.text(row)}[/bold]"
            if row in pruned and least is not None and column.value(row) == least
            else column.text(row)
            for column, least in zip(columns, best, strict=True)
        ]
        grid.add_row(row["method"], passes, *cells)
    grid.title = f"{network}, sparsity {sparsity:g}"
    return grid


def _figure(state: str, name: str) -> Column:
    def value(row: Mapping[str, Any]) -> float | None:
        return None if row[state] is None else float(row[state][name])

    if name == "top1":
        return Column(f"{state}\ntop-1", value, lambda row: report.share(value(row)), -1)
    return Column(f"{state}\n{FIGURES[name]}", value, lambda row: report.number(value(row), 3), 1)


def _tuned(state: str) -> Column:
    """Mean top-1 after the fine-tunes, and the standard deviation over them."""

    def value(row: Mapping[str, Any]) -> float | None:
        each = row[f"{state}, tuned"]
        return statistics.fmean(each) if each else None

    def text(row: Mapping[str, Any]) -> str:
        each = row[f"{state}, tuned"]
        spread = f" ± {100 * statistics.stdev(each):.1f}" if len(each) > 1 else ""
        return report.share(value(row)) + spread

    return Column(f"{state}, tuned\ntop-1", value, text, -1)


def draw(path: Path, rows: Rows) -> None:
    """Write a PNG: the density that each method gives each layer, a panel for each sparsity.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "pictures need matplotlib, which is missing: pip install 'rdprune-core[demo]'"
        raise ImportError(message, name="matplotlib") from error
    groups = grouped([row for row in rows if row["method"] != DENSE])
    figure = Figure(figsize=(11, 1 + 3.2 * len(groups)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), squeeze=False)[:, 0]
    for axes, ((network, sparsity), members) in zip(panels, groups.items(), strict=True):
        names = [report.short_name(name) for name in members[0]["densities"]]
        for number, row in enumerate(members):
            heights = [100 * density for density in row["densities"].values()]
            line = LINES[number // COLOURS % len(LINES)]
            axes.plot(
                heights, line, marker="o", markersize=3, linewidth=1.4, label=row["method"]
            )  # fmt: skip
        axes.set(yscale="log", ylabel="density of the layer (%)")
        axes.set_title(f"{network}, sparsity {sparsity:g}", loc="left")
        axes.set_xticks(range(len(names)))
        axes.set_xticklabels(names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)
        axes.grid(alpha=0.3)
    if len(panels):
        panels[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
