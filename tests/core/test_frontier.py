"""frontier: its points, their order and their shadow prices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import Instance, brute_force, small_instance
from rdprune_core import RDTable, allocate, frontier

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[7, 6, 5], [70, 60, 50]]},
    [[0, 1, 9], [0, 2, 8]],
)


def test_every_point_equals_brute_force() -> None:
    """On small tables, the choice at every integer budget is the exhaustive search's."""
    for seed in range(30):
        instance = small_instance(np.random.default_rng(seed))
        table = RDTable.from_arrays(instance.costs[0], instance.distortion)
        least = sum(min(row) for row in instance.costs[0])
        dense = sum(max(row) for row in instance.costs[0])
        budgets = sorted({least + (dense - least) * i // 40 for i in range(41)})
        for budget, found in zip(budgets, frontier(table, points=budgets), strict=True):
            expected = brute_force(Instance(instance.costs, instance.distortion, [budget]))
            assert tuple(found.choice) == expected, (seed, budget)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_laws(seed: int, points: int) -> None:
    """Budgets ascend, nothing is over budget, distortion never rises, prices are not negative."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 10))
    cost = rng.integers(0, 10**9, (layers, 9))
    table = RDTable.from_arrays(cost, rng.random((layers, 9)))
    found = frontier(table, points=points)
    assert len(found) == points == len(found.budgets)
    assert found.budgets[0] == cost.min(axis=1).sum()
    assert found.budgets[-1] == cost.max(axis=1).sum()
    assert (np.diff(found.budgets) >= 0).all()
    assert (np.diff(found.distortion) <= 0).all()
    assert (found.multiplier >= 0).all()
    assert all(a.cost["params"] <= b for a, b in zip(found, found.budgets, strict=True))
    assert all(a.status == "optimal" for a in found)


def test_points_are_sorted_and_may_repeat() -> None:
    """Budgets may come in any order and twice; the points ascend."""
    found = frontier(TABLE, points=[30, 0, 15, 15])
    assert found.budgets.tolist() == [0, 15, 15, 30]
    assert found.distortion.tolist() == [17.0, 3.0, 3.0, 0.0]
    assert [a.budget for a in found] == [{"params": b} for b in (0, 15, 15, 30)]


def test_any_cost_can_be_the_axis() -> None:
    """With `cost`, the budgets are that cost's, from its least total to its dense one."""
    found = frontier(TABLE, "macs", points=3)
    assert found.cost == "macs"
    assert found.budgets.tolist() == [55, 66, 77]
    assert found[-1].choice.tolist() == [0, 0]
    # 66 allows (0, 2) 57: 8, (1, 1) 66: 3, (2, 1) 65: 11, and less.
    assert found[1].choice.tolist() == [1, 1]


def test_behaves_as_a_sequence() -> None:
    """Length, index and iteration give the allocations."""
    found = frontier(TABLE, points=[0, 15])
    assert len(found) == 2
    assert list(found) == [found[0], found[1]] == list(found.allocations)


def test_constraints_above_the_dense_cost_give_one_point() -> None:
    """Where constraints leave nothing below the dense total, every point is the least one."""
    table = RDTable.from_arrays([[9, 1]], [[0, 1]], dense={"params": [5]})
    found = frontier(table, points=3, floors={"layer0": "100%"})
    assert found.budgets.tolist() == [9, 9, 9]


def test_the_multiplier_is_the_slope() -> None:
    """On a straight curve the shadow price is distortion per unit of cost."""
    # 1 unit of cost is worth 0.5 all along.
    table = RDTable.from_arrays([[4, 2, 0]] * 3, [[0, 1, 2]] * 3)
    assert frontier(table, points=[3, 5, 7]).multiplier.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("budget", [0, 15, 29])
def test_allocate_gives_the_same_allocation(budget: int) -> None:
    """A point has the totals, bound and price of a single solve."""
    single, point = allocate(TABLE, budget), frontier(TABLE, points=[budget])[0]
    assert point.to_dict() == single.to_dict()


def test_the_hull_leaves_out_what_mixtures_beat() -> None:
    """The hull's points are those below every line between two others; repeats count once."""
    table = RDTable.from_arrays([[3, 2, 1, 0]], [[0, 5, 6, 10]])
    # Distortions 10, 6, 5, 0 at budgets 0 to 3: from (0, 10) to (3, 0) the line has 6.7 at 1 and
    # 3.3 at 2, so 6 lies below it, and 5 above the line from (1, 6) to (3, 0), which has 3.
    found = frontier(table, points=[0, 1, 1, 2, 3])
    assert found.distortion.tolist() == [10.0, 6.0, 6.0, 5.0, 0.0]
    assert found.hull.tolist() == [0, 1, 4]


def test_points_beyond_the_last_are_refused() -> None:
    """Indices count from either end, and end there."""
    found = frontier(TABLE, points=[0, 15])
    assert found[-1] is found[1]
    with pytest.raises(IndexError):
        found[2]
