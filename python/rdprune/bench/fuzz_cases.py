"""What the fuzzer calls the core with, and all allocations of it counted out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final

import numpy as np

Rng = np.random.Generator
Call = dict[str, Any]
Ranked = list[tuple[Fraction, tuple[int, ...], tuple[int, ...]]]  # distortion, costs, choice

PLENTY: Final = 1 << 26  # bytes
PLACES: Final = 115  # binary ones that distortions may span and still be held exactly
NAMES: Final = ("costs", "distortions", "offsets", "allowed", "groups")


def instance(rng: Rng, dimensions: int) -> Call:
    """Make an instance of few allocations: ties, empty bans, groups, huge costs and values."""
    layers = int(rng.integers(1, 6))
    tied = rng.random() < 0.3
    sizes = np.full(layers, rng.integers(1, 5)) if tied else rng.integers(1, 5, layers)
    options = int(sizes.sum())
    draws: dict[str, Callable[[], Any]] = {
        "small": lambda: rng.integers(0, 8, (options, dimensions)),
        "even": lambda: 2 * rng.integers(0, 10**6, (options, dimensions)),
        "powers": lambda: 1 << rng.integers(0, 40, (options, dimensions)),
        "huge": lambda: rng.integers(0, 2**61 // layers, (options, dimensions)),
        "near": lambda: (  # a few units apart, beyond what a double tells apart
            rng.integers(0, 4, (options, dimensions)) * (2 ** int(rng.integers(52, 58)))
            + rng.integers(0, 5, (options, dimensions))
        ),
        "equal": lambda: np.full((options, dimensions), rng.integers(0, 9)),
    }
    costs = draws[str(rng.choice(list(draws)))]()
    draws = {
        "few": lambda: rng.integers(-3, 4, options) * 1.0,
        "noise": lambda: rng.standard_normal(options),
        "wide": lambda: rng.standard_normal(options) * 10.0 ** rng.integers(-8, 1, options),
        "extreme": lambda: rng.standard_normal(options) * 10.0 ** rng.integers(-300, 300, options),
        "spread": lambda: rng.integers(-3, 8, options) * 2.0 ** rng.integers(-60, 1, options),
        "offset": lambda: (  # of whole layers, which cancel or not
            rng.integers(0, 16, options) / 16
            + np.repeat(rng.integers(-1, 2, layers) * 2.0 ** int(rng.integers(48, 58)), sizes)
        ),
        "vanishing": lambda: np.where(  # all but nothing is left to gain
            rng.random(options) < 0.4, 1.0, rng.integers(0, 8, options) * 2.0**-57
        ),
        "like costs": lambda: -1.0 * costs[:, 0],
    }
    values = draws[str(rng.choice(list(draws)))]()
    allowed = (rng.random(options) < 0.85).astype(np.uint8)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    allowed[offsets[:-1]] = 1
    groups = rng.integers(0, layers, layers) if tied else np.arange(layers)
    arrays = (costs.astype(np.int64), values, offsets, allowed, groups.astype(np.int64))
    return dict(zip(NAMES, arrays, strict=True))


def allocations(call: Call, distortions: Any) -> Ranked:
    """List all allocations that the constraints allow, in the order the core prefers them."""
    offsets, groups = call["offsets"].tolist(), call["groups"].tolist()
    costs, allowed = call["costs"].tolist(), call["allowed"].tolist()
    exact = [Fraction(d) for d in distortions.tolist()]
    leaders = sorted(set(groups))
    widths = [offsets[groups.index(g) + 1] - offsets[groups.index(g)] for g in leaders]
    found = []
    for picks in itertools.product(*map(range, widths)):
        choice = tuple(picks[leaders.index(g)] for g in groups)
        flat = [offset + k for offset, k in zip(offsets, choice, strict=False)]
        if all(allowed[i] for i in flat):
            total = tuple(map(sum, zip(*(costs[i] for i in flat), strict=True)))
            found.append((sum((exact[i] for i in flat), Fraction(0)), total, choice))
    return sorted(found)


def within(ranked: Ranked, budget: list[int]) -> Ranked:
    """Return those that keep every budget."""
    return [a for a in ranked if all(c <= b for c, b in zip(a[1], budget, strict=True))]


def budgets_around(rng: Rng, ranked: Ranked, rows: int, dimensions: int) -> Any:
    """Draw around the totals of random allocations; some out of reach, some without effect."""
    if not ranked:
        return np.zeros((rows, dimensions), np.int64)
    drawn = np.array([ranked[i][1] for i in rng.integers(0, len(ranked), rows)], np.int64)
    return np.maximum(drawn + rng.integers(-2, 3, drawn.shape) * (rng.random() < 0.5), 0)


def limits_of(rng: Rng) -> tuple[Call, bool]:
    """Draw limits, and whether they are so small that the search may stop early."""
    if rng.random() < 0.75:
        return {"time_limit": math.inf, "memory_limit": PLENTY}, False
    seconds = 0.0 if rng.random() < 0.5 else math.inf
    return {"time_limit": seconds, "memory_limit": int(rng.integers(0, 3000))}, True


def rounds(distortions: Any) -> bool:
    """Whether doubles span so many binary places that the core may round them."""
    parts = [Fraction(d) for d in np.unique(distortions).tolist() if d]
    if not parts:
        return False
    lowest = min(_zeros(p.numerator) - p.denominator.bit_length() for p in parts)
    highest = max(abs(p.numerator).bit_length() - p.denominator.bit_length() for p in parts)
    return highest - lowest > PLACES


def _zeros(number: int) -> int:
    """Count the zeros at the end of a binary number."""
    return (number & -number).bit_length() - 1


def table(rng: Rng) -> tuple[Call, int, list[int]]:
    """Make an instance of many allocations but small totals.

    Returns
    -------
    call : dict
    budget : int
    best : list of int
        The 20 least distortions within the budget, by a dynamic program over all totals.
    """
    layers, options = int(rng.integers(6, 13)), int(rng.integers(2, 13))
    costs = rng.integers(0, 60, (layers, options))
    distortions = -costs + rng.integers(0, int(rng.choice([1, 3, 40])), costs.shape)
    budget = int(rng.integers(costs.min(axis=1).sum(), costs.max(axis=1).sum() + 1))
    best: dict[int, list[int]] = {0: [0]}
    for cost, distortion in zip(costs.tolist(), distortions.tolist(), strict=True):
        found: dict[int, list[int]] = {}
        for spent, values in best.items():
            for c, d in zip(cost, distortion, strict=True):
                if spent + c <= budget:
                    found.setdefault(spent + c, []).extend(value + d for value in values)
        best = {spent: sorted(values)[:20] for spent, values in found.items()}
    arrays = (
        costs.reshape(-1, 1).astype(np.int64),
        distortions.reshape(-1).astype(float),
        np.arange(layers + 1, dtype=np.int64) * options,
        np.ones(costs.size, np.uint8),
        np.arange(layers, dtype=np.int64),
    )
    call = dict(zip(NAMES, arrays, strict=True))
    return call, budget, sorted(value for values in best.values() for value in values)[:20]


def spoil(rng: Rng, call: Call) -> Iterator[tuple[str, Any]]:
    """Ways to spoil an argument, each of which must be refused."""
    costs, distortions, offsets = call["costs"], call["distortions"], call["offsets"]
    at = int(rng.integers(len(distortions)))

    def put(array: Any, value: float) -> Any:
        spoiled = array.copy()
        spoiled.reshape(len(array), -1)[min(at, len(array) - 1), 0] = value
        return spoiled

    yield "costs", put(costs, -1 - int(rng.integers(2**62)))
    yield "costs", put(costs, int(rng.integers(2**61 + 1, 2**63 - 1)))
    yield "costs", costs[:-1]
    yield "costs", costs[:, 0]
    yield "costs", costs.astype(float)
    yield "distortions", put(distortions, float(rng.choice([np.nan, np.inf, -np.inf])))
    yield "distortions", distortions[:-1]
    yield "distortions", distortions[:, None]
    yield "offsets", offsets + 1
    yield "offsets", np.append(offsets, offsets[-1])
    yield "offsets", put(offsets[::-1], int(rng.integers(-(2**62), 2**62)))
    yield "offsets", offsets[:1]
    yield "offsets", offsets[:0]
    yield "allowed", np.zeros_like(call["allowed"])
    yield "allowed", call["allowed"][1:]
    yield "allowed", call["allowed"].astype(float)
    yield "groups", np.append(call["groups"], 0)
    yield "groups", None
    yield "budgets", -1 - call["budgets"]
    yield "budgets", np.append(call["budgets"], call["budgets"], axis=1)
    yield "budgets", call["budgets"][0]
    yield "time_limit", float(rng.choice([np.nan, -1.0, -np.inf]))
    yield "memory_limit", -1 - int(rng.integers(2**62))
