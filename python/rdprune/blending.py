"""Measured distortions mixed with the energy of the removed weights: a prior, and said to be one.

After a fine-tune the energy that global magnitude pruning minimises ranks allocations as well as
any measured distortion, each where the other fails (``docs/predictors.md``); both are sums over
layers, so the exact solver takes their mixture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rdprune.options import MASK
from rdprune.trial import same_layers
from rdprune_core import RDTable, allocate
from rdprune_core.budget import Budget


class NothingToMixError(ValueError):
    """Within the budget there is no distortion, or no energy, to be lost."""


def removed_energy(table: RDTable, model: nn.Module) -> list[NDArray[np.float64]]:
    """Return the sum of the squares of the weights that each option removes.

    Parameters
    ----------
    table : RDTable
        What `measure` returned, of sparsities by magnitude.
    model : torch.nn.Module
        The model that was measured.

    Returns
    -------
    list of float64 array (K_l,)
        One for each layer of the table, not negative. Least of all where global magnitude prunes.

    Raises
    ------
    ValueError
        If the table is of another model, or has other options than sparsities by magnitude.
    """
    mask = table.metadata.get("mask", MASK)
    if mask != MASK:
        raise ValueError(f"table has masks of kind {mask!r}, must be {MASK!r}")
    found = []
    for at, layer in enumerate(same_layers(model, table).values()):
        squares = np.square(layer.parameter.detach().double().cpu().numpy().reshape(-1))
        # What the smallest n weights have together, summed from the smallest on.
        below = np.concatenate([[0.0], np.cumsum(np.sort(squares))])
        found.append(below[squares.size - table.costs["params"][at]])
    return found


def blended(
    table: RDTable,
    model: nn.Module,
    budget: Budget | None = None,
    *,
    sparsity: float | None = None,
    share: float = 0.5,
) -> RDTable:
    """Mix a table's distortions with the energy of the removed weights, for networks to be trained.

    The distortion of an option becomes ``(1 - share) D / D* + share E / E*``, where D is what was
    measured, E the energy (`removed_energy`), and D*, E* the least total of each within the
    budget: an allocation's total says how far it is from both optima, and is 1 if it is both.

    Parameters
    ----------
    table : RDTable
    model : torch.nn.Module
        The model that was measured.
    budget, sparsity : optional
        Where the table will be used, as for `rdprune_core.allocate`.
    share : float
        Of the energy, in [0, 1]: 0 is the measured optimum, 1 global magnitude's.

    Returns
    -------
    RDTable
        Without responses, because a mixture is no square of an output; ``blended`` in its metadata.

    Raises
    ------
    ValueError
        If an argument is out of range, the table does not fit, or either total is not positive.
    InfeasibleBudgetError
        If nothing is within the budget.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, must be in [0, 1]")
    energy = removed_energy(table, model)
    bare = RDTable.from_arrays(
        table.costs, table.distortion, names=table.names, options=table.options,
        dense=table.dense, metadata={**table.metadata, "blended": f"{share:g} removed energy"},
    )  # fmt: skip
    parts = []
    for what, rows in (("distortion", table.distortion), ("removed energy", energy)):
        least = allocate(bare.with_distortion(rows), budget, sparsity=sparsity).distortion
        if not least > 0:
            raise NothingToMixError(f"least {what} within the budget is {least:g}: nothing to mix")
        parts.append([row / least for row in rows])
    return bare.with_distortion(
        [(1 - share) * d + share * e for d, e in zip(parts[0], parts[1], strict=True)]
    )
