"""Allocation: what it holds, what it refuses and what its gap means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from rdprune_core import Allocation, RDTable, allocate

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[7, 6, 5], [70, 60, 50]]},
    [[0, 1, 9], [0, 2, 8]],
    names=["conv", "fc"],
    options=["dense", "half", "none"],
    metadata={"model": {"name": "tiny"}},
)


def make(**changes: Any) -> Allocation:
    fields: dict[str, Any] = {
        "names": ("a", "b"),
        "choice": np.array([0, 1]),
        "options": ("x", "y"),
        "layer_costs": {"params": np.array([6, 2])},
        "dense": {"params": 16},
        "budget": {"params": 9},
        "objective": "additive",
        "distortion": 4.0,
        "lower_bound": 3.0,
        "status": "feasible",
        "multipliers": {},
    }
    return Allocation(**{**fields, **changes})


def test_from_choice_fills_every_field() -> None:
    """The totals are those of the chosen options, whatever was allocated for."""
    found = Allocation.from_choice(TABLE, (1, 2), budget={"macs": 56}, multipliers={"macs": 0.1})
    assert found.names == ("conv", "fc")
    assert found.choice.tolist() == [1, 2]
    assert found.options == ("half", "none")
    assert found.cost == {"params": 5, "macs": 56}
    assert found.dense == {"params": 30, "macs": 77}
    assert found.layer_costs["macs"].tolist() == [6, 50]
    assert found.distortion == 9.0
    assert found.sparsity == 1 - 5 / 30
    assert (found.budget, found.multipliers) == ({"macs": 56}, {"macs": 0.1})
    assert (found.status, found.lower_bound, found.gap) == ("feasible", -math.inf, math.inf)
    assert found.metadata == {"model": {"name": "tiny"}}


def test_allocate_gives_a_consistent_allocation() -> None:
    """What allocate returns is what from_choice makes of its choice, with the certificate."""
    found = allocate(TABLE, {"params": "50%", "macs": 70})
    again = Allocation.from_choice(
        TABLE, found.choice, budget={"params": 15, "macs": 70}, status="optimal",
        multipliers=found.multipliers,
    )  # fmt: skip
    assert found.to_dict() == again.to_dict()
    assert found.lower_bound == found.distortion
    assert found.multipliers.keys() == {"params", "macs"}


def test_distortion_is_correctly_rounded() -> None:
    """Ten times 0.1 is one, as in exact arithmetic, where a running sum of doubles misses it."""
    table = RDTable.from_arrays([[0]] * 10, [[0.1]] * 10)
    assert Allocation.from_choice(table, [0] * 10).distortion == 1.0
    assert allocate(table, 0).distortion == 1.0


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([0], r"choice must be 2 integers, one a layer"),
        ([0, 1, 2], r"choice must be 2 integers, one a layer"),
        ([[0, 1]], r"choice must be 2 integers, one a layer"),
        ([], r"choice must be 2 integers, one a layer"),
        ([0.0, 1.0], r"choice must be 2 integers, one a layer"),
        ([True, False], r"choice must be 2 integers, one a layer"),
        (["0", "1"], r"choice must be 2 integers, one a layer"),
        ([0, 3], r"choice of layer 'fc' is 3; it has 3 options"),
        ([-1, 0], r"choice of layer 'conv' is -1; it has 3 options"),
        (np.array([0, 2**63], np.uint64), r"choice of layer 'fc' is 9223372036854775808; it has"),
    ],
)
def test_from_choice_refuses(choice: Any, message: str) -> None:
    """A choice that is not one valid index a layer raises a ValueError that names the layer."""
    with pytest.raises(ValueError, match=message):
        Allocation.from_choice(TABLE, choice)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "OPTIMAL"}, r"status is 'OPTIMAL'; it must be one of"),
        ({"names": ("a", "a")}, r"names must be unique"),
        ({"layer_costs": {}, "dense": {}}, r"layer_costs must name at least one cost"),
        ({"dense": {"macs": 16}}, r"dense must name the same costs as layer_costs"),
        ({"budget": {"macs": 16}}, r"budget and multipliers must name costs of layer_costs"),
        ({"multipliers": {"macs": 1.0}}, r"budget and multipliers must name costs"),
        ({"choice": np.array([0.0, 1.0])}, r"choice must be an int64 array with one entry a layer"),
        ({"choice": np.array([0, 1], np.int32)}, r"choice must be an int64 array"),
        ({"choice": np.array([0])}, r"choice must be an int64 array with one entry a layer"),
        ({"choice": np.array([0, -1])}, r"choice must not be negative"),
        ({"layer_costs": {"params": np.array([1, -1])}}, r"params must not be negative"),
        ({"layer_costs": {"params": np.array([[1, 1]])}}, r"params must be an int64 array"),
        ({"options": ("x",)}, r"options must have one label a layer"),
        ({"distortion": math.nan}, r"distortion and lower_bound must be numbers"),
        ({"lower_bound": math.nan}, r"distortion and lower_bound must be numbers"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    """An allocation that contradicts itself cannot be made."""
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("distortion", "lower_bound", "gap"),
    [
        (4.0, 3.0, 0.25),
        (4.0, 4.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, -1.0, math.inf),
        (4.0, -math.inf, math.inf),
        (-4.0, -5.0, 0.25),
        (-4.0, -math.inf, math.inf),
        (-4.0, -4.0, 0.0),
        (4.0, -4.0, 2.0),
    ],
)
def test_gap(distortion: float, lower_bound: float, gap: float) -> None:
    """The gap is (distortion - lower bound) / |distortion|, and zero where they meet."""
    assert make(distortion=distortion, lower_bound=lower_bound).gap == gap


def test_a_bound_above_the_value_is_brought_down() -> None:
    """A lower bound that rounding lifted above the distortion does not give a negative gap."""
    found = Allocation.from_choice(TABLE, [1, 1], lower_bound=3.0000001)
    assert (found.lower_bound, found.gap) == (3.0, 0.0)


@pytest.mark.parametrize(
    ("costs", "dense", "sparsity"), [([6, 2], 16, 0.5), ([0, 0], 16, 1.0), ([0, 0], 0, 0.0)]
)
def test_sparsity(costs: list[int], dense: int, sparsity: float) -> None:
    """Sparsity is the fraction of the first cost that is removed; of nothing, nothing is."""
    allocation = make(layer_costs={"params": np.array(costs)}, dense={"params": dense})
    assert allocation.sparsity == sparsity


def test_cannot_be_changed() -> None:
    """Neither fields nor arrays can be written to, and no field can be added."""
    found = allocate(TABLE, 15)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.status = "feasible"  # type: ignore[misc]
    # Slots and frozen together make this a TypeError in some Pythons.
    with pytest.raises((AttributeError, TypeError)):
        found.note = "mine"  # type: ignore[attr-defined]
    for array in (found.choice, *found.layer_costs.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_stands_alone() -> None:
    """Changing an allocation's metadata or choice's source does not reach table or allocation."""
    table = RDTable.from_arrays([[1, 0]], [[0, 1]], metadata={"a": {"b": 1}})
    choice = np.array([1])
    found = Allocation.from_choice(table, choice)
    choice[0] = 0
    found.metadata["a"]["b"] = 2
    assert found.choice.tolist() == [1]
    assert table.metadata == {"a": {"b": 1}}


def test_repr() -> None:
    """The repr tells status, layers, totals, sparsity, distortion and gap in one line."""
    assert repr(allocate(TABLE, {"params": 15})) == (
        "Allocation(optimal, 2 layers, params 15 of 30, macs 66 of 77, sparsity 0.5000, "
        "distortion 3, gap 0)"
    )
    found = make(layer_costs={"params": np.array([1234567, 0])}, dense={"params": 2469134})
    assert repr(found) == (
        "Allocation(feasible, 2 layers, params 1,234,567 of 2,469,134, sparsity 0.5000, "
        "distortion 4, gap 0.25)"
    )
