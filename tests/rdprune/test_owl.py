"""OWL, beside its formulas."""

from __future__ import annotations

import pytest
import torch

from rdprune.inputs import input_squares
from rdprune.layers import prunable
from rdprune.owl import owl


def _two(outliers):
    """Two layers of 100 and 300 weights of 1, with outliers of 100 among them; inputs of 1."""
    model = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.Linear(10, 30))
    squares = {}
    for layer, count in zip(prunable(model).values(), outliers, strict=True):
        layer.parameter.data.fill_(1)
        layer.parameter.data.view(-1)[:count] = 100
        squares[layer.name] = torch.ones_like(layer.parameter, dtype=torch.float64)
    return model, squares


def test_by_hand():
    """The layer with 2 % of outliers stands 2 λ = 0.16 above the one with none.

    200 of 400 in all: densities r + c with 100 (0.16 + c) + 300 c = 200, so c = 0.46.
    """
    model, squares = _two([2, 0])
    assert owl(model, 200, squares) == {"0.weight": 62, "1.weight": 138}


def test_no_outliers_is_uniform():
    """Without differences all layers have the same density."""
    model, squares = _two([0, 0])
    assert owl(model, 200, squares) == {"0.weight": 50, "1.weight": 150}


def test_low_densities_do_not_empty_a_layer():
    """At a density of 0.04 the range is 0.04, and the layer without outliers keeps some.

    100 (0.04 + c) + 300 c = 16, so c = 0.03.
    """
    model, squares = _two([2, 0])
    assert owl(model, 16, squares) == {"0.weight": 7, "1.weight": 9}


def test_scores_are_weights_times_norms():
    """Outliers of the inputs count as those of the weights do."""
    model, squares = _two([0, 0])
    squares["1.weight"][:, 0] = 100.0**2
    kept = owl(model, 200, squares)
    assert kept["0.weight"] == 50 - 12
    assert sum(kept.values()) == 200


def test_on_a_network(network, batches):
    """From real inputs the total is exact at every density."""
    layers = prunable(network)
    squares = input_squares(network, layers, batches)
    for total in (0, 1, 40, 100, 173, 174):
        assert sum(owl(layers, total, squares).values()) == total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outlier": 0}, "outlier is 0, must be above 0"),
        ({"spread": 1.5}, r"spread is 1\.5, must be between 0 and 1"),
        ({"squares": {}}, "squares has no layer 'conv1.weight'"),
    ],
)
def test_refusals(network, batches, arguments, message):
    """Arguments out of range are named."""
    squares = input_squares(network, prunable(network), batches)
    with pytest.raises(ValueError, match=message):
        owl(network, 100, **{"squares": squares, **arguments})
