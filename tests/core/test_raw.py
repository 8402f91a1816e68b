"""The compiled module called directly: it answers or raises, whatever it is given."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdprune_core import _core

GOOD: dict[str, Any] = {
    "costs": np.array([[10], [5], [0], [20], [10], [0]]),
    "distortions": np.array([0.0, 1, 9, 0, 2, 8]),
    "offsets": np.array([0, 3, 6]),
    "allowed": np.ones(6, np.uint8),
    "groups": np.array([0, 1]),
    "budgets": np.array([[15]]),
    "time_limit": math.inf,
    "memory_limit": 1 << 20,
}


def solve(**changes: Any) -> list[_core.Solution]:
    arguments = {**GOOD, **changes}
    limits = {key: arguments.pop(key) for key in ("time_limit", "memory_limit")}
    return _core.solve(*arguments.values(), **limits)


def test_solves() -> None:
    """The instance that the other tests spoil is a good one."""
    [solution] = solve()
    assert solution.choice.tolist() == [1, 1]
    assert solution.choice.dtype == np.int64
    assert solution.optimal
    assert isinstance(solution.lower_bound, float)
    assert len(solution.multipliers) == 1
    assert solution.states >= 0


def test_one_solution_a_row_of_budgets() -> None:
    """Budgets are rows; none give an empty list."""
    found = solve(budgets=np.array([[30], [0], [15]]))
    assert [s.choice.tolist() for s in found] == [[0, 0], [2, 2], [1, 1]]
    assert solve(budgets=np.empty((0, 1), np.int64)) == []


WRONG_TYPES: dict[str, dict[str, Any]] = {
    "float costs": {"costs": GOOD["costs"].astype(float)},
    "uint64 costs": {"costs": GOOD["costs"].astype(np.uint64)},
    "complex costs": {"costs": GOOD["costs"].astype(complex)},
    "object costs": {"costs": GOOD["costs"].astype(object)},
    "str costs": {"costs": GOOD["costs"].astype(str)},
    "no costs": {"costs": None},
    "complex distortions": {"distortions": GOOD["distortions"].astype(complex)},
    "str distortions": {"distortions": GOOD["distortions"].astype(str)},
    "object distortions": {"distortions": GOOD["distortions"].astype(object)},
    "float offsets": {"offsets": GOOD["offsets"].astype(float)},
    "int allowed": {"allowed": np.ones(6, np.int64)},
    "float allowed": {"allowed": np.ones(6)},
    "float groups": {"groups": np.array([0.0, 1.0])},
    "float budgets": {"budgets": np.array([[15.0]])},
    "str time limit": {"time_limit": "1"},
    "no time limit": {"time_limit": None},
    "float memory limit": {"memory_limit": 1.5},
    "memory limit beyond int64": {"memory_limit": 2**63},
}


@pytest.mark.parametrize("changes", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_refuses_types_that_would_lose_something(changes: dict[str, Any]) -> None:
    """An array that cannot become the exact dtype without loss raises a TypeError."""
    with pytest.raises(TypeError, match="incompatible function arguments"):
        solve(**changes)


WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "flat costs": ({"costs": np.zeros(6, np.int64)}, r"costs must have 2 dimension"),
    "costs of three axes": ({"costs": np.zeros((6, 1, 1), np.int64)}, r"costs must have 2 dim"),
    "scalar costs": ({"costs": np.array(3)}, r"costs must have 2 dimension"),
    "distortions of two axes": ({"distortions": np.zeros((6, 1))}, r"distortions must have 1 dim"),
    "offsets of two axes": ({"offsets": np.array([[0, 3, 6]])}, r"offsets must have 1 dimension"),
    "allowed of two axes": ({"allowed": np.ones((6, 1), np.uint8)}, r"allowed must have 1 dim"),
    "groups of two axes": ({"groups": np.array([[0, 1]])}, r"groups must have 1 dimension"),
    "flat budgets": ({"budgets": np.array([15])}, r"budgets must have 2 dimension"),
    "budgets of more costs": ({"budgets": np.array([[15, 3]])}, r"budgets must have one column"),
    "no columns": (
        {"costs": np.zeros((6, 0), np.int64), "budgets": np.zeros((1, 0), np.int64)},
        r"costs must have at least one column",
    ),
    "fewer costs": ({"costs": np.zeros((5, 1), np.int64)}, r"costs must have one row per dist"),
    "fewer distortions": ({"distortions": np.zeros(5)}, r"costs must have one row per distortion"),
    "fewer flags": ({"allowed": np.ones(5, np.uint8)}, r"allowed must have one entry per distort"),
    "fewer groups": ({"groups": np.array([0])}, r"groups must have one entry per layer"),
    "more groups": ({"groups": np.array([0, 1, 2])}, r"groups must have one entry per layer"),
    "no offsets": ({"offsets": np.array([], np.int64)}, r"offsets must name at least one layer"),
    "no layers": (
        {"offsets": np.array([0]), "groups": np.array([], np.int64)},
        r"offsets must name at least one layer",
    ),
    "offsets from 1": ({"offsets": np.array([1, 3, 6])}, r"offsets must run from 0 to the number"),
    "negative offset": ({"offsets": np.array([-1, 3, 6])}, r"offsets must run from 0"),
    "offsets too far": ({"offsets": np.array([0, 3, 7])}, r"offsets must run from 0"),
    "offsets too short": ({"offsets": np.array([0, 3, 5])}, r"offsets must run from 0"),
    "offsets that rise and fall": (
        {"offsets": np.array([0, 2**62, 6])},
        r"layer 1 must have at least one option",
    ),
    "offsets that fall below 0": (
        {"offsets": np.array([0, -(2**63), 6])},
        r"layer 0 must have at least one option",
    ),
    "empty layer": ({"offsets": np.array([0, 6, 6])}, r"layer 1 must have at least one option"),
    "nan distortion": (
        {"distortions": np.array([0, 1, 9, 0, math.nan, 8])},
        r"distortion of layer 1 must be finite",
    ),
    "infinite distortion": (
        {"distortions": np.array([0, 1, -math.inf, 0, 2, 8])},
        r"distortion of layer 0 must be finite",
    ),
    "negative cost": (
        {"costs": np.array([[10], [5], [0], [20], [10], [-1]])},
        r"cost of layer 1 must not be negative",
    ),
    "least cost": ({"costs": np.full((6, 1), -(2**63))}, r"cost of layer 0 must not be negative"),
    "costs that would wrap round": (
        {"costs": np.full((6, 1), 2**63 - 1)},
        r"the largest costs of all layers must add up to at most 2\^61",
    ),
    "nothing allowed": (
        {"allowed": np.array([1, 1, 1, 0, 0, 0], np.uint8)},
        r"layer 1 has no option left that is allowed",
    ),
    "tied layers of different size": (
        {"offsets": np.array([0, 2, 6]), "groups": np.array([5, 5])},
        r"tied layers must have the same number of options: layer 0 has 2, layer 1 has 4",
    ),
    "negative budget": ({"budgets": np.array([[15], [-1]])}, r"budgets must not be negative"),
    "nan time limit": ({"time_limit": math.nan}, r"time_limit must not be negative"),
    "negative time limit": ({"time_limit": -1.0}, r"time_limit must not be negative"),
    "negative memory limit": ({"memory_limit": -1}, r"memory_limit must not be negative"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_refuses_values(changes: dict[str, Any], message: str) -> None:
    """Wrong shapes, offsets and numbers raise a ValueError that names the argument or the layer."""
    with pytest.raises(ValueError, match=message) as caught:
        solve(**changes)
    assert not isinstance(caught.value, _core.InfeasibleBudget)


@pytest.mark.parametrize(
    "changes",
    [
        {"costs": GOOD["costs"].astype(np.int32)},
        {"costs": np.repeat(GOOD["costs"], 2, axis=1)[:, ::2]},
        {"costs": np.asfortranarray(GOOD["costs"])},
        {"costs": GOOD["costs"].astype(">i8")},
        {"costs": GOOD["costs"].tolist()},
        {"distortions": GOOD["distortions"].astype(np.float32)},
        {"distortions": np.repeat(GOOD["distortions"], 3)[::3]},
        {"distortions": GOOD["distortions"][::-1].copy()[::-1]},
        {"offsets": GOOD["offsets"].astype(np.int16)},
        {"allowed": np.ones(6, bool)},
        {"allowed": np.full(6, 255, np.uint8)},
        {"groups": np.array([2**63 - 1, -(2**63)])},
        {"budgets": np.array([[15, 99], [15, 99]])[:1, ::2]},
        {"time_limit": 1e300},
        {"time_limit": 10},
        {"memory_limit": 2**63 - 1},
    ],
)
def test_takes_what_loses_nothing(changes: dict[str, Any]) -> None:
    """Smaller integers, strides, byte orders and lists are converted and give the same answer."""
    before = {key: np.array(value) for key, value in changes.items()}
    [solution] = solve(**changes)
    assert solution.choice.tolist() == [1, 1]
    for key, value in changes.items():
        assert np.array_equal(before[key], value)


def test_takes_read_only_arrays() -> None:
    """The solver only reads."""
    arrays = {key: value.copy() for key, value in GOOD.items() if isinstance(value, np.ndarray)}
    for array in arrays.values():
        array.flags.writeable = False
    assert solve(**arrays)[0].choice.tolist() == [1, 1]


def test_impossible_budget() -> None:
    """A budget below the least total raises InfeasibleBudget with the least of every cost."""
    with pytest.raises(_core.InfeasibleBudget) as caught:
        solve(
            allowed=np.array([1, 1, 0, 1, 1, 1], np.uint8),
            costs=np.repeat(GOOD["costs"], 2, axis=1),
            budgets=np.array([[4, 4]]),
        )
    assert isinstance(caught.value, ValueError)
    assert caught.value.args[1] == [5, 5]


def test_no_memory_and_no_time_still_answer() -> None:
    """With a limit of zero the answer is a valid choice within budget, and its bound holds.

    With several budgets it may also say that it found none in time.
    """
    rng = np.random.default_rng(1)
    for dimensions in (1, 2, 3):
        costs = rng.integers(0, 10**6, (60, dimensions))
        distortions = rng.random(60)
        arguments = {
            "costs": costs, "distortions": distortions, "offsets": np.arange(0, 61, 5),
            "allowed": np.ones(60, np.uint8), "groups": np.arange(12),
            "budgets": np.full((1, dimensions), int(costs.sum() / dimensions / 6)),
        }  # fmt: skip
        [best] = solve(**arguments)
        for limits in ({"memory_limit": 0}, {"time_limit": 0.0}):
            try:
                [found] = solve(**arguments, **limits)
            except RuntimeError:
                # To find any allocation within several budgets is as hard as to find the best.
                if dimensions == 1:
                    raise
                continue
            flat = np.arange(0, 60, 5) + found.choice
            assert (costs[flat].sum(axis=0) <= arguments["budgets"][0]).all()
            value = distortions[flat].sum()
            optimum = distortions[np.arange(0, 60, 5) + best.choice].sum()
            assert optimum <= value + 1e-12
            assert found.optimal or found.lower_bound <= optimum + 1e-12


def brute_force(arguments: dict[str, Any], budget: list[int]) -> float | None:
    """Least total by exhaustive search; None if nothing is within the budget."""
    offsets, groups = arguments["offsets"].tolist(), arguments["groups"].tolist()
    sizes = [b - a for a, b in itertools.pairwise(offsets)]
    best = None
    for choice in itertools.product(*map(range, sizes)):
        flat = [a + k for a, k in zip(offsets, choice, strict=False)]
        if (
            arguments["allowed"][flat].all()
            and (arguments["costs"][flat].sum(axis=0) <= budget).all()
            and len(set(zip(groups, choice, strict=True))) == len(set(groups))
        ):
            value = math.fsum(arguments["distortions"][flat].tolist())
            best = value if best is None else min(best, value)
    return best


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_good_arrays_give_the_optimum(seed: int) -> None:
    """On random well-formed arrays the raw answer is exhaustive search's."""
    rng = np.random.default_rng(seed)
    sizes = np.full(4, rng.integers(1, 4)) if rng.random() < 0.5 else rng.integers(1, 4, 4)
    dimensions = int(rng.integers(1, 4))
    options = int(sizes.sum())
    tied = (sizes == sizes[0]).all()
    arguments = {
        "costs": rng.integers(0, 20, (options, dimensions)),
        "distortions": rng.integers(-3, 9, options) / 8,
        "offsets": np.concatenate([[0], np.cumsum(sizes)]),
        "allowed": (rng.random(options) < 0.9).astype(np.uint8),
        "groups": rng.integers(-2, 3, 4) if tied else rng.permutation(4) - 2,
        "budgets": rng.integers(0, 60, (2, dimensions)),
    }
    expected = [brute_force(arguments, row.tolist()) for row in arguments["budgets"]]
    try:
        found = solve(**arguments)
    except ValueError:
        assert None in expected
        return
    for solution, least in zip(found, expected, strict=True):
        assert solution.optimal
        flat = arguments["offsets"][:-1] + solution.choice
        assert math.fsum(arguments["distortions"][flat].tolist()) == least


INTEGERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([2**31, 2**61, 2**61 + 1, 2**62, 2**63 - 1, -(2**63)]),
)
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 1e-320, 1.7e308, -1.7e308]))


@st.composite
def arrays(draw: st.DrawFn, elements: st.SearchStrategy[Any], dtype: str, axes: int) -> Any:
    shape = [draw(st.integers(0, 6))] + [draw(st.integers(0, 3)) for _ in range(axes - 1)]
    count = math.prod(shape)
    values = draw(st.lists(elements, min_size=count, max_size=count))
    return np.array(values, dtype).reshape(shape)


@settings(max_examples=150, deadline=None)
@given(
    costs=arrays(INTEGERS, "i8", 2),
    distortions=arrays(FLOATS, "f8", 1),
    offsets=arrays(INTEGERS, "i8", 1),
    allowed=arrays(st.integers(0, 2), "u1", 1),
    groups=arrays(INTEGERS, "i8", 1),
    budgets=arrays(INTEGERS, "i8", 2),
    time_limit=FLOATS,
    memory_limit=INTEGERS,
)
def test_any_arrays_answer_or_raise(**arguments: Any) -> None:
    """Arrays of any shape and content give solutions or a ValueError, or say that time ran out."""
    try:
        found = solve(**arguments)
    except (ValueError, RuntimeError):
        return
    assert len(found) == len(arguments["budgets"])


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_one_spoilt_argument_answers_or_raises(data: st.DataObject) -> None:
    """The good instance with one array replaced or one number in it changed never crashes."""
    name = data.draw(st.sampled_from(list(GOOD)))
    value = GOOD[name]
    if isinstance(value, np.ndarray):
        elements = FLOATS if value.dtype.kind == "f" else INTEGERS
        elements = st.integers(0, 255) if value.dtype == np.uint8 else elements
        spoilt = value.copy()
        spoilt.flat[data.draw(st.integers(0, value.size - 1))] = data.draw(elements)
    else:
        spoilt = data.draw(FLOATS if name == "time_limit" else INTEGERS)
    try:
        found = solve(**{name: spoilt})
    except ValueError:
        return
    for solution in found:
        assert ((solution.choice >= 0) & (solution.choice < 3)).all()


def hard_instance(budgets: int) -> dict[str, Any]:
    """Subset sums in disguise: minutes in all for many budgets, so that a signal ends the test."""
    rng = np.random.default_rng(5)
    weights = rng.integers(10**11, 10**12, 60)
    costs = np.column_stack([weights, np.zeros_like(weights)]).reshape(-1, 1)
    lost = np.column_stack([np.zeros(60), weights * (1 + 1e-9 * rng.random(60))]).ravel()
    rows = weights.sum() // 2 + 1000 * np.arange(budgets)
    return {
        "costs": costs, "distortions": lost, "offsets": np.arange(0, 121, 2),
        "allowed": np.ones(120, np.uint8), "groups": np.arange(60), "budgets": rows[:, None],
        "memory_limit": 1 << 27,
    }  # fmt: skip


@contextmanager
def alarm(handler: Callable[..., Any], seconds: float) -> Iterator[None]:
    """Call `handler` on a real signal after some time."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_ctrl_c_ends_a_long_solve() -> None:
    """An interrupt is raised out of the search, and Python and solver work on afterwards."""
    arguments = hard_instance(2000)
    begin = time.monotonic()
    with alarm(signal.default_int_handler, 0.2), pytest.raises(KeyboardInterrupt):
        solve(**arguments)
    # The whole takes minutes; this tells an interrupted search from one that ran to its end.
    assert time.monotonic() - begin < 20
    for _ in range(20):
        assert solve()[0].choice.tolist() == [1, 1]
    [early] = solve(**{**arguments, "budgets": arguments["budgets"][:1], "memory_limit": 0})
    assert len(early.choice) == 60


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_ctrl_c_ends_a_long_list_of_short_solves() -> None:
    """The searches polled for themselves alone: a thousand short ones could not be interrupted."""
    rows = np.full((2_000_000, 1), 15, np.int64)
    with alarm(signal.default_int_handler, 0.2), pytest.raises(KeyboardInterrupt):
        solve(budgets=rows)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_another_exception_of_a_signal_handler_comes_through() -> None:
    """What a handler raises, say a time-out of the user's, arrives as it was raised."""

    class Late(Exception):  # noqa: N818 - not an error of this library
        pass

    def handler(*_: object) -> None:
        raise Late("enough")

    with alarm(handler, 0.1), pytest.raises(Late, match="enough"):
        solve(**hard_instance(2000))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_harmless_signal_does_not_end_the_solve() -> None:
    """A handler that returns lets the search go on to the same answer."""
    arguments = {**hard_instance(1), "memory_limit": 1 << 26}
    [expected] = solve(**arguments)
    seen = []
    with alarm(lambda *_: seen.append(1), 0.001):
        [found] = solve(**arguments)
    assert found.choice.tolist() == expected.choice.tolist()
    assert len(seen) <= 1


def test_other_threads_run_meanwhile() -> None:
    """The search holds no lock of Python's: another thread counts on while it runs."""
    arguments = hard_instance(1)
    state = {"running": True}
    ticks: list[float] = []

    def count() -> None:
        while state["running"]:
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        begin = time.monotonic()
        solve(**{**arguments, "memory_limit": 1 << 28})
        end = time.monotonic()
    finally:
        state["running"] = False
        thread.join()
    # With the lock held, the thread could tick only before and after.
    assert sum(begin < tick < end for tick in ticks) >= 5


def test_threads_may_solve_at_once() -> None:
    """Eight threads solving the same arrays get the same answers."""
    rng = np.random.default_rng(2)
    arguments = {
        "costs": rng.integers(0, 10**6, (300, 1)), "distortions": rng.random(300),
        "offsets": np.arange(0, 301, 10), "allowed": np.ones(300, np.uint8),
        "groups": np.arange(30), "budgets": rng.integers(3_000_000, 9_000_000, (20, 1)),
    }  # fmt: skip
    expected = [s.choice.tolist() for s in solve(**arguments)]
    answers: list[list[list[int]]] = []

    def work() -> None:
        answers.append([s.choice.tolist() for s in solve(**arguments)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 8


def test_solutions_outlive_their_list() -> None:
    """A solution and its arrays keep their numbers when nothing else refers to them."""
    choices = [solve()[0].choice for _ in range(100)]
    solution = solve()[0]
    choice = solution.choice
    del solution
    choices.append(choice)
    assert all(choice.tolist() == [1, 1] for choice in choices)
    choices[0][:] = 7
    assert solve()[0].choice.tolist() == [1, 1]


def test_solutions_cannot_be_made_or_changed() -> None:
    """Solutions come from solve alone."""
    with pytest.raises(TypeError, match="No constructor"):
        _core.Solution()
    with pytest.raises(AttributeError):
        solve()[0].optimal = False  # type: ignore[misc]
