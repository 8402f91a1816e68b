"""What distortion every budget costs: the points of a frontier."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdprune_core.allocation import Allocation
from rdprune_core.lazy import LazyAllocations
from rdprune_core.table import RDTable


@dataclass(frozen=True, slots=True, eq=False)
class Frontier(LazyAllocations):
    """The optimal allocation at each of several budgets of one cost.

    A sequence of :class:`Allocation`, which are made when they are asked for; the arrays are there
    at once.

    Attributes
    ----------
    cost : str
        The cost that is bounded.
    budgets : int64 array (points,)
        Ascending.
    choices : int64 array (points, L)
        Index of the chosen option of each layer.
    distortion : float64 array (points,)
        Least distortion at each budget, never rising.
    lower_bound : float64 array (points,)
        No allocation within the budget has less; the distortion itself where it is proved optimal.
    multiplier : float64 array (points,)
        Shadow price at each budget, distortion per unit of cost.
    optimal : bool array (points,)
        Proved; otherwise a limit ended the search.
    """

    cost: str
    budgets: NDArray[np.int64]
    choices: NDArray[np.int64] = field(repr=False)
    distortion: NDArray[np.float64] = field(repr=False)
    lower_bound: NDArray[np.float64] = field(repr=False)
    multiplier: NDArray[np.float64] = field(repr=False)
    optimal: NDArray[np.bool_] = field(repr=False)
    _table: RDTable = field(repr=False)
    _made: dict[int, Allocation] = field(default_factory=dict, repr=False)

    @property
    def hull(self) -> NDArray[np.int64]:
        """Points on the lower convex hull of distortion over budget, ascending.

        Between two of them no mixture of allocations is better than theirs. Budgets that repeat
        count once.
        """
        hull: list[int] = []
        x, y = self.budgets.tolist(), self.distortion.tolist()
        for point in range(len(x)):
            if hull and x[hull[-1]] == x[point]:
                continue
            while len(hull) > 1:
                first, second = hull[-2:]
                before = (y[second] - y[first]) * (x[point] - x[second])
                after = (y[point] - y[second]) * (x[second] - x[first])
                if before < after:
                    break
                hull.pop()
            hull.append(point)
        return np.array(hull, np.int64)

    def _make(self, index: int) -> Allocation:
        return Allocation.from_choice(
            self._table,
            self.choices[index],
            budget={self.cost: int(self.budgets[index])},
            distortion=float(self.distortion[index]),
            lower_bound=float(self.lower_bound[index]),
            status="optimal" if self.optimal[index] else "feasible",
            multipliers={self.cost: float(self.multiplier[index])},
        )


def sum_distortion(table: RDTable, choices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact sum of each row's distortions, correctly rounded; (points,)."""
    starts, distortion = table.offsets[:-1], table.flat_distortion
    return np.array([math.fsum(distortion[starts + row].tolist()) for row in choices])
