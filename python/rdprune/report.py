"""What people and programs read: tables for the terminal, plain dicts for JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rdprune.recipes.recipe import Recipe
    from rdprune.runfolder import Round
    from rdprune.searching import Searched
    from rdprune.trust_region import Refined
    from rdprune_core import Allocation, Frontier, RDTable

FRONTIER_ROWS: Final = 21
MARKS: Final = (0.5, 0.8, 0.9, 1.0)
NEAR: Final = 0.025
LEVEL_COLUMNS: Final = 5
MISSING: Final = "–"
LEFT: Final = ("layer", "method", "status", "")
NOUNS: Final = {"params": "weights", "macs": "MACs"}


def short_name(name: str) -> str:
    """Return a layer's name without the ``.weight`` that nearly all of them end in."""
    return name.removesuffix(".weight")


def number(value: float | None, digits: int = 4) -> str:
    """Return a distortion to some significant digits, or a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.{digits}g}"


def share(value: float | None, digits: int = 1) -> str:
    """Return a fraction in per cent, or a dash where there is none."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def sparsities(table: RDTable, allocation: Allocation) -> NDArray[np.float64]:
    """Return the fraction of the first cost removed in every layer, shape (L,)."""
    cost = next(iter(table.costs))
    dense = np.maximum(table.dense[cost], 1)
    return 1.0 - np.asarray(allocation.layer_costs[cost] / dense, dtype=np.float64)


def measured_table(table: RDTable) -> Table:
    """Return one row a layer: its size, and its distortion near 50, 80, 90 and 100 % sparsity.

    A mark has a column if every layer has an option within 2.5 points of it; if none has one, all
    levels of the first layer up to `LEVEL_COLUMNS` are columns.
    """
    cost = next(iter(table.costs))
    removed = [
        1.0 - row / max(1, int(dense))
        for row, dense in zip(table.costs[cost], table.dense[cost], strict=True)
    ]
    marks = [mark for mark in MARKS if all(np.abs(r - mark).min() <= NEAR for r in removed)]
    marks = marks or sorted(set(removed[0].tolist()))[:LEVEL_COLUMNS]
    others = [name for name in table.costs if name != cost]
    nouns = [NOUNS.get(name, name) for name in (cost, *others)]
    grid = new_grid("layer", *nouns, *(f"at {share(mark, 0)}" for mark in marks))
    for index, name in enumerate(table.names):
        nearest = [int(np.abs(removed[index] - mark).argmin()) for mark in marks]
        grid.add_row(
            short_name(name),
            *(f"{table.dense[other][index]:,}" for other in (cost, *others)),
            *(_measured(table, index, option) for option in nearest),
        )
    what = "estimated distortion" if "estimated" in table.metadata else "distortion"
    grid.caption = f"{what} of the output with one layer pruned to the nearest option's sparsity"
    if "interpolated" in table.metadata:
        grid.caption += "\n~: interpolated, not measured"
    return grid


def _measured(table: RDTable, layer: int, option: int) -> str:
    """Return the distortion of an option, marked where it was not measured."""
    guessed = table.metadata.get("interpolated", {}).get(table.names[layer], ())
    text = number(float(table.distortion[layer][option]))
    return f"~{text}" if table.options[layer][option] in guessed else text


def allocation_table(table: RDTable, allocation: Allocation) -> Table:
    """Return one row a layer, and the total with its certificate below.

    Parameters
    ----------
    table
        The table that the allocation was made from.
    allocation
        Any choice of that table's options.
    """
    cost = next(iter(table.costs))
    noun = NOUNS.get(cost, cost)
    grid = new_grid("layer", noun, "kept", "sparsity", "option", "distortion alone")
    kept, dense = allocation.layer_costs[cost], table.dense[cost]
    for index, name in enumerate(allocation.names):
        grid.add_row(
            short_name(name),
            f"{dense[index]:,}",
            f"{kept[index]:,}",
            share(1.0 - kept[index] / max(1, int(dense[index]))),
            allocation.options[index],
            number(float(table.distortion[index][allocation.choice[index]])),
        )
    grid.add_section()
    total = allocation.cost[cost]
    grid.add_row(
        "total",
        f"{allocation.dense[cost]:,}",
        f"{total:,}",
        share(allocation.sparsity, 2),
        "",
        number(allocation.distortion),
        style="bold",
    )
    grid.caption = certificate(allocation)
    return grid


def certificate(allocation: Allocation) -> str:
    """Return one line: objective, status, bound and gap, and how full each budget is."""
    parts = [
        f"{allocation.objective} objective {number(allocation.distortion)}: {_proof(allocation)}"
    ]
    for name, budget in allocation.budget.items():
        parts.append(f"{name} {allocation.cost[name]:,} of {budget:,}")
    if "estimated" in allocation.metadata:
        parts.append("of estimates, not of measurements")
    if count := _interpolated(allocation):
        parts.append(
            f"{count} of {len(allocation.names)} chosen options are interpolated: measure for "
            "this budget"
        )
    kept = allocation.layer_costs.get("params", np.ones(1))
    if emptied := int((kept == 0).sum()):
        parts.append(
            f"{emptied} of {len(kept)} layers keep nothing: a floor (--floor LAYER=1%) leaves some"
        )
    return "; ".join(parts)


def _interpolated(allocation: Allocation) -> int:
    """Count the chosen options that were not measured."""
    guessed = allocation.metadata.get("interpolated", {})
    return sum(
        option in guessed.get(name, ())
        for name, option in zip(allocation.names, allocation.options, strict=True)
    )


def _proof(allocation: Allocation) -> str:
    """Return what is known about how good an allocation is."""
    if allocation.status == "optimal":
        return "optimal, proved"
    if not math.isfinite(allocation.lower_bound):
        return allocation.status
    return (
        f"{allocation.status}, lower bound {number(allocation.lower_bound)}, "
        f"gap {share(allocation.gap, 3)}"
    )


def certificate_table(allocations: Sequence[Allocation], seconds: Sequence[float]) -> Table:
    """Return one row an allocation: what it keeps, what is proved, how long solving took."""
    grid = new_grid("sparsity", "kept", "budget", "distortion", "status", "gap", "solved in")
    for allocation, elapsed in zip(allocations, seconds, strict=True):
        cost = next(iter(allocation.cost))
        grid.add_row(
            share(allocation.sparsity, 2),
            f"{allocation.cost[cost]:,}",
            f"{allocation.budget[cost]:,}" if cost in allocation.budget else MISSING,
            number(allocation.distortion),
            allocation.status,
            f"{allocation.gap:.1e}" if allocation.gap else "0",
            f"{1000 * elapsed:.1f} ms",
        )
    return grid


def gain(found: Refined | Searched, output: Path) -> str:
    """Say what `refine` or `search` gained, and where it is."""
    end = found.allocation.distortion
    change = f" ({share(end / found.start - 1)})" if min(end, found.start) > 0 else ""
    return (
        f"distortion {number(found.start)} -> {number(end)}{change} in {found.passes} passes"
        + (f", {found.found} of the measurements found in the store" if found.found else "")
        + f"; written to {output}"
    )


def frontier_table(frontier: Frontier) -> Table:
    """Return at most 21 points of a frontier, evenly spread, the ends among them."""
    grid = new_grid("budget", "density", "distortion", "status")
    count = len(frontier)
    picked = np.unique(np.linspace(0, count - 1, min(count, FRONTIER_ROWS)).round().astype(int))
    for index in picked:
        allocation = frontier.allocations[index]
        budget = int(frontier.budgets[index])
        mark = "~" if _interpolated(allocation) else ""
        grid.add_row(
            f"{budget:,}",
            share(budget / allocation.dense[frontier.cost]),
            mark + number(float(frontier.distortion[index])),
            allocation.status,
        )
    metadata = frontier.allocations[0].metadata
    grid.caption = f"{len(picked)} of {count} points; cost {frontier.cost}"
    if "estimated" in metadata:
        grid.caption += "; of estimates, not of measurements"
    if "interpolated" in metadata:
        grid.caption += "\n~: some of its options are interpolated, not measured"
    return grid


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """Return one row a recipe."""
    grid = new_grid("", "network", "calibration", "rounds", "amount", "steps", "batch", "rate")
    for entry in recipes:
        numbers = (entry.calibration, entry.rounds, entry.amount, entry.steps, entry.batch)
        texts = [f"{value:,}" for value in numbers]
        grid.add_row(entry.name, entry.title, *texts, f"{entry.optimizer} {entry.rate:g}")
    return grid


def history_table(rounds: Iterable[Round], dense: Mapping[str, float] | None = None) -> Table:
    """Return one row a round of iterative pruning, the dense model first if its figures are known.

    Columns have what evaluate returned, before and after a fine-tune, and what that returned.
    """
    rounds, dense = list(rounds), dense or {}
    figures = sorted({name for done in rounds for name in (*done.pruned, *done.tuned)})
    told = sorted({name for done in rounds for name in done.finetune})
    tuned = any(done.tuned != done.pruned or done.finetune for done in rounds)
    stages = ("pruned", "tuned") if tuned else ("pruned",)
    heads = [f"{name} {when}" for name in figures for when in stages]
    heads += [f"{name}, training" for name in told]
    grid = new_grid("round", "target", "sparsity", "weights", "predicted", "distortion", *heads)
    if dense:
        cells = ("dense", "", "", f"{rounds[0].dense:,}" if rounds else "", "", "")
        grid.add_row(*cells, *(number(dense.get(n)) for n in figures for _ in stages))
    for done in rounds:
        kinds = (done.pruned, done.tuned)[: len(stages)]
        values = [kind.get(name) for name in figures for kind in kinds]
        values += [done.finetune.get(name) for name in told]
        grid.add_row(
            str(done.number),
            share(done.target),
            share(done.sparsity),
            f"{done.kept:,}",
            number(done.predicted),
            number(done.distortion),
            *map(number, values),
        )
    return grid


def new_grid(*titles: str) -> Table:
    """Return an empty table of whole numbers and words; only layer names may be folded."""
    grid = Table(box=box.SIMPLE_HEAD, caption_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        justify: Literal["left", "right"] = "left" if title in LEFT else "right"
        grid.add_column(title, justify=justify, no_wrap=title != "layer", overflow="fold")
    return grid


# -------------------------------------------------------------------------------------- for JSON


def finite(value: Any) -> Any:
    """Return nested dicts, lists and numbers with None for what JSON cannot say: inf and nan."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def allocation_dict(allocation: Allocation) -> dict[str, Any]:
    """Return an allocation with its certificate."""
    fields = (
        "names", "choice", "options", "layer_costs", "cost", "dense", "budget", "sparsity",
        "objective", "distortion", "lower_bound", "gap", "status", "multipliers",
    )  # fmt: skip
    found: dict[str, Any] = finite({field: getattr(allocation, field) for field in fields})
    return found


def frontier_dict(frontier: Frontier) -> dict[str, Any]:
    """Return a frontier point by point: budget, distortion, status and choice."""
    points = [
        {
            "budget": int(frontier.budgets[index]),
            "distortion": float(frontier.distortion[index]),
            "status": allocation.status,
            "choice": allocation.choice,
        }
        for index, allocation in enumerate(frontier.allocations)
    ]
    found: dict[str, Any] = finite(
        {"cost": frontier.cost, "dense": frontier[0].dense[frontier.cost], "points": points}
    )
    return found
