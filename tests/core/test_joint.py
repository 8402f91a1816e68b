"""allocate(objective="joint") against brute force, its bound, its laws and its errors."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from rdprune_core import Allocation, InfeasibleBudgetError, RDTable, _core, allocate, predictions


def value(table: RDTable, choice: NDArray[np.int64], offset: ArrayLike = 0.0) -> float:
    """Mean square of the offset and the chosen responses, summed layer by layer."""
    assert table.responses is not None
    residual = np.broadcast_to(np.asarray(offset, float), table.responses[0].shape[1])
    for rows, option in zip(table.responses, choice, strict=True):
        residual = residual + rows[option].astype(np.float64)
    return float(np.mean(residual**2))


def brute_force(
    table: RDTable,
    budgets: dict[str, int],
    offset: ArrayLike = 0.0,
    tied: tuple[int, ...] = (),
    allowed: Callable[[tuple[int, ...]], bool] = lambda choice: True,
) -> float | None:
    """Least value of all allocations within the budgets; or None."""
    best = None
    for choice in itertools.product(*(range(len(rows)) for rows in table.distortion)):
        if len({choice[layer] for layer in tied}) > 1 or not allowed(choice):
            continue
        totals = {
            key: sum(int(rows[k]) for rows, k in zip(table.costs[key], choice, strict=True))
            for key in budgets
        }
        if any(totals[key] > bound for key, bound in budgets.items()):
            continue
        found = value(table, np.array(choice), offset)
        best = found if best is None else min(best, found)
    return best


def correlated_table(
    rng: np.random.Generator, layers: int, options: int, width: int, costs: int = 1
) -> RDTable:
    """Responses with few common directions, growing with the sparsity, and noise."""
    sizes = np.round(10 ** rng.uniform(1, 4, layers)).astype(np.int64)
    levels = np.linspace(0, 1, options)
    kept = sizes[:, None] - np.round(sizes[:, None] * levels).astype(np.int64)
    factors = np.concatenate([[1], rng.integers(1, 50, costs - 1)])
    named = {
        f"cost{i}": kept * (factor if i == 0 else rng.integers(1, 50, (layers, 1)))
        for i, factor in enumerate(factors)
    }
    common = rng.standard_normal((int(rng.integers(1, 4)), width))
    responses = []
    for _ in range(layers):
        ends = rng.standard_normal((2, len(common))) @ common + rng.standard_normal((2, width)) / 4
        grow = rng.uniform(0.1, 1) * levels[:, None] ** rng.uniform(1, 3)
        rows = grow * (ends[0] * (1 - levels[:, None]) + ends[1] * levels[:, None])
        responses.append(rows + 0.02 * grow * rng.standard_normal(rows.shape))
    distortion = [np.mean(rows**2, axis=1) for rows in responses]
    return RDTable.from_arrays(named, distortion, responses=responses)


def small_case(seed: int) -> tuple[RDTable, dict[str, int]]:
    """A table small enough for brute force and budgets; some of them out of reach."""
    rng = np.random.default_rng(seed)
    costs = int(rng.integers(1, 3))
    table = correlated_table(
        rng, int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 20)), costs
    )
    budgets = {
        key: int(rng.uniform(-0.1, 0.8) * int(dense.sum())) for key, dense in table.dense.items()
    }
    return table, {key: max(budget, 0) for key, budget in budgets.items()}


def solve(table: RDTable, budgets: dict[str, int], **options: object) -> Allocation | None:
    try:
        return allocate(table, budgets, objective="joint", **options)  # type: ignore[arg-type]
    except InfeasibleBudgetError:
        return None


def raw(table: RDTable, budget: int) -> tuple[object, ...]:
    """Arguments for the raw module."""
    assert table.responses is not None
    return (
        table.flat_cost(next(iter(table.costs)))[:, None],
        table.flat_distortion,
        np.concatenate(table.responses),
        np.zeros(table.responses[0].shape[1]),
        table.offsets,
        np.ones(len(table.flat_distortion), np.uint8),
        np.arange(len(table.names)),
        np.array([budget]),
    )


LIMITS = {"time_limit": float("inf"), "memory_limit": 1 << 30}


@pytest.mark.parametrize("block", range(5))
def test_equals_brute_force(block: int) -> None:
    """On 100 small tables a block, value and infeasibility equal the exhaustive search's."""
    infeasible = 0
    for seed in range(100 * block, 100 * (block + 1)):
        table, budgets = small_case(seed)
        expected = brute_force(table, budgets)
        found = solve(table, budgets)
        infeasible += expected is None
        assert (found is None) == (expected is None), seed
        if found is None or expected is None:
            continue
        assert found.status == "optimal", seed
        assert found.distortion == pytest.approx(expected, rel=1e-12, abs=1e-300), seed
        assert found.distortion == pytest.approx(value(table, found.choice), rel=1e-12), seed
        assert found.lower_bound == found.distortion
        for key, budget in budgets.items():
            assert found.cost[key] <= budget
    assert 5 <= infeasible <= 40


def test_offset_of_the_table() -> None:
    """A table's own offset joins one given, and its square is taken off value and bound."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        plain = correlated_table(rng, 4, 4, 6)
        own, given = rng.standard_normal((2, 6))
        table = RDTable.from_arrays(
            plain.costs, plain.distortion, responses=plain.responses, offset=own
        )
        budget = int(table.dense["cost0"].sum() // 2)
        for offset in (None, given):
            total = own if offset is None else own + given
            expected = brute_force(table, {"cost0": budget}, total)
            assert expected is not None
            found = allocate(table, budget, objective="joint", offset=offset)
            assert found.distortion == pytest.approx(expected - np.mean(own**2), rel=1e-9)
            assert found.lower_bound == found.distortion
        found = allocate(table, budget, objective="joint")
        assert predictions(table, found)[1] == pytest.approx(found.distortion, rel=1e-9)
        assert np.array_equal(table.with_distortion(plain.distortion).offset, own)
        assert np.array_equal(table.with_cost("other", plain.costs["cost0"]).offset, own)


@pytest.mark.parametrize("offset", [[1.0], [np.nan] * 6, [[0.0] * 6], ["a"] * 6])
def test_offsets_of_a_table_that_are_refused(offset: ArrayLike) -> None:
    """An offset has one finite number for each of a response, and needs responses."""
    plain = correlated_table(np.random.default_rng(0), 2, 3, 6)
    with pytest.raises(ValueError, match="offset must be"):
        RDTable.from_arrays(plain.costs, plain.distortion, responses=plain.responses, offset=offset)
    with pytest.raises(ValueError, match="offset is added to responses, and there are none"):
        RDTable.from_arrays(plain.costs, plain.distortion, offset=[0.0] * 6)


def test_with_offset_and_tied_layers() -> None:
    """An offset joins the sum, and tied layers' responses add up."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = correlated_table(rng, 4, 4, 6)
        budgets = {"cost0": int(table.dense["cost0"].sum() * rng.uniform(0.1, 0.7))}
        offset = float(rng.standard_normal())
        expected = brute_force(table, budgets, offset, tied=(1, 3))
        found = solve(table, budgets, offset=np.full(6, offset), tied=[["layer1", "layer3"]])
        assert found is not None
        assert found.choice[1] == found.choice[3]
        assert found.status == "optimal"
        assert found.distortion == pytest.approx(expected, rel=1e-12)


def test_bound_never_exceeds_the_optimum() -> None:
    """The relaxation's bound and the heuristics' value enclose the proved optimum."""
    gaps = []
    for seed in range(60):
        table = correlated_table(np.random.default_rng(seed), 5, 5, 24)
        arguments = raw(table, int(table.dense["cost0"].sum() * 0.4))
        found = _core.search_joint(*arguments, **LIMITS)  # type: ignore[call-arg,arg-type]
        exact = _core.solve_joint_exact(*arguments, **LIMITS)  # type: ignore[call-arg,arg-type]
        assert exact.optimal
        assert found.lower_bound <= exact.distortion <= found.distortion
        gaps.append(found.distortion / exact.distortion - 1)
    assert np.mean(np.array(gaps) <= 1e-12) >= 0.9


def test_one_layer_is_the_additive_optimum() -> None:
    """With a single layer there is nothing to cancel."""
    table = correlated_table(np.random.default_rng(1), 1, 21, 16)
    budget = int(table.dense["cost0"].sum() // 2)
    joint = allocate(table, {"cost0": budget}, objective="joint")
    assert joint.choice.tolist() == allocate(table, {"cost0": budget}).choice.tolist()
    assert joint.status == "optimal"


def test_orthogonal_responses_give_the_additive_optimum() -> None:
    """Where no two layers' responses overlap, the squares of the sum are the sum of squares."""
    rng = np.random.default_rng(2)
    responses = []
    for layer in range(5):
        rows = np.zeros((6, 20))
        rows[:, 4 * layer : 4 * layer + 4] = rng.standard_normal((6, 4)) * np.arange(6)[:, None]
        responses.append(rows.astype(np.float32))
    distortion = [np.mean(rows.astype(np.float64) ** 2, axis=1) for rows in responses]
    cost = np.round(rng.uniform(50, 100, (5, 1)) * np.arange(6)[::-1]).astype(np.int64)
    table = RDTable.from_arrays(cost, distortion, responses=responses)
    for share in ("20%", "40%", "70%"):
        joint = allocate(table, share, objective="joint")
        additive = allocate(table, share)
        assert joint.choice.tolist() == additive.choice.tolist()
        assert joint.distortion == pytest.approx(additive.distortion, rel=1e-12)


def test_responses_that_cancel_are_taken_together() -> None:
    """Two layers that undo each other's change go together, where the additive optimum does not."""
    # Dropping 0 and 1 changes the output by +3 and -3: together by nothing, each alone by 9.
    # Dropping 2 changes it by 1, and alone frees no less than either of them.
    cost = [[10, 0], [10, 0], [20, 0]]
    responses = [[[0.0], [3.0]], [[0.0], [-3.0]], [[0.0], [1.0]]]
    distortion = [[0.0, 9.0], [0.0, 9.0], [0.0, 1.0]]
    table = RDTable.from_arrays(cost, distortion, responses=responses)
    assert allocate(table, 20).choice.tolist() == [0, 0, 1]
    joint = allocate(table, 20, objective="joint")
    assert joint.choice.tolist() == [1, 1, 0]
    assert (joint.distortion, joint.status, joint.objective) == (0.0, "optimal", "joint")


def test_ties_go_to_the_lower_cost_then_to_the_smallest_choice() -> None:
    """Of equal values the cheaper wins, of equal costs the lexicographically smallest."""
    zeros = [[[0.0], [0.0]]] * 3
    table = RDTable.from_arrays([[2, 1]] * 3, [[0.0, 0.0]] * 3, responses=zeros)
    assert allocate(table, 6, objective="joint").choice.tolist() == [1, 1, 1]
    table = RDTable.from_arrays([[1, 1]] * 3, [[0.0, 0.0]] * 3, responses=zeros)
    assert allocate(table, 6, objective="joint").choice.tolist() == [0, 0, 0]


def test_constraints_hold() -> None:
    """Floors, caps, forbidden options and a previous allocation are inside the solve."""
    table = correlated_table(np.random.default_rng(3), 6, 11, 32)
    budget = {"cost0": int(table.dense["cost0"].sum() // 3)}
    free = allocate(table, {"cost0": 2 * budget["cost0"]}, objective="joint")
    found = allocate(
        table,
        budget,
        objective="joint",
        floors={"layer0": "10%"},
        caps={"layer1": "50%"},
        forbidden={"layer2": [0, 1]},
        previous=free,
    )
    assert found.cost["cost0"] <= budget["cost0"]
    assert found.layer_costs["cost0"][0] * 10 >= table.dense["cost0"][0]
    assert found.layer_costs["cost0"][1] * 2 <= table.dense["cost0"][1]
    assert found.choice[2] not in (0, 1)
    assert (found.layer_costs["cost0"] <= free.layer_costs["cost0"]).all()


def test_constraints_equal_brute_force() -> None:
    """With floors, caps, bans, a previous allocation and a full offset: the exhaustive optimum."""
    solved = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        table = correlated_table(rng, 4, 5, 7, costs=2)
        dense = table.dense["cost0"]
        budgets = {key: int(values.sum() * 0.6) for key, values in table.dense.items()}
        previous = Allocation.from_choice(table, rng.integers(0, 3, 4))
        floor, cap = int(dense[0] * rng.uniform(0, 0.6)), int(dense[1] * rng.uniform(0.2, 1))
        banned = int(rng.integers(5))
        offset = rng.standard_normal(7)

        def allowed(choice: tuple[int, ...], table: RDTable = table) -> bool:
            costs = [table.costs["cost0"][i][k] for i, k in enumerate(choice)]
            kept = (costs <= previous.layer_costs["cost0"]).all()  # noqa: B023
            return bool(costs[0] >= floor and costs[1] <= cap and choice[2] != banned and kept)  # noqa: B023

        found = solve(
            table,
            budgets,
            offset=offset,
            floors={"layer0": floor},
            caps={"layer1": cap},
            forbidden={"layer2": [banned]},
            previous=previous,
        )
        expected = brute_force(table, budgets, offset, allowed=allowed)
        assert (found is None) == (expected is None), seed
        if found is not None:
            solved += 1
            assert found.distortion == pytest.approx(expected, rel=1e-12), seed
            assert allowed(tuple(found.choice.tolist())), seed
    assert 50 <= solved <= 149


@pytest.mark.parametrize(
    ("layers", "options", "costs", "width"),
    [(20, 31, 1, 64), (8, 70, 1, 64), (8, 70, 1, 136), (5, 60, 2, 136)],
    ids=str,
)
def test_larger_table_is_better_than_the_additive_choice_and_repeatable(
    layers: int, options: int, costs: int, width: int
) -> None:
    """Below the additive choice's joint value, above the bound, twice the same.

    With more than 52 options basins are looked for among a few of them and among all, and of 128
    numbers in a response or more among all on 64.
    """
    table = correlated_table(np.random.default_rng(4), layers, options, width, costs)
    budget = {name: int(dense.sum() // 3) for name, dense in table.dense.items()}
    first = allocate(table, budget, objective="joint")
    again = allocate(table, budget, objective="joint")
    assert first.to_dict() == again.to_dict()
    assert first.distortion < value(table, allocate(table, budget).choice)
    assert first.lower_bound <= first.distortion
    assert first.distortion == pytest.approx(value(table, first.choice), rel=1e-9)


@pytest.mark.parametrize("limits", [{"time_limit": 0.0}, {"memory_limit": 0}])
@pytest.mark.parametrize(("options", "width"), [(31, 64), (70, 136)], ids=str)
def test_limits_give_a_feasible_answer_with_a_valid_bound(
    options: int, width: int, limits: dict[str, float]
) -> None:
    """With no time, or no memory, there still is an allocation within the budget, and a bound."""
    table = correlated_table(np.random.default_rng(5), 20, options, width)
    budget = {"cost0": int(table.dense["cost0"].sum() // 3)}
    whole = allocate(table, budget, objective="joint")
    found = allocate(table, budget, objective="joint", **limits)  # type: ignore[arg-type]
    assert found.cost["cost0"] <= budget["cost0"]
    assert found.lower_bound <= whole.distortion
    assert found.distortion >= whole.lower_bound


@pytest.mark.parametrize("delay", [0.01, 0.1, 0.3])
def test_ctrl_c_ends_it(delay: float) -> None:
    """An interrupt comes out of every part of the search, which would take seconds more."""
    table = correlated_table(np.random.default_rng(7), 120, 31, 512)
    arguments = raw(table, int(table.dense["cost0"].sum() // 5))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        with pytest.raises(KeyboardInterrupt):
            _core.search_joint(*arguments, **LIMITS, effort=40)  # type: ignore[call-arg,arg-type]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_saves_and_loads(tmp_path: object) -> None:
    """A joint allocation survives the trip through its file."""
    table = correlated_table(np.random.default_rng(6), 3, 5, 8)
    found = allocate(table, "50%", objective="joint")
    path = f"{tmp_path}/allocation.json"
    found.save(path)
    assert Allocation.load(path).to_dict() == found.to_dict()


PLAIN = RDTable.from_arrays([[2, 1]], [[0.0, 1.0]])
RESPONDING = RDTable.from_arrays([[2, 1]], [[0.0, 1.0]], responses=[[[0.0, 0.0], [1.0, 1.0]]])


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (PLAIN, {"objective": "joint"}, r"needs a table with responses; measure with responses"),
        (RESPONDING, {"offset": [0.0, 0.0]}, r'offset is only used by objective "joint"'),
        (RESPONDING, {"objective": "joint", "offset": [0.0]}, r"offset must be 2 numbers"),
        (RESPONDING, {"objective": "joint", "offset": ["a", "b"]}, r"offset must be 2 numbers"),
        (RESPONDING, {"objective": "joint", "offset": [0.0, np.nan]}, r"offset must be finite"),
        (RESPONDING, {"objective": "joint", "offset": [0.0, 1e200]}, r"squares that can be added"),
        (RESPONDING, {"objective": "joint", "time_limit": -1}, r"time_limit is -1"),
    ],
)
def test_refuses(table: RDTable, arguments: dict[str, object], message: str) -> None:
    """A missing or wrong argument raises a ValueError that says what to give."""
    with pytest.raises(ValueError, match=message):
        allocate(table, 2, **arguments)  # type: ignore[arg-type]


def test_infeasible_budget_carries_the_least_cost() -> None:
    """Out of reach, the error is the additive objective's."""
    with pytest.raises(InfeasibleBudgetError, match="least reachable params is 1") as caught:
        allocate(RESPONDING, 0, objective="joint")
    assert caught.value.least == {"params": 1}


def test_raw_module_checks_shapes() -> None:
    """The raw function refuses responses and offsets of another length."""
    arguments = list(raw(RESPONDING, 2))
    with pytest.raises(ValueError, match="offset must have one entry per column"):
        _core.solve_joint(*arguments[:3], np.zeros(3), *arguments[4:], **LIMITS)  # type: ignore[call-arg,arg-type]
    with pytest.raises(ValueError, match="responses must have one row per distortion"):
        _core.solve_joint(*arguments[:2], np.zeros((1, 2), np.float32), *arguments[3:], **LIMITS)  # type: ignore[call-arg,arg-type]
