"""Limits and interrupts: answers that hold, memory that is bounded, and no long silence."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from rdprune_core import Allocation, RDTable, allocate, allocate_many, near_optimal

PAUSES = """
import signal, time
import numpy as np
from rdprune_core import RDTable, allocate, near_optimal
rng = np.random.default_rng(0)

def two_budgets():
    cost = rng.integers(10**6, 10**9, (2, 60, 60))
    table = RDTable.from_arrays(
        {"a": cost[0], "b": cost[1]}, rng.integers(0, 1000, (60, 60)) - cost.sum(axis=0)
    )
    return lambda: allocate(table, {"a": "30%", "b": "30%"}, memory_limit=1 << 29)

def one_wide_layer():
    cost = rng.integers(0, 10**9, (3, 1, 50_000))
    cost[2] = 3 * 10**9 - cost[0] - cost[1]
    table = RDTable.from_arrays(dict(zip("abc", cost)), rng.random((1, 50_000)))
    return lambda: allocate(table, dict.fromkeys("abc", "90%"), time_limit=2.0)

def ties():
    cost = rng.integers(0, 40_000, (12, 40))
    cost[:, 0] = 0
    table = RDTable.from_arrays(cost, -cost)
    return lambda: near_optimal(table, "50%", k=1000, time_limit=8.0)

def wide_two_costs():
    cost = rng.integers(0, 10**9, (2, 1, 600_000))
    cost[1] = 2 * 10**9 - cost[0] - cost[1] % 1000
    table = RDTable.from_arrays(dict(zip("ab", cost)), rng.random((1, 600_000)))
    again = [dict.fromkeys("ab", "90%")] * 4  # one call is over in 0.1 s on a fast machine
    return lambda: [allocate(table, budget, time_limit=4.0) for budget in again][-1]

def hopeless(options):
    cost = 2 * np.random.default_rng(5).integers(10**11, 10**12, (80, options))
    cost[:, -1] = 0
    return RDTable.from_arrays(cost, -1.0 * cost), int(cost[:, 0].sum() // 2) | 1

def one_budget():
    table, odd = hopeless(40)
    return lambda: allocate(table, odd, time_limit=6.0)

def near():
    table, odd = hopeless(8)
    return lambda: near_optimal(table, odd, k=1000, time_limit=4.0)

call = {CALL}()
times = [time.thread_time()]
signal.signal(signal.SIGPROF, lambda *_: times.append(time.thread_time()))
signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
found = call()
signal.setitimer(signal.ITIMER_PROF, 0)
times.append(time.thread_time())
print(found.status, len(times), max(np.diff(times)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="arrays grow in place there")
@pytest.mark.parametrize(
    "call",
    ["one_budget", "two_budgets", "near", "one_wide_layer", "wide_two_costs", "ties"],
)
def test_signals_are_heard_all_the_time(call: str) -> None:
    """Python's signal handlers get their turn after less than 0.1 s of processor time each.

    Growing and freeing a gibibyte of states in one go, comparing all options of a wide layer,
    and sorting what millions of ways back go through once took more.
    """
    done = subprocess.run(
        [sys.executable, "-c", PAUSES.replace("{CALL}", call)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, signals, longest = done.stdout.split()
    assert status in ("feasible", "optimal")
    assert int(signals) > 20
    assert float(longest) < 0.1


@pytest.mark.parametrize("limits", [{"time_limit": 0}, {"memory_limit": 0}])
@pytest.mark.parametrize("budget", ["100%", 15])
def test_several_budgets_under_no_time_or_memory(budget: Any, limits: dict[str, int]) -> None:
    """What multipliers and exchanges find is an answer; it was a RuntimeError."""
    cost = [[10, 5, 0], [20, 10, 0]]
    table = RDTable.from_arrays({"params": cost, "macs": cost}, [[0, 1, 9], [0, 2, 8]])
    found = allocate(table, {"params": budget, "macs": budget}, **limits)  # type: ignore[arg-type]
    best = allocate(table, {"params": budget, "macs": budget})
    assert found.status == "feasible"
    assert found.choice.tolist() == best.choice.tolist()
    assert found.lower_bound <= best.distortion


@pytest.mark.parametrize("limits", [{"time_limit": 0}, {"memory_limit": 0}])
def test_what_is_found_without_a_search_is_not_far_off(limits: dict[str, int]) -> None:
    """Within both budgets, its bound below the optimum and its value close to it."""
    rng = np.random.default_rng(2)
    weights = rng.integers(1000, 100_000, (30, 1))
    kept = np.linspace(1, 0, 21)
    cost = (weights * kept).astype(np.int64)
    noise = 1 + 0.1 * rng.random((30, 21))
    table = RDTable.from_arrays(
        {"params": cost, "macs": cost * rng.integers(1, 50, (30, 1))},
        rng.random((30, 1)) * (1 - kept) ** 2 * noise,
    )
    budget = {"params": "40%", "macs": "35%"}
    best = allocate(table, budget)
    assert best.status == "optimal"
    many = allocate_many(table, [row[None] for row in table.distortion], budget, **limits)  # type: ignore[arg-type]
    for found in (allocate(table, budget, **limits), many[0]):  # type: ignore[arg-type]
        assert found.status == "feasible"
        assert all(found.cost[name] <= found.budget[name] for name in budget)
        assert found.lower_bound <= best.distortion <= found.distortion < 1.5 * best.distortion


def test_a_wide_layer_is_prepared_within_the_time() -> None:
    """Which of 60,000 options dominate others takes seconds to say; the limit holds meanwhile."""
    rng = np.random.default_rng(0)
    cost = rng.integers(0, 10**9, (3, 1, 60_000))
    cost[2] = 3 * 10**9 - cost[0] - cost[1]
    table = RDTable.from_arrays(dict(zip("abc", cost, strict=True)), rng.random((1, 60_000)))
    begin = time.process_time()
    found = allocate(table, dict.fromkeys("abc", "100%"), time_limit=0.0)
    # This tells a search that was stopped from one that was not.
    assert time.process_time() - begin < 1.5
    assert found.status == "feasible"
    assert found.distortion == table.distortion[0].min()


def _smallest(cost: Any, total: int) -> list[int]:
    """Return the lexicographically smallest choice of one option a layer with this total."""
    ends = [np.zeros(total + 1, bool)]
    ends[0][0] = True
    for row in cost[::-1]:
        before = np.zeros(total + 1, bool)
        for amount in row.tolist():
            if amount <= total:
                before[amount:] |= ends[-1][: total + 1 - amount]
        ends.append(before)
    choice = []
    for row, after in zip(cost, ends[-2::-1], strict=True):
        option = next(
            k for k, amount in enumerate(row.tolist()) if amount <= total and after[total - amount]
        )
        total -= int(row[option])
        choice.append(option)
    return choice


def test_many_ties_are_told_apart() -> None:
    """A subset sum with thousands of states on the ways back, against a table of all sums."""
    rng = np.random.default_rng(4)
    cost = rng.integers(0, 3000, (7, 25))
    cost[:, -1] = 0
    table = RDTable.from_arrays(cost, -cost)
    total = int(cost.max(axis=1).sum() // 2)
    found = allocate(table, total)
    assert (found.status, found.distortion) == ("optimal", -total)
    assert found.choice.tolist() == _smallest(cost, total)
    near = near_optimal(table, total, k=400)
    assert near[0].choice.tolist() == found.choice.tolist()
    assert near.distortion.tolist() == [-total] * 400
    listed = near.choices.tolist()
    assert all(first < second for first, second in itertools.pairwise(listed))
    twice = RDTable.from_arrays({"a": cost, "b": cost}, -cost)
    both = allocate(twice, {"a": total, "b": total})
    assert (both.status, both.choice.tolist()) == ("optimal", found.choice.tolist())


LISTING = """
import math, resource
import numpy as np
from rdprune_core import _core
layers = 400
call = dict(
    costs=np.tile([1, 1], layers), distortions=np.zeros(2 * layers),
    offsets=np.arange(0, 2 * layers + 1, 2), allowed=np.ones(2 * layers, np.uint8),
    groups=np.arange(layers), budget=layers, relative=math.inf, absolute=math.inf,
    time_limit=math.inf,
)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

_core.solve_near(**call, k=10, memory_limit=1 << 20)
before = peak()
found = _core.solve_near(**call, k=50_000, memory_limit=1 << 24)
print(len(found.choices), found.optimal, found.complete, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts kibibytes, as Linux does")
def test_the_list_counts_as_memory() -> None:
    """Fifty thousand allocations of 400 layers are 160 MB; under 16 MiB fewer are listed."""
    done = subprocess.run(
        [sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=120, check=True
    )
    count, optimal, complete, peak = done.stdout.split()
    assert 1000 < int(count) < 10_000
    assert (optimal, complete) == ("False", "False")
    assert int(peak) < 1.25 * (1 << 24)


def test_a_list_cut_short_by_memory_is_not_called_complete() -> None:
    """Of 4,096 allocations half a megabyte holds a part: the best ones, as far as is known."""
    table = RDTable.from_arrays(np.tile([1, 0], (12, 1)), np.tile(2.0 ** -np.arange(12), (2, 1)).T)
    whole = near_optimal(table, 12, k=5000)
    assert (len(whole), whole.complete, whole.status) == (4096, True, "optimal")
    short = near_optimal(table, 12, k=5000, memory_limit=1 << 19)
    assert 100 < len(short) < 4096
    assert (short.complete, short.status) == (False, "feasible")
    assert short.lower_bound <= whole.distortion[len(short)]


def test_allocations_are_made_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty thousand allocations cost nothing before somebody looks at one."""
    made = []
    make = Allocation.from_choice

    def count(*arguments: Any, **options: Any) -> Allocation:
        made.append(1)
        return make(*arguments, **options)

    monkeypatch.setattr(Allocation, "from_choice", count)
    table = RDTable.from_arrays(np.tile([1, 0], (16, 1)), np.tile([0.0, 1.0], (16, 1)))
    near = near_optimal(table, 16, k=50_000)
    assert (len(near), len(near.distortion), len(near.undecided), made) == (50_000, 50_000, 16, [])
    assert near[3] is near[3]
    assert near[-1].distortion == near.distortion[-1]
    assert len(made) == 2


@pytest.mark.parametrize("time_limit", [0.0, 10.0])
def test_the_bound_holds_where_the_relaxation_is_rounded(time_limit: float) -> None:
    """Options that differ by less than a double tells both left the hull; the bound ignored it."""
    half = 2**57
    cost = [
        [4, 0],
        [3 * half, 2 * half + 1, 2, half + 1],
        [half + 3, 2 * half + 4, half + 2, 4],
        [3 * half + 3, 3 * half, half + 2],
    ]
    tiny = 2.0**-56
    distortion = [
        [1.0, 0.0],
        [0.0, 0.0, 3 * tiny, 1.5 * tiny],
        [2.5 * tiny, tiny, 3.5 * tiny, 1.0],
        [1.0, 1.5 * tiny, 1.5 * tiny],
    ]
    table = RDTable.from_arrays(cost, distortion)
    budget = 2 * half + 11
    best = min(
        sum(distortion[layer][k] for layer, k in enumerate(choice))
        for choice in itertools.product(*(range(len(row)) for row in cost))
        if sum(cost[layer][k] for layer, k in enumerate(choice)) <= budget
    )
    one = allocate(table, budget, time_limit=time_limit)
    near = near_optimal(table, budget, k=18, time_limit=time_limit)
    assert one.lower_bound <= best * (1 + 1e-12)
    listed = near.allocations[0].distortion <= best
    assert listed or near.lower_bound <= best * (1 + 1e-12)
    if time_limit:
        assert one.distortion == pytest.approx(best, rel=1e-9)
