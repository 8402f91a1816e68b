"""Many instances of one table, which differ in their distortions alone, solved in parallel."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core import _core
from rdprune_core.allocation import Allocation
from rdprune_core.budget import Budget, read_budgets
from rdprune_core.checks import check_exact, read_only
from rdprune_core.constraints import Bounds, read_constraints
from rdprune_core.solve import MEMORY_LIMIT, explain, read_limits
from rdprune_core.table import RDTable


@dataclass(frozen=True, slots=True, eq=False)
class Allocations:
    """The allocations of N instances of one table. All arrays are read-only.

    ``allocations[i]`` is the :class:`Allocation` of instance i.

    Attributes
    ----------
    table : RDTable
        The table whose costs and constraints the instances share.
    choices : int64 array (N, L)
        Index of the chosen option of each layer.
    distortion : float64 array (N,)
        The sum of the layers' distortions in each instance, correctly rounded.
    lower_bound : float64 array (N,)
        No allocation within the budget has less in that instance.
    optimal : bool array (N,)
        Proved; otherwise a limit ended the search.
    costs : dict of str to int64 array (N,)
        Totals of every cost.
    budget : dict of str to int
        The bounds that were asked for.
    multipliers : dict of str to float64 array (N,)
        Shadow price of each budgeted cost.
    """

    table: RDTable
    choices: NDArray[np.int64]
    distortion: NDArray[np.float64]
    lower_bound: NDArray[np.float64]
    optimal: NDArray[np.bool_]
    costs: dict[str, NDArray[np.int64]]
    budget: dict[str, int]
    multipliers: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, instance: int) -> Allocation:
        return Allocation.from_choice(
            self.table,
            self.choices[instance],
            budget=self.budget,
            distortion=float(self.distortion[instance]),
            lower_bound=float(self.lower_bound[instance]),
            status="optimal" if self.optimal[instance] else "feasible",
            multipliers={
                name: float(prices[instance]) for name, prices in self.multipliers.items()
            },
        )

    def __iter__(self) -> Iterator[Allocation]:
        return (self[instance] for instance in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"Allocations({len(self)} instances, {int(self.optimal.sum())} optimal, "
            f"distortion {self.distortion.min():.6g} to {self.distortion.max():.6g})"
        )


def allocate_many(
    table: RDTable,
    distortions: ArrayLike | Sequence[ArrayLike],
    budget: Budget | None = None,
    *,
    sparsity: float | None = None,
    floors: Bounds | None = None,
    caps: Bounds | None = None,
    forbidden: Mapping[str, Iterable[str | int]] | None = None,
    tied: Iterable[Iterable[str]] = (),
    previous: Allocation | None = None,
    threads: int | None = None,
    time_limit: float | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Allocations:
    """Allocate for many sets of distortions, in parallel threads.

    For bootstraps, noise, and loops that solve at every step. Gives exactly what N calls of
    :func:`allocate` give, whatever the number of threads. What the instances share is checked and
    prepared once, and other Python threads run meanwhile.

    Parameters
    ----------
    table : RDTable
        Its costs and constraints; its own distortions are not used.
    distortions : (N, L, K) array, (N, sum K_l) array, or L arrays (N, K_l) of float
        In the order of the table's layers and options; a list or tuple holds one array a layer.
    budget, sparsity, floors, caps, forbidden, tied, previous
        As for :func:`allocate`, the same for all instances.
    threads : int, optional
        As many as the process may use processors by default.
    time_limit, memory_limit
        As for :func:`allocate`, for each instance; as many searches as threads run at once.

    Returns
    -------
    Allocations
        Choices, distortions, bounds and costs as arrays; ``found[i]`` is an :class:`Allocation`.

    Raises
    ------
    InfeasibleBudgetError
        If no allocation keeps within the budget; carries the least reachable cost.
    ValueError
        For any other wrong argument; a distortion's instance, layer and option are named.
    RuntimeError
        If a limit ended a search before any allocation within several budgets was found.

    Examples
    --------
    >>> import numpy as np
    >>> from rdprune_core import RDTable, allocate_many
    >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    >>> twice = np.array([[[0, 1, 9], [0, 2, 8]], [[0, 9, 9], [0, 2, 8]]])
    >>> found = allocate_many(table, twice, budget=15)
    >>> found.choices.tolist(), found.distortion.tolist()
    ([[1, 1], [0, 2]], [3.0, 8.0])
    """
    rows = _read_distortions(table, distortions)
    budgets = read_budgets(table, budget, sparsity)
    constraints = read_constraints(
        table, floors=floors, caps=caps, forbidden=forbidden, tied=tied, previous=previous
    )
    workers = _read_threads(threads)
    seconds, size = read_limits(time_limit, memory_limit)
    try:
        solutions = _core.solve_batch(
            np.stack([table.flat_cost(name) for name in budgets], axis=1),
            rows,
            table.offsets,
            constraints.allowed,
            constraints.groups,
            np.array([min(bound, _core.MAX_TOTAL_COST) for bound in budgets.values()], np.int64),
            threads=workers,
            time_limit=seconds,
            memory_limit=size,
        )
    except _core.InfeasibleBudget as error:
        raise explain(table, list(budgets), [list(budgets.values())], constraints) from error
    return _gather(table, rows, budgets, solutions)


def _gather(
    table: RDTable,
    rows: NDArray[np.float64],
    budget: dict[str, int],
    solutions: list[_core.Solution],
) -> Allocations:
    choices = np.stack([solution.choice for solution in solutions])
    flat = table.offsets[:-1] + choices
    chosen = np.take_along_axis(rows, flat, axis=1)
    distortion = np.array([math.fsum(row) for row in chosen.tolist()])
    optimal = np.array([solution.optimal for solution in solutions])
    bounds = np.array([solution.lower_bound for solution in solutions])
    # Adding zero turns -0.0 into 0.0.
    prices = np.array([solution.multipliers for solution in solutions]) + 0.0
    return Allocations(
        table=table,
        choices=read_only(choices),
        distortion=read_only(distortion),
        lower_bound=read_only(np.where(optimal, distortion, np.minimum(bounds, distortion))),
        optimal=read_only(optimal),
        costs={key: read_only(table.flat_cost(key)[flat].sum(axis=1)) for key in table.costs},
        budget=budget,
        multipliers={key: read_only(prices[:, i].copy()) for i, key in enumerate(budget)},
    )


def _read_threads(threads: int | None) -> int:
    if threads is None:
        if sys.platform == "linux":
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not isinstance(threads, Integral) or isinstance(threads, bool) or not 1 <= threads <= 4096:
        raise ValueError(f"threads is {threads!r}; it must be an integer from 1 to 4096")
    return int(threads)


def _read_distortions(
    table: RDTable, distortions: ArrayLike | Sequence[ArrayLike]
) -> NDArray[np.float64]:
    """Take the distortions as a (N, sum K_l) float64 array, each of them checked."""
    layers, options = len(table.names), len(table.flat_distortion)
    if isinstance(distortions, (list, tuple)):
        rows = _join_layers(table, distortions)
    else:
        rows = np.asarray(distortions)
        rectangle = (layers, options // layers)
        if rows.ndim == 3 and rows.shape[1:] == rectangle and rectangle[1] * layers == options:
            rows = rows.reshape(len(rows), options)
        if rows.ndim != 2 or rows.shape[1] != options:
            raise ValueError(
                f"distortions has shape {rows.shape}; it must be (N, {options}), one number for "
                f"each option of the {layers} layers, (N, layers, options), or a list of one "
                "array (N, options) a layer"
            )
    if rows.dtype.kind not in "iuf":
        raise ValueError(f"distortions must be numbers, got {rows.dtype}")
    if not len(rows):
        raise ValueError("distortions must have at least one instance")
    check_exact("distortions", rows)
    rows = np.ascontiguousarray(rows, np.float64)
    _check_numbers(table, rows)
    return rows


def _join_layers(table: RDTable, distortions: Sequence[ArrayLike]) -> NDArray[np.float64]:
    if len(distortions) != len(table.names):
        raise ValueError(
            f"distortions has {len(distortions)} entries, the table has {len(table.names)} layers"
        )
    parts = [np.asarray(part) for part in distortions]
    for name, labels, part, given in zip(
        table.names, table.options, parts, distortions, strict=True
    ):
        if part.dtype.kind not in "iuf":
            raise ValueError(f"distortions of layer {name!r} must be numbers, got {part.dtype}")
        if part.ndim != 2 or part.shape != (len(parts[0]), len(labels)):
            raise ValueError(
                f"distortions of layer {name!r} has shape {part.shape}; it must be (N, "
                f"{len(labels)}) with the same number N of instances in every layer"
            )
        check_exact(f"distortions of layer {name!r}", part, given)
    return np.concatenate([part.astype(np.float64) for part in parts], axis=1)


def _check_numbers(table: RDTable, rows: NDArray[np.float64]) -> None:
    """Refuse what is not finite, and sums beyond the largest double."""
    finite = np.isfinite(rows)
    if not finite.all():
        instance, option = (int(i) for i in np.argwhere(~finite)[0])
        layer = int(np.searchsorted(table.offsets, option, side="right")) - 1
        label = table.options[layer][option - int(table.offsets[layer])]
        raise ValueError(
            f"distortion of instance {instance}, layer {table.names[layer]!r}, option {label!r} "
            f"is {rows[instance, option]}; it must be finite"
        )
    with np.errstate(over="ignore"):
        total = np.maximum.reduceat(np.abs(rows), table.offsets[:-1], axis=1).sum(axis=1)
    if not np.isfinite(total).all():
        instance = int(np.argmin(np.isfinite(total)))
        raise ValueError(
            f"distortions of instance {instance}: the layers' largest add up to more than 1.8e308"
        )
