"""The allocator: the best option for every layer under a budget, with a certificate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core import _core
from rdprune_core.allocation import Allocation
from rdprune_core.budget import Budget, read_budgets
from rdprune_core.checks import read_only
from rdprune_core.constraints import Bounds, Constraints, read_constraints
from rdprune_core.curve import Frontier, sum_distortion
from rdprune_core.errors import InfeasibleBudgetError, few
from rdprune_core.joint import read_offset, solve_joint
from rdprune_core.table import RDTable

OBJECTIVES = ("additive", "joint")
MEMORY_LIMIT = 1 << 30


def allocate(
    table: RDTable,
    budget: Budget | None = None,
    *,
    sparsity: float | None = None,
    objective: str = "additive",
    offset: ArrayLike | None = None,
    floors: Bounds | None = None,
    caps: Bounds | None = None,
    forbidden: Mapping[str, Iterable[str | int]] | None = None,
    tied: Iterable[Iterable[str]] = (),
    previous: Allocation | None = None,
    time_limit: float | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Allocation:
    """Choose one option per layer so that the total distortion is least within a budget.

    Solves the multiple-choice knapsack problem exactly, in integer arithmetic: the budget is
    never exceeded, and the same input gives the same allocation on every machine. Among
    allocations of equal distortion the one of lower budgeted cost is taken (of several, in the
    table's order), among those the lexicographically smallest `choice`.

    Parameters
    ----------
    table : RDTable
    budget : int, str or dict, optional
        Upper bound on the table's first cost: an absolute integer, or per cent of the dense
        cost as ``"20%"`` (rounded down). A dict bounds several costs at once:
        ``{"params": "20%", "macs": "35%"}``. Floats are refused.
    sparsity : float, optional
        Fraction of the cost ``"params"`` to remove, in 0 to 1.
    objective : str
        ``"additive"``: the sum of the layers' distortions, each measured alone, to proved
        optimality. ``"joint"``: the mean square of the sum of their responses, so that layers may
        cancel each other; needs a table with responses. Small instances are proved ``optimal``,
        others ``feasible`` with a lower bound.
    offset : (m,) array of float, optional
        For the joint objective, a response that is there already.
    floors, caps : dict of layer to amount, optional
        Least and largest cost of single layers: an amount of the first cost (an integer, or
        per cent of the dense layer), or a dict of amounts by cost name.
    forbidden : dict of layer to options, optional
        Option labels or indices not to be taken.
    tied : iterable of groups of layer names
        The layers of a group take the same option; their option labels must be equal.
    previous : Allocation, optional
        No layer keeps more of the first cost than in it (sparsity never falls).
    time_limit : float, optional
        Seconds after which the best allocation so far is returned as ``feasible``.
    memory_limit : int
        Bytes for the search, one gibibyte by default. When it is reached, the best allocation so
        far is returned as ``feasible``; unlike `time_limit`, the same one on every machine.

    Returns
    -------
    Allocation
        With status, lower bound, gap and multipliers. Distortions that span more than 18 orders of
        magnitude are rounded inside: then the status is ``feasible``, and the gap says how much.

    Raises
    ------
    InfeasibleBudgetError
        If no allocation keeps within the budget; carries the least reachable cost.
    ValueError
        For any other wrong argument; names it.
    RuntimeError
        If a limit ended the search before any allocation within several budgets was found.

    Examples
    --------
    >>> from rdprune_core import RDTable, allocate
    >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    >>> a = allocate(table, budget=15)
    >>> a.choice.tolist(), a.cost, a.distortion, a.status
    ([1, 1], {'params': 15}, 3.0, 'optimal')
    """
    budgets = read_budgets(table, budget, sparsity)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; it must be one of {', '.join(OBJECTIVES)}")
    constraints = read_constraints(
        table, floors=floors, caps=caps, forbidden=forbidden, tied=tied, previous=previous
    )
    rows = [list(budgets.values())]
    if objective == "additive":
        if offset is not None:
            raise ValueError('offset is only used by objective "joint"')
        return _solve(table, list(budgets), rows[0], constraints, time_limit, memory_limit)
    start = read_offset(table, offset)
    seconds, size = read_limits(time_limit, memory_limit)
    try:
        return solve_joint(
            table, budgets, constraints, start, time_limit=seconds, memory_limit=size
        )
    except _core.InfeasibleBudget as error:
        raise explain(table, list(budgets), rows, constraints) from error


def frontier(
    table: RDTable,
    cost: str | None = None,
    *,
    points: int | Sequence[int] = 101,
    floors: Bounds | None = None,
    caps: Bounds | None = None,
    forbidden: Mapping[str, Iterable[str | int]] | None = None,
    tied: Iterable[Iterable[str]] = (),
    previous: Allocation | None = None,
    time_limit: float | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Frontier:
    """Solve for many budgets of one cost; every point is exact.

    Parameters
    ----------
    table : RDTable
    cost : str, optional
        The cost to bound; the table's first by default.
    points : int or sequence of int
        Number of budgets, evenly spaced from the least reachable cost to the dense one, or
        the budgets themselves.
    floors, caps, forbidden, tied, previous, time_limit, memory_limit
        As for :func:`allocate`; the limits hold for each point.

    Returns
    -------
    Frontier

    Raises
    ------
    InfeasibleBudgetError
        If a budget given in `points` is out of reach.
    ValueError
        For any other wrong argument; names it.

    Examples
    --------
    >>> from rdprune_core import RDTable, frontier
    >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    >>> frontier(table, points=[0, 15, 30]).distortion.tolist()
    [17.0, 3.0, 0.0]
    """
    name = next(iter(table.costs)) if cost is None else cost
    table.flat_cost(name)
    constraints = read_constraints(
        table, floors=floors, caps=caps, forbidden=forbidden, tied=tied, previous=previous
    )
    budgets = _points(table, name, points, constraints)
    rows = [[budget] for budget in budgets]
    solutions = _search(table, [name], rows, constraints, time_limit, memory_limit)
    choices = read_only(np.stack([solution.choice for solution in solutions]))
    distortion = sum_distortion(table, choices)
    optimal = np.array([solution.optimal for solution in solutions])
    bound = np.array([solution.lower_bound for solution in solutions])
    return Frontier(
        cost=name,
        budgets=read_only(np.array(budgets, np.int64)),
        choices=choices,
        distortion=read_only(distortion),
        lower_bound=read_only(np.where(optimal, distortion, np.minimum(bound, distortion))),
        # Adding zero turns -0.0 into 0.0.
        multiplier=read_only(np.array([solution.multipliers[0] for solution in solutions]) + 0.0),
        optimal=read_only(optimal),
        _table=table,
    )


def _points(
    table: RDTable, cost: str, points: int | Sequence[int], constraints: Constraints
) -> list[int]:
    if isinstance(points, Integral) and not isinstance(points, bool):
        if points < 2:
            raise ValueError(f"points is {points}; it must be at least 2")
        least = _least(table, cost, constraints)
        span = max(int(table.dense[cost].sum()) - least, 0)
        return [least + span * i // (int(points) - 1) for i in range(int(points))]
    if isinstance(points, bool) or not isinstance(points, Iterable):
        raise ValueError(f"points is {points!r}; it must be an integer or a sequence of budgets")
    budgets = list(points)
    for budget in budgets:
        if not isinstance(budget, Integral) or isinstance(budget, bool) or budget < 0:
            raise ValueError(f"points holds {budget!r}; budgets must be integers, not negative")
        if budget > _core.MAX_TOTAL_COST:
            raise ValueError(f"points holds {budget}; no total cost is above 2**61")
    if not budgets:
        raise ValueError("points must hold at least one budget")
    return sorted(int(budget) for budget in budgets)


def _least(table: RDTable, cost: str, constraints: Constraints) -> int:
    """Least reachable total of a cost, ties included."""
    rows: dict[int, NDArray[np.int64]] = {}
    for layer, group in enumerate(constraints.groups.tolist()):
        rows[group] = rows.get(group, 0) + table.costs[cost][layer]
    spans = {group: slice(*table.offsets[group : group + 2]) for group in rows}
    allowed = constraints.allowed.astype(bool)
    return sum(int(row[allowed[spans[group]]].min()) for group, row in rows.items())


def read_limits(time_limit: float | None, memory_limit: int) -> tuple[float, int]:
    """Check the limits of a search; seconds without a limit are infinite."""
    if time_limit is not None and (not isinstance(time_limit, Real) or not time_limit >= 0):
        raise ValueError(f"time_limit is {time_limit!r}; it must be seconds, not negative")
    if not isinstance(memory_limit, Integral) or not 0 <= memory_limit < 2**63:
        raise ValueError(f"memory_limit is {memory_limit!r}; it must be bytes, not negative")
    return math.inf if time_limit is None else float(time_limit), int(memory_limit)


def _solve(
    table: RDTable,
    names: list[str],
    row: list[int],
    constraints: Constraints,
    time_limit: float | None,
    memory_limit: int,
) -> Allocation:
    solution = _search(table, names, [row], constraints, time_limit, memory_limit)[0]
    return _to_allocation(table, names, row, solution)


def _search(
    table: RDTable,
    names: list[str],
    rows: list[list[int]],
    constraints: Constraints,
    time_limit: float | None,
    memory_limit: int,
) -> list[_core.Solution]:
    seconds, size = read_limits(time_limit, memory_limit)
    # A budget above every possible cost is no bound; the core's numbers end there.
    capped = [[min(budget, _core.MAX_TOTAL_COST) for budget in row] for row in rows]
    try:
        return _core.solve(
            table.flat_cost(names[0])[:, None]
            if len(names) == 1
            else np.stack([table.flat_cost(name) for name in names], axis=1),
            table.flat_distortion,
            table.offsets,
            constraints.allowed,
            constraints.groups,
            np.array(capped, np.int64),
            time_limit=seconds,
            memory_limit=size,
        )
    except _core.InfeasibleBudget as error:
        raise explain(table, names, rows, constraints) from error


def _to_allocation(
    table: RDTable, names: list[str], budget: list[int], solution: _core.Solution
) -> Allocation:
    return Allocation.from_choice(
        table,
        solution.choice,
        budget=dict(zip(names, budget, strict=True)),
        lower_bound=solution.lower_bound,
        status="optimal" if solution.optimal else "feasible",
        # Adding zero turns -0.0 into 0.0.
        multipliers={n: value + 0.0 for n, value in zip(names, solution.multipliers, strict=True)},
    )


def explain(
    table: RDTable, names: list[str], rows: list[list[int]], constraints: Constraints
) -> InfeasibleBudgetError:
    """Say which budget is out of reach, and what constrains the layers, the costliest first."""
    least = {name: _least(table, name, constraints) for name in names}
    budget = dict(zip(names, map(min, zip(*rows, strict=True)), strict=True))
    beyond = [name for name in names if budget[name] < least[name]]
    if beyond:
        parts = [f"budget {name} <= {budget[name]:,} is out of reach; the least reachable "
                 f"{name} is {least[name]:,}" for name in beyond]  # fmt: skip
        text = "; ".join(parts)
    else:
        bounds = " and ".join(f"{name} <= {amount:,}" for name, amount in budget.items())
        text = f"budgets {bounds} can each be met alone, but not together"
    if constraints.reasons:
        rises = [_rises(table, name, constraints) for name in beyond or names]
        # A share of the budget makes several costs comparable; the layer that rises most binds.
        scales = [max(budget[name], 1) for name in beyond or names]
        order = sorted(
            constraints.reasons,
            key=lambda layer: (
                -max(r[layer] / scale for r, scale in zip(rises, scales, strict=True))
            ),
        )
        shown = [f"{name!r}: {' and '.join(constraints.reasons[name])}" for name in order]
        text += f" (constrained: {few(shown, 5, '; ')})"
    return InfeasibleBudgetError(text, least)


def _rises(table: RDTable, cost: str, constraints: Constraints) -> dict[str, int]:
    """By how much its constraints, ties included, raise the least cost of a layer or its group."""
    groups = constraints.groups.tolist()
    free = dict.fromkeys(groups, 0)  # least cost without constraints
    rows: dict[int, NDArray[np.int64]] = {}
    for layer, group in enumerate(groups):
        costs = table.costs[cost][layer]
        free[group] += int(costs.min())
        rows[group] = rows.get(group, 0) + costs
    found = {}
    for name in constraints.reasons:
        layer = table.layer(name)
        allowed = constraints.allowed[slice(*table.offsets[layer : layer + 2])].astype(bool)
        group = groups[layer]
        found[name] = int(rows[group][allowed].min()) - free[group]
    return found
