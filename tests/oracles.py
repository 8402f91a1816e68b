"""Independent answers to compare with: brute force in exact arithmetic, and HiGHS."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp


@dataclass(frozen=True)
class Instance:
    """A ragged table as lists: integers a cost, layer and option; floats a layer and option."""

    costs: list[list[list[int]]]  # cost, layer, option
    distortion: list[list[float]]  # layer, option
    budgets: list[int]  # cost


def exact(distortion: float) -> int:
    """A double as an integer multiple of 2^-1100, exactly."""
    return int(Fraction(distortion) * 2**1100)


def brute_force(instance: Instance) -> tuple[int, ...] | None:
    """Best choice by the stated order: exact distortion, then costs, then the choice; or None."""
    values = [[exact(d) for d in row] for row in instance.distortion]
    best = None
    for choice in itertools.product(*(range(len(row)) for row in instance.distortion)):
        totals = tuple(
            sum(row[k] for row, k in zip(rows, choice, strict=True)) for rows in instance.costs
        )
        if any(total > b for total, b in zip(totals, instance.budgets, strict=True)):
            continue
        value = sum(row[k] for row, k in zip(values, choice, strict=True))
        key = (value, totals, choice)
        if best is None or key < best:
            best = key
    return None if best is None else best[2]


def highs(
    costs: NDArray[np.int64], distortion: NDArray[np.float64], budgets: list[int]
) -> tuple[float, NDArray[np.int64]] | None:
    """Least distortion of a (L, K) table by SciPy's milp at gap zero, and its choice; or None.

    `costs` has shape (D, L, K). HiGHS also stops at an absolute gap of 1e-6, which cannot be set
    here, so the objective is scaled up until that is small beside it.
    """
    layers, options = distortion.shape
    size = layers * options
    choose = np.kron(np.eye(layers), np.ones(options))
    rows = [LinearConstraint(choose, 1, 1)]
    for cost, budget in zip(costs, budgets, strict=True):
        rows.append(LinearConstraint(cost.reshape(1, size).astype(float), -np.inf, budget))
    scale = (np.abs(distortion).max() or 1.0) / 1e5
    result = milp(
        distortion.ravel() / scale,
        constraints=rows,
        integrality=np.ones(size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    choice = result.x.reshape(layers, options).argmax(axis=1)
    return float(distortion[np.arange(layers), choice].sum()), choice


def small_instance(rng: np.random.Generator, costs: int = 1) -> Instance:
    """A ragged table small enough for brute force; about a third of them out of reach."""
    layers = int(rng.integers(1, 6))
    sizes = rng.integers(1, 6 if layers < 5 else 5, layers)
    kind = int(rng.integers(0, 5))
    most = int(rng.choice([3, 10, 1000, 10**9]))
    cost_rows = [[rng.integers(0, most + 1, size).tolist() for size in sizes] for _ in range(costs)]
    if kind == 0:  # many ties
        rows = [rng.integers(-2, 3, size).astype(float).tolist() for size in sizes]
    elif kind == 1:  # decimal fractions, whose float sums depend on the order
        rows = [(rng.integers(-9, 30, size) / 10).tolist() for size in sizes]
    elif kind == 2:  # eighteen orders of magnitude
        rows = [
            (rng.standard_normal(size) * 10.0 ** rng.integers(-9, 9, size)).tolist()
            for size in sizes
        ]
    elif kind == 3:  # distortion proportional to the weights removed: a subset-sum in disguise
        rows = [[-float(c) for c in row] for row in cost_rows[0]]
    else:
        rows = [rng.random(size).tolist() for size in sizes]
    budgets = []
    for cost in cost_rows:
        least = sum(min(row) for row in cost)
        dense = sum(max(row) for row in cost)
        reach = rng.random() < (2 / 3) ** (1 / costs)
        span = (least, dense + 1) if reach else (0, max(least, 1))
        budgets.append(int(rng.integers(*span)) if span[1] > span[0] else span[0])
    return Instance(cost_rows, rows, budgets)
