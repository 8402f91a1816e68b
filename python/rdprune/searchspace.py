"""The bounds within which `rdprune.search` looks, and where it may start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rdprune.breeding import Counts, Space
from rdprune.layers import Prunable
from rdprune.magnitude import level_label
from rdprune_core import Allocation, InfeasibleBudgetError, RDTable, allocate
from rdprune_core.budget import Amount, Budget, read_amount, read_budgets

FINE = 4096
"""Parts of all weights to within which a start uses the budget."""


def ends(
    layers: Mapping[str, Prunable],
    macs: Mapping[str, int],
    floors: Mapping[str, Amount],
    caps: Mapping[str, Amount],
    about: dict[str, Any],
) -> tuple[RDTable, Counts, Counts]:
    """Return the table of the least and the most that every layer may keep, and these counts."""
    sizes = np.array([layer.parameter.numel() for layer in layers.values()], np.int64)
    low, high = np.zeros_like(sizes), sizes.copy()
    names = list(layers)
    every = RDTable.from_arrays([[size] for size in sizes], [[0.0]] * len(names), names=names)
    for argument, given, limits in (("floors", floors, low), ("caps", caps, high)):
        for name, amount in given.items():
            try:
                place = every.layer(name)
            except ValueError as error:
                raise ValueError(f"{argument}: {error}") from None
            size = int(sizes[place])
            bound = read_amount(f"{argument} of {name!r}", amount, size)
            if bound > size and argument == "floors":
                raise ValueError(
                    f"floors of {names[place]!r} is {bound}, above the layer's {size} weights"
                )
            limits[place] = min(bound, size)
    if (low > high).any():
        place = int(np.argmax(low > high))
        raise ValueError(
            f"floors of {names[place]!r} is {low[place]}, above its cap of {high[place]} weights"
        )
    dense = np.array([macs[name] for name in names], np.int64)
    kept = [np.unique([a, b]) for a, b in zip(low, high, strict=True)]
    table = RDTable.from_arrays(
        {
            "params": kept,
            "macs": [-(-m * row // n) for m, row, n in zip(dense, kept, sizes, strict=True)],
        },
        [np.zeros(len(row)) for row in kept],
        names=names,
        options=[
            [level_label((n - k) / n) for k in row.tolist()]
            for row, n in zip(kept, sizes.tolist(), strict=True)
        ],
        dense={"params": sizes, "macs": dense},
        metadata=about,
    )
    return table, low, high


def space(
    table: RDTable,
    low: Counts,
    high: Counts,
    allocation: Allocation | None,
    budget: Budget | None,
    sparsity: float | None,
) -> Space:
    """Return what the layers may keep within a budget that can be met."""
    if allocation is not None and budget is None and sparsity is None:
        bounds = dict(allocation.budget) or {"params": allocation.cost["params"]}
        unknown = [name for name in bounds if name not in table.costs]
        if unknown:
            raise ValueError(
                f"the allocation's budget has {unknown[0]!r}; params and macs are known"
            )
    else:
        bounds = read_budgets(table, budget, sparsity)
    allocate(table, bounds)  # says what is out of reach
    return Space(table.dense["params"], low, high, {n: table.dense[n] for n in bounds}, bounds)


def start(
    method: Callable[[Mapping[str, Prunable], int], dict[str, int]],
    layers: Mapping[str, Prunable],
    within: Space,
) -> dict[str, int]:
    """Return what a method keeps, about as much as the budget and the layers' bounds allow."""

    def kept(total: int) -> Counts:
        counts = np.array(list(method(layers, total).values()), np.int64)
        return np.clip(counts, within.low, within.high)

    def fits(total: int) -> bool:
        return min(within.left(kept(total)).values()) >= 0

    whole = int(within.sizes.sum())
    best = min(within.budget.get("params", whole), whole)
    if not fits(best) or (within.low > 0).any() or (within.high < within.sizes).any():
        fewest, most = 0, whole + 1
        while most - fewest > max(whole // FINE, 1):
            middle = (fewest + most) // 2
            fewest, most = (middle, most) if fits(middle) else (fewest, middle)
        best = fewest
    return dict(zip(layers, kept(best).tolist(), strict=True))


def first_optimum(
    called: str, look: RDTable, layers: Iterable[str], within: Space
) -> dict[str, dict[str, int]]:
    """Return the optimum of a first look by its name, if it has one within all bounds.

    The layers of the look are in the model's order, those of the space in the given one.
    """
    names = list(layers)
    low = dict(zip(names, within.low.tolist(), strict=True))
    high = dict(zip(names, within.high.tolist(), strict=True))
    try:
        found = allocate(look, dict(within.budget), floors=low, caps=high)
    except InfeasibleBudgetError:
        return {}
    kept = dict(zip(look.names, found.layer_costs["params"].tolist(), strict=True))
    return {called: {name: kept[name] for name in names}}


def fitting(kept: Counts, within: Space) -> bool:
    """Whether an allocation is within all bounds."""
    inside = (kept >= within.low).all() and (kept <= within.high).all()
    return bool(inside) and min(within.left(kept).values()) >= 0
