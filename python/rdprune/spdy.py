"""SPDY: a quadratic prior of every layer's error, its coefficients searched on the real network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdprune.baselines import Layers, check, named, sizes_of
from rdprune.magnitude import kept_count
from rdprune.sharing import scaled
from rdprune_core import RDTable, allocate

STARTS = 100
PATIENCE = 100
NEIGHBOURHOOD = 0.1

Score = Callable[[Mapping[str, int]], float]
"""What the network with this many weights in each layer loses; lower is better."""


def spdy(
    layers: Layers,
    kept_total: int,
    score: Score,
    *,
    starts: int = STARTS,
    patience: int = PATIENCE,
    neighbourhood: float = NEIGHBOURHOOD,
    seed: int = 0,
) -> dict[str, int]:
    """Search for coefficients whose exact knapsack gives the network of the best score.

    Frantar, Alistarh 2022, *SPDY: Accurate Pruning with Speedup Guarantees*, section 3: option i
    of n of layer l has the error c_l (i / (n - 1))², over 0 and 41 sparsities from 0.4 to 0.99 of
    which each removes the same fraction of what the one before left. `starts` random c in [0, 1]ᴸ
    are scored; then of the best, k = ⌈`neighbourhood` L⌉ random coefficients are drawn anew until
    `patience` draws in a row bring nothing, and so on with k - 1, down to 1. The knapsack is
    `rdprune_core.allocate`. What the options leave of `kept_total` is shared in proportion.

    Parameters
    ----------
    layers : torch.nn.Module or mapping of str to Prunable
        The layers.
    kept_total : int
        Weights to keep in all. Below what the sparsest options keep, it is shared in proportion
        to them and nothing is searched.
    score : callable
        Takes the weights to keep in each layer.
    starts, patience : int
        At least 1; the paper's 100 and 100.
    neighbourhood : float
        In (0, 1]; the paper's 0.1.
    seed : int
        Of the search.

    Returns
    -------
    dict of str to int
        Weights to keep in each layer, exactly `kept_total` together.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    found, total = check(layers, kept_total)
    if starts < 1 or patience < 1:
        raise ValueError(f"starts is {starts} and patience {patience}, must be at least 1")
    if not 0 < neighbourhood <= 1:
        raise ValueError(f"neighbourhood is {neighbourhood}, must be in (0, 1]")
    sizes = sizes_of(found)
    kept = [[kept_count(size, level) for level in levels()] for size in sizes]
    least = [row[-1] for row in kept]
    if sum(least) > total:
        return named(found, scaled(least, [0] * len(sizes), sizes, total))
    search = _Search(list(found), sizes, kept, total, score)
    random = np.random.default_rng(seed)
    for _ in range(starts):
        search.attempt(random.uniform(size=len(sizes)))
    for redrawn in range(math.ceil(neighbourhood * len(sizes)), 0, -1):
        failures = 0
        while failures < patience:
            coefficients = search.coefficients.copy()
            positions = random.integers(len(sizes), size=redrawn)
            coefficients[positions] = random.uniform(size=redrawn)
            failures = 0 if search.attempt(coefficients) else failures + 1
    return search.best


def levels() -> list[float]:
    """Return SPDY's sparsities: 0, and 0.4 to 0.99 in 40 steps of equal relative size."""
    step = ((1 - 0.99) / (1 - 0.4)) ** (1 / 40)
    return [0.0, *(1 - (1 - 0.4) * step**i for i in range(41))]


@dataclass(slots=True)
class _Search:
    """The best allocation so far, and the scores of those tried."""

    names: list[str]
    sizes: list[int]
    kept: list[list[int]]
    total: int
    score: Score
    best: dict[str, int] = field(default_factory=dict)
    coefficients: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _lowest: float = math.inf
    _seen: dict[tuple[int, ...], float] = field(default_factory=dict)

    def attempt(self, coefficients: NDArray[np.float64]) -> bool:
        """Score the allocation of these coefficients; return whether it is the best so far."""
        prior = np.linspace(0, 1, len(self.kept[0])) ** 2
        table = RDTable.from_arrays(
            [np.array(row, np.int64) for row in self.kept],
            coefficients[:, None] * prior,
            names=self.names,
        )
        counts = allocate(table, self.total).layer_costs["params"].tolist()
        weights = [max(count, 1) for count in counts]
        key = tuple(scaled(weights, counts, self.sizes, self.total))
        if key not in self._seen:
            found = self.score(dict(zip(self.names, key, strict=True)))
            self._seen[key] = math.inf if math.isnan(found) else found
        found = self._seen[key]
        if self.best and not found < self._lowest:
            return False
        self.best = dict(zip(self.names, key, strict=True))
        self.coefficients = coefficients
        self._lowest = found
        return True
