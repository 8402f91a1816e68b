"""Where a table will be used: its budgets, which say what of it to measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdprune.tabling import Findings
from rdprune_core import RDTable, allocate
from rdprune_core.budget import Budget

AUTO = "auto"
AUTO_LEVELS = 101


def choosers(
    findings: Findings, budgets: Sequence[Budget] | None, objective: str
) -> list[Callable[[RDTable], NDArray[np.int64]]]:
    """Return what chooses at each budget, once it is known that none of them is impossible."""
    if budgets is None:
        return []
    if isinstance(budgets, (str, Mapping)) or not isinstance(budgets, Iterable):
        raise ValueError(f"budgets is {budgets!r}, must be a list of budgets, such as ['20%']")
    for budget in budgets:
        allocate(findings.costs_only(), budget)

    def choose(budget: Budget, table: RDTable) -> NDArray[np.int64]:
        return allocate(table, budget, objective=objective).choice

    return [partial(choose, budget) for budget in budgets]


def check_auto(
    levels: int | str | Sequence[float],
    budgets: Sequence[Budget] | None,
    objective: str,
    responses: int,
    keep_errors: bool,
    shapes: Iterable[str],
) -> None:
    """Refuse arguments of `rdprune.measure` that do not go together with budgets."""
    if objective not in ("additive", "joint"):
        raise ValueError(f"objective is {objective!r}, must be 'additive' or 'joint'")
    if is_auto(levels) and budgets is None:
        raise ValueError(
            "levels 'auto' needs a sparsity or a budget: what is measured depends on it"
        )
    if budgets is not None and not is_auto(levels):
        raise ValueError(
            "a sparsity or budget to measure for is for levels 'auto'; other levels are measured "
            "whatever the budget"
        )
    if budgets is None:
        return
    if objective == "joint" and not responses:
        raise ValueError('objective "joint" needs responses above 0')
    if keep_errors:
        raise ValueError("keep_errors needs every level measured, not levels='auto'")
    if tuple(shapes):
        raise ValueError("shapes need every level measured, not levels='auto'")


def is_auto(levels: Any) -> bool:
    """Whether the levels to measure are to be found out."""
    return isinstance(levels, str) and levels == AUTO
