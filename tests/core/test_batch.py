"""allocate_many against allocate, one instance at a time."""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles import Instance, brute_force, small_instance
from rdprune_core import Allocations, InfeasibleBudgetError, RDTable, _core, allocate, allocate_many

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[7, 6, 5], [70, 60, 50]]},
    [[0, 1, 9], [0, 2, 8]],
    names=["a", "b"],
    options=["0", "0.5", "1"],
)
OWN = TABLE.flat_distortion[None]


def split(table: RDTable, row: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return np.split(row, table.offsets[1:-1])


def perturbed(
    table: RDTable, row: NDArray[np.float64], costs: dict[str, Any] | None = None
) -> RDTable:
    """The same table with other distortions."""
    return RDTable.from_arrays(
        costs or table.costs, split(table, row), names=table.names, options=table.options
    )


def noise(table: RDTable, instances: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    shape = (instances, len(table.flat_distortion))
    return table.flat_distortion * (1 + 0.2 * rng.standard_normal(shape))


def medium_table(costs: int = 1) -> RDTable:
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 12, 14)
    return RDTable.from_arrays(
        {f"cost{i}": [rng.integers(0, 10**6, size) for size in sizes] for i in range(costs)},
        [rng.random(size) for size in sizes],
        names=[f"layer{i}" for i in range(14)],
    )


def assert_equal(found: Allocations, table: RDTable, rows: Any, **arguments: Any) -> None:
    """Every instance is the allocation of a table of its own, to the last bit."""
    assert len(found) == len(rows)
    for i, (row, one) in enumerate(zip(rows, found, strict=True)):
        expected = allocate(perturbed(table, row), **arguments)
        assert one.to_dict() == expected.to_dict()
        assert found.choices[i].tolist() == expected.choice.tolist()
        assert found.distortion[i] == expected.distortion
        assert found.lower_bound[i] == expected.lower_bound
        assert found.optimal[i] == (expected.status == "optimal")
        assert {key: int(total[i]) for key, total in found.costs.items()} == expected.cost
        assert {key: price[i] for key, price in found.multipliers.items()} == expected.multipliers


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_gives_what_single_calls_give(threads: int | None) -> None:
    """Any number of threads gives, bit for bit, what N calls of allocate give."""
    table = medium_table()
    rows = noise(table, 40)
    found = allocate_many(table, rows, budget="40%", threads=threads)
    assert_equal(found, table, rows, budget="40%")
    assert found.optimal.all()


def test_constraints_and_several_budgets_hold_for_every_instance() -> None:
    """Floors, caps, bans, ties, a previous allocation and two budgets work as in allocate."""
    rng = np.random.default_rng(1)
    costs = {"params": rng.integers(0, 1000, (8, 5)), "macs": rng.integers(0, 1000, (8, 5))}
    names = [f"layer{i}" for i in range(8)]
    table = RDTable.from_arrays(costs, rng.random((8, 5)), names=names)
    rows = noise(table, 10)
    arguments: dict[str, Any] = {
        "budget": {"params": "70%", "macs": "75%"},
        "floors": {"layer0": 10},
        "caps": {"layer3": {"macs": "90%"}},
        "forbidden": {"layer2": ["0", 3]},
        "tied": [("layer4", "layer6")],
    }
    arguments["previous"] = allocate(table, **{**arguments, "budget": "90%"})
    assert_equal(allocate_many(table, rows, **arguments), table, rows, **arguments)


def test_limits_hold_for_every_instance() -> None:
    """A memory limit stops the same searches at the same allocation and bound as in allocate."""
    table = medium_table()
    rows = noise(table, 20)
    found = allocate_many(table, rows, budget="40%", memory_limit=400)
    assert_equal(found, table, rows, budget="40%", memory_limit=400)
    assert 0 < found.optimal.sum() < 20


def test_equals_brute_force() -> None:
    """On 150 small tables each of four instances is solved as by brute force, or all raise."""
    infeasible = 0
    for seed in range(150):
        instance = small_instance(np.random.default_rng(seed))
        table = RDTable.from_arrays({"cost0": instance.costs[0]}, instance.distortion)
        rows = np.concatenate([table.flat_distortion[None], noise(table, 3, seed)])
        expected = [
            brute_force(
                Instance(instance.costs, [r.tolist() for r in split(table, row)], instance.budgets)
            )
            for row in rows
        ]
        if expected[0] is None:
            infeasible += 1
            with pytest.raises(InfeasibleBudgetError, match="out of reach"):
                allocate_many(table, rows, instance.budgets[0])
        else:
            found = allocate_many(table, rows, instance.budgets[0], threads=2)
            assert [tuple(choice) for choice in found.choices.tolist()] == expected, seed
    assert infeasible > 30


def test_distortions_come_in_three_shapes() -> None:
    """(N, sum K), (N, L, K) and one (N, K_l) array a layer mean the same."""
    flat = noise(TABLE, 4)
    cube = flat.reshape(4, 2, 3)
    layers = [cube[:, 0], cube[:, 1]]
    expected = allocate_many(TABLE, flat, budget=15)
    for other in (cube, layers, tuple(layers), np.asfortranarray(flat)):
        assert allocate_many(TABLE, other, budget=15).choices.tolist() == expected.choices.tolist()
    # Integers too: (1, 1) costs 15 and gives 1 + 2, see test_solver.test_by_hand.
    whole = allocate_many(TABLE, np.array([[0, 1, 9, 0, 2, 8]]), budget=15)
    assert whole.distortion.tolist() == [3.0]


def test_results_are_read_only_and_can_be_listed() -> None:
    """Arrays cannot be written to; items are allocations, also from the end, and ends are ends."""
    found = allocate_many(TABLE, np.repeat(OWN, 3, axis=0), budget=15)
    assert [a.status for a in found] == ["optimal"] * 3
    assert found[-1].options == ("0.5", "0.5")
    assert repr(found) == "Allocations(3 instances, 3 optimal, distortion 3 to 3)"
    with pytest.raises(IndexError):
        found[3]
    for array in (found.choices, found.distortion, found.lower_bound, found.optimal):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def bad(instance: int, option: int, value: float) -> NDArray[np.float64]:
    rows = np.repeat(OWN, 4, axis=0)
    rows[instance, option] = value
    return rows


@pytest.mark.parametrize(
    ("distortions", "words"),
    [
        (bad(2, 4, math.nan), r"instance 2, layer 'b', option '0\.5' is nan; it must be finite"),
        (bad(0, 0, -math.inf), r"instance 0, layer 'a', option '0' is -inf"),
        (bad(1, 5, 1.7e308) + bad(1, 0, 1.7e308), r"instance 1: the layers' largest add up"),
        (np.zeros(6), r"shape \(6,\); it must be \(N, 6\)"),
        (np.zeros((2, 5)), r"shape \(2, 5\)"),
        (np.zeros((2, 3, 2)), r"shape \(2, 3, 2\)"),
        (np.zeros((0, 6)), r"at least one instance"),
        (np.zeros((2, 6), complex), r"must be numbers, got complex128"),
        (np.full((2, 6), "1"), r"must be numbers, got <U1"),
        ([np.zeros((2, 3))], r"1 entries, the table has 2 layers"),
        ([np.zeros((2, 3)), np.zeros((3, 3))], r"layer 'b' has shape \(3, 3\); it must be \(N, 3"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"layer 'b' has shape \(2, 4\)"),
        ([np.zeros((2, 3)), np.zeros((2, 3), bool)], r"layer 'b' must be numbers, got bool"),
        (
            np.full((2, 6), 2**53 + 1),
            r"distortions holds the integer 9007199254740993, which would",
        ),
        ([np.zeros((2, 3)), np.full((2, 3), 1 - 2**60)], r"layer 'b' holds the integer -11529215"),
    ],
)
def test_bad_distortions_are_named(distortions: Any, words: str) -> None:
    """A wrong distortion names its instance, layer and option; a wrong shape the right ones."""
    with pytest.raises(ValueError, match=words):
        allocate_many(TABLE, distortions, budget=15)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10**6])
def test_bad_threads_are_refused(threads: Any) -> None:
    """Threads are a whole number of at least one."""
    with pytest.raises(ValueError, match="threads is"):
        allocate_many(TABLE, OWN, budget=15, threads=threads)


def test_an_infeasible_budget_raises_once() -> None:
    """The least reachable cost is that of allocate's error."""
    with pytest.raises(InfeasibleBudgetError, match="out of reach") as caught:
        allocate_many(TABLE, np.repeat(OWN, 9, axis=0), {"macs": 54})
    assert caught.value.least == {"macs": 55}


def hard_batch() -> tuple[RDTable, NDArray[np.float64]]:
    """Subset sums in disguise, hours of them."""
    rng = np.random.default_rng(5)
    weights = rng.integers(10**11, 10**12, 60)
    cost = np.column_stack([weights, np.zeros_like(weights)])
    lost = np.column_stack([np.zeros(60), weights * (1 + 1e-9 * rng.random(60))])
    table = RDTable.from_arrays(cost, lost)
    return table, np.repeat(table.flat_distortion[None], 1000, axis=0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_ctrl_c_ends_all_threads() -> None:
    """An interrupt comes through from the threads, which end; Python and solver work on."""
    table, rows = hard_batch()
    before = threading.active_count()
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            allocate_many(table, rows, "50%", threads=2, memory_limit=1 << 26)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    # The whole takes minutes; this tells an interrupted batch from one that ran to its end.
    assert time.monotonic() - begin < 20
    assert threading.active_count() == before
    assert allocate_many(TABLE, OWN, budget=15).choices.tolist() == [[1, 1]]


GOOD: dict[str, Any] = {
    "costs": np.array([[10], [5], [0], [20], [10], [0]]),
    "distortions": OWN,
    "offsets": np.array([0, 3, 6]),
    "allowed": np.ones(6, np.uint8),
    "groups": np.array([0, 1]),
    "budget": np.array([15]),
    "threads": 2,
    "time_limit": math.inf,
    "memory_limit": 1 << 20,
}


def raw(**changes: Any) -> list[_core.Solution]:
    return _core.solve_batch(**{**GOOD, **changes})


def test_the_raw_module_answers() -> None:
    """The instance that the next test spoils is a good one."""
    assert [s.choice.tolist() for s in raw()] == [[1, 1]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distortions": OWN[0]}, "distortions must have 2 dimension"),
        ({"distortions": OWN[:, :5].copy()}, "distortions must have one column per option"),
        ({"distortions": OWN[:0]}, "distortions must have one or more rows"),
        ({"distortions": OWN * np.nan}, "instance 0: distortion of layer 0 must be finite"),
        ({"costs": np.zeros((5, 1), np.int64)}, "costs must have one row per distortion"),
        ({"costs": -GOOD["costs"]}, "cost of layer 0 must not be negative"),
        ({"offsets": np.array([0, 3, 7])}, "offsets must run from 0"),
        ({"groups": np.array([0])}, "groups must have one entry per layer"),
        ({"budget": np.array([15, 3])}, "budgets must have one entry per cost"),
        ({"budget": np.array([-1])}, "budgets must not be negative"),
        ({"budget": np.array([[15]])}, "budget must have 1 dimension"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"time_limit": math.nan}, "time_limit must not be negative"),
        ({"memory_limit": -1}, "memory_limit must not be negative"),
    ],
)
def test_the_raw_module_refuses(changes: dict[str, Any], words: str) -> None:
    """Whatever is wrong with the arrays is a ValueError that says so."""
    with pytest.raises(ValueError, match=words):
        raw(**changes)


def test_integers_beside_floats_are_not_rounded() -> None:
    """A list's integers are refused where float64 holds them not, as those of a table are."""
    table = RDTable.from_arrays([[1, 0]], [[0.0, 1.0]])
    big = 2**53 + 1
    for rows in ([[[big, 0.5]]], [[[0, big]]], [np.array([[0, big]])]):
        with pytest.raises(ValueError, match=f"the integer {big}, which would be rounded"):
            allocate_many(table, rows, 1)
    with pytest.raises(ValueError, match=f"the integer {big}"):
        RDTable.from_arrays([[1, 0]], iter([[big, 0.5]]))  # type: ignore[arg-type]
    many = allocate_many(table, [np.array([[2**62, -(2**63)]])], 1)
    assert many[0].distortion == -(2.0**63)
