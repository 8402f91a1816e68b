"""Everybody who allocates: ours, dynamic programs over buckets, the greedy hull, MILP and CP.

Written from the methods; no peer's code is read or copied. Each takes a table, a budget of its
first cost and a time limit, and returns option indices; each call starts from the table alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rdprune_core import RDTable, _core, allocate
from rdprune_core.reference import allocate_reference

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contender found.

    Attributes
    ----------
    choice : int64 array (L,), or None
        None where it found nothing, or does not allocate at all.
    proved : bool
        Whether it says that this is the optimum.
    """

    choice: Ints | None
    proved: bool = False


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to allocate, and how large a table it is run on by default.

    Attributes
    ----------
    name, label : str
        For ``--contender``, and for the tables.
    run : callable
        Of table, budget and seconds.
    reach : three integers
        Most options (all layers together) of an instance: on the main curve at the middle
        sparsity, on it at the others, on the other curves. ``--full`` lifts them.
    needs : str
        Package that it needs; empty for none.
    proves : bool
        Whether it can say that an answer is the optimum.
    threads : int
    """

    name: str
    label: str
    run: Callable[[RDTable, int, float], Answer]
    reach: tuple[int, int, int]
    needs: str = ""
    proves: bool = False
    threads: int = 1

    @property
    def missing(self) -> bool:
        """Whether the package that it needs is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None


# --------------------------------------------------------------------------------------- ours


def _ours(table: RDTable, budget: int, seconds: float) -> Answer:
    del seconds
    found = allocate(table, budget)
    return Answer(found.choice, found.status == "optimal")


def _prepare(table: RDTable, budget: int, seconds: float) -> Answer:
    """Validate, drop dominated options, make hulls and sort their segments; solve nothing."""
    del budget, seconds
    _core.solve(
        table.flat_cost(next(iter(table.costs)))[:, None],
        table.flat_distortion,
        table.offsets,
        np.ones(len(table.flat_distortion), np.uint8),
        np.arange(len(table.names)),
        np.zeros((0, 1), np.int64),
        time_limit=float("inf"),
        memory_limit=1 << 30,
    )
    return Answer(None)


# ------------------------------------------------------------- dynamic programs over buckets


def _bucket_program(table: RDTable, buckets: list[Ints], room: int) -> Answer:
    """Least distortion with at most `room` buckets; `buckets` holds what each option takes."""
    before = [np.zeros(room + 1)]
    reached = np.empty(room + 1)
    for row, distortion in zip(buckets, table.distortion, strict=True):
        best = np.full(room + 1, np.inf)
        for size, value in zip(row.tolist(), distortion.tolist(), strict=True):
            if size <= room:
                here = reached[size:]
                np.add(before[-1][: room + 1 - size], value, out=here)
                np.minimum(best[size:], here, out=best[size:])
        before.append(best)
    if not np.isfinite(before.pop()[room]):
        return Answer(None)
    choice = []
    steps = zip(buckets, table.distortion, before, strict=True)
    for row, distortion, left in reversed(list(steps)):
        totals = np.where(row <= room, left[room - np.minimum(row, room)] + distortion, np.inf)
        choice.append(int(totals.argmin()))
        room -= int(row[choice[-1]])
    return Answer(np.array(choice[::-1], np.int64))


def _rounded_up(table: RDTable, budget: int, seconds: float) -> Answer:
    """Cut what the budget leaves above the cheapest options into 10,000 buckets, rounding up."""
    del seconds
    costs = next(iter(table.costs.values()))
    room = budget - sum(int(row.min()) for row in costs)
    size = max(1, -(-room // 10_000))
    return _bucket_program(table, [-(-(row - row.min()) // size) for row in costs], room // size)


def _rounded_nearest(table: RDTable, budget: int, buckets: int) -> Answer:
    """Cut the budget into buckets and round every cost to the nearest, as SPDY does.

    Frantar and Alistarh, *SPDY: Accurate Pruning with Speedup Guarantees*, ICML 2022. The true
    budget may be exceeded.
    """
    size = max(1.0, budget / buckets)
    costs = next(iter(table.costs.values()))
    return _bucket_program(
        table, [np.rint(row / size).astype(np.int64) for row in costs], int(budget / size + 0.5)
    )


def _python(table: RDTable, budget: int, seconds: float) -> Answer:
    del seconds
    return Answer(allocate_reference(table, budget, buckets=10_000).choice)


# -------------------------------------------------------------------------------- greedy hull


def _greedy(table: RDTable, budget: int, seconds: float) -> Answer:
    """Walk the segments of all lower hulls by falling efficiency, then fill up what is left."""
    del seconds
    cost = table.flat_cost(next(iter(table.costs)))
    distortion = table.flat_distortion
    layer = np.repeat(np.arange(len(table.names)), np.diff(table.offsets))
    points = _hulls(cost, distortion, layer)
    first = np.r_[True, layer[points[1:]] != layer[points[:-1]]]
    start, end = points[np.flatnonzero(~first) - 1], points[~first]
    extra = cost[end] - cost[start]
    order = np.argsort((distortion[end] - distortion[start]) / extra, kind="stable")
    room = budget - int(cost[points[first]].sum())
    if room < 0:
        return Answer(None)
    chosen = points[first]
    fits = int(np.searchsorted(np.cumsum(extra[order]), room, side="right"))
    taken, rest = order[:fits], order[fits:]
    # A layer's segments come in the order of its hull, so its last one taken is the furthest.
    chosen[layer[end[taken]]] = end[taken]
    room -= int(extra[taken].sum())
    smallest = int(extra.min(initial=room + 1))
    blocked = np.zeros(len(table.names), bool)
    for segment in rest.tolist():
        if room < smallest:
            break
        where = layer[end[segment]]
        if extra[segment] > room:
            blocked[where] = True
        elif not blocked[where]:
            chosen[where] = end[segment]
            room -= int(extra[segment])
    return Answer(_fill(cost, distortion, layer, chosen, room) - table.offsets[:-1])


def _fill(cost: Ints, distortion: Floats, layer: Ints, chosen: Ints, room: int) -> Ints:
    """Spend what is left: the one change that gains most, on the hull or off it, until none."""
    while True:
        now = chosen[layer]
        gain = np.where(cost - cost[now] <= room, distortion[now] - distortion, 0.0)
        best = int(gain.argmax())
        if gain[best] <= 0:
            return chosen
        room -= int(cost[best] - cost[chosen[layer[best]]])
        chosen[layer[best]] = best


def _hulls(cost: Ints, distortion: Floats, layer: Ints) -> Ints:
    """Return the vertices of every layer's lower hull, by layer and rising cost.

    A point on or above the line through two others is none, so all such points may go at once.
    """
    points = np.lexsort((distortion, cost, layer))
    same = layer[points[1:]] == layer[points[:-1]]
    # Distortion must fall from one to the next: compare with the least before, layer by layer.
    rank = np.empty(len(points))
    rank[np.argsort(distortion[points], kind="stable")] = np.arange(len(points))
    least = np.minimum.accumulate(rank - layer[points] * len(points))
    points = points[np.r_[True, ~same | (least[1:] < least[:-1])]]
    while len(points) > 2:
        x, y, where = cost[points], distortion[points], layer[points]
        left = (y[1:-1] - y[:-2]) * (x[2:] - x[1:-1])
        right = (y[2:] - y[1:-1]) * (x[1:-1] - x[:-2])
        inner = (where[:-2] == where[2:]) & (left >= right)
        if not inner.any():
            break
        points = points[np.r_[True, ~inner, True]]
    return points


# ------------------------------------------------------------------------------------- others


def _highs(table: RDTable, budget: int, seconds: float) -> Answer:
    from rdprune.bench.programs import highs

    return highs(table, {next(iter(table.costs)): budget}, seconds)


def _cp_sat(table: RDTable, budget: int, seconds: float) -> Answer:
    from rdprune.bench.programs import cp_sat

    return cp_sat(table, budget, seconds)


ALL: Final = 1 << 62
OURS: Final = Contender("rdprune", "rdprune", _ours, (ALL, ALL, ALL), proves=True)
PREPARATION: Final = Contender("preparation", "its table preparation alone", _prepare, (ALL,) * 3)
CONTENDERS: Final = {
    contender.name: contender
    for contender in (
        OURS,
        PREPARATION,
        Contender("greedy", "greedy hull, numpy", _greedy, (ALL, ALL, ALL)),
        Contender("dp-numpy", "numpy DP, 10k, up", _rounded_up, (ALL, ALL, 1_700)),
        Contender(
            "nearest-10k",
            "SPDY-style DP, 10k, nearest",
            lambda table, budget, _: _rounded_nearest(table, budget, 10_000),
            (ALL, ALL, 1_700),
        ),
        Contender(
            "nearest-100k",
            "SPDY-style DP, 100k, nearest",
            lambda table, budget, _: _rounded_nearest(table, budget, 100_000),
            (25_000, 0, 0),
        ),
        Contender("dp-python", "pure Python DP, 10k, up", _python, (25_000, 0, 0)),
        Contender("highs", "HiGHS, gap 0", _highs, (ALL, 25_000, 1_700), "scipy", True),
        Contender("cp-sat", "CP-SAT, 2 workers", _cp_sat, (25_000, 0, 0), "ortools", True, 2),
    )
}
