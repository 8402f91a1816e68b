"""Near-optimal sets for people and programs: the alternatives, and the undecided layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rdprune.report import finite, new_grid, number, short_name

if TYPE_CHECKING:
    from rich.table import Table

    from rdprune_core import NearOptimal


def alternatives_tables(near: NearOptimal) -> list[Table]:
    """Return one table of the allocations and what sets them apart, one of the undecided layers."""
    return [_ranking(near), _undecided(near)]


def alternatives_dict(near: NearOptimal) -> dict[str, Any]:
    """Return the set for JSON: every choice, what is proved, and the options used."""
    used = near.used
    found: dict[str, Any] = finite(
        {
            "status": near.status,
            "complete": near.complete,
            "lower_bound": near.lower_bound,
            "allocations": [
                {"choice": a.choice, "distortion": a.distortion, "cost": a.cost} for a in near
            ],
            "undecided": {name: used[name] for name in near.undecided},
        }
    )
    return found


def _ranking(near: NearOptimal) -> Table:
    """Return one row an allocation: how much worse it is, and where it differs from the first."""
    best = near[0]
    cost = next(iter(best.budget))
    grid = new_grid("rank", "distortion", "worse by", cost, "layers changed", "layer")
    for rank, allocation in enumerate(near, 1):
        changed = [
            f"{short_name(name)} {label}"
            for name, label, first in zip(
                allocation.names, allocation.options, best.options, strict=True
            )
            if label != first
        ]
        grid.add_row(
            f"{rank}",
            number(allocation.distortion, 6),
            _worse(allocation.distortion, best.distortion),
            f"{allocation.cost[cost]:,}",
            f"{len(changed)}",
            ", ".join(changed[:3]) + (", …" if len(changed) > 3 else ""),
        )
    proof = "proved to be the best" if near.status == "optimal" else "others may be as good"
    rest = "there are no others" if near.complete else "no other has less than"
    bound = "" if near.complete else f" {number(near.lower_bound, 6)}"
    grid.caption = f"{len(near)} allocations, {proof}; {rest}{bound}"
    return grid


def _worse(value: float, best: float) -> str:
    """Return a relative excess in per cent."""
    if value == best:
        return "0"
    return f"{100 * (value - best) / abs(best):.3g} %" if best else number(math.inf)


def _undecided(near: NearOptimal) -> Table:
    """Return one row a layer that the allocations decide differently: option and how often."""
    grid = new_grid("layer", "options, and in how many of the allocations")
    used = near.used
    for name in near.undecided:
        counts = ", ".join(f"{label} ({count})" for label, count in used[name].items())
        grid.add_row(short_name(name), counts)
    grid.caption = f"{len(near.undecided)} of {len(near[0].names)} layers are undecided"
    return grid
