"""An evolutionary search with budget-keeping swaps, to compare refined allocations with.

Sieberling, Kuznedelev, Kurtic, Alistarh 2024, *EvoPress: Towards Optimal Dynamic Model Compression
via Evolutionary Search*: from one parent, children in which a few pairs of layers have swapped
some of their budget; the better ones of a cheap look at all children are looked at properly, and
the best becomes the next parent if it is better. Own code, for layers of unequal sizes: a swap
moves a number of weights, so the total never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

CHILDREN = 16
SURVIVORS = 2
MOST_SWAPS = 3
STEPS = (0.02, 0.05, 0.1)  # of the smaller layer of a pair

Counts = NDArray[np.int64]
Score = Callable[[Counts], float]


def evolve(
    start: Counts, sizes: Counts, look: Score, score: Score, *, seed: int
) -> Iterator[tuple[Counts, float]]:
    """Search without end; whoever counts the passes stops it.

    Parameters
    ----------
    start, sizes : (L,) arrays of int
        Weights that each layer keeps at first, and has.
    look, score : callable
        Distortion of an allocation on a few samples, and on all.
    seed : int

    Yields
    ------
    tuple of array and float
        The best allocation so far and its distortion, after the start and each generation.
    """
    random = np.random.default_rng(seed)
    parent, best = start, score(start)
    yield parent, best
    while True:
        children = [mutated(parent, sizes, random) for _ in range(CHILDREN)]
        for child in sorted(children, key=look)[:SURVIVORS]:
            found = score(child)
            if found < best:
                parent, best = child, found
        yield parent, best


def mutated(parent: Counts, sizes: Counts, random: np.random.Generator) -> Counts:
    """Swap budget between one to three random pairs of layers; fewer swaps are likelier."""
    child: Counts = parent.copy()
    for _ in range(min(random.integers(1, MOST_SWAPS + 1, size=2))):
        give, take = random.choice(len(sizes), size=2, replace=False)
        step = round(random.choice(STEPS) * min(sizes[give], sizes[take]))
        moved = min(max(step, 1), child[give], sizes[take] - child[take])
        child[give] -= moved
        child[take] += moved
    return child
