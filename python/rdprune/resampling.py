"""What the calibration samples can decide: other reductions of their errors, and the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdprune.reductions import Reduction, reduced, split
from rdprune_core import Allocation, RDTable, allocate, allocate_many

EXCESS_LIMIT = 0.02
"""Above this `Bootstrap.excess` the calibration set is said to be too small."""


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """How far an allocation depends on which samples were drawn.

    Attributes
    ----------
    allocation : Allocation
        The optimum on all samples.
    standard_errors : tuple of float64 arrays
        One array (K_l,) a layer: standard error of every distortion.
    frequency : tuple of float64 arrays
        One array (K_l,) a layer: share of the resamples whose optimum takes the option.
    standard_error : float
        Of the allocation's distortion.
    moved : float
        Share of the layers whose choice is more than one option off, the mean over resamples.
    excess : float
        How much more than the optimum the resamples' choices distort, on all samples, relative to
        it; the mean over resamples. It estimates what choosing by so few samples costs.
    samples : int
        Calibration samples.
    """

    allocation: Allocation
    standard_errors: tuple[NDArray[np.float64], ...]
    frequency: tuple[NDArray[np.float64], ...]
    standard_error: float
    moved: float
    excess: float
    samples: int

    @property
    def too_small(self) -> bool:
        """Whether the calibration set is too small to decide: `excess` above 2 per cent."""
        return self.excess > EXCESS_LIMIT


def reduce(table: RDTable, reduction: str) -> RDTable:
    """Reduce the samples' errors in another way, without measuring again.

    Parameters
    ----------
    table : RDTable
        Measured with ``keep_errors=True``.
    reduction : str
        ``"mean"``, ``"max"`` or ``"cvar:0.1"``.

    Returns
    -------
    RDTable
        The table with other distortions. Responses stay as they are: they are of the mean.

    Raises
    ------
    ValueError
        If the table has no errors or the reduction is unknown.
    """
    errors = _errors(table)
    over = Reduction(reduction)
    name = reduced(table.metadata.get("distortion", "mse"), reduction)
    return table.with_distortion(
        [over(rows) for rows in errors], metadata={**table.metadata, "distortion": name}
    )


def bootstrap(
    table: RDTable,
    budget: int | str | dict[str, int | str] | None = None,
    *,
    sparsity: float | None = None,
    resamples: int = 100,
    seed: int = 0,
) -> Bootstrap:
    """Draw the calibration samples again and again, and see what changes.

    Each resample draws as many samples as there are, with replacement (Efron 1979, *Bootstrap
    methods: another look at the jackknife*), and is reduced and allocated anew.

    Parameters
    ----------
    table : RDTable
        Measured with ``keep_errors=True``.
    budget, sparsity
        As for `rdprune_core.allocate`; the objective is the additive one.
    resamples : int
        Number of resamples, at least 2.
    seed : int
        Of the draws.

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        If the table has no errors, or an argument is out of range.
    InfeasibleBudgetError
        If the budget is out of reach.
    """
    errors = _errors(table)
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}, must be at least 2")
    best = allocate(table, budget, sparsity=sparsity)
    samples = errors[0].shape[1]
    draws = np.random.default_rng(seed).integers(samples, size=(resamples, samples))
    reduction = split(table.metadata.get("distortion", "mse"))[1]
    curves = [_resampled(rows, draws, reduction) for rows in errors]
    choices = allocate_many(table, curves, budget, sparsity=sparsity).choices
    optima = np.array([_total(table.distortion, choice) for choice in choices])
    drawn = sum(curve[:, option] for curve, option in zip(curves, best.choice, strict=True))
    return Bootstrap(
        allocation=best,
        standard_errors=tuple(curve.std(axis=0, ddof=1) for curve in curves),
        frequency=tuple(
            np.bincount(column, minlength=curve.shape[1]) / resamples
            for column, curve in zip(choices.T, curves, strict=True)
        ),
        standard_error=float(np.std(drawn, ddof=1)),
        moved=float((abs(choices - best.choice) > 1).mean()),
        excess=_relative(float(optima.mean()), _total(table.distortion, best.choice)),
        samples=samples,
    )


def _errors(table: RDTable) -> tuple[NDArray[np.float64], ...]:
    if table.errors is None:
        raise ValueError(
            "table has no errors of single samples: measure with keep_errors=True (--keep-errors), "
            "and all levels, not 'auto'"
        )
    return table.errors


def _resampled(
    errors: NDArray[np.float64], draws: NDArray[np.int64], reduction: Reduction
) -> NDArray[np.float64]:
    """Distortions of a layer's options in every resample; (resamples, K_l)."""
    return np.stack([reduction(errors[:, draw]) for draw in draws])


def _total(distortion: Sequence[NDArray[np.float64]], choice: NDArray[np.int64]) -> float:
    return math.fsum(float(row[k]) for row, k in zip(distortion, choice, strict=True))


def _relative(value: float, best: float) -> float:
    if value == best:
        return 0.0
    return (value - best) / abs(best) if best else math.inf
