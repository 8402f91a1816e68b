"""Baselines: the same total, to the weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdprune import baselines
from rdprune.baselines import BASELINES, erk, global_magnitude, lamp, uniform, uniform_plus
from rdprune.layers import Prunable, prunable
from rdprune.magnitude import magnitude_mask


def _layers(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for i, shape in enumerate(shapes):
        parameter = nn.Parameter(torch.randn(shape, generator=generator))
        module = nn.Linear(1, 1) if len(shape) == 2 else nn.Conv2d(1, 1, 1)
        module.weight = parameter
        layers[f"l{i}"] = Prunable(f"l{i}", parameter, ((module, "weight", f"m{i}"),), (), "x")
    return layers


SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 8), st.integers(1, 8)),
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("method", BASELINES)
@settings(deadline=None)
@given(shapes=SHAPES, fraction=st.floats(0, 1), data=st.data())
def test_total_is_exact(method, shapes, fraction, data):
    """Every baseline keeps exactly the total, and in each layer no more than there is."""
    layers = _layers(shapes, data.draw(st.integers(0, 3)))
    sizes = {name: layer.parameter.numel() for name, layer in layers.items()}
    total = round(fraction * sum(sizes.values()))
    kept = BASELINES[method](layers, total)
    assert list(kept) == list(layers)
    assert sum(kept.values()) == total
    assert all(0 <= kept[name] <= size for name, size in sizes.items())
    assert all(type(count) is int for count in kept.values())


@settings(deadline=None)
@given(shapes=SHAPES, fraction=st.floats(0, 1))
def test_uniform_is_within_one_weight(shapes, fraction):
    """Uniform keeps the same fraction of each layer, rounded up or down."""
    layers = _layers(shapes)
    sizes = [layer.parameter.numel() for layer in layers.values()]
    total = round(fraction * sum(sizes))
    for count, size in zip(uniform(layers, total).values(), sizes, strict=True):
        assert abs(count - total * size / sum(sizes)) < 1


def test_largest_remainder_by_hand():
    """Of 3, 3 and 4 weights, 5 in all: shares of 1.5, 1.5 and 2 become 2, 1 and 2."""
    assert list(uniform(_layers([(1, 3), (1, 3), (1, 4)]), 5).values()) == [2, 1, 2]


def test_uniform_plus_by_hand():
    """The first convolution stays whole, and the rest is shared uniformly.

    Sizes 20, 9, 80 and 50 with 45 to keep: 9 for the convolution leave 36 for 150 weights, shares
    of 4.8, 19.2 and 12, the last above its fifth of 10.
    """
    layers = _layers([(4, 5), (1, 1, 3, 3), (8, 10), (5, 10)])
    assert list(uniform_plus(layers, 45).values()) == [5, 9, 19, 12]


def test_uniform_plus_keeps_a_fifth_of_the_last_layer():
    """With little to keep the last layer holds a fifth: sizes 9, 80 and 50, 27 to keep."""
    layers = _layers([(1, 1, 3, 3), (8, 10), (5, 10)])
    assert list(uniform_plus(layers, 27).values()) == [9, 8, 10]


def test_uniform_plus_below_its_floors():
    """With less to keep than its floors of 9 and 10, 10 in all, it shares that: 5 and 5."""
    layers = _layers([(1, 1, 3, 3), (8, 10), (5, 10)])
    assert list(uniform_plus(layers, 10).values()) == [5, 0, 5]


def test_erk_by_hand():
    """ERK shares in proportion to the sums of dimensions, and full layers leave theirs to others.

    Sums 10, 20 and 40, sizes 36, 100 and 400. 220 in all: shares of 31.43, 62.86 and 125.71.
    400 in all: 57.1 of 36 fills the first; 364 shared 1 : 2 would be 121.3 and fills the second.
    """
    layers = _layers([(2, 2, 3, 3), (10, 10), (20, 20)])
    assert list(erk(layers, 220).values()) == [31, 63, 126]
    assert list(erk(layers, 400).values()) == [36, 100, 264]


def test_erk_equals_the_papers_densities():
    """Below saturation densities have the ratios of (n_in + n_out) / (n_in n_out)."""
    layers = _layers([(100, 100), (200, 400)])
    kept = erk(layers, 4000)
    ratio = (kept["l0"] / 10_000) / (kept["l1"] / 80_000)
    assert ratio == pytest.approx((200 / 10_000) / (600 / 80_000), rel=1e-2)


def test_global_magnitude_is_one_threshold():
    """Every weight kept is at least as large as every weight removed, over all layers."""
    layers = _layers([(5, 6), (3, 2, 3, 3), (7, 7)])
    for total in (0, 1, 40, 100, 133):
        kept = global_magnitude(layers, total)
        inside, outside = [0.0], [0.0]
        for name, layer in layers.items():
            mask = magnitude_mask(layer.parameter, kept[name])
            inside += layer.parameter.detach().abs()[mask].tolist()
            outside += layer.parameter.detach().abs()[~mask].tolist()
        assert len(inside) - 1 == total
        assert total == 0 or min(inside[1:]) >= max(outside)


def test_ties_go_to_the_first_layer():
    """Equal scores are kept in the order of the layers."""
    layers = _layers([(2, 2), (2, 2)])
    for layer in layers.values():
        layer.parameter.data.fill_(1)
    assert global_magnitude(layers, 5) == {"l0": 4, "l1": 1}


def test_lamp_equals_its_definition():
    """Scores are, one by one, the square over the sum of the squares that are not less."""
    layers = _layers([(5, 6), (3, 2, 3, 3), (7, 7)])
    scores = []
    for name, layer in layers.items():
        squares = layer.parameter.detach().double().square().reshape(-1)
        scores += [(float(s / squares[squares >= s].sum()), name) for s in squares]
    scores.sort(reverse=True)
    for total in (3, 40, 100, 133):
        names = [name for _, name in scores[:total]]
        assert lamp(layers, total) == {name: names.count(name) for name in layers}


def test_lamp_keeps_a_weight_in_each_layer():
    """The largest weight of each layer has score 1, so that no layer is lost."""
    layers = _layers([(5, 6), (4, 4)])
    layers["l1"].parameter.data.mul_(1e-6)
    assert lamp(layers, 2) == {"l0": 1, "l1": 1}


def test_lamp_with_zeros():
    """Layers of zeros have scores of 0, not NaN."""
    layers = _layers([(2, 2), (2, 2)])
    layers["l0"].parameter.data.zero_()
    assert lamp(layers, 4) == {"l0": 0, "l1": 4}
    assert lamp(layers, 5) == {"l0": 1, "l1": 4}


def test_model_or_layers(network):
    """A model and its layers give the same."""
    for method in BASELINES.values():
        assert method(network, 50) == method(prunable(network), 50)


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("total", [-1, 175])
def test_totals_out_of_range(network, method, total):
    """A total below zero or above the weights is refused."""
    with pytest.raises(
        ValueError, match=f"kept_total is {total}, must be between 0 and the 174 weights"
    ):
        getattr(baselines, method)(network, total)


def test_no_layers():
    """A model without layers is refused."""
    with pytest.raises(ValueError, match="layers is empty"):
        uniform(nn.Identity(), 0)


@pytest.mark.parametrize("method", [global_magnitude, lamp])
def test_nan(network, method):
    """A NaN weight is refused with the layer's name."""
    network.conv2.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"weight of layer 'conv2\.weight' contains NaN"):
        method(network, 5)
