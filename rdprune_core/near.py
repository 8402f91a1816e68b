"""The k best allocations, and which layers are undecided among them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from rdprune_core import _core
from rdprune_core.allocation import Allocation
from rdprune_core.budget import Budget, read_budgets
from rdprune_core.checks import read_only
from rdprune_core.constraints import Bounds, read_constraints
from rdprune_core.curve import sum_distortion
from rdprune_core.lazy import LazyAllocations
from rdprune_core.solve import MEMORY_LIMIT, explain, read_limits
from rdprune_core.table import RDTable

MOST = 100_000 - 1


@dataclass(frozen=True, slots=True, eq=False)
class NearOptimal(LazyAllocations):
    """The best allocations under a budget, the optimum first.

    A sequence of :class:`Allocation`, which are made when they are asked for; the arrays are there
    at once. In order of distortion, then cost, then choice. The first is ``optimal`` if that is
    proved; the lower bound of the others is its distortion, so their gap says how much worse they
    are.

    Attributes
    ----------
    choices : int64 array (n, L)
        Index of the chosen option of each layer.
    distortion : float64 array (n,)
        Never falling.
    status : str
        ``"optimal"``: proved to be the best ones, in this order, and as many as were asked for or
        as there are. ``"feasible"``: a limit ended the search, or its memory holds no more of
        them; others may be as good.
    complete : bool
        Proved: there is no further allocation within the budget (and the gap, if one was given).
        False where that is not known, as without a gap where exactly `k` are listed.
    lower_bound : float
        No allocation within the budget that is not listed has a lower distortion.
    budget : dict of str to int
        The bound that was asked for.
    multipliers : dict of str to float
        Shadow price of the budgeted cost.
    """

    choices: NDArray[np.int64] = field(repr=False)
    distortion: NDArray[np.float64] = field(repr=False)
    status: str
    complete: bool
    lower_bound: float
    budget: dict[str, int]
    multipliers: dict[str, float]
    _proved: bool = field(repr=False)  # that the first is the optimum
    _table: RDTable = field(repr=False)
    _made: dict[int, Allocation] = field(default_factory=dict, repr=False)

    @property
    def used(self) -> dict[str, dict[str, int]]:
        """For each layer, the options taken, the most frequent first, and in how many of them."""
        table = self._table
        return {
            name: {
                labels[option]: count for option, count in Counter(column.tolist()).most_common()
            }
            for name, labels, column in zip(table.names, table.options, self.choices.T, strict=True)
        }

    @property
    def undecided(self) -> tuple[str, ...]:
        """Layers for which not all allocations take the same option."""
        differ = (self.choices != self.choices[0]).any(axis=0)
        return tuple(self._table.names[layer] for layer in np.flatnonzero(differ))

    def _make(self, index: int) -> Allocation:
        return Allocation.from_choice(
            self._table,
            self.choices[index],
            budget=self.budget,
            distortion=float(self.distortion[index]),
            lower_bound=float(self.distortion[0]) if self._proved else self.lower_bound,
            status="optimal" if self._proved and index == 0 else "feasible",
            multipliers=self.multipliers,
        )


def near_optimal(
    table: RDTable,
    budget: Budget | None = None,
    *,
    sparsity: float | None = None,
    k: int = 10,
    gap: float | None = None,
    absolute_gap: float | None = None,
    floors: Bounds | None = None,
    caps: Bounds | None = None,
    forbidden: Mapping[str, Iterable[str | int]] | None = None,
    tied: Iterable[Iterable[str]] = (),
    previous: Allocation | None = None,
    time_limit: float | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> NearOptimal:
    """List the k best allocations under one budget, or all that are close to the optimum.

    Exact, with proof: the list is that of an exhaustive search, ties in the order of
    :func:`allocate`. Where the best ten differ in a layer, its measurements hardly matter.

    Parameters
    ----------
    table : RDTable
    budget, sparsity, floors, caps, forbidden, tied, previous
        As for :func:`allocate`; one budget.
    k : int
        How many allocations to list at most, 1 to 99,999.
    gap, absolute_gap : float, optional
        List only those whose distortion is above the optimum D by no more than ``gap * abs(D)``
        or `absolute_gap`, whichever is larger; with `k` as the most.
    time_limit, memory_limit
        As for :func:`allocate`; when one is reached, the best allocations found so far are listed,
        as ``feasible``. The list counts as memory: a limit may shorten it.

    Returns
    -------
    NearOptimal

    Raises
    ------
    InfeasibleBudgetError
        If no allocation keeps within the budget; carries the least reachable cost.
    ValueError
        For any other wrong argument, and for several budgets.

    Examples
    --------
    >>> from rdprune_core import RDTable, near_optimal
    >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    >>> near = near_optimal(table, budget=15, k=3)
    >>> near.distortion.tolist(), near[1].choice.tolist(), near.undecided
    ([3.0, 8.0, 9.0], [0, 2], ('layer0', 'layer1'))
    """
    budgets = read_budgets(table, budget, sparsity)
    if len(budgets) > 1:
        raise ValueError(f"near_optimal takes one budget, got {' and '.join(budgets)}")
    most = _read_count(k)
    distances = [_read_gap("gap", gap), _read_gap("absolute_gap", absolute_gap)]
    constraints = read_constraints(
        table, floors=floors, caps=caps, forbidden=forbidden, tied=tied, previous=previous
    )
    seconds, size = read_limits(time_limit, memory_limit)
    [(name, bound)] = budgets.items()
    near = any(distance is not None for distance in distances)
    relative, absolute = ((distance or 0.0) if near else math.inf for distance in distances)
    try:
        found = _core.solve_near(
            table.flat_cost(name),
            table.flat_distortion,
            table.offsets,
            constraints.allowed,
            constraints.groups,
            min(bound, _core.MAX_TOTAL_COST),
            k=most + near,  # one more tells whether k are all
            relative=relative,
            absolute=absolute,
            time_limit=seconds,
            memory_limit=size,
        )
    except _core.InfeasibleBudget as error:
        raise explain(table, [name], [[bound]], constraints) from error
    return _gather(table, budgets, found, most)


def _gather(
    table: RDTable, budget: dict[str, int], found: _core.NearSolution, most: int
) -> NearOptimal:
    choices = found.choices
    listed = choices[:most]
    return NearOptimal(
        choices=read_only(listed),
        distortion=read_only(sum_distortion(table, listed)),
        status="optimal" if found.optimal else "feasible",
        complete=found.complete and len(choices) <= most,
        lower_bound=found.lower_bound,
        budget=budget,
        # Adding zero turns -0.0 into 0.0.
        multipliers=dict.fromkeys(budget, found.multiplier + 0.0),
        _proved=found.best_optimal,
        _table=table,
    )


def _read_count(k: int) -> int:
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= MOST:
        raise ValueError(f"k is {k!r}; it must be an integer from 1 to {MOST:,}")
    return int(k)


def _read_gap(argument: str, gap: float | None) -> float | None:
    if gap is None:
        return None
    if isinstance(gap, (bool, str)) or not isinstance(gap, Real) or not 0 <= gap < math.inf:
        raise ValueError(f"{argument} is {gap!r}; it must be a number, not negative")
    return float(gap)
