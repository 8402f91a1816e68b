"""The problem as an integer program, for HiGHS (through SciPy) and for CP-SAT of OR-tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rdprune.bench.contenders import Answer
from rdprune_core import RDTable

# HiGHS stops at an absolute gap of 1e-6 too, which SciPy cannot set: scaled, it is 1e-11 of the
# largest distortion. CP-SAT counts in integers: 1e-12 of it.
HIGHS_LARGEST: Final = 1e5
CP_SAT_LARGEST: Final = 1e12


def highs(table: RDTable, budgets: Mapping[str, int], seconds: float) -> Answer:
    """Solve with HiGHS at relative gap zero, one thread.

    Parameters
    ----------
    table : RDTable
    budgets : dict of cost name to int
    seconds : float
        Time limit.
    """
    from scipy.optimize import (  # type: ignore[import-untyped]
        Bounds,
        LinearConstraint,
        milp,
    )
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    offsets, size = table.offsets, len(table.flat_distortion)
    ones = (np.ones(size), np.arange(size), offsets)
    choose = csr_array(ones, shape=(len(table.names), size))
    scale = HIGHS_LARGEST / max(float(np.abs(table.flat_distortion).max()), 1e-300)
    limits = [
        LinearConstraint(csr_array(table.flat_cost(name).astype(float)[None]), -np.inf, most)
        for name, most in budgets.items()
    ]
    with _quiet():
        found = milp(
            table.flat_distortion * scale,
            constraints=[LinearConstraint(choose, 1, 1), *limits],
            integrality=np.ones(size),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "time_limit": seconds},
        )
    if found.x is None:
        return Answer(None)
    return Answer(largest(found.x, offsets), found.status == 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Send to nowhere what HiGHS prints past Python, which would end up between our JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def largest(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the largest value of each layer, the first of equals; (L,)."""
    return np.array([part.argmax() for part in np.split(values, offsets[1:-1])], np.int64)


def cp_sat(table: RDTable, budget: int, seconds: float) -> Answer:
    """Solve with CP-SAT, two workers, distortions rounded to integers."""
    from ortools.sat.python import cp_model

    offsets = table.offsets.tolist()
    scale = CP_SAT_LARGEST / max(float(np.abs(table.flat_distortion).max()), 1e-300)
    model = cp_model.CpModel()
    take = [model.new_bool_var("") for _ in range(offsets[-1])]
    for begin, end in pairwise(offsets):
        model.add_exactly_one(take[begin:end])
    cost = table.flat_cost(next(iter(table.costs)))
    model.add(cp_model.LinearExpr.weighted_sum(take, cost) <= budget)
    worth = np.rint(table.flat_distortion * scale).astype(np.int64)
    model.minimize(cp_model.LinearExpr.weighted_sum(take, worth))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(None)
    values = np.array([solver.value(variable) for variable in take], float)
    return Answer(largest(values, table.offsets), status == cp_model.OPTIMAL)
