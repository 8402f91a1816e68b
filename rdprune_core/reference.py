"""The textbook solver, to compare with: a dynamic program over a budget cut into buckets."""

from __future__ import annotations

from numbers import Integral

from rdprune_core.allocation import Allocation
from rdprune_core.budget import Budget, read_budgets
from rdprune_core.constraints import read_constraints
from rdprune_core.solve import explain
from rdprune_core.table import RDTable


def allocate_reference(table: RDTable, budget: Budget, *, buckets: int = 10_000) -> Allocation:
    """Choose one option per layer by dynamic programming over a bucketed budget.

    Every layer first takes its cheapest option; the program spends what the budget leaves
    above that. It is cut into at most `buckets` equal buckets and every option's extra cost is
    rounded up to whole ones, so the true budget is never exceeded. Buckets of one unit, and so
    an optimum but for the rounding of float sums, come of ``buckets >= budget``. Fewer buckets
    may miss the optimum, and nothing says by how much: that is what
    :func:`~rdprune_core.allocate` is for.

    Takes O(n b) time and O(L b) memory for n options, L layers, b buckets. Xu et al. (ICCV 2023)
    allocate sparsity so, with a bucket for every weight; the recursion is that of Kellerer,
    Pferschy and Pisinger, *Knapsack Problems* (2004), section 11.5.

    Parameters
    ----------
    table : RDTable
    budget : int, str or dict
        Upper bound on one cost, as for :func:`~rdprune_core.allocate`.
    buckets : int
        Most buckets to use.

    Returns
    -------
    Allocation
        With status ``"feasible"`` and no lower bound.

    Raises
    ------
    InfeasibleBudgetError
        If no allocation keeps within the budget; carries the least reachable cost.
    ValueError
        For any other wrong argument, or a budget on several costs.

    Examples
    --------
    >>> from rdprune_core import RDTable
    >>> from rdprune_core.reference import allocate_reference
    >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    >>> allocate_reference(table, budget=15).choice.tolist()
    [1, 1]
    >>> allocate_reference(table, budget=15, buckets=2).choice.tolist()
    [1, 2]
    """
    budgets = read_budgets(table, budget, None)
    if len(budgets) != 1:
        raise ValueError(f"budget bounds {', '.join(budgets)}; the reference solver takes one cost")
    if not isinstance(buckets, Integral) or isinstance(buckets, bool) or buckets < 1:
        raise ValueError(f"buckets is {buckets!r}; it must be an integer of at least 1")
    [(name, most)] = budgets.items()
    costs = [row.tolist() for row in table.costs[name]]
    least = sum(min(row) for row in costs)
    if most < least:
        raise explain(table, [name], [[most]], read_constraints(table))
    room = min(most, sum(max(row) for row in costs)) - least
    size = max(1, -(-room // int(buckets)))
    weights = [[-(-(cost - min(row)) // size) for cost in row] for row in costs]
    distortions = [row.tolist() for row in table.distortion]
    choice = _spend(weights, distortions, room // size)
    return Allocation.from_choice(table, choice, budget=budgets)


def _spend(weights: list[list[int]], distortions: list[list[float]], room: int) -> list[int]:
    """Best choice of total weight at most `room`; every layer has an option of weight zero."""
    # before[l][b] is the least distortion that layers 0..l-1 can have with b buckets.
    before = [[0.0] * (room + 1)]
    for row, values in zip(weights, distortions, strict=True):
        last = before[-1]
        best = [float("inf")] * (room + 1)
        for weight, value in zip(row, values, strict=True):
            if weight <= room:
                best[weight:] = [
                    old if old <= (new := rest + value) else new
                    for old, rest in zip(best[weight:], last, strict=False)
                ]
        before.append(best)
    choice = []
    for layer in reversed(range(len(weights))):
        options = sorted((weight, k) for k, weight in enumerate(weights[layer]) if weight <= room)
        total, last = before[layer + 1][room], before[layer]
        weight, chosen = next(
            (weight, k)
            for weight, k in options
            if last[room - weight] + distortions[layer][k] == total
        )
        choice.append(chosen)
        room -= weight
    return choice[::-1]
