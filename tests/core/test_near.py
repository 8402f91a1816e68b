"""near_optimal against exhaustive search."""

from __future__ import annotations

import itertools
import math
import signal
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from oracles import Instance, exact, small_instance
from rdprune_core import (
    Allocation,
    InfeasibleBudgetError,
    NearOptimal,
    RDTable,
    _core,
    allocate,
    frontier,
    near_optimal,
)

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[7, 6, 5], [70, 60, 50]]},
    [[0, 1, 9], [0, 2, 8]],
    names=["a", "b"],
)

Choice = tuple[int, ...]


def rank_all(instance: Instance) -> list[tuple[int, int, Choice]]:
    """Exact distortion (times 2^1100), cost and choice of all within the budget, in order."""
    values = [[exact(d) for d in row] for row in instance.distortion]
    ranks = []
    for choice in itertools.product(*(range(len(row)) for row in instance.distortion)):
        cost = sum(row[k] for row, k in zip(instance.costs[0], choice, strict=True))
        if cost <= instance.budgets[0]:
            value = sum(row[k] for row, k in zip(values, choice, strict=True))
            ranks.append((value, cost, choice))
    return sorted(ranks)


def to_table(instance: Instance) -> RDTable:
    return RDTable.from_arrays(instance.costs[0], instance.distortion)


def choices(found: NearOptimal) -> list[Choice]:
    return [tuple(allocation.choice.tolist()) for allocation in found]


@pytest.mark.parametrize("block", range(4))
def test_equals_exhaustive_search(block: int) -> None:
    """On 150 small tables a block the k best and their order are those of all allocations."""
    infeasible = 0
    for seed in range(150 * block, 150 * (block + 1)):
        instance = small_instance(np.random.default_rng(seed))
        ranks = rank_all(instance)
        table, budget = to_table(instance), instance.budgets[0]
        for k in (1, 2, 5, 10_000):
            if not ranks:
                infeasible += 1
                with pytest.raises(InfeasibleBudgetError, match="out of reach"):
                    near_optimal(table, budget, k=k)
                continue
            found = near_optimal(table, budget, k=k)
            assert choices(found) == [choice for _, _, choice in ranks[:k]], seed
            assert found.status == "optimal"
            assert found.complete == (len(ranks) < k), seed
            assert found[0].to_dict() == allocate(table, budget).to_dict()
            if found.complete:
                assert found.lower_bound == math.inf
            else:
                assert found.lower_bound == found[-1].distortion
    assert 100 < infeasible < 350


def test_a_gap_lists_all_within_it() -> None:
    """All within the larger of the relative and the absolute gap are listed, up to k."""
    complete = 0
    for seed in range(150):
        instance = small_instance(np.random.default_rng(seed))
        ranks = rank_all(instance)
        if not ranks:
            continue
        best = allocate(to_table(instance), instance.budgets[0]).distortion
        for gap, absolute_gap in ((0.0, None), (0.3, None), (None, 2.0), (0.3, 2.0), (3.0, 0.0)):
            distance = exact(max((gap or 0.0) * abs(best), absolute_gap or 0.0))
            near = [choice for value, _, choice in ranks if value - ranks[0][0] <= distance]
            for k in (3, 1000, len(near)):
                found = near_optimal(
                    to_table(instance), instance.budgets[0], k=k, gap=gap, absolute_gap=absolute_gap
                )
                assert choices(found) == near[:k], (seed, gap, absolute_gap)
                assert found.complete == (len(near) <= k)
                complete += found.complete
    assert complete > 300


def test_constraints_hold_in_every_allocation() -> None:
    """Floors, bans, ties and a previous allocation leave out what breaks them, and nothing else."""
    rng = np.random.default_rng(1)
    cost = rng.integers(0, 100, (5, 4))
    table = RDTable.from_arrays(cost, rng.integers(0, 9, (5, 4)))
    previous = Allocation.from_choice(table, [int(row.argmax()) for row in cost])
    found = near_optimal(
        table, "70%", k=5000, floors={"layer1": 20}, forbidden={"layer0": ["0"]},
        tied=[("layer3", "layer4")], previous=previous,
    )  # fmt: skip
    budget = int(cost.max(axis=1).sum()) * 7 // 10
    ranks = [
        rank
        for rank in rank_all(
            Instance([cost.tolist()], [row.tolist() for row in table.distortion], [budget])
        )
        if rank[2][0] != 0 and rank[2][3] == rank[2][4] and cost[1, rank[2][1]] >= 20
    ]
    assert choices(found) == [choice for _, _, choice in ranks]
    assert found.complete


def test_by_hand() -> None:
    """Budget 15: four pairs, worked out; the third option of layer b is in two of them."""
    # (1, 1) 3, (0, 2) 8, (1, 2) 9, (2, 1) 11 and (2, 2) 17
    found = near_optimal(TABLE, 15, k=4)
    assert choices(found) == [(1, 1), (0, 2), (1, 2), (2, 1)]
    assert found.distortion.tolist() == [3, 8, 9, 11]
    assert found.used == {"a": {"1": 2, "0": 1, "2": 1}, "b": {"1": 2, "2": 2}}
    assert found.undecided == ("a", "b")
    assert (found.status, found.complete, found.lower_bound) == ("optimal", False, 11.0)
    assert [a.status for a in found] == ["optimal", "feasible", "feasible", "feasible"]
    assert [a.lower_bound for a in found] == [3.0] * 4
    near = near_optimal(TABLE, {"macs": 75}, k=4, absolute_gap=0)
    assert (len(near), near.complete, near.undecided) == (1, True, ())
    assert near[0].budget == {"macs": 75}


def test_mid_sized_tables_agree_with_repeated_exclusion() -> None:
    """The second best of a noisy table is the best of those that differ in some layer."""
    rng = np.random.default_rng(8)
    cost = rng.integers(0, 10**6, (15, 12))
    table = RDTable.from_arrays(cost, rng.random((15, 12)) - 0.3 * cost / 10**6)
    best, second = near_optimal(table, "40%", k=2)
    others = [
        allocate(table, "40%", forbidden={name: [label]})
        for name, label in zip(best.names, best.options, strict=True)
    ]
    expected = min(others, key=lambda a: (a.distortion, a.cost["params"], a.choice.tolist()))
    assert second.choice.tolist() == expected.choice.tolist()
    assert second.distortion > best.distortion


def test_limits_give_what_was_found() -> None:
    """Stopped early, what is listed is within the budget, in order, and the bounds hold."""
    rng = np.random.default_rng(5)
    cost = np.column_stack([rng.integers(10**11, 10**12, 60), np.zeros(60, np.int64)])
    lost = np.column_stack([np.zeros(60), cost[:, 0] * (1 + 1e-9 * rng.random(60))])
    table = RDTable.from_arrays(cost, lost)
    for limits in ({"memory_limit": 1 << 16}, {"time_limit": 0.0}):
        found = near_optimal(table, "50%", k=20, **limits)  # type: ignore[arg-type]
        assert found.status == "feasible"
        assert not found.complete
        assert len(set(choices(found))) == len(found)
        assert (np.diff(found.distortion) >= 0).all()
        for allocation in found:
            assert allocation.cost["params"] <= int(cost.sum() // 2)
            assert allocation.status == "feasible"
            assert allocation.lower_bound < allocation.distortion
        assert found.lower_bound <= found[0].distortion


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "k is 0; it must be an integer from 1 to 99,999"),
        ({"k": 100_000}, "k is 100000"),
        ({"k": 2.0}, r"k is 2\.0"),
        ({"k": True}, "k is True"),
        ({"gap": -0.1}, r"gap is -0\.1; it must be a number, not negative"),
        ({"gap": "1%"}, "gap is '1%'"),
        ({"absolute_gap": math.nan}, "absolute_gap is nan"),
        ({"absolute_gap": math.inf}, "absolute_gap is inf"),
        ({"budget": {"params": 15, "macs": 100}}, "takes one budget, got params and macs"),
        ({"budget": 0.2}, "which could mean kept or removed"),
        ({"time_limit": -1}, "time_limit is -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    """A wrong argument is a ValueError that names it and the rule."""
    with pytest.raises(ValueError, match=words):
        near_optimal(TABLE, **{"budget": 15, **arguments})


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_ctrl_c_ends_a_long_search() -> None:
    """An interrupt comes through, and the next search is right."""
    table = RDTable.from_arrays(np.tile(np.arange(101), (60, 1)), np.tile(-np.arange(101), (60, 1)))
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            near_optimal(table, 3001, k=90_000, memory_limit=1 << 40)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    # It takes minutes; this tells an interrupted search from one that ran to its end.
    assert time.monotonic() - begin < 20
    assert choices(near_optimal(TABLE, 15, k=1)) == [(1, 1)]


GOOD: dict[str, Any] = {
    "costs": np.array([10, 5, 0, 20, 10, 0]),
    "distortions": np.array([0.0, 1, 9, 0, 2, 8]),
    "offsets": np.array([0, 3, 6]),
    "allowed": np.ones(6, np.uint8),
    "groups": np.array([0, 1]),
    "budget": 15,
    "k": 2,
    "relative": math.inf,
    "absolute": math.inf,
    "time_limit": math.inf,
    "memory_limit": 1 << 20,
}


def raw(**changes: Any) -> _core.NearSolution:
    return _core.solve_near(**{**GOOD, **changes})


def test_the_raw_module_answers() -> None:
    """The instance that the next test spoils is a good one."""
    found = raw()
    assert found.choices.tolist() == [[1, 1], [0, 2]]
    assert found.choices.dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"costs": GOOD["costs"][:, None]}, "costs must have 1 dimension"),
        ({"distortions": GOOD["distortions"] * np.nan}, "distortion of layer 0 must be finite"),
        ({"distortions": np.zeros(5)}, "must have one"),
        ({"offsets": np.array([0, 3, 7])}, "offsets must run from 0"),
        ({"budget": -1}, "budget must not be negative"),
        ({"k": 0}, "k must lie between 1 and 100000"),
        ({"k": -(2**63)}, "k must lie between 1 and 100000"),
        ({"relative": -1.0}, "gaps must not be negative"),
        ({"absolute": math.nan}, "gaps must not be negative"),
        ({"time_limit": math.nan}, "time_limit must not be negative"),
        ({"memory_limit": -1}, "memory_limit must not be negative"),
    ],
)
def test_the_raw_module_refuses(changes: dict[str, Any], words: str) -> None:
    """Whatever is wrong with the arrays is a ValueError that says so."""
    with pytest.raises(ValueError, match=words):
        raw(**changes)


def test_a_slice_is_a_tuple_of_allocations() -> None:
    """The best and the rest, as of any sequence."""
    table = RDTable.from_arrays([[0, 10, 20], [0, 10, 15]], [[4.0, 1.0, 0.0], [5.0, 2.0, 0.0]])
    near = near_optimal(table, 25, k=5)
    assert near[:2] == (near[0], near[1])
    assert near[::-1] == tuple(reversed(list(near)))
    points = frontier(table, points=3)
    assert points[1:] == (points[1], points[2])


def test_more_asked_for_is_not_fewer_listed() -> None:
    """Where lists for so many do not fit, narrower ones find some all the same."""
    rng = np.random.default_rng(0)
    cost = 2 * rng.integers(10**5, 10**6, (30, 60))
    table = RDTable.from_arrays(cost, -1.0 * cost)
    near = near_optimal(table, "50%", k=10_000, memory_limit=20 << 20)
    assert len(near) >= 100, len(near)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_a_base_that_is_not_the_least_drops_nothing(k: int) -> None:
    """Where costs beyond 2^53 leave a hull too high, the k best are still the k best."""
    half, tiny = 2**57, 2.0**-56
    cost = [[4, half + 2, half + 3, 2 * half + 4], [0, 1, half // 8, half // 8 - 1]]
    distortion = [[1.0, 3.5 * tiny, 2.5 * tiny, tiny], [0.1, 0.1 - 2 * tiny, 0.07, 0.08]]
    table = RDTable.from_arrays(cost, distortion)
    budget = half + half // 2
    every = sorted(
        (Fraction(distortion[0][a]) + Fraction(distortion[1][b]), cost[0][a] + cost[1][b], (a, b))
        for a, b in itertools.product(range(4), repeat=2)
        if cost[0][a] + cost[1][b] <= budget
    )
    found = near_optimal(table, budget, k=k)
    assert [tuple(a.choice.tolist()) for a in found.allocations] == [x[2] for x in every[:k]]
