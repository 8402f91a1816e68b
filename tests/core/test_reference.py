"""allocate_reference against brute force, and against allocate, which it may not beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import brute_force, exact, small_instance
from rdprune_core import InfeasibleBudgetError, RDTable, allocate
from rdprune_core.reference import allocate_reference

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[7, 6, 5], [70, 60, 50]]},
    [[0, 1, 9], [0, 2, 8]],
)


def test_is_exact_with_a_bucket_for_every_unit() -> None:
    """On small tables with few weights, the value and infeasibility are those of brute force."""
    infeasible = tried = 0
    for seed in range(600):
        instance = small_instance(np.random.default_rng(seed))
        [budget] = instance.budgets
        if budget > 2000:
            continue
        tried += 1
        table = RDTable.from_arrays(instance.costs[0], instance.distortion)
        expected = brute_force(instance)
        if expected is None:
            infeasible += 1
            with pytest.raises(InfeasibleBudgetError) as caught:
                allocate_reference(table, budget, buckets=max(budget, 1))
            assert caught.value.least == {"params": sum(min(row) for row in instance.costs[0])}
            continue
        found = allocate_reference(table, budget, buckets=max(budget, 1))
        assert found.cost["params"] <= budget
        totals = [
            sum(exact(row[k]) for row, k in zip(instance.distortion, choice, strict=True))
            for choice in (expected, found.choice.tolist())
        ]
        assert totals[0] <= totals[1], seed
        # Float sums may take for equal what differs by a rounding.
        assert float(found.distortion) == pytest.approx(totals[0] / 2**1100, rel=1e-12, abs=1e-12)
    assert tried >= 300
    assert infeasible >= 80


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 300))
def test_never_over_budget_and_never_better_than_the_optimum(
    seed: int, share: float, buckets: int
) -> None:
    """Whatever the number of buckets, it keeps within the true budget and above the optimum."""
    rng = np.random.default_rng(seed)
    layers, options = int(rng.integers(1, 10)), int(rng.integers(1, 10))
    cost = rng.integers(0, 10 ** int(rng.integers(1, 12)), (layers, options))
    table = RDTable.from_arrays(cost, rng.standard_normal((layers, options)))
    least, dense = int(cost.min(axis=1).sum()), int(cost.max(axis=1).sum())
    budget = least + int(share * (dense - least))
    found = allocate_reference(table, budget, buckets=buckets)
    assert found.cost["params"] <= budget
    assert found.distortion >= allocate(table, budget).distortion


def test_more_buckets_come_closer() -> None:
    """On a smooth table 10,000 buckets are within a few per cent of the optimum, 3 are not."""
    sizes = np.array([432, 2304, 4608, 9216, 18432, 36864])
    levels = np.linspace(0, 1, 21)
    cost = sizes[:, None] - np.round(sizes[:, None] * levels).astype(int)
    table = RDTable.from_arrays(cost, levels[None] ** 3 / sizes[:, None] ** 0.5)
    optimum = allocate(table, "30%").distortion
    assert allocate_reference(table, "30%").distortion <= 1.02 * optimum
    assert allocate_reference(table, "30%", buckets=3).distortion > 1.1 * optimum


def test_is_a_feasible_allocation_without_a_bound() -> None:
    """It states its budget, claims nothing, and its totals are those of its choice."""
    found = allocate_reference(TABLE, {"macs": "90%"})
    assert found.budget == {"macs": 69}
    assert (found.status, found.gap, found.multipliers) == ("feasible", float("inf"), {})
    # (0, 1) costs 7 + 60 for 2; (1, 1) 66 for 3.
    assert found.choice.tolist() == [0, 1]
    assert found.cost == {"params": 20, "macs": 67}


@pytest.mark.parametrize("buckets", [1, 2, 7])
def test_the_least_budget_is_always_met(buckets: int) -> None:
    """Rounding up never makes a budget that can be met look out of reach."""
    rng = np.random.default_rng(0)
    cost = rng.integers(1, 10**9, (20, 5))
    table = RDTable.from_arrays(cost, rng.random((20, 5)))
    least = int(cost.min(axis=1).sum())
    assert allocate_reference(table, least, buckets=buckets).cost["params"] == least
    with pytest.raises(InfeasibleBudgetError, match="out of reach; the least") as caught:
        allocate_reference(table, least - 1, buckets=buckets)
    assert caught.value.least == {"params": least}


def test_any_budget_above_the_dense_cost_takes_the_best_of_every_layer() -> None:
    """A huge budget makes no huge table."""
    assert allocate_reference(TABLE, 10**30, buckets=10**30).choice.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("budget", "buckets", "message"),
    [
        (0.5, 10, r"budget of 'params' is the float 0\.5"),
        (-1, 10, r"budget of 'params' is -1; it must not be negative"),
        ("120%", 10, r"per cent must lie between"),
        ({"flops": 3}, 10, r"unknown cost 'flops'"),
        ({}, 10, r"give a budget"),
        ({"params": 3, "macs": 60}, 10, r"budget bounds params, macs; .* takes one cost"),
        (15, 0, r"buckets is 0; it must be an integer of at least 1"),
        (15, -3, r"buckets is -3"),
        (15, 10.0, r"buckets is 10\.0"),
        (15, True, r"buckets is True"),
    ],
)
def test_refuses(budget: Any, buckets: Any, message: str) -> None:
    """Bad budgets get the messages that allocate gives; bad buckets their own."""
    with pytest.raises(ValueError, match=message):
        allocate_reference(TABLE, budget, buckets=buckets)
