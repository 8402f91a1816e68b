"""The joint objective: the mean square of the sum of the chosen responses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core import _core
from rdprune_core.allocation import Allocation
from rdprune_core.checks import read_offset as check_offset
from rdprune_core.constraints import Constraints
from rdprune_core.table import RDTable


def read_offset(table: RDTable, offset: ArrayLike | None) -> NDArray[np.float64]:
    """Check that a table has responses, and the offset that they are added to.

    Parameters
    ----------
    table : RDTable
    offset : (m,) array of float, optional
        What was done to the output before; zero by default.

    Returns
    -------
    float64 array (m,)
        The sum of it and the table's own offset.

    Raises
    ------
    ValueError
        If the table has no responses, or for a wrong offset.
    """
    if table.responses is None:
        raise ValueError(
            'objective "joint" needs a table with responses; measure with responses (rdprune '
            "measure --responses 256) or pass responses= to RDTable.from_arrays"
        )
    before = np.zeros(table.responses[0].shape[1]) if table.offset is None else table.offset
    given = check_offset(offset, table.responses)
    return before if given is None else before + given


def joint_distortion(offset: NDArray[np.float64] | None, change: NDArray[np.float64]) -> float:
    """Joint distortion of a sum of responses, float64 (m,), added to what `RDTable.offset` says."""
    if offset is None:
        return float(np.mean(change**2))
    return float(np.mean((offset + change) ** 2)) - _constant(offset)


def _constant(offset: NDArray[np.float64] | None) -> float:
    return 0.0 if offset is None else float(np.mean(offset**2))


def predictions(table: RDTable, allocation: Allocation) -> tuple[float, float | None]:
    """Predict the distortion of an allocation by both objectives.

    Parameters
    ----------
    table : RDTable
        The table that the allocation is of.
    allocation : Allocation

    Returns
    -------
    additive : float
        The sum of the layers' distortions, exactly rounded.
    joint : float or None
        The mean square of the sum of their responses, see `RDTable.offset`; None if the table has
        no responses.

    Raises
    ------
    ValueError
        If the allocation is not of this table.

    Examples
    --------
    >>> from rdprune_core import RDTable, allocate, predictions
    >>> table = RDTable.from_arrays([[2, 1]] * 2, [[0.0, 1.0]] * 2, responses=[[[0.0], [1.0]]] * 2)
    >>> predictions(table, allocate(table, 2))
    (2.0, 4.0)
    """
    if allocation.names != table.names or any(
        not 0 <= k < len(labels) or labels[k] != label
        for k, labels, label in zip(
            allocation.choice.tolist(), table.options, allocation.options, strict=True
        )
    ):
        raise ValueError("table is not the one that the allocation is of")
    chosen = list(enumerate(allocation.choice.tolist()))
    additive = math.fsum(float(table.distortion[layer][k]) for layer, k in chosen)
    if table.responses is None:
        return additive, None
    total = np.sum([table.responses[layer][k].astype(np.float64) for layer, k in chosen], axis=0)
    return additive, joint_distortion(table.offset, total)


def solve_joint(
    table: RDTable,
    budget: dict[str, int],
    constraints: Constraints,
    offset: NDArray[np.float64],
    *,
    time_limit: float,
    memory_limit: int,
) -> Allocation:
    """Choose one option per layer so that the sum of their responses is least in mean square.

    Parameters
    ----------
    table : RDTable
        With responses.
    budget : dict of str to int
        Bounds on the totals of costs.
    constraints : Constraints
    offset : float64 array (m,)
        Added to the responses, the table's own and any other.
    time_limit : float
        Seconds.
    memory_limit : int
        Bytes.

    Returns
    -------
    Allocation
        ``optimal`` if that was proved, else ``feasible``; the lower bound holds in both cases.

    Raises
    ------
    _core.InfeasibleBudget
        If no allocation keeps within the budget.
    """
    assert table.responses is not None
    solution = _core.solve_joint(
        np.stack([table.flat_cost(name) for name in budget], axis=1),
        table.flat_distortion,
        np.concatenate(table.responses),
        offset,
        table.offsets,
        constraints.allowed,
        constraints.groups,
        np.array([min(bound, _core.MAX_TOTAL_COST) for bound in budget.values()], np.int64),
        time_limit=time_limit,
        memory_limit=memory_limit,
    )
    constant = _constant(table.offset)
    return Allocation.from_choice(
        table,
        solution.choice,
        budget=budget,
        objective="joint",
        distortion=solution.distortion - constant,
        lower_bound=solution.lower_bound - constant,
        status="optimal" if solution.optimal else "feasible",
        # Adding zero turns -0.0 into 0.0.
        multipliers={n: x + 0.0 for n, x in zip(budget, solution.multipliers, strict=True)},
    )
