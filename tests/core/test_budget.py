"""Budgets: per cent and sparsity in exact arithmetic, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdprune_core import InfeasibleBudgetError, RDTable, allocate, frontier
from rdprune_core.budget import read_budgets

TABLE = RDTable.from_arrays(
    {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[7, 6, 5], [70, 60, 50]]},
    [[0, 1, 9], [0, 2, 8]],
)
NAN = float("nan")

BAD_BUDGETS: dict[str, tuple[dict[str, Any], str]] = {
    "float": (
        {"budget": 0.2},
        r"budget of 'params' is the float 0\.2, which could mean kept or removed; .*sparsity=",
    ),
    "integral float": ({"budget": 15.0}, r"is the float 15\.0"),
    "numpy float": ({"budget": np.float32(0.5)}, r"is the float 0\.5"),
    "nan": ({"budget": NAN}, r"is the float nan"),
    "fraction": ({"budget": Fraction(1, 2)}, r"is the float 0\.5"),
    "negative": ({"budget": -1}, r"budget of 'params' is -1; it must not be negative"),
    "bool": ({"budget": True}, r"budget of 'params' is True; give an integer or per cent"),
    "numpy bool": ({"budget": np.bool_(True)}, r"True.*; give an integer or per cent"),
    "list": ({"budget": [15]}, r"budget of 'params' is \[15\]; give an integer or per cent"),
    "120%": ({"budget": "120%"}, r"is '120%'; per cent must lie between 0% and 100%"),
    "just above": ({"budget": "100.000000000000000000000000000000000001%"}, r"must lie between"),
    "-5%": ({"budget": "-5%"}, r"is '-5%'; per cent must lie between 0% and 100%"),
    "inf%": ({"budget": "inf%"}, r"is 'inf%'; per cent must lie between"),
    "1e9999%": ({"budget": "1e9999%"}, r"is '1e9999%'; per cent must lie between"),
    "1e999999999999%": ({"budget": "1e999999999999%"}, r"per cent must lie between"),
    "1e-999999999999%": ({"budget": "1e-999999999999%"}, r"write per cent as \"20%\""),
    "abc": ({"budget": "abc"}, r"budget of 'params' is 'abc'; write per cent as \"20%\""),
    "abc%": ({"budget": "abc%"}, r"write per cent as"),
    "nan%": ({"budget": "nan%"}, r"budget of 'params' is 'nan%'; write per cent as"),
    "snan%": ({"budget": "snan%"}, r"write per cent as"),
    "%": ({"budget": "%"}, r"write per cent as"),
    "empty": ({"budget": ""}, r"write per cent as"),
    "20": ({"budget": "20"}, r"budget of 'params' is '20'; write per cent as"),
    "20%%": ({"budget": "20%%"}, r"write per cent as"),
    "half": ({"budget": "1/2%"}, r"write per cent as"),
    "unknown cost": (
        {"budget": {"flops": 3}},
        r"unknown cost 'flops'; the table has params, macs",
    ),
    "float among several": (
        {"budget": {"params": 3, "macs": 0.5}},
        r"budget of 'macs' is the float 0\.5",
    ),
    "sparsity below 0": (
        {"sparsity": -0.1},
        r"sparsity is -0\.1; it is the fraction removed, between 0 and 1",
    ),
    "sparsity above 1": ({"sparsity": 80}, r"sparsity is 80\.0; it is the fraction removed"),
    "nan sparsity": ({"sparsity": NAN}, r"sparsity is nan; it is the fraction removed"),
    "infinite sparsity": ({"sparsity": math.inf}, r"sparsity is inf; it is the fraction"),
    "str sparsity": ({"sparsity": "80%"}, r"sparsity is '80%'; it must be a number between"),
    "bool sparsity": ({"sparsity": True}, r"sparsity is True; it must be a number between"),
    "both": (
        {"budget": 3, "sparsity": 0.5},
        r"budget and sparsity both bound 'params'; give one of them",
    ),
    "both by name": ({"budget": {"params": "3%"}, "sparsity": 0.5}, r"both bound 'params'"),
    "neither": ({}, r"give a budget or a sparsity"),
    "empty dict": ({"budget": {}}, r"give a budget or a sparsity"),
    "objective": (
        {"budget": 3, "objective": "best"},
        r"objective is 'best'; it must be one of additive",
    ),
    "nan time limit": ({"budget": 3, "time_limit": NAN}, r"time_limit is nan; it must be seconds"),
    "negative time limit": ({"budget": 3, "time_limit": -1}, r"time_limit is -1; it must be"),
    "str time limit": ({"budget": 3, "time_limit": "1"}, r"time_limit is '1'; it must be seconds"),
    "negative memory limit": ({"budget": 3, "memory_limit": -1}, r"memory_limit is -1; it must"),
    "float memory limit": ({"budget": 3, "memory_limit": 1e9}, r"memory_limit is 1000000000\.0"),
    "huge memory limit": ({"budget": 3, "memory_limit": 2**63}, r"memory_limit is 9223372036"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_BUDGETS.values(), ids=BAD_BUDGETS)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    """A bad budget or limit raises a ValueError that says what was given and what to give."""
    with pytest.raises(ValueError, match=message) as caught:
        allocate(TABLE, **arguments)
    assert not isinstance(caught.value, InfeasibleBudgetError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 1}, r"points is 1; it must be at least 2"),
        ({"points": True}, r"points is True; it must be an integer or a sequence of budgets"),
        ({"points": 5.0}, r"points is 5\.0; it must be an integer or a sequence of budgets"),
        ({"points": []}, r"points must hold at least one budget"),
        ({"points": [3, 4.0]}, r"points holds 4\.0; budgets must be integers"),
        ({"points": [3, -4]}, r"points holds -4; budgets must be integers, not negative"),
        ({"points": [True]}, r"points holds True; budgets must be integers"),
        ({"points": [2**80]}, r"points holds 1208925819614629174706176; no total cost is above"),
        ({"points": "12"}, r"points holds '1'; budgets must be integers"),
        ({"cost": "flops"}, r"unknown cost 'flops'; the table has params, macs"),
    ],
)
def test_frontier_refuses(arguments: dict[str, Any], message: str) -> None:
    """Bad points of a frontier raise a ValueError that says what to give."""
    with pytest.raises(ValueError, match=message):
        frontier(TABLE, **arguments)


def test_sparsity_needs_a_cost_called_params() -> None:
    """Where the table does not count weights, sparsity means nothing and is refused."""
    table = RDTable.from_arrays({"bytes": [[2, 1]]}, [[0, 1]])
    with pytest.raises(ValueError, match=r"bounds the cost 'params', but the table has bytes"):
        allocate(table, sparsity=0.5)


def test_impossible_budget_states_the_least() -> None:
    """The message and `least` give what can be reached, for the costs out of reach."""
    with pytest.raises(
        InfeasibleBudgetError, match=r"budget macs <= 54 is out of reach; the least .* macs is 55$"
    ) as caught:
        allocate(TABLE, {"macs": 54, "params": 0})
    assert caught.value.least == {"params": 0, "macs": 55}
    assert isinstance(caught.value, ValueError)


def test_impossible_budget_lists_the_constraints_that_bind() -> None:
    """With floors, `least` is what they leave, and the message names each of them."""
    with pytest.raises(InfeasibleBudgetError) as caught:
        allocate(TABLE, 10, floors={"layer1": 1}, forbidden={"layer0": ["2"]})
    assert caught.value.least == {"params": 15}
    assert "the least reachable params is 15" in str(caught.value)
    assert "'layer1': the floor params >= 1" in str(caught.value)
    assert "'layer0': its forbidden options" in str(caught.value)


def test_budgets_that_contradict_each_other() -> None:
    """Two budgets that can be met alone but not together are refused with both."""
    table = RDTable.from_arrays({"params": [[2, 0]], "macs": [[0, 2]]}, [[0, 0]])
    with pytest.raises(
        InfeasibleBudgetError, match=r"params <= 1 and macs <= 1 can each"
    ) as caught:
        allocate(table, {"params": 1, "macs": 1})
    assert caught.value.least == {"params": 0, "macs": 0}


def test_impossible_frontier_states_the_least() -> None:
    """A frontier's smallest budget decides whether it can be met."""
    with pytest.raises(InfeasibleBudgetError, match=r"budget macs <= 3 is out of reach") as caught:
        frontier(TABLE, "macs", points=[77, 3, 60])
    assert caught.value.least == {"macs": 55}


def one_layer(dense: int) -> RDTable:
    return RDTable.from_arrays([[0]], [[0]], dense={"params": [dense]})


def per_cent(dense: int, text: str) -> int:
    return read_budgets(one_layer(dense), text, None)["params"]


def kept(dense: int, sparsity: float) -> int:
    return read_budgets(one_layer(dense), None, sparsity)["params"]


@pytest.mark.parametrize(
    ("dense", "text", "expected"),
    [
        (464_154, "20%", 92_830),  # 92830.8
        (464_154, "0%", 0),
        (464_154, "-0%", 0),
        (464_154, "100%", 464_154),
        (464_154, " 35.5 % ", 164_774),  # 164774.67
        (10**17, "33.3333333333333333%", 33_333_333_333_333_333),
        (2**61, "100%", 2**61),
        (2**61, "50%", 2**60),
        (1000, "0.1%", 1),
        (1000, "1e-1%", 1),
        (1000, "0.09999999999999999999999999999999999999%", 0),
        (1000, "0e-999999999999%", 0),
        (3, "33.3%", 0),
        (3, "33.4%", 1),
    ],
)
def test_per_cent_rounds_down(dense: int, text: str, expected: int) -> None:
    """Per cent of the dense cost is taken exactly and rounded down."""
    assert per_cent(dense, text) == expected


@given(st.integers(0, 2**61), st.integers(0, 10**6))
def test_per_cent_equals_fractions(dense: int, millionths: int) -> None:
    """Any decimal per cent of any cost is the floor of the exact product."""
    text = f"{millionths // 10**4}.{millionths % 10**4:04d}%"
    assert per_cent(dense, text) == math.floor(Fraction(millionths, 10**6) * dense)


@pytest.mark.parametrize("dense", [1, 10, 464_154, 25_502_912, 10**12 + 7, 2**61])
def test_sparsity_is_taken_as_written(dense: int) -> None:
    """For every sparsity of three decimals, what is kept is the floor of the exact decimal."""
    # In floats 1 - 0.8 is 0.19999999999999996: of 10 weights it would keep one, not two.
    for thousandth in range(1001):
        sparsity = float(f"0.{thousandth:03d}") if thousandth < 1000 else 1.0
        expected = math.floor((1 - Fraction(thousandth, 1000)) * dense)
        assert kept(dense, sparsity) == expected, sparsity
    assert kept(dense, 0.8) == dense // 5


@given(st.integers(0, 2**61), st.integers(0, 10**15))
def test_sparsity_equals_fractions(dense: int, digits: int) -> None:
    """So it is for every sparsity of up to fifteen decimals."""
    sparsity = float(f"{digits // 10**15}.{digits % 10**15:015d}")
    assert kept(dense, sparsity) == math.floor((1 - Fraction(digits, 10**15)) * dense)


@pytest.mark.parametrize("sparsity", [0, 1, np.float64(0.5), np.int64(1), Fraction(1, 2)])
def test_sparsity_may_be_any_real_number(sparsity: Any) -> None:
    """Integers, numpy numbers and fractions are sparsities too."""
    assert kept(30, sparsity) == 30 - int(30 * sparsity)


@pytest.mark.parametrize("budget", [2**61, 2**63 - 1, 2**63, 2**64, 10**30])
def test_a_budget_above_everything_is_no_bound(budget: int) -> None:
    """However large, it is taken and kept in the allocation as given."""
    found = allocate(TABLE, budget)
    assert found.choice.tolist() == [0, 0]
    assert found.budget == {"params": budget}


@pytest.mark.parametrize("budget", [np.int64(15), np.uint8(15), "50%", {"params": 15}])
def test_the_same_budget_in_other_words(budget: Any) -> None:
    """Integers of numpy, per cent and a dict mean the same as the integer."""
    assert allocate(TABLE, budget).choice.tolist() == [1, 1]
    assert allocate(TABLE, budget).budget == {"params": 15}


def test_budgets_come_in_the_order_of_the_tables_costs() -> None:
    """The order of the dict does not matter; sparsity joins budgets of other costs."""
    assert list(read_budgets(TABLE, {"macs": 60, "params": 3}, None)) == ["params", "macs"]
    assert read_budgets(TABLE, {"macs": "100%"}, 0.5) == {"params": 15, "macs": 77}


def test_the_first_cost_is_bounded_by_default() -> None:
    """An unnamed amount bounds the first cost, whatever its name."""
    table = RDTable.from_arrays({"macs": [[7, 6]], "params": [[1, 0]]}, [[0, 1]])
    assert allocate(table, "90%").budget == {"macs": 6}
    assert allocate(table, 7, sparsity=1.0).budget == {"macs": 7, "params": 0}


def test_per_cent_is_of_the_dense_cost_even_if_no_option_is_dense() -> None:
    """Where dense costs are given, per cent are theirs, not those of the costliest options."""
    table = RDTable.from_arrays([[5, 0]], [[0, 1]], dense={"params": [10]})
    assert allocate(table, "50%").choice.tolist() == [0]
    assert allocate(table, sparsity=0.51).choice.tolist() == [1]
    assert allocate(table, "50%").sparsity == 0.5
