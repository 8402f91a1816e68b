"""One picture of a table and its allocations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rdprune import report
from rdprune_core.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rdprune_core import Allocation, Frontier, RDTable

NAMED_LAYERS: Final = 64


def draw(
    path: str | Path,
    table: RDTable,
    frontier: Frontier,
    allocations: Sequence[Allocation],
    *,
    title: str = "",
) -> None:
    """Write a PNG: every layer's distortion curve, the frontier, and who was given which sparsity.

    Parameters
    ----------
    path
        File to write, atomically.
    table
        Measured table.
    frontier
        Of the table.
    allocations
        Those to mark on the frontier and to show layer by layer, in the order of the legend.
    title
        Headline; empty for none.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    OSError
        If the file cannot be written.
    """
    figure = canvas(13, 9)
    axes = figure.subplot_mosaic(
        [["curves", "frontier"], ["layers", "layers"]], height_ratios=[1.15, 1]
    )
    for panel in axes.values():
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(visible=True, color="#e6e6e6", linewidth=0.7)
        panel.set_axisbelow(True)
    colours = _colours("plasma", len(allocations), 0.0, 0.78)
    _draw_curves(figure, axes["curves"], table)
    _draw_frontier(axes["frontier"], frontier, allocations, colours)
    _draw_layers(axes["layers"], table, allocations, colours)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    write(figure, path)


def canvas(width: float, height: float, extra: str = "demo") -> Figure:
    """Return an empty figure of so many inches.

    Raises
    ------
    ImportError
        If matplotlib is missing; names the extra of this package that brings it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = f"pictures need matplotlib, which is missing: pip install 'rdprune-core[{extra}]'"
        raise ImportError(message, name="matplotlib") from error
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def landmarks(frontier: Frontier) -> list[Allocation]:
    """Return the frontier's allocations nearest to 50, 70, 80 and 90 per cent removed."""
    densities = np.asarray(frontier.budgets) / frontier[0].dense[frontier.cost]
    nearest = {int(np.abs(densities - kept).argmin()): None for kept in (0.5, 0.3, 0.2, 0.1)}
    return [frontier[index] for index in nearest]


def _colours(name: str, count: int, low: float, high: float) -> list[Any]:
    """Return ``count`` colours of a colour map between two of its points."""
    from matplotlib import colormaps

    return [colormaps[name](x) for x in np.linspace(low, high, count)]


def _draw_curves(figure: Figure, axes: Axes, table: RDTable) -> None:
    """Draw distortion against sparsity, one line a layer, coloured by depth."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    cost = next(iter(table.costs))
    count = len(table.names)
    for index, colour in enumerate(_colours("viridis", count, 0.0, 0.95)):
        removed = 1.0 - table.costs[cost][index] / max(1, int(table.dense[cost][index]))
        distortion = np.where(table.distortion[index] > 0, table.distortion[index], np.nan)
        order = np.argsort(removed, kind="stable")
        axes.plot(100 * removed[order], distortion[order], color=colour, linewidth=1.4)
    axes.set(yscale="log", xlim=(0, 100), xlabel="sparsity of the layer (%)")
    axes.set_ylabel("distortion of the output")
    axes.set_title("One layer pruned, the others dense", loc="left")
    palette = ListedColormap(_colours("viridis", 256, 0.0, 0.95))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, max(1, count - 1)), palette), ax=axes, pad=0.01, aspect=30
    )
    ticks = np.unique(np.linspace(0, count - 1, min(count, 6)).round().astype(int))
    bar.set_ticks(ticks.tolist(), labels=[report.short_name(table.names[i]) for i in ticks])
    bar.ax.invert_yaxis()
    bar.ax.tick_params(labelsize=8)


def _draw_frontier(
    axes: Axes,
    frontier: Frontier,
    allocations: Sequence[Allocation],
    colours: Sequence[Any],
) -> None:
    """Draw the least distortion against density and mark the chosen budgets."""
    cost = frontier.cost
    dense = frontier[0].dense[cost]
    distortion = np.asarray(frontier.distortion, dtype=np.float64)
    density = 100 * np.asarray(frontier.budgets, dtype=np.float64) / dense
    axes.plot(density, np.where(distortion > 0, distortion, np.nan), color="#444", linewidth=1.6)
    for allocation, colour in zip(allocations, colours, strict=True):
        kept = 100 * allocation.cost[cost] / dense
        if allocation.distortion > 0:
            axes.plot(kept, allocation.distortion, "o", color=colour, markersize=9, zorder=3)
            axes.annotate(
                f"{100 - kept:.0f} % removed",
                (kept, allocation.distortion),
                xytext=(9, 5),
                textcoords="offset points",
                color=colour,
                fontsize=10,
            )
    axes.set(
        yscale="log", xlim=(0, 100), xlabel=f"density: {report.NOUNS.get(cost, cost)} kept (%)"
    )
    axes.set_ylabel("predicted distortion of the output")
    axes.set_title("Least distortion for every budget", loc="left")


def _draw_layers(
    axes: Axes, table: RDTable, allocations: Sequence[Allocation], colours: Sequence[Any]
) -> None:
    """Draw the sparsity that each allocation gives each layer, as steps."""
    count = len(table.names)
    edges = np.arange(count + 1) - 0.5
    for allocation, colour in zip(allocations, colours, strict=True):
        label = f"{100 * allocation.sparsity:.0f} % removed"
        heights = 100 * report.sparsities(table, allocation)
        axes.stairs(heights, edges, baseline=None, color=colour, linewidth=2.2, label=label)
    step = -(-count // NAMED_LAYERS)
    axes.set_xticks(range(0, count, step))
    names = [report.short_name(name) for name in table.names[::step]]
    axes.set_xticklabels(names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(0, 101), ylabel="sparsity of the layer (%)")
    axes.set_title("Sparsity of every layer", loc="left")
    axes.grid(visible=False, axis="x")
    if allocations:
        axes.legend(
            ncols=len(allocations), frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98)
        )
