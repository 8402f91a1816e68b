"""Families of tables made to defeat solvers: right, or feasible with a valid bound."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles import Instance, brute_force, highs
from rdprune_core import InfeasibleBudgetError, RDTable, allocate, frontier, near_optimal

Ints = NDArray[np.int64]
Family = Callable[[np.random.Generator, int, int, int], tuple[Ints, Ints]]


def subset_sum(rng: np.random.Generator, layers: int, options: int, most: int) -> tuple[Ints, Ints]:
    """Distortion saved equals cost: every allocation lies on the line of the bound."""
    cost = rng.integers(0, most, (layers, options))
    return cost, -cost


def even_weights(
    rng: np.random.Generator, layers: int, options: int, most: int
) -> tuple[Ints, Ints]:
    """A subset sum of even numbers under an odd budget: the bound is never reached."""
    cost = 2 * rng.integers(0, most // 2, (layers, options))
    return cost, -cost


def strongly_correlated(
    rng: np.random.Generator, layers: int, options: int, most: int
) -> tuple[Ints, Ints]:
    """Distortion saved is the cost and a bonus for every layer that keeps anything."""
    cost = rng.integers(0, most, (layers, options))
    return cost, -(cost + (cost > 0) * (most // 10))


def inverse_strongly_correlated(
    rng: np.random.Generator, layers: int, options: int, most: int
) -> tuple[Ints, Ints]:
    """Distortion saved is the cost less a toll."""
    cost = rng.integers(0, most, (layers, options))
    return cost, -np.maximum(cost - most // 10, 0)


def almost_strongly_correlated(
    rng: np.random.Generator, layers: int, options: int, most: int
) -> tuple[Ints, Ints]:
    """The bonus differs a little from option to option."""
    cost = rng.integers(0, most, (layers, options))
    noise = rng.integers(-most // 500 - 1, most // 500 + 2, cost.shape)
    return cost, -(cost + most // 10 + noise)


def all_equal(rng: np.random.Generator, layers: int, options: int, most: int) -> tuple[Ints, Ints]:
    """All layers are one layer: nearly everything is a tie."""
    cost = np.sort(rng.integers(0, most, options))
    saved = np.sort(rng.integers(0, most, options))
    return np.tile(cost, (layers, 1)), -np.tile(saved, (layers, 1))


def one_giant_layer(
    rng: np.random.Generator, layers: int, options: int, most: int
) -> tuple[Ints, Ints]:
    """One layer costs as much as all others together a hundred times."""
    cost = rng.integers(0, max(most // (100 * layers), 3), (layers, options))
    cost[layers // 2] = np.sort(rng.integers(0, most, options))
    return cost, -rng.integers(0, most, (layers, options)) * (cost > 0)


def powers_of_two(
    rng: np.random.Generator, layers: int, options: int, most: int
) -> tuple[Ints, Ints]:
    """Costs are powers of two, and so is what they save."""
    places = rng.integers(0, most.bit_length() - 1, (layers, options))
    cost = np.left_shift(np.int64(1), places)
    cost[:, 0] = 0
    return cost, -cost


def many_ties(rng: np.random.Generator, layers: int, options: int, most: int) -> tuple[Ints, Ints]:
    """Few different numbers, so that equal distortions and costs abound."""
    cost = rng.integers(0, 4, (layers, options)) * (most // 4)
    return cost, rng.integers(-2, 3, (layers, options))


FAMILIES: list[Family] = [
    subset_sum, even_weights, strongly_correlated, inverse_strongly_correlated,
    almost_strongly_correlated, all_equal, one_giant_layer, powers_of_two, many_ties,
]  # fmt: skip
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


def budget_for(cost: Ints, share: float) -> int:
    """An odd budget this far between the least and the dense cost."""
    least, dense = int(cost.min(axis=1).sum()), int(cost.max(axis=1).sum())
    return (least + int(share * (dense - least))) | 1


def exact_dp(cost: Ints, distortion: Ints, budget: int) -> int:
    """Least distortion of all, by dynamic programming over every integer budget."""
    never = np.iinfo(np.int64).max // 4
    least = np.zeros(budget + 1, np.int64)
    for costs, values in zip(cost.tolist(), distortion.tolist(), strict=True):
        after = np.full(budget + 1, never)
        for c, v in zip(costs, values, strict=True):
            if c <= budget:
                after[c:] = np.minimum(after[c:], least[: budget + 1 - c] + v)
        least = after
    return int(least[budget])


@families
@pytest.mark.parametrize("most", [7, 100, 10**12, 2**58])
def test_small_ones_equal_brute_force(family: Family, most: int) -> None:
    """Of five layers the choice is the exhaustive search's, near the largest costs too."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        cost, distortion = family(rng, 5, 4, most)
        budget = budget_for(cost, rng.uniform(0, 1))
        instance = Instance([cost.tolist()], distortion.astype(float).tolist(), [budget])
        found = allocate(RDTable.from_arrays(cost, distortion.astype(float)), budget)
        assert tuple(found.choice) == brute_force(instance), seed
        assert found.status == "optimal"


@families
def test_mid_sized_ones_equal_dynamic_programming(family: Family) -> None:
    """Of thirty layers the optimum is that of a table over every budget, or it is no lower than
    the bound of a search that was stopped.
    """
    for seed in range(6):
        rng = np.random.default_rng(seed)
        cost, distortion = family(rng, 30, 8, 2000)
        budget = budget_for(cost, rng.uniform(0.05, 0.9))
        table = RDTable.from_arrays(cost, distortion.astype(float))
        best = exact_dp(cost, distortion, budget)
        found = allocate(table, budget)
        assert found.cost["params"] <= budget
        assert (found.distortion, found.status) == (best, "optimal"), seed
        for memory in (0, 1 << 10, 1 << 13, 1 << 16):
            stopped = allocate(table, budget, memory_limit=memory)
            assert stopped.cost["params"] <= budget
            assert stopped.lower_bound <= best <= stopped.distortion
            assert stopped.status == "feasible" or stopped.distortion == best


@families
def test_two_budgets_equal_highs_or_brute_force(family: Family) -> None:
    """Under two budgets the optimum is HiGHS's within its tolerance; small ones are exact."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cost, distortion = family(rng, 5, 4, 1000)
        other = rng.permutation(cost.ravel()).reshape(cost.shape)
        budgets = [budget_for(cost, 0.5), budget_for(other, 0.6)]
        table = RDTable.from_arrays({"a": cost, "b": other}, distortion.astype(float))
        rows = [cost.tolist(), other.tolist()]
        expected = brute_force(Instance(rows, distortion.astype(float).tolist(), budgets))
        try:
            found = allocate(table, {"a": budgets[0], "b": budgets[1]})
        except InfeasibleBudgetError:
            assert expected is None
            continue
        assert tuple(found.choice) == expected
        solved = highs(np.stack([cost, other]), distortion.astype(float), budgets)
        assert solved is not None
        assert found.distortion <= solved[0] + 1e-6


@families
def test_near_optimal_ones_equal_brute_force(family: Family) -> None:
    """The twenty best are the first twenty of all, in order."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        cost, distortion = family(rng, 5, 4, 1000)
        budget = budget_for(cost, 0.5)
        ranks = sorted(
            (
                sum(int(distortion[i, k]) for i, k in enumerate(choice)),
                sum(int(cost[i, k]) for i, k in enumerate(choice)),
                choice,
            )
            for choice in itertools.product(range(4), repeat=5)
        )
        feasible = [choice for _, total, choice in ranks if total <= budget]
        near = near_optimal(RDTable.from_arrays(cost, distortion.astype(float)), budget, k=20)
        assert [tuple(a.choice.tolist()) for a in near] == feasible[:20], seed


@families
@pytest.mark.parametrize("most", [10**6, 10**12, 2**53])
def test_large_ones_are_right_or_say_so(family: Family, most: int) -> None:
    """Eighty layers in sixteen mebibytes: within the budget, above a bound that holds for the
    relaxation too, and the frontier and the near-optimal set keep the same limits.
    """
    rng = np.random.default_rng(1)
    cost, distortion = family(rng, 80, 12, most)
    table = RDTable.from_arrays(cost, distortion.astype(float))
    budget = budget_for(cost, 0.4)
    found = allocate(table, budget, memory_limit=1 << 24)
    more = allocate(table, budget, memory_limit=1 << 26)
    assert found.cost["params"] <= budget
    assert found.lower_bound <= more.distortion
    assert more.lower_bound <= found.distortion
    assert found.status == "feasible" or found.distortion <= more.distortion
    near = near_optimal(table, budget, k=3, memory_limit=1 << 24)
    assert found.lower_bound <= near[0].distortion
    assert near[0].lower_bound <= found.distortion
    points = frontier(table, points=[budget // 2, budget, budget * 3 // 2], memory_limit=1 << 22)
    for point, bound in zip(points, points.budgets, strict=True):
        assert point.cost["params"] <= bound
        assert point.lower_bound <= point.distortion


def test_huge_costs_are_refused_not_overflowed() -> None:
    """Costs that add up to more than 2^61 are refused; at 2^61 sums are right."""
    with pytest.raises(ValueError, match="more than 2\\*\\*61"):
        RDTable.from_arrays([[2**60, 0], [2**60 + 1, 0]], [[0, 1], [0, 1]])
    for cost in (2**62, 2**63 - 1):
        with pytest.raises(ValueError, match="more than 2\\*\\*61"):
            RDTable.from_arrays([[cost, 0]], [[0, 1]])
    with pytest.raises(ValueError, match="costs must be integers"):
        RDTable.from_arrays(np.array([[2**63, 0]], np.uint64), [[0, 1]])
    table = RDTable.from_arrays([[2**60, 1], [2**60, 0]], [[0, 1], [0, 3]])
    assert allocate(table, 2**61).choice.tolist() == [0, 0]
    assert allocate(table, 2**63).choice.tolist() == [0, 0]
    assert allocate(table, 2**61 - 1).choice.tolist() == [1, 0]
    assert near_optimal(table, 2**61 - 1, k=9)[-1].choice.tolist() == [1, 1]


PEAK = """
import sys
from pathlib import Path
import numpy as np
from rdprune_core import RDTable, allocate, near_optimal
limit = int(sys.argv[2])
rng = np.random.default_rng(5)
weights = 2 * rng.integers(10**11, 10**12, 80)
cost = np.column_stack([weights, 0 * weights])
table = RDTable.from_arrays({"a": cost, "b": cost[::-1]}, np.column_stack([0 * weights, weights]))
half = int(weights.sum() // 2) | 1
calls = {
    "allocate": lambda most: allocate(table, half, memory_limit=most),
    "two budgets": lambda most: allocate(table, {"a": half, "b": "75%"}, memory_limit=most),
    "near_optimal": lambda most: near_optimal(table, half, memory_limit=most)[0],
}
call = calls[sys.argv[1]]

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

call(1 << 20)
before = peak()
print(call(limit).status, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("call", ["allocate", "two budgets", "near_optimal"])
def test_the_memory_limit_holds(call: str) -> None:
    """In a process of its own, a hopeless search ends as feasible, and its peak is bounded."""
    limit = 1 << 26
    done = subprocess.run(
        [sys.executable, "-c", PEAK, call, str(limit)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    status, peak = done.stdout.split()
    assert status == "feasible"
    assert limit // 4 < int(peak) < 1.25 * limit


def test_a_gain_that_rounding_hides_is_still_taken() -> None:
    """A saving of 5e-17 beside 1 leaves a multiplier of zero, which proves nothing."""
    table = RDTable.from_arrays([[0, 10, 20], [0, 10, 15]], [[1.0, 1e-17, 0.0], [1.0, 5e-17, 0.0]])
    allocation = allocate(table, 25)
    assert allocation.status == "optimal"
    assert allocation.choice.tolist() == [1, 2]
    assert near_optimal(table, 25, k=2)[0].choice.tolist() == [1, 2]


def test_a_gain_that_the_hull_loses_pays_for_a_loss_elsewhere() -> None:
    """Beside 1, nothing and 2^-55 are one double: the base lacks what another layer may lose."""
    unit = 2.0**-57
    table = RDTable.from_arrays(
        [[947840, 1345048, 416926], [270856, 273266, 961004], [77750, 934000]],
        [[4 * unit, 0.0, 1.0], [5 * unit, 7 * unit, 1.0], [2 * unit, 0.0]],
    )
    for budget in (2155106, 2152696):
        allocation = allocate(table, budget)
        assert allocation.status == "optimal"
        assert allocation.choice.tolist() == [1, 0, 0]


def test_ties_beside_large_distortions_under_several_budgets() -> None:
    """Of options whose difference to the first one is rounded alike, the least is the base's."""
    table = RDTable.from_arrays(
        {
            "a": [[1, 5, 3], [0, 4, 3], [1, 3]],
            "b": [[4, 2, 4], [6, 3, 0], [3, 5]],
            "c": [[0, 1, 3], [2, 6, 2], [6, 0]],
        },
        [[5.0, 4.0, 2.0**57], [2.0**57, 5.0, 6.0], [1.0, 1.0]],
    )
    allocation = allocate(table, {"a": 10, "b": 12, "c": 9})
    assert allocation.status == "optimal"
    assert allocation.choice.tolist() == [0, 1, 1]


def test_costs_beyond_doubles_differ_by_units() -> None:
    """2^53 and 2^53 + 1 are one double; bounds from hulls of doubles once cut the optimum."""
    big = 2**53
    table = RDTable.from_arrays(
        [[0, big, big + 3], [0, 1], [0, 5404319552844595, 6004799503160662]],
        [
            [1.0, 0.25, 0.0],
            [0.07117595455174794, 0.0],
            [0.0, -0.24102557662160548, -0.33333333333333337],
        ],
    )
    allocation = allocate(table, 15011998757901657)
    assert allocation.status == "optimal"
    assert allocation.choice.tolist() == [2, 0, 2]
    table = RDTable.from_arrays(
        [
            [18014398509481987, 18014398509481988, 27021597764222980],
            [9007199254740995, 27021597764222979],
            [0, 27021597764222977],
        ],
        [[7, 5, 1], [5, 1], [8, 7]],
    )
    two = near_optimal(table, 45035996273704966, k=2)
    assert two.status == "optimal"
    assert two.distortion.tolist() == [14.0, 16.0]


def test_distortions_that_all_options_share_do_not_hide_the_others() -> None:
    """Two tied groups: 1e16 a layer on either side, and differences of sixteenths within."""
    table = RDTable.from_arrays(
        {
            "a": [[6, 2, 5, 0], [0, 0, 0, 0], [5, 3, 2, 6], [0, 0, 0, 0]],
            "b": [[7, 9, 6, 11], [0, 0, 0, 0], [8, 9, 11, 5], [0, 0, 0, 0]],
        },
        [[1e16] * 4, [0.0, 0.8125, 0.5625, 0.625], [-1e16] * 4, [0.375, 0.0, 0.4375, 0.5]],
    )
    tied = [["layer0", "layer1"], ["layer2", "layer3"]]
    allocation = allocate(table, {"a": 7, "b": 18}, tied=tied)
    assert allocation.status == "optimal"
    assert allocation.distortion == 0.8125
    assert allocation.choice.tolist() == [1, 1, 1, 1]
