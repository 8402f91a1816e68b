"""Floors, caps, forbidden options, ties and a previous allocation, against brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from oracles import exact
from rdprune_core import Allocation, InfeasibleBudgetError, RDTable, allocate, frontier

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0], [8, 4, 0]], "macs": [[1, 2, 3]] * 3},
    [[0, 1, 9], [0, 2, 8], [0, 1, 4]],
    names=["conv1", "conv2", "fc"],
    options=[["dense", "half", "none"]] * 2 + [["dense", "2:4", "none"]],
)
CHOICE = Allocation.from_choice(TABLE, [1, 0, 2])


@dataclass
class Case:
    """A random small table, constraints in the user's words, and the same as plain conditions."""

    table: RDTable
    budget: dict[str, int]
    arguments: dict[str, Any]
    #: (layer, cost, least, most)
    ranges: list[tuple[int, str, float, float]] = field(default_factory=list)
    forbidden: set[tuple[int, int]] = field(default_factory=set)
    tied: list[list[int]] = field(default_factory=list)


def make_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 6))
    sizes = rng.choice([1, 2, 3, 4], layers, p=[0.1, 0.2, 0.5, 0.2])
    costs = ["params", "macs"][: int(rng.integers(1, 3))]
    most = int(rng.choice([3, 12, 10**6]))
    table = RDTable.from_arrays(
        {key: [rng.integers(0, most + 1, size) for size in sizes] for key in costs},
        [rng.integers(-1, 4, size) / 10 for size in sizes],
    )
    dense = {key: int(table.dense[key].sum()) for key in costs}
    budget = {key: int(dense[key] * rng.uniform(0.1, 1.1)) for key in costs}
    case = Case(table, budget, {})
    for argument in ("floors", "caps"):
        if rng.random() < 0.4:
            add_bounds(rng, case, argument)
    if rng.random() < 0.4:
        layer = int(rng.integers(layers))
        options = rng.permutation(sizes[layer])[: rng.integers(0, sizes[layer] + 1)].tolist()
        case.forbidden = {(layer, option) for option in options}
        words = [str(k) if rng.random() < 0.5 else k for k in options]
        case.arguments["forbidden"] = {table.names[layer]: words}
    if rng.random() < 0.5:
        for size in set(sizes.tolist()):
            group = rng.permutation(np.flatnonzero(sizes == size)).tolist()
            case.tied.append(group[: int(rng.integers(0, len(group) + 1))])
        case.arguments["tied"] = [[table.names[i] for i in group] for group in case.tied]
    if rng.random() < 0.3:
        previous = Allocation.from_choice(table, rng.integers(0, sizes))
        case.arguments["previous"] = previous
        kept = previous.layer_costs["params"].tolist()
        case.ranges += [(layer, "params", 0, cost) for layer, cost in enumerate(kept)]
    return case


def add_bounds(rng: np.random.Generator, case: Case, argument: str) -> None:
    table = case.table
    layer = int(rng.integers(len(table.names)))
    amounts: dict[str, int | str] = {}
    for key in table.costs:
        dense = int(table.dense[key][layer])
        share = Fraction(int(rng.integers(0, 101)), 100)
        if argument == "floors":
            share /= 2
        absolute = math.floor(share * dense)
        amounts[key] = f"{float(share * 100)}%" if rng.random() < 0.5 else absolute
        bounds = (absolute, math.inf) if argument == "floors" else (0, absolute)
        case.ranges.append((layer, key, *bounds))
    given: Any = amounts if len(amounts) > 1 or rng.random() < 0.5 else amounts["params"]
    case.arguments[argument] = {table.names[layer]: given}


def brute_force(case: Case) -> tuple[int, ...] | None:
    """Best choice among those that meet every condition, by the stated order; or None."""
    table, best = case.table, None
    values = [[exact(d) for d in row.tolist()] for row in table.distortion]
    costs = {key: [row.tolist() for row in rows] for key, rows in table.costs.items()}
    for choice in itertools.product(*(range(len(row)) for row in values)):
        totals = tuple(
            sum(row[k] for row, k in zip(costs[key], choice, strict=True)) for key in case.budget
        )
        if (
            any(total > b for total, b in zip(totals, case.budget.values(), strict=True))
            or not all(lo <= costs[key][i][choice[i]] <= hi for i, key, lo, hi in case.ranges)
            or any((i, k) in case.forbidden for i, k in enumerate(choice))
            or any(len({choice[i] for i in group}) > 1 for group in case.tied)
        ):
            continue
        value = sum(row[k] for row, k in zip(values, choice, strict=True))
        if best is None or (value, totals, choice) < best:
            best = (value, totals, choice)
    return None if best is None else best[2]


@pytest.mark.parametrize("block", range(4))
def test_equals_brute_force(block: int) -> None:
    """On 300 small tables a block, choice and infeasibility are those of filtering all choices."""
    infeasible = 0
    for seed in range(300 * block, 300 * (block + 1)):
        case = make_case(seed)
        expected = brute_force(case)
        try:
            found = allocate(case.table, dict(case.budget), **case.arguments)
        except InfeasibleBudgetError:
            infeasible += 1
            assert expected is None, seed
        else:
            assert tuple(found.choice) == expected, seed
            assert found.status == "optimal"
    assert 60 <= infeasible <= 210


def test_frontier_takes_the_same_constraints() -> None:
    """Every point of a constrained frontier is brute force's choice for that budget."""
    for seed in range(100):
        case = make_case(seed)
        case.budget = {"params": 0}
        try:
            points = frontier(case.table, points=5, **case.arguments)
        except InfeasibleBudgetError:
            continue
        for budget, found in zip(points.budgets, points, strict=True):
            case.budget = {"params": int(budget)}
            assert tuple(found.choice) == brute_force(case), seed


def test_least_is_reachable_and_nothing_below_it() -> None:
    """What `least` says can be had under the constraints can be had, and not one unit less."""
    tried = 0
    for seed in range(400):
        case = make_case(seed)
        try:
            allocate(case.table, {"params": 0}, **case.arguments)
        except InfeasibleBudgetError as error:
            if not error.least:
                continue
            tried += 1
            least = error.least["params"]
            found = allocate(case.table, {"params": least}, **case.arguments)
            assert found.cost["params"] == least, seed
            with pytest.raises(InfeasibleBudgetError):
                allocate(case.table, {"params": least - 1}, **case.arguments)
    assert tried >= 100


def test_a_tie_distorts_by_the_sum_of_its_layers() -> None:
    """Tied layers cost and distort what they do singly, added up."""
    # Untied, budget 15 takes (1, 1): 5 + 10. Tied with 0.1 and 0.2 they give fsum(0.1, 0.2).
    table = RDTable.from_arrays([[10, 5], [20, 10]], [[0.0, 0.1], [0.0, 0.2]])
    found = allocate(table, 15, tied=[("layer1", "layer0")])
    assert found.choice.tolist() == [1, 1]
    assert found.distortion == math.fsum([0.1, 0.2])
    # Budget 25 allows (1, 0) untied; a tie has only (0, 0) for 30 and (1, 1) for 15.
    assert allocate(table, 25).choice.tolist() == [1, 0]
    assert allocate(table, 25, tied=[("layer1", "layer0")]).choice.tolist() == [1, 1]


def test_a_tie_equals_one_layer_of_the_sums() -> None:
    """Tying layers is the same as merging them into one whose costs and distortions add up."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        cost = rng.integers(0, 1000, (6, 8))
        distortion = rng.integers(0, 1000, (6, 8)).astype(float)
        budget = int(cost.sum() // 8)
        tied = allocate(
            RDTable.from_arrays(cost, distortion), budget, tied=[["layer1", "layer3", "layer4"]]
        )
        group = [1, 3, 4]
        merged = allocate(
            RDTable.from_arrays(
                np.vstack([cost[[0]], cost[[group]].sum(axis=1), cost[[2, 5]]]),
                np.vstack([distortion[[0]], distortion[[group]].sum(axis=1), distortion[[2, 5]]]),
            ),
            budget,
        )
        assert tied.distortion == merged.distortion
        assert tied.choice[[0, 1, 2, 5]].tolist() == merged.choice.tolist()
        assert tied.choice[group].tolist() == [merged.choice[1]] * 3


def test_a_group_of_one_or_none_ties_nothing() -> None:
    """Empty groups and single layers are allowed and change nothing."""
    expected = allocate(TABLE, 15).choice.tolist()
    assert allocate(TABLE, 15, tied=[[], ["conv1"]]).choice.tolist() == expected


def test_previous_never_gives_sparsity_back() -> None:
    """With a larger budget than before, no layer keeps more than in the previous allocation."""
    found = allocate(TABLE, "100%", previous=CHOICE)
    assert (found.layer_costs["params"] <= CHOICE.layer_costs["params"]).all()
    assert found.choice.tolist() == [1, 0, 2]


def test_constraints_may_be_in_per_cent_of_the_layer() -> None:
    """A bound of "50%" is half of that layer's dense cost, rounded down."""
    table = RDTable.from_arrays([[9, 5, 4, 3]], [[0, 1, 2, 3]])
    assert allocate(table, 9, caps={"layer0": "50%"}).choice.tolist() == [2]
    assert allocate(table, 4, floors={"layer0": "50%"}).choice.tolist() == [2]


BAD_CONSTRAINTS: dict[str, tuple[dict[str, Any], str]] = {
    "floor of an unknown layer": (
        {"floors": {"conv3": 1}},
        r"unknown layer 'conv3'; did you mean 'conv[12]', 'conv[12]'\?",
    ),
    "forbidden in an unknown layer": ({"forbidden": {"fcc": ["none"]}}, r"did you mean 'fc'\?"),
    "tie of an unknown layer": ({"tied": [["fc", "x"]]}, r"unknown layer 'x'$"),
    "cap on an unknown cost": (
        {"caps": {"fc": {"flops": 1}}},
        r"unknown cost 'flops'; the table has params, macs",
    ),
    "float floor": ({"floors": {"fc": 0.5}}, r"floors of 'fc' is the float 0\.5"),
    "negative cap": ({"caps": {"fc": -1}}, r"caps of 'fc' is -1; it must not be negative"),
    "per cent above 100": ({"caps": {"fc": "101%"}}, r"caps of 'fc' is '101%'; per cent must lie"),
    "bool floor": ({"floors": {"fc": True}}, r"floors of 'fc' is True"),
    "forbidden unknown option": (
        {"forbidden": {"fc": ["half"]}},
        r"forbidden: layer 'fc' has no option 'half'; it has dense, 2:4, none",
    ),
    "forbidden index out of range": (
        {"forbidden": {"fc": [3]}},
        r"forbidden: option 3 of layer 'fc' is out of range; it has 3 options",
    ),
    "forbidden negative index": ({"forbidden": {"fc": [-1]}}, r"option -1 of layer 'fc' is out of"),
    "forbidden float": ({"forbidden": {"fc": [1.0]}}, r"option 1\.0 of layer 'fc' is neither"),
    # As a numpy index True would have marked every option.
    "forbidden bool": ({"forbidden": {"fc": [True]}}, r"option True of layer 'fc' is neither a"),
    "tied with different options": (
        {"tied": [["conv1", "fc"]]},
        r"tied: layers 'conv1' and 'fc' do not have the same options",
    ),
    "tied twice": (
        {"tied": [["conv1", "conv2"], ["conv2"]]},
        r"tied: layer 'conv2' stands in two groups or twice in one",
    ),
    "tied with itself": ({"tied": [["conv1", "conv1"]]}, r"layer 'conv1' stands in two groups or"),
    "string as a group": (
        {"tied": ["conv1", "conv2"]},
        r"tied must hold groups of layer names, got the string 'conv1'",
    ),
    "string as groups": ({"tied": "conv1"}, r"tied must hold groups of layer names"),
    "previous of another network": (
        {"previous": Allocation.from_choice(RDTable.from_arrays([[1]], [[0]]), [0])},
        r"previous: the allocation's layers are not the table's layers",
    ),
    "previous of another cost": (
        {
            "previous": Allocation.from_choice(
                RDTable.from_arrays({"bytes": [[1]] * 3}, [[0]] * 3, names=TABLE.names), [0, 0, 0]
            )
        },
        r"previous: the allocation does not know the cost 'params'",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CONSTRAINTS.values(), ids=BAD_CONSTRAINTS)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    """A constraint that makes no sense raises a ValueError that names the layer and the reason."""
    for function in (lambda **keywords: allocate(TABLE, 38, **keywords), frontier_of_table):
        with pytest.raises(ValueError, match=message) as caught:
            function(**arguments)
        assert not isinstance(caught.value, InfeasibleBudgetError)


def frontier_of_table(**keywords: Any) -> object:
    return frontier(TABLE, points=2, **keywords)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "floor above everything": (
        {"floors": {"fc": 9}},
        r"layer 'fc' has no option left that meets the floor params >= 9$",
    ),
    "cap below everything": (
        {"caps": {"fc": {"macs": 0}}},
        r"layer 'fc' has no option left that meets the cap macs <= 0$",
    ),
    "floor above cap": (
        {"floors": {"conv2": "75%"}, "caps": {"conv2": "50%"}},
        r"layer 'conv2' has no .* meets the floor params >= 15 and the cap params <= 10$",
    ),
    "everything forbidden": (
        {"forbidden": {"fc": [0, "2:4", 2]}},
        r"layer 'fc' has no option left that meets its forbidden options$",
    ),
    "floor above the previous allocation": (
        {"floors": {"fc": 1}, "previous": CHOICE},
        r"'fc' has no .* floor params >= 1 and the previous allocation's params <= 0$",
    ),
    "tie of contradicting layers": (
        {"tied": [["conv1", "conv2"]], "floors": {"conv1": 10}, "caps": {"conv2": 10}},
        r"'conv1' has no .* the floor params >= 10 and the tie with 'conv2'$",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions(arguments: dict[str, Any], message: str) -> None:
    """Constraints that leave a layer no option are infeasible, and the message names them all."""
    with pytest.raises(InfeasibleBudgetError, match=message) as caught:
        allocate(TABLE, "100%", **arguments)
    assert caught.value.least == {}


def test_one_forbidden_option_needs_no_list() -> None:
    """A single label or index forbids that option."""
    for option in ("dense", 0, np.int64(0)):
        assert allocate(TABLE, "100%", forbidden={"fc": option}).choice.tolist() == [0, 0, 1]


def test_the_constraint_that_costs_most_is_named_first() -> None:
    """Five harmless floors hid the one that makes the budget impossible."""
    table = RDTable.from_arrays([[10, 0]] * 7, [[0, 1]] * 7)
    floors = {f"layer{i}": 0 if i < 6 else 10 for i in range(7)}
    with pytest.raises(
        InfeasibleBudgetError, match=r"constrained: 'layer6': the floor params >= 10"
    ):
        allocate(table, 5, floors=floors)


def test_a_tie_that_raises_the_least_cost_is_named_first() -> None:
    """Alone, neither tied layer costs more than without the tie; together they do."""
    rows = [[10, 0], [0, 10], *[[10, 0]] * 6]
    table = RDTable.from_arrays(rows, [[0, 1]] * 8)
    floors = {f"layer{i}": 0 for i in range(2, 8)}
    with pytest.raises(
        InfeasibleBudgetError, match=r"constrained: 'layer0': the tie with 'layer1'"
    ):
        allocate(table, 5, floors=floors, tied=[["layer0", "layer1"]])


def test_the_constraint_that_binds_the_cost_out_of_reach_is_named_first() -> None:
    """Costs of different size: what counts is the share of the budget."""
    costs = {"params": [[1000, 0]] * 7, "macs": [[10, 0]] * 7}
    table = RDTable.from_arrays(costs, [[0, 1]] * 7)
    floors = {f"layer{i}": {"params": 0} for i in range(6)} | {"layer6": {"macs": 10}}
    with pytest.raises(InfeasibleBudgetError, match=r"constrained: 'layer6': the floor macs >= 10"):
        allocate(table, {"params": 5000, "macs": 5}, floors=floors)
