"""A search for the least true distortion, with any number of weights a layer.

A round looks, on a part of the samples, at layers keeping somewhat less and somewhat more than
now: what that does to the output in the network as it is pruned. Where there are gradients that
tell it, they are asked instead, of all layers for the price of a few looks. Children are joint or
additive optima within the budget when a random few of these layers are free to take such a step,
with a random price on the squares of the changes; a few are swaps between random layers. They are
looked at on another part of the samples, the best are run on all, and one that truly distorts less
is the next parent: the same steps are tried again from there. When the steps gain no more, swaps
alone go on, which cost no looks; when they do not gain either, the next round begins with looks
about the new point, nearer ones if the last did not help.

Random subsets of layers and another part for every look keep the noise of one part from being
followed. The judge, cheap looks at many children and whole runs of few, is that of Sieberling et
al. 2024, *EvoPress*, as are swaps; its children are all blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rdprune_core import InfeasibleBudgetError, RDTable, allocate

CHILDREN = 16
SURVIVORS = 2
KINDS = ("joint", "joint", "swap", "joint", "additive", "joint", "swap", "joint")
PATIENCE = 2  # generations in a row without gain by the same looks
WAIT = 3  # generations in a row without gain by swaps alone
ROUND = 10  # passes that a round's looks take, about
STEPS = (0.1, 0.3)  # of what a layer keeps, to both sides
FARTHEST_STEP, FINE = 1.0, 6  # where steps cost nothing: the largest, and how many to a side
JITTER = 0.5
FREE = (0.15, 0.6)  # of the layers
PRICES = (0.25, 8.0)
SHRINK, GROW, LEAST, MOST = 0.85, 1.1, 0.05, 2.0
MOST_SWAPS = 3
SEEDS = 20  # bits for the turns, each of which has a seed of its own for its probes
FARTHEST = 1e18  # a response whose square is still a float32
SWAPPED = (0.02, 0.4)  # of the less that two layers keep

Counts = NDArray[np.int64]


class Judge(Protocol):
    """Runs the network pruned to numbers of weights kept, and stops it all by an exception."""

    parts: int

    def score(self, kept: Counts) -> float:
        """Return the true distortion on all samples."""

    def look(self, kept: Counts, part: int) -> tuple[float, NDArray[np.float64]]:
        """Return the distortion on a part of the samples, and the response there, (m,)."""

    def around(
        self, kept: Counts, options: list[Counts], part: int, seed: int
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]] | None:
        """Estimate a response on a part of the samples, (m,), and its changes by options, (K_l, m).

        None where there are no gradients to do so.
        """


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
class _Looks:
    """Steps of some layers about a point on one part of the samples, in ascending order."""

    layers: Counts
    error: NDArray[np.float64]
    options: list[Counts]
    changes: list[NDArray[np.float64]]
    rises: list[NDArray[np.float64]]


def descend(
    start: Counts, distortion: float, space: Space, judge: Judge, *, seed: int
) -> Iterator[tuple[Counts, float, float]]:
    """Search until nothing is left to change; whoever counts the passes stops it before.

    Parameters
    ----------
    start : int64 array (L,)
        Weights that each layer keeps at first, within the budget.
    distortion : float
        What the judge scores it.
    space : Space
    judge : Judge
    seed : int

    Yields
    ------
    tuple of array, float and float
        The best allocation so far, its distortion, and what the best child had on the part of the
        samples where it was looked at; after each generation.
    """
    return _Descent(start, distortion, space, judge, seed).rounds()


class _Descent:
    """Where a search is, and how it goes on."""

    def __init__(
        self, start: Counts, distortion: float, space: Space, judge: Judge, seed: int
    ) -> None:
        self._point, self._best = start, distortion
        self._space, self._judge = space, judge
        self._seed = seed << SEEDS
        self._random = np.random.default_rng(seed)
        self._scale, self._turn = 1.0, 0
        self._born = True

    def rounds(self) -> Iterator[tuple[Counts, float, float]]:
        """Yield as `descend` does."""
        while self._born and self._best != 0:
            before, self._born = self._best, False
            looks = self._foresee()
            if looks is not None:
                yield from self._generations(looks, PATIENCE, fresh=True)
                self._rescale(before)
            else:
                looks = self._look_around()
                yield from self._generations(looks, PATIENCE)
                if looks is not None:
                    self._rescale(before)
                yield from self._generations(None, WAIT)
            self._turn += 1

    def _generations(
        self, looks: _Looks | None, patience: int, *, fresh: bool = False
    ) -> Iterator[tuple[Counts, float, float]]:
        """Breed until so many generations in a row did not gain; `fresh` foresees after a gain."""
        failed = 0
        while failed < patience:
            self._turn += 1
            before, failed = self._best, failed + 1
            mark = self._generation(looks)
            if self._best < before:
                failed = 0
            if mark is not None:
                yield self._point, self._best, mark
            if fresh and not failed:
                looks = self._foresee() or looks

    def _generation(self, looks: _Looks | None) -> float | None:
        """Try children, and move to the best; return its mark, None without any children."""
        children = _children(self._point, looks, self._space, self._random)
        self._born = self._born or len(children) > 0
        marks = [self._judge.look(child, self._turn % self._judge.parts)[0] for child in children]
        order = np.argsort(marks, kind="stable")[:SURVIVORS].tolist()
        for child in order:
            found = self._judge.score(children[child])
            if found < self._best:
                self._point, self._best = children[child], found
        return marks[order[0]] if order else None

    def _rescale(self, before: float) -> None:
        factor = GROW if self._best < before else SHRINK
        self._scale = min(max(LEAST, self._scale * factor), MOST)

    def _foresee(self) -> _Looks | None:
        part = self._turn % self._judge.parts
        seed = self._seed + self._turn
        return _foresee(self._point, self._space, self._judge, self._scale, part, seed)

    def _look_around(self) -> _Looks | None:
        part = self._turn % self._judge.parts
        return _look_around(self._point, self._space, self._judge, self._scale, part, self._random)


def _look_around(
    point: Counts,
    space: Space,
    judge: Judge,
    scale: float,
    part: int,
    random: np.random.Generator,
) -> _Looks | None:
    """Look at layers keeping other numbers of weights: all, or as many random ones as is fair.

    What makes the output overflow is left out; None if the point itself does, on this part.
    """
    distortion, error = judge.look(point, part)
    if not _usable(distortion, error):
        return None
    fair = max(ROUND * judge.parts // (2 * len(STEPS)), 1)
    layers = np.sort(random.permutation(len(point))[:fair])
    found = _Looks(layers, error, [], [], [])
    for layer in layers.tolist():
        here = int(point[layer])
        steps = [
            sign * step * scale * random.uniform(1 - JITTER, 1 + JITTER)
            for step in STEPS
            for sign in (-1, 1)
        ]
        most, least = int(space.high[layer]), int(space.low[layer])
        wanted = {min(max(round(max(here, 1) * np.exp(step)), least), most) for step in steps}
        options, changes, rises = [here], [np.zeros_like(error)], [0.0]
        for count in sorted(wanted - {here}):
            other = point.copy()
            other[layer] = count
            there, response = judge.look(other, part)
            if _usable(there, response):
                options.append(count)
                changes.append(response - error)
                rises.append(there - distortion)
        order = np.argsort(options)
        found.options.append(np.array(options, np.int64)[order])
        found.changes.append(np.array(changes)[order])
        found.rises.append(np.array(rises)[order])
    return found


def _foresee(
    point: Counts,
    space: Space,
    judge: Judge,
    scale: float,
    part: int,
    seed: int,
) -> _Looks | None:
    """Estimate what steps of all layers do, where gradients tell."""
    steps = scale * np.linspace(-FARTHEST_STEP, FARTHEST_STEP, 2 * FINE + 1)
    options = []
    for here, least, most in zip(point, space.low, space.high, strict=True):
        wanted = np.round(max(int(here), 1) * np.exp(steps)).astype(np.int64)
        options.append(np.union1d(wanted.clip(least, most), [here]))
    found = judge.around(point, options, part, seed)
    if found is None or not all(np.isfinite(row).all() for row in (found[0], *found[1])):
        return None
    error, changes = found
    before = np.mean(error**2)
    rises = [np.mean((error + rows) ** 2, axis=1) - before for rows in changes]
    return _Looks(np.arange(len(point)), error, options, changes, rises)


def _usable(distortion: float, response: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(distortion) and (np.abs(response) < FARTHEST).all())


def _children(
    point: Counts, looks: _Looks | None, space: Space, random: np.random.Generator
) -> list[Counts]:
    """Make children by looks and by swaps, or by swaps alone; what came out, each once."""
    children: list[Counts] = []
    seen = {tuple(point.tolist())}
    for number in range(CHILDREN):
        kind = "swap" if looks is None else KINDS[number % len(KINDS)]
        if looks is None or kind == "swap":
            child = _swapped(point, space, random)
        else:
            free = random.random(len(looks.layers)) < random.uniform(*FREE)
            price = float(np.exp(random.uniform(*np.log(PRICES)))) if kind == "joint" else None
            try:
                child = _solve(point, looks, space, free, price)
            except InfeasibleBudgetError:
                continue  # what the free layers can take is too much for the rest
        child = space.filled(child, random.permutation(len(child)).tolist())
        key = tuple(child.tolist())
        if key not in seen:
            seen.add(key)
            children.append(child)
    return children


def _swapped(point: Counts, space: Space, random: np.random.Generator) -> Counts:
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
    looks: _Looks,
    space: Space,
    free: NDArray[np.bool_],
    price: float | None,
) -> Counts:
    """Choose the steps of the free layers, jointly with a price on squares, or additively."""
    places = np.flatnonzero(free).tolist()
    layers = looks.layers[places].tolist()
    if not layers:
        return point
    held = point.copy()
    held[layers] = 0
    budget = space.left(held)
    if any(rest < 0 for rest in budget.values()):
        raise InfeasibleBudgetError("the other layers exceed the budget")
    options = [looks.options[place] for place in places]
    costs = {
        name: [space.cost(name, i, row) for i, row in zip(layers, options, strict=True)]
        for name in space.budget
    }
    if price is None:
        table = RDTable.from_arrays(costs, [looks.rises[place] for place in places])
        choice = allocate(table, budget).choice
    else:
        responses = [
            _response(looks, place, point, index, len(places), price)
            for index, place in enumerate(places)
        ]
        before = np.concatenate([looks.error, np.zeros(len(layers))])
        squares = [np.mean((before + rows) ** 2, axis=1) for rows in responses]
        table = RDTable.from_arrays(costs, squares, responses=responses)
        choice = allocate(table, budget, objective="joint", offset=before).choice
    result: Counts = point.copy()
    result[layers] = [row[k] for row, k in zip(options, choice, strict=True)]
    return result


def _response(
    looks: _Looks, place: int, point: Counts, index: int, count: int, price: float
) -> NDArray[np.float32]:
    """Return changes from where a layer is now, and their lengths in a column of its own."""
    here = int(np.abs(looks.options[place] - point[looks.layers[place]]).argmin())
    change = looks.changes[place] - looks.changes[place][here]
    priced = np.zeros((len(change), count))
    priced[:, index] = np.sqrt(price) * np.linalg.norm(change, axis=1)
    return np.concatenate([change, priced], axis=1).astype(np.float32)
