"""Constraints on single layers: floors, caps, forbidden options, ties, a previous allocation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from rdprune_core.allocation import Allocation
from rdprune_core.budget import Amount, read_amount
from rdprune_core.errors import InfeasibleBudgetError
from rdprune_core.table import RDTable

#: For each layer an amount of the table's first cost, or amounts by cost name.
Bounds = Mapping[str, Amount | Mapping[str, Amount]]


@dataclass(slots=True)
class Constraints:
    """Which options may be taken, and which layers decide together.

    Attributes
    ----------
    allowed : uint8 array (sum K_l,)
        Zero forbids an option.
    groups : int64 array (L,)
        Layers with equal numbers take the same option.
    reasons : dict of str to list of str
        For each layer, the constraints that were put on it.
    """

    allowed: NDArray[np.uint8]
    groups: NDArray[np.int64]
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def forbid(self, table: RDTable, name: str, keep: NDArray[np.bool_], reason: str) -> None:
        """Allow in one layer only what `keep` (K_l,) marks.

        Raises
        ------
        InfeasibleBudgetError
            If no option of the layer is left; says what constrains it.
        """
        layer = table.layer(name)
        begin, end = table.offsets[layer : layer + 2]
        self.allowed[begin:end] &= keep
        self.reasons.setdefault(name, []).append(reason)
        if not self.allowed[begin:end].any():
            reasons = " and ".join(self.reasons[name])
            raise InfeasibleBudgetError(f"layer {name!r} has no option left that meets {reasons}")


def read_constraints(
    table: RDTable,
    *,
    floors: Bounds | None = None,
    caps: Bounds | None = None,
    forbidden: Mapping[str, Iterable[str | int]] | None = None,
    tied: Iterable[Iterable[str]] = (),
    previous: Allocation | None = None,
) -> Constraints:
    """Check the constraints and mark the options that meet them.

    Raises
    ------
    ValueError
        For an unknown layer, cost or option, and layers that cannot be tied.
    InfeasibleBudgetError
        If the constraints leave a layer without an option.
    """
    result = Constraints(
        np.ones(len(table.flat_distortion), np.uint8), np.arange(len(table.names), dtype=np.int64)
    )
    for name, cost, bound in _bounds("floors", table, floors):
        keep = table.costs[cost][table.layer(name)] >= bound
        result.forbid(table, name, keep, f"the floor {cost} >= {bound}")
    for name, cost, bound in _bounds("caps", table, caps):
        keep = table.costs[cost][table.layer(name)] <= bound
        result.forbid(table, name, keep, f"the cap {cost} <= {bound}")
    for name, options in (forbidden or {}).items():
        keep = _without(table, name, options)
        result.forbid(table, name, keep, "its forbidden options")
    if previous is not None:
        _keep_below(table, previous, result)
    _tie(table, tied, result)
    return result


def _bounds(argument: str, table: RDTable, bounds: Bounds | None) -> Iterable[tuple[str, str, int]]:
    for name, given in (bounds or {}).items():
        layer = table.layer(name)
        amounts = given if isinstance(given, Mapping) else {next(iter(table.costs)): given}
        for cost, amount in amounts.items():
            table.flat_cost(cost)
            dense = int(table.dense[cost][layer])
            yield name, cost, read_amount(f"{argument} of {name!r}", amount, dense)


def _without(table: RDTable, name: str, options: Iterable[str | int]) -> NDArray[np.bool_]:
    labels = table.options[table.layer(name)]
    keep = np.ones(len(labels), bool)
    for option in [options] if isinstance(options, (str, Integral)) else options:
        if isinstance(option, str):
            if option not in labels:
                raise ValueError(
                    f"forbidden: layer {name!r} has no option {option!r}; it has "
                    f"{', '.join(labels[:6])}{', …' if len(labels) > 6 else ''}"
                )
            keep[labels.index(option)] = False
        else:
            if not isinstance(option, Integral) or isinstance(option, bool):
                raise ValueError(
                    f"forbidden: option {option!r} of layer {name!r} is neither a label nor an "
                    "index"
                )
            if not 0 <= option < len(labels):
                raise ValueError(
                    f"forbidden: option {option} of layer {name!r} is out of range; it has "
                    f"{len(labels)} options"
                )
            keep[int(option)] = False
    return keep


def _keep_below(table: RDTable, previous: Allocation, result: Constraints) -> None:
    if previous.names != table.names:
        raise ValueError("previous: the allocation's layers are not the table's layers")
    cost = next(iter(table.costs))
    if cost not in previous.layer_costs:
        raise ValueError(f"previous: the allocation does not know the cost {cost!r}")
    for layer, (name, most) in enumerate(zip(table.names, previous.layer_costs[cost], strict=True)):
        keep = table.costs[cost][layer] <= most
        result.forbid(table, name, keep, f"the previous allocation's {cost} <= {most}")


def _tie(table: RDTable, tied: Iterable[Iterable[str]], result: Constraints) -> None:
    seen: set[str] = set()
    for group in tied:
        if isinstance(group, str):
            raise ValueError(f"tied must hold groups of layer names, got the string {group!r}")
        layers = [table.layer(name) for name in group]
        for layer in layers:
            name = table.names[layer]
            if name in seen:
                raise ValueError(f"tied: layer {name!r} stands in two groups or twice in one")
            seen.add(name)
            if table.options[layer] != table.options[layers[0]]:
                raise ValueError(
                    f"tied: layers {table.names[layers[0]]!r} and {name!r} do not have the "
                    "same options"
                )
        if len(layers) < 2:
            continue
        spans = [slice(*table.offsets[layer : layer + 2]) for layer in layers]
        common = np.logical_and.reduce([result.allowed[span] for span in spans])
        for layer in layers:
            result.groups[layer] = layers[0]
            others = ", ".join(repr(table.names[i]) for i in layers if i != layer)
            result.forbid(table, table.names[layer], common, f"the tie with {others}")
