"""RDTable: what it takes, what it refuses and in which words, and that it cannot be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rdprune_core import RDTable, allocate

COST = [[10, 5, 0], [20, 10, 0]]
DISTORTION = [[0, 1, 9], [0, 2, 8]]
NAN, INF = float("nan"), float("inf")

BAD_TABLES: dict[str, tuple[dict[str, Any], str]] = {
    # distortion
    "nan distortion": (
        {"distortion": [[0, 1, 9], [0, NAN, 8]], "names": ["conv1", "fc"]},
        r"distortion of layer 'fc', option '1' is nan; it must be finite",
    ),
    "infinite distortion": (
        {"distortion": [[0, 1, -INF], [0, 2, 8]]},
        r"distortion of layer 'layer0', option '2' is -inf; it must be finite",
    ),
    "bool distortion": (
        {"distortion": [[True, False, True]] * 2},
        r"distortion: layer 0 must be numbers, got bool",
    ),
    "object distortion": (
        {"distortion": [[None, 1, 2], [0, 1, 2]]},
        r"distortion: layer 0 must be numbers, got object",
    ),
    "str distortion": (
        {"distortion": [[0, 1, 2], ["0", "1", "2"]]},
        r"distortion: layer 1 must be numbers, got <U1",
    ),
    "complex distortion": (
        {"distortion": np.zeros((2, 3), complex)},
        r"distortion: layer 0 must be numbers, got complex128",
    ),
    "distortion that would be rounded": (
        {"distortion": [[0, 1, 9], [0, 2, -(2**53) - 1]]},
        r"distortion: layer 1 holds the integer -9007199254740993, which would be rounded",
    ),
    "unsigned distortion that would be rounded": (
        {"distortion": np.array([[0, 1, 9], [0, 2, 2**64 - 1]], np.uint64)},
        r"distortion: layer 1 holds the integer 18446744073709551615, which would be rounded",
    ),
    "distortion that would be rounded beside a float": (
        {"distortion": [[0.5, 1, 2**63 + 1], [0, 2, 8]]},
        r"distortion: layer 0 holds the integer 9223372036854775809, which would be rounded",
    ),
    "distortion too large to add up": (
        {"distortion": [[1.7e308, 0, 0], [0, 0, -1.7e308]]},
        r"distortion: the layers' largest distortions add up to more than 1\.8e308",
    ),
    "no layers": (
        {"cost": [], "distortion": []},
        r"distortion must have at least one layer",
    ),
    "empty layer": (
        {"cost": [[10, 5, 0], []], "distortion": [[0, 1, 9], []]},
        r"distortion: layer 1 has no options; each needs at least one",
    ),
    "one number": ({"distortion": 3.0}, r"distortion must be a \(layers, options\) array or a seq"),
    "no axis": ({"distortion": np.array(3.0)}, r"distortion must be a \(layers, options\) array"),
    "None": ({"distortion": None}, r"distortion must be a \(layers, options\) array"),
    "one row": ({"distortion": [1, 2, 3]}, r"distortion: layer 0 must be one row, got shape \(\)"),
    "three axes": (
        {"distortion": np.zeros((2, 3, 1))},
        r"distortion: layer 0 must be one row, got shape \(3, 1\)",
    ),
    "ragged inside a row": (
        {"distortion": [[1, [2, 3], 4], [0, 1, 2]]},
        r"distortion must be a \(layers, options\) array or a sequence of rows of numbers",
    ),
    "string for rows": ({"distortion": "abc"}, r"distortion: layer 0 must be one row"),
    # cost
    "fraction as cost": (
        {"cost": [[10, 5, 0], [20, 9.5, 0]]},
        r"cost 'params' of layer 'layer1' is 9\.5; costs must be integers",
    ),
    "nan cost": (
        {"cost": [[10, 5, NAN], [20, 10, 0]]},
        r"cost 'params' of layer 'layer0' is nan; costs must be integers",
    ),
    "infinite cost": (
        {"cost": [[10, 5, INF], [20, 10, 0]]},
        r"cost 'params' of layer 'layer0' is inf; costs must be integers",
    ),
    "float cost beyond exactness": (
        {"cost": [[2.0**53, 5, 0], [20, 10, 0]]},
        r"cost 'params' of layer 'layer0' is 9007199254740992\.0; .*below 2\*\*53 if floats",
    ),
    "negative cost": (
        {"cost": {"macs": [[10, 5, 0], [20, 10, -1]]}},
        r"cost 'macs' of layer 'layer1' is -1; costs must not be negative",
    ),
    "negative float cost": ({"cost": [[-2.0, 5, 0], [20, 10, 0]]}, r"is -2\.0; .* not be negative"),
    "bool cost": (
        {"cost": np.ones((2, 3), bool)},
        r"cost 'params' of layer 'layer0' must be integers, got bool",
    ),
    "object cost": ({"cost": [[2**70, 1, 0], [20, 10, 0]]}, r"must be integers, got object"),
    "str cost": ({"cost": [["1", "2", "3"]] * 2}, r"must be integers, got <U1"),
    "complex cost": ({"cost": np.ones((2, 3), complex)}, r"must be integers, got complex128"),
    "date cost": ({"cost": np.zeros((2, 3), "M8[s]")}, r"must be integers, got datetime64"),
    "cost at 2**63": (
        {"cost": np.full((2, 3), 2**63, np.uint64)},
        r"cost 'params' of layer 'layer0' is 9223372036854775808; costs must be integers",
    ),
    "cost at 2**63 - 1": (
        {"cost": np.full((2, 3), 2**63 - 1)},
        r"add up to 18446744073709551614, more than 2\*\*61; use a larger unit",
    ),
    "costs just above 2**61": (
        {"cost": [[2**60, 0, 0], [2**60 + 1, 0, 0]]},
        r"add up to 2305843009213693953, more than 2\*\*61",
    ),
    "fewer cost layers": (
        {"cost": [[10, 5, 0]]},
        r"cost 'params' has 1 layers, distortion has 2",
    ),
    "fewer cost options": (
        {"cost": [[10, 5, 0], [20, 10]]},
        r"cost 'params' of layer 'layer1' has 2 options, distortion has 3",
    ),
    "no cost": ({"cost": {}}, r"cost must name at least one cost"),
    "cost without a name": ({"cost": {"": COST}}, r"cost names must be non-empty strings, got ''"),
    "numbered cost": ({"cost": {3: COST}}, r"cost names must be non-empty strings, got 3"),
    # names and options
    "fewer names": ({"names": ["a"]}, r"names has 1 entries, distortion has 2 layers"),
    "name twice": ({"names": ["a", "a"]}, r"names must be unique; 'a' stands there twice"),
    "string for names": ({"names": "ab"}, r"names must be a sequence of strings, got the string"),
    "number as name": ({"names": ["a", 3]}, r"names must be strings, got 3"),
    "fewer options": (
        {"options": ["a", "b"]},
        r"options of layer 'layer0' has 2 labels, distortion has 3",
    ),
    "option twice": (
        {"options": [["a", "b", "c"], ["a", "b", "a"]]},
        r"options of layer 'layer1' must be unique; 'a' stands there twice",
    ),
    "options of fewer layers": (
        {"options": [["a", "b", "c"]]},
        r"options has 1 layers, distortion has 2",
    ),
    "number as option": (
        {"options": [[1, 2, 3], ["a", "b", "c"]]},
        r"options of layer 'layer0' must be strings, got 1",
    ),
    "string for options": ({"options": "abc"}, r"must be a sequence of strings, got the string"),
    # dense
    "dense of fewer layers": (
        {"dense": {"params": [10]}},
        r"dense 'params' must have 2 entries, one a layer",
    ),
    "fraction as dense": ({"dense": {"params": [10.5, 20]}}, r"dense 'params' is 10\.5; costs"),
    "negative dense": ({"dense": {"params": [-1, 20]}}, r"dense 'params' is -1; .*not be negative"),
    "dense of an unknown cost": (
        {"dense": {"macs": [10, 20]}},
        r"dense names 'macs', which is not a cost of the table",
    ),
    "dense too large": (
        {"dense": {"params": [2**61, 1]}},
        r"dense 'params' adds up to more than 2\*\*61; use a larger unit",
    ),
    # responses
    "responses of fewer layers": (
        {"responses": [np.zeros((3, 4))]},
        r"responses has 1 layers, distortion has 2",
    ),
    "responses of fewer options": (
        {"responses": [np.zeros((3, 4)), np.zeros((2, 4))]},
        r"responses of layer 'layer1' must have shape \(3, m\), got \(2, 4\)",
    ),
    "flat responses": (
        {"responses": [np.zeros(3), np.zeros((3, 4))]},
        r"responses of layer 'layer0' must have shape \(3, m\), got \(3,\)",
    ),
    "responses of unequal width": (
        {"responses": [np.zeros((3, 4)), np.zeros((3, 5))]},
        r"responses of layer 'layer1' has 5 numbers an option, layer 'layer0' has 4",
    ),
    "nan response": (
        {"responses": [np.zeros((3, 4)), np.full((3, 4), NAN)]},
        r"responses of layer 'layer1' must be finite as float32",
    ),
    "response beyond float32": (
        {"responses": [np.full((3, 4), 1e39), np.zeros((3, 4))]},
        r"responses of layer 'layer0' must be finite as float32",
    ),
    "bool response": (
        {"responses": [np.zeros((3, 4), bool)] * 2},
        r"responses of layer 'layer0' must be numbers, got bool",
    ),
    # errors
    "errors of too few layers": (
        {"errors": [np.zeros((3, 4))]},
        r"errors has 1 layers, distortion has 2",
    ),
    "errors of unequal width": (
        {"errors": [np.zeros((3, 4)), np.zeros((3, 5))]},
        r"errors of layer 'layer1' has 5 numbers an option, layer 'layer0' has 4",
    ),
    "nan error": (
        {"errors": [np.zeros((3, 4)), np.full((3, 4), NAN)]},
        r"errors of layer 'layer1' must be finite as float64",
    ),
    # metadata
    "metadata that JSON cannot hold": ({"metadata": {"a": {1, 2}}}, r"metadata must be JSON data"),
    "nan in metadata": ({"metadata": {"a": NAN}}, r"metadata must be JSON data"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_refuses(arguments: Mapping[str, Any], message: str) -> None:
    """Bad input raises a ValueError that names the argument, the layer, the value and the rule."""
    with pytest.raises(ValueError, match=message):
        RDTable.from_arrays(**{"cost": COST, "distortion": DISTORTION, **arguments})


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint64, np.float32, np.float64]
)
def test_takes_integers_of_every_width(dtype: type) -> None:
    """Integers of any dtype, and floats that hold integers, become the same int64 costs."""
    table = RDTable.from_arrays(np.array(COST, dtype), DISTORTION)
    for row, expected in zip(table.costs["params"], COST, strict=True):
        assert row.dtype == np.int64
        assert row.tolist() == expected


def test_takes_the_largest_total() -> None:
    """Costs that add up to exactly 2**61 are taken and solved without wrapping round."""
    table = RDTable.from_arrays([[2**60, 0], [2**60, 0]], [[0, 1], [0, 2]])
    assert allocate(table, 2**61).choice.tolist() == [0, 0]
    assert allocate(table, 2**61 - 1).choice.tolist() == [1, 0]
    assert allocate(table, "100%").cost == {"params": 2**61}


def test_takes_large_integer_distortions_that_floats_hold() -> None:
    """Beyond 2**53 a distortion is taken as it is, in a list with floats too."""
    for row in ([2**53, 2**63, -(2**62) - 2**10], [0.5, 2**60 + 2**8, 2**63]):
        assert RDTable.from_arrays([[2, 1, 0]], [row]).distortion[0].tolist() == row
    wide = np.array([[2**64 - 2**11, 0]], np.uint64)
    assert RDTable.from_arrays([[1, 0]], wide).distortion[0][0] == 2**64 - 2**11


def test_takes_ragged_rows_of_any_order() -> None:
    """Layers may have different numbers of options, reversed and strided ones too."""
    costs = [np.arange(8)[::-2], [5, 0]]
    table = RDTable.from_arrays(costs, [np.linspace(0, 1, 8)[::2], (0, 3)])
    assert [row.tolist() for row in table.costs["params"]] == [[7, 5, 3, 1], [5, 0]]
    assert table.offsets.tolist() == [0, 4, 6]
    assert table.flat_cost("params").tolist() == [7, 5, 3, 1, 5, 0]
    assert table.flat_distortion.tolist() == [*np.linspace(0, 1, 8)[::2], 0, 3]


def test_defaults() -> None:
    """Names, labels and dense costs have the documented defaults."""
    table = RDTable.from_arrays(COST, DISTORTION)
    assert table.names == ("layer0", "layer1")
    assert table.options == (("0", "1", "2"),) * 2
    assert table.dense["params"].tolist() == [10, 20]
    assert table.responses is None
    assert table.metadata == {}


def test_labels_may_be_shared_or_given_for_each_layer() -> None:
    """One list of labels serves every layer; a list of lists gives each its own."""
    shared = RDTable.from_arrays(COST, DISTORTION, options=["8 bit", "4 bit", "2 bit"])
    assert shared.options == (("8 bit", "4 bit", "2 bit"),) * 2
    own = RDTable.from_arrays(COST, DISTORTION, options=[["a", "b", "c"], ["x", "y", "z"]])
    assert own.options == (("a", "b", "c"), ("x", "y", "z"))


def test_unknown_cost_lists_the_known() -> None:
    """Asking for a cost that is not there names those that are."""
    table = RDTable.from_arrays({"params": COST, "macs": COST}, DISTORTION)
    with pytest.raises(ValueError, match=r"unknown cost 'flops'; the table has params, macs"):
        table.flat_cost("flops")


def test_unknown_layer_suggests_the_closest() -> None:
    """Asking for a misspelt layer suggests the one that was meant, and otherwise nothing."""
    table = RDTable.from_arrays(COST, DISTORTION, names=["stem.conv1.weight", "head.weight"])
    assert table.layer("head.weight") == 1
    with pytest.raises(ValueError, match=r"'stem\.conv.weight'; did you mean 'stem\.conv1\.w"):
        table.layer("stem.conv.weight")
    with pytest.raises(ValueError, match=r"unknown layer 'zzz'$"):
        table.layer("zzz")


def test_does_not_share_memory_with_its_input() -> None:
    """Changing the arrays and the metadata afterwards does not change the table."""
    cost, distortion = np.array(COST), np.array(DISTORTION, float)
    responses = [np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)]
    dense, metadata = np.array([10, 20]), {"levels": [0, 1]}
    table = RDTable.from_arrays(
        cost, distortion, responses=responses, dense={"params": dense}, metadata=metadata
    )
    cost[:], distortion[:], dense[:], responses[0][:] = 1, 1, 1, 1
    metadata["levels"].append(2)
    assert table.flat_cost("params").tolist() == [10, 5, 0, 20, 10, 0]
    assert table.flat_distortion.tolist() == [0, 1, 9, 0, 2, 8]
    assert table.dense["params"].tolist() == [10, 20]
    assert table.responses is not None
    assert not table.responses[0].any()
    assert table.metadata == {"levels": [0, 1]}
    for given in (cost, distortion, dense, *responses):
        assert given.flags.writeable


def test_arrays_are_read_only() -> None:
    """No array of a table can be written to."""
    table = RDTable.from_arrays(COST, DISTORTION, responses=[np.zeros((3, 2))] * 2)
    assert table.responses is not None
    arrays = [
        table.offsets, table.flat_distortion, table.flat_cost("params"), table.dense["params"],
        *table.costs["params"], *table.distortion, *table.responses,
    ]  # fmt: skip
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_cannot_be_made_without_arrays() -> None:
    """The bare constructor says what to use instead."""
    with pytest.raises(TypeError, match=r"use RDTable\.from_arrays"):
        RDTable()


def test_repr() -> None:
    """The repr counts layers, options, dense costs and the width of responses."""
    costs = {"params": np.multiply(COST, 100), "macs": COST}
    table = RDTable.from_arrays(costs, DISTORTION, responses=[np.ones((3, 7))] * 2)
    assert repr(table) == (
        "RDTable(2 layers, 6 options, dense params 3,000, macs 30, responses of 7)"
    )


def test_with_distortion_changes_nothing_else() -> None:
    """Another table with the same costs, names, responses and errors; the first one stays."""
    rng = np.random.default_rng(0)
    first = RDTable.from_arrays(
        {"params": [[9, 4], [7, 1]], "macs": [[5, 2], [3, 3]]},
        [[0.0, 1.0], [0.0, 2.0]],
        names=["a", "b"],
        options=["x", "y"],
        responses=rng.standard_normal((2, 2, 3)),
        errors=rng.standard_normal((2, 2, 5)),
        dense={"params": [10, 8]},
        metadata={"distortion": "mse"},
    )
    other = first.with_distortion([[3.0, 1.0], [4.0, 2.0]], metadata={"distortion": "max"})
    assert [row.tolist() for row in other.distortion] == [[3.0, 1.0], [4.0, 2.0]]
    assert other.metadata == {"distortion": "max"}
    assert first.with_distortion(other.distortion).metadata == {"distortion": "mse"}
    assert [row.tolist() for row in first.distortion] == [[0.0, 1.0], [0.0, 2.0]]
    assert (other.names, other.options) == (first.names, first.options)
    for key in ("params", "macs"):
        assert other.flat_cost(key).tolist() == first.flat_cost(key).tolist()
        assert other.dense[key].tolist() == first.dense[key].tolist()
    for mine, its in ((first.responses, other.responses), (first.errors, other.errors)):
        assert mine is not None
        assert its is not None
        assert all(np.array_equal(a, b) for a, b in zip(mine, its, strict=True))


def test_a_module_stands_for_its_only_layer() -> None:
    """A module with one layer stands for it, unless a layer has that name itself."""
    names = ["head.weight", "rnn.weight_ih", "rnn.weight_hh", "a", "a.weight"]
    table = RDTable.from_arrays([[1, 0]] * 5, [[0, 1]] * 5, names=names)
    assert table.layer("head") == 0
    assert table.layer("a") == 3
    with pytest.raises(ValueError, match=r"did you mean 'rnn.weight_ih', 'rnn.weight_hh'\?"):
        table.layer("rnn")


def test_a_cost_is_added() -> None:
    """A further cost has its own dense cost, and bounds an allocation."""
    table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    more = table.with_cost("ns", [[7, 6, 1], [9, 9, 2]], dense=[8, 9])
    assert list(more.costs) == ["params", "ns"]
    assert more.dense["ns"].tolist() == [8, 9]
    assert more.costs["params"][1].tolist() == [20, 10, 0]
    assert allocate(more, budget={"ns": 8}).choice.tolist() == [1, 2]
    assert list(table.costs) == ["params"]
    with pytest.raises(ValueError, match="cost 'ns'"):
        table.with_cost("ns", [[7, 6, 1]])
