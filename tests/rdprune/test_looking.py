"""The first look: first-order estimates from random probes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import rdprune
from rdprune_core import allocate

X = [torch.randn(16, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
LEVELS = [0.25, 0.5, 0.75, 1.0]


def test_a_linear_model_is_estimated_without_bias() -> None:
    """Where the first order is everything, many probes meet the measured distortions."""
    torch.manual_seed(0)
    model = nn.Linear(8, 5)
    measured = rdprune.measure(model, X, levels=LEVELS, progress=False)
    looked = rdprune.first_look(model, X, levels=LEVELS, probes=2000, progress=False)
    assert looked.distortion[0][0] == 0.0
    assert looked.distortion[0] == pytest.approx(measured.distortion[0], rel=0.15)
    assert looked.options == measured.options
    assert all(np.array_equal(looked.costs[c][0], measured.costs[c][0]) for c in ("params", "macs"))


def test_cross_terms_are_those_of_the_responses() -> None:
    """Inner products of two layers' estimates meet those of their exact first-order responses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.Linear(6, 5, bias=False))
    looked = rdprune.first_look(model, X, levels=[1.0], probes=4000, progress=False)
    # All of one layer removed changes this model's output by minus the output: v_1 = v_2 = -f.
    with torch.no_grad():
        power = float(torch.cat([model(x) for x in X]).square().mean())
    assert looked.responses is not None
    first, second = (rows[-1].astype(np.float64) for rows in looked.responses)
    assert (first * second).mean() == pytest.approx(power, rel=0.1)
    assert np.square(first).mean() == pytest.approx(power, rel=0.1)


def test_small_removals_of_a_network_are_estimated(network) -> None:
    """Where little is removed, estimates are near the measurements, also with batch statistics."""
    batches = [torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(3))]
    for recovery in ("none", "batchnorm"):
        options = {"levels": [0.05], "recovery": recovery, "layers": ["conv2"], "progress": False}
        measured = rdprune.measure(network, batches, **options)
        looked = rdprune.first_look(network, batches, probes=1000, **options)
        assert looked.distortion[0][1] == pytest.approx(measured.distortion[0][1], rel=0.3)


def test_an_estimate_says_that_it_is_one_and_can_be_solved() -> None:
    """The metadata tell what it is; both objectives take the table."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5))
    looked = rdprune.first_look(model, X, progress=False)
    assert looked.metadata["estimated"] == "to first order, from 32 probes"
    for objective in ("additive", "joint"):
        assert allocate(looked, sparsity=0.5, objective=objective).cost["params"] <= 39


def test_the_model_is_left_as_it_was(network, fingerprint) -> None:
    """Weights, gradients, flags, buffers and random state are as before, and so are the batches."""
    batches = [torch.randn(4, 1, 8, 8)]
    before, kept = fingerprint(network), copy.deepcopy(batches)
    flags = [parameter.requires_grad for parameter in network.parameters()]
    rdprune.first_look(network, batches, levels=5, probes=2, recovery="batchnorm", progress=False)
    assert fingerprint(network) == before
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert torch.equal(batches[0], kept[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 0}, "probes is 0, must be at least 1"),
        ({"recovery": "bias"}, "recovery is 'bias'"),
        ({"levels": 1}, "levels is 1"),
        ({"ignore": ["dense"]}, "matches no layer"),
    ],
)
def test_bad_input(network, options: dict[str, object], message: str) -> None:
    """Bad arguments are named."""
    with pytest.raises(ValueError, match=r".") as caught:
        rdprune.first_look(network, [torch.randn(4, 1, 8, 8)], progress=False, **options)
    assert message in str(caught.value)
