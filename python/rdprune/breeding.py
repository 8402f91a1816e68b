"""Children of an allocation: joint or additive optima of some layers' steps, and swaps.

Swaps between random layers are those of Sieberling et al. 2024, *EvoPress*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdprune_core import InfeasibleBudgetError, RDTable, allocate

KINDS = ("joint", "joint", "swap", "joint", "additive", "joint", "swap", "joint")
FREE = (0.15, 0.6)  # of the layers
PRICES = (0.25, 8.0)
MOST_SWAPS = 3
SWAPPED = (0.02, 0.4)  # of the less that two layers keep

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """What the L layers may keep.

    Attributes
    ----------
    sizes, low, high : int64 arrays (L,)
        Weights that a layer has, and the fewest and most that it may keep.
    dense : mapping of str to int64 array (L,)
        Costs of the dense layers, which a layer has in proportion to what it keeps, rounded up.
    budget : mapping of str to int
        Bounds on the totals of costs.
    """

    sizes: Counts
    low: Counts
    high: Counts
    dense: Mapping[str, Counts]
    budget: Mapping[str, int]

    def cost(self, name: str, layer: int, kept: Counts) -> Counts:
        """Return the cost of a layer that keeps so many weights, each of an array."""
        dense, size = int(self.dense[name][layer]), int(self.sizes[layer])
        found: Counts = np.array([-(-dense * int(k) // size) for k in kept], np.int64)
        return found

    def left(self, kept: Counts) -> dict[str, int]:
        """Return what an allocation leaves of every budget; negative if it exceeds it."""
        return {
            name: bound - sum(int(self.cost(name, i, kept[i : i + 1])[0]) for i in range(len(kept)))
            for name, bound in self.budget.items()
        }

    def filled(self, kept: Counts, order: Iterable[int]) -> Counts:
        """Give what an allocation leaves of the budget to the layers, in an order."""
        result: Counts = kept.copy()
        left = self.left(kept)
        for layer in order:
            if min(left.values()) < 0:
                break
            here = result[layer : layer + 1].copy()
            most = int(self.high[layer])
            for name, rest in left.items():
                dense, size = int(self.dense[name][layer]), int(self.sizes[layer])
                spent = int(self.cost(name, layer, here)[0])
                most = min(most, (spent + rest) * size // dense if dense else most)
            result[layer] = max(most, int(here[0]))
            for name in left:
                before = int(self.cost(name, layer, here)[0])
                left[name] -= int(self.cost(name, layer, result[layer : layer + 1])[0]) - before
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Steps of some layers about a point on one part of the samples, in ascending order."""

    layers: Counts
    error: NDArray[np.float64]
    options: list[Counts]
    changes: list[NDArray[np.float64]]
    rises: list[NDArray[np.float64]]


def children(
    point: Counts, steps: Steps | None, space: Space, count: int, random: np.random.Generator
) -> list[Counts]:
    """Make children by steps and by swaps, or by swaps alone; what came out, each once."""
    found: list[Counts] = []
    seen = {tuple(point.tolist())}
    for number in range(count):
        kind = "swap" if steps is None else KINDS[number % len(KINDS)]
        if steps is None or kind == "swap":
            child = swapped(point, space, random)
        else:
            free = random.random(len(steps.layers)) < random.uniform(*FREE)
            price = float(np.exp(random.uniform(*np.log(PRICES)))) if kind == "joint" else None
            try:
                child = _solve(point, steps, space, free, price)
            except InfeasibleBudgetError:
                continue  # what the free layers can take is too much for the rest
        child = space.filled(child, random.permutation(len(child)).tolist())
        key = tuple(child.tolist())
        if key not in seen:
            seen.add(key)
            found.append(child)
    return found


def swapped(point: Counts, space: Space, random: np.random.Generator) -> Counts:
    """Move some from a layer to another, one to three times; fewer are likelier."""
    child: Counts = point.copy()
    if len(point) < 2:
        return child
    for _ in range(min(random.integers(1, MOST_SWAPS + 1, size=2))):
        give, take = random.choice(len(point), size=2, replace=False).tolist()
        step = np.exp(random.uniform(*np.log(SWAPPED)))
        amount = max(round(step * min(child[give], child[take])), 1)
        child[give] -= min(amount, child[give] - space.low[give])
        child = space.filled(child, [take])
    return child


def _solve(
    point: Counts,
    steps: Steps,
    space: Space,
    free: NDArray[np.bool_],
    price: float | None,
) -> Counts:
    """Choose the steps of the free layers, jointly with a price on squares, or additively."""
    places = np.flatnonzero(free).tolist()
    layers = steps.layers[places].tolist()
    if not layers:
        return point
    held = point.copy()
    held[layers] = 0
    budget = space.left(held)
    if any(rest < 0 for rest in budget.values()):
        raise InfeasibleBudgetError("the other layers exceed the budget")
    options = [steps.options[place] for place in places]
    costs = {
        name: [space.cost(name, i, row) for i, row in zip(layers, options, strict=True)]
        for name in space.budget
    }
    if price is None:
        table = RDTable.from_arrays(costs, [steps.rises[place] for place in places])
        choice = allocate(table, budget).choice
    else:
        responses = [
            _response(steps, place, point, index, len(places), price)
            for index, place in enumerate(places)
        ]
        before = np.concatenate([steps.error, np.zeros(len(layers))])
        squares = [np.mean((before + rows) ** 2, axis=1) for rows in responses]
        table = RDTable.from_arrays(costs, squares, responses=responses)
        choice = allocate(table, budget, objective="joint", offset=before).choice
    result: Counts = point.copy()
    result[layers] = [row[k] for row, k in zip(options, choice, strict=True)]
    return result


def _response(
    steps: Steps, place: int, point: Counts, index: int, count: int, price: float
) -> NDArray[np.float32]:
    """Return changes from where a layer is now, and their lengths in a column of its own."""
    here = int(np.abs(steps.options[place] - point[steps.layers[place]]).argmin())
    change = steps.changes[place] - steps.changes[place][here]
    priced = np.zeros((len(change), count))
    priced[:, index] = np.sqrt(price) * np.linalg.norm(change, axis=1)
    return np.concatenate([change, priced], axis=1).astype(np.float32)
