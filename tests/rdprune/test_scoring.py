"""Scores of weights, beside their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdprune.inputs import input_squares
from rdprune.layers import prunable
from rdprune.scoring import CRITERIA, scores


def test_magnitude_and_wanda(network, batches):
    """|W| is the magnitude, and Wanda's score is that times the norm of the input."""
    layers = prunable(network)
    squares = input_squares(network, layers, batches)
    plain = scores("magnitude", network, layers)
    wanda = scores("wanda", network, layers, batches)
    for name, layer in layers.items():
        weight = layer.parameter.detach().abs()
        assert plain[name].equal(weight)
        torch.testing.assert_close(wanda[name], weight.double() * squares[name].sqrt())


def test_taylor_predicts_the_loss(network, batches):
    """The score is what the loss changes by, to first order, when the weight shrinks a little."""
    layers = prunable(network)
    found = scores("taylor", network, layers, batches)
    network.eval().double()

    def loss():
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(network(x.double()), y, reduction="sum")
                for x, y in batches
            ]
        return float(sum(losses)) / 10

    for name in ("conv1.weight", "linear.weight"):
        weight = network.get_parameter(name).data.view(-1)
        for k in (0, 7, 20):
            values = []
            for factor in (1 + 1e-4, 1 - 1e-4):
                kept = float(weight[k])
                weight[k] = kept * factor
                values.append(loss())
                weight[k] = kept
            slope = abs(values[0] - values[1]) / 2e-4
            assert float(found[name].view(-1)[k]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_model_is_left_as_it_was(network, batches, fingerprint, criterion):
    """Weights, gradients, flags, buffers, modes and random state are as before."""
    before = fingerprint(network)
    scores(criterion, network, prunable(network), batches, recovery="batchnorm")
    assert fingerprint(network) == before


def test_a_callable(network):
    """A callable scores layer by layer, and what it returns is checked."""
    layers = prunable(network)
    found = scores(lambda layer: layer.parameter.detach().square(), network, layers)
    assert found["linear.weight"].equal(network.linear.weight.detach().square())
    with pytest.raises(ValueError, match=r"scores of layer 'conv1\.weight' are \(2,\), must be"):
        scores(lambda layer: torch.ones(2), network, layers)
    with pytest.raises(ValueError, match=r"scores of layer 'conv1\.weight' are float"):
        scores(lambda layer: 1.0, network, layers)
    with pytest.raises(ValueError, match="NaN or negative"):
        scores(lambda layer: layer.parameter.detach(), network, layers)


def test_refusals(network, batches):
    """An unknown criterion and missing labels are named."""
    with pytest.raises(ValueError, match="criterion is 'best', must be one of magnitude"):
        scores("best", network, prunable(network))
    with pytest.raises(ValueError, match="'taylor' needs labels"):
        scores("taylor", network, prunable(network), [x for x, _ in batches])
