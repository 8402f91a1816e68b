"""allocate against brute force and HiGHS, and the laws that any table obeys."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import Instance, brute_force, highs, small_instance
from rdprune_core import Allocation, InfeasibleBudgetError, RDTable, allocate, near_optimal


def to_table(instance: Instance) -> RDTable:
    names = [f"cost{i}" for i in range(len(instance.costs))]
    return RDTable.from_arrays(dict(zip(names, instance.costs, strict=True)), instance.distortion)


def solve(instance: Instance) -> Allocation | None:
    budgets = {f"cost{i}": budget for i, budget in enumerate(instance.budgets)}
    try:
        return allocate(to_table(instance), budgets)
    except InfeasibleBudgetError:
        return None


def noisy_table(rng: np.random.Generator, layers: int, options: int) -> RDTable:
    """Curves as they are measured: convex on the whole, with noise; sizes over three decades."""
    sizes = np.round(10 ** rng.uniform(3, 6, layers)).astype(np.int64)
    levels = np.linspace(0, 1, options)
    costs = sizes[:, None] - np.round(sizes[:, None] * levels).astype(np.int64)
    rise = 10 ** rng.uniform(-3, 0, (layers, 1)) * levels ** rng.uniform(1.5, 4, (layers, 1))
    return RDTable.from_arrays(costs, rise * (1 + 0.05 * rng.standard_normal(rise.shape)))


@pytest.mark.parametrize("block", range(10))
def test_equals_brute_force(block: int) -> None:
    """On 1,000 small tables a block, choice and infeasibility equal the exhaustive search's."""
    infeasible = 0
    for seed in range(1000 * block, 1000 * (block + 1)):
        instance = small_instance(np.random.default_rng(seed))
        expected = brute_force(instance)
        found = solve(instance)
        if expected is None:
            infeasible += 1
            assert found is None, seed
        else:
            assert found is not None, seed
            assert tuple(found.choice) == expected, seed
            assert found.status == "optimal"
            assert found.gap == 0.0
    assert 200 <= infeasible <= 450


@pytest.mark.parametrize("costs", [2, 3, 4])
def test_equals_brute_force_with_several_budgets(costs: int) -> None:
    """On 1,000 small tables with 2 to 4 budgets, choice and infeasibility equal brute force."""
    infeasible = 0
    for seed in range(1000):
        instance = small_instance(np.random.default_rng(seed), costs)
        expected = brute_force(instance)
        found = solve(instance)
        infeasible += expected is None
        assert (None if found is None else tuple(found.choice)) == expected, seed
        assert found is None or found.status == "optimal"
    assert infeasible >= 200


def uneven_instance(rng: np.random.Generator, costs: int, bits: int) -> Instance:
    """Return a table of a giant layer among small ones, with a budget that a choice meets exactly.

    Distortions fall with the costs, so that the sums of a layer's options are nearly equal.
    """
    layers, options = int(rng.integers(2, 5)), 3
    giant = rng.integers(layers)
    most = [2**bits if layer == giant or rng.random() < 0.3 else 60 for layer in range(layers)]
    rows = [[rng.integers(0, m, options).tolist() for m in most] for _ in range(costs)]
    totals = [[sum(row) for row in zip(*layer, strict=True)] for layer in zip(*rows, strict=True)]
    distortion = [[-float(t) + int(rng.integers(-3, 4)) for t in row] for row in totals]
    choice = rng.integers(0, options, layers)
    budgets = [sum(layer[k] for layer, k in zip(row, choice, strict=True)) for row in rows]
    return Instance(rows, distortion, budgets)


@pytest.mark.parametrize("bits", [20, 30, 54, 58])
@pytest.mark.parametrize("costs", [1, 2, 3])
def test_equals_brute_force_with_giant_layers(costs: int, bits: int) -> None:
    """On 300 tables of layers of very different sizes, up to 2**58, choices equal brute force."""
    for seed in range(300):
        instance = uneven_instance(np.random.default_rng(seed), costs, bits)
        found = solve(instance)
        assert found is not None, seed
        assert found.status == "optimal"
        assert tuple(found.choice) == brute_force(instance), seed


def test_a_search_below_a_loss_of_rounding_ends() -> None:
    """A bound whose rounding error exceeds small layers' differences once made this search endless.

    The best allocation known was cut for an option's reduced cost, off by the error of the giant.
    """
    giants = [[884874276, 907343522], [15, 52], [12, 11], [57, 44, 20]]
    halves = [[442437138, 453671761], [36, 36], [35, 15], [38, 16, 19]]
    distortion = [
        [-1769748549.0, -1814687041.0],
        [-40.0, -124.0],
        [-36.0, -4.0],
        [-107, -96, -31.0],
    ]
    instance = Instance([giants, halves], distortion, [907343593, 453671868])
    found = solve(instance)
    assert found is not None
    assert tuple(found.choice) == brute_force(instance)


@pytest.mark.parametrize("costs", [2, 3])
def test_equals_highs_with_several_budgets(costs: int) -> None:
    """On 20 mid-sized tables with weights, MACs and bytes bounded, the optimum is HiGHS's."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        table = noisy_table(rng, layers=12, options=12)
        params = np.stack(table.costs["params"])
        weights = np.round(rng.uniform(1, 200, (12, costs - 1))).astype(np.int64)
        stack = np.stack([params, *(params * weights[:, i : i + 1] for i in range(costs - 1))])
        distortion = np.stack(table.distortion)
        budgets = [int(c.max(axis=1).sum() * rng.uniform(0.2, 0.5)) for c in stack]
        expected = highs(stack, distortion, budgets)
        assert expected is not None
        instance = Instance([c.tolist() for c in stack], distortion.tolist(), budgets)
        found = solve(instance)
        assert found is not None
        assert found.status == "optimal"
        for total, budget in zip(found.cost.values(), budgets, strict=True):
            assert total <= budget
        totals = [int(c[np.arange(12), expected[1]].sum()) for c in stack]
        if all(total <= budget for total, budget in zip(totals, budgets, strict=True)):
            assert found.distortion == pytest.approx(expected[0], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("block", range(4))
def test_equals_highs(block: int) -> None:
    """On 50 mid-sized tables a block the optimum is HiGHS's at gap zero, within its tolerance."""
    for seed in range(50 * block, 50 * (block + 1)):
        rng = np.random.default_rng(seed)
        table = noisy_table(rng, layers=int(rng.integers(8, 24)), options=int(rng.integers(5, 30)))
        cost = np.stack(table.costs["params"])
        distortion = np.stack(table.distortion)
        budget = int(cost.max(axis=1).sum() * rng.uniform(0.05, 0.7))
        expected = highs(cost[None], distortion, [budget])
        assert expected is not None
        found = allocate(table, budget)
        assert found.status == "optimal"
        assert found.cost["params"] <= budget
        assert found.distortion <= expected[0] * (1 + 1e-9) + 1e-12
        if int(cost[np.arange(len(cost)), expected[1]].sum()) <= budget:
            assert found.distortion == pytest.approx(expected[0], rel=1e-6, abs=1e-12)


def test_by_hand() -> None:
    """Two layers, budget 15: the four pairs within it, worked out."""
    # choice (0, 2) costs 10, distortion 8;  (1, 1) costs 15, distortion 3
    # choice (1, 2) costs 5, distortion 9;   (2, 1) costs 10, distortion 11
    table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    found = allocate(table, budget=15)
    assert found.choice.tolist() == [1, 1]
    assert (found.cost, found.distortion, found.gap) == ({"params": 15}, 3.0, 0.0)


def test_ties_go_to_the_lower_cost_then_to_the_smallest_choice() -> None:
    """Of equal distortions the cheaper wins, of equal costs the lexicographically smallest."""
    # (0, 1), (1, 0) both cost 3 and give 1.0; (0, 0) costs 4 and also gives 1.0.
    table = RDTable.from_arrays([[2, 1], [2, 1]], [[0.5, 0.5], [0.5, 0.5]])
    assert allocate(table, budget=4).choice.tolist() == [1, 1]
    table = RDTable.from_arrays([[2, 1], [2, 1]], [[0.0, 1.0], [0.0, 1.0]])
    assert allocate(table, budget=3).choice.tolist() == [0, 1]


def test_distortions_add_up_exactly() -> None:
    """0.1 + 0.2 is above 0.3 as doubles are, whatever the order of the layers."""
    for order in ([0, 1], [1, 0]):
        cost = np.array([[1, 0], [1, 0]])[order]
        distortion = np.array([[0.0, 0.1], [0.0, 0.2]])[order]
        table = RDTable.from_arrays(cost, distortion)
        assert allocate(table, budget=0).distortion == math.fsum([0.1, 0.2])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_laws(seed: int, share: float) -> None:
    """Never over budget; more budget is never worse; shuffling, scaling and dominated options do
    not move the optimum.
    """
    rng = np.random.default_rng(seed)
    table = noisy_table(rng, layers=int(rng.integers(1, 12)), options=int(rng.integers(1, 12)))
    cost = np.stack(table.costs["params"])
    distortion = np.stack(table.distortion)
    least = int(cost.min(axis=1).sum())
    dense = int(cost.max(axis=1).sum())
    budget = least + int(share * (dense - least))
    found = allocate(table, budget)
    assert found.cost["params"] <= budget
    assert allocate(table, budget + dense // 10).distortion <= found.distortion

    order = rng.permutation(len(cost))
    shuffled = allocate(RDTable.from_arrays(cost[order], distortion[order]), budget)
    assert shuffled.distortion == found.distortion
    assert shuffled.cost == found.cost

    scaled = allocate(RDTable.from_arrays(7 * cost, 0.5 * distortion), 7 * budget)
    assert scaled.choice.tolist() == found.choice.tolist()

    worse_cost = np.column_stack([cost, cost.max(axis=1)])
    worse_distortion = np.column_stack([distortion, distortion.max(axis=1) + 1.0])
    wider = allocate(RDTable.from_arrays(worse_cost, worse_distortion), budget)
    assert wider.choice.tolist() == found.choice.tolist()


def test_one_giant_layer() -> None:
    """A layer larger than the whole budget is pruned down, where bucketed code fails."""
    cost = [[10**9, 10**8, 0], [100, 50, 0]]
    found = allocate(RDTable.from_arrays(cost, [[0, 1, 9], [0, 1, 9]]), budget=1000)
    assert found.choice.tolist() == [2, 0]


def test_resnet32_at_955_per_thousand() -> None:
    """CIFAR ResNet-32 at sparsity 0.955, where one layer alone exceeds the budget, is solved."""
    rng = np.random.default_rng(0)
    sizes = [432] + [2304] * 10 + [4608] + [9216] * 9 + [18432] + [36864] * 9 + [640]
    assert (len(sizes), sum(sizes)) == (32, 461_872)
    levels = np.linspace(0, 1, 101)
    cost = [[n - round(float(level) * n) for level in levels] for n in sizes]
    distortion = levels**3 * rng.uniform(0.1, 10, (len(sizes), 1))
    found = allocate(RDTable.from_arrays(cost, distortion), sparsity=0.955)
    assert found.status == "optimal"
    assert found.cost["params"] <= 461_872 * 45 // 1000 < 36_864


def test_twenty_orders_of_magnitude_do_not_hide_the_small_layers() -> None:
    """Beside a distortion of 1e9 the differences of 1e-9 still decide."""
    cost = [[1, 0], [1, 0], [1, 0]]
    distortion = [[0.0, 1e9], [0.0, 2e-9], [0.0, 1e-9]]
    assert allocate(RDTable.from_arrays(cost, distortion), budget=2).choice.tolist() == [0, 0, 1]


def test_memory_limit_gives_a_feasible_answer_with_a_valid_bound() -> None:
    """A subset-sum in disguise stopped early is feasible, within budget and above its bound."""
    rng = np.random.default_rng(5)
    cost = np.column_stack([rng.integers(10**11, 10**12, 60), np.zeros(60, np.int64)])
    distortion = np.column_stack([np.zeros(60), cost[:, 0] * (1 + 1e-9 * rng.random(60))])
    budget = int(cost.sum() // 2)
    found = allocate(RDTable.from_arrays(cost, distortion), budget, memory_limit=1 << 16)
    assert found.status == "feasible"
    assert found.cost["params"] <= budget
    assert found.lower_bound < found.distortion
    assert 0 < found.gap < 1e-2


def test_frontier_equals_single_solves() -> None:
    """Every point of the frontier is the allocation that allocate gives for that budget."""
    from rdprune_core import frontier

    table = noisy_table(np.random.default_rng(3), layers=12, options=21)
    points = frontier(table, points=23)
    assert len(points) == 23
    for budget, allocation in zip(points.budgets, points, strict=True):
        single = allocate(table, int(budget))
        assert allocation.choice.tolist() == single.choice.tolist()
    assert (np.diff(points.distortion) <= 0).all()
    assert points.budgets[0] == sum(row.min() for row in table.costs["params"])
    assert points[-1].cost["params"] <= points.budgets[-1]


@pytest.mark.parametrize("budget", [2, {"params": 2, "macs": 2}])
def test_rounded_distortions_are_not_called_optimal(budget: int | dict[str, int]) -> None:
    """A table of 33 orders of magnitude is solved to a resolution, and the gap says which."""
    cost = [[2, 1, 0], [2, 1, 0]]
    table = RDTable.from_arrays({"params": cost, "macs": cost}, [[0, 1e-3, 1e30], [0, 2e-3, 1e30]])
    found = allocate(table, budget)
    assert found.choice.tolist() == [1, 1]
    assert found.status == "feasible"
    assert 0 < found.gap < 1e-3
    near = near_optimal(table, 2, k=3)
    assert near[0].status == "feasible"
    assert near[0].lower_bound < near[0].distortion
