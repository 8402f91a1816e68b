"""First-order changes about a pruned network: exact along its error, estimated across it."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from rdprune.batches import Runner, preserved
from rdprune.criteria import parse
from rdprune.distortion import Reference
from rdprune.layers import prunable
from rdprune.magnitude import magnitude_order, order_mask, write_masked
from rdprune.probing import RemovedSums, first_order_about

X = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)).double() for n in (5, 3)]


def about(model, now, kept, distortion="mse", probes=4, forward=None):
    """Prune a model to `now`; return the estimates at `kept`, and how to measure other counts."""
    layers = prunable(model)
    dense = {name: layer.parameter.detach().clone() for name, layer in layers.items()}
    orders = {name: magnitude_order(weight) for name, weight in dense.items()}

    def prune(counts):
        for name, layer in layers.items():
            mask = order_mask(orders[name], counts[name], dense[name].shape)
            write_masked(layer.parameter, dense[name], mask)

    runner = Runner(model, tuple(X), forward)
    with preserved(model):
        reference = Reference(runner.outputs(), distortion=distortion)
        prune(now)
        removals = {name: RemovedSums(dense[name], orders[name]) for name in layers}
        error, changes = first_order_about(
            layers, removals, now, kept, runner, reference, probes=probes, seed=1
        )

    def true(counts):
        with preserved(model):
            prune(counts)
            return reference.measure(runner.outputs()).distortion

    return error, changes, true


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)).double()


def test_a_linear_layer_is_known_but_for_the_probes():
    """Where the first order is everything, what restoring and removing does is foretold."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(8, 5)).double()
    counts = [0, 10, 19, 20, 21, 30, 40]
    error, changes, true = about(layer, {"0.weight": 20}, {"0.weight": counts}, probes=3000)
    foretold = np.mean((error + changes["0.weight"]) ** 2, axis=1)
    assert foretold[3] == pytest.approx(true({"0.weight": 20}), rel=1e-9)
    assert changes["0.weight"][3].tolist() == [0.0] * 3001
    measured = [true({"0.weight": count}) for count in counts]
    scale = true({"0.weight": 20})
    assert foretold == pytest.approx(measured, rel=0.1, abs=0.05 * scale)


@pytest.mark.parametrize("distortion", ["mse", "nmse", "cosine", "kl:2"])
def test_the_slope_is_that_of_the_distortion(distortion):
    """What a tiny weight's removal does is foretold by few probes, for every mean of squares."""
    net = model()
    for layer in (net[0], net[2]):
        with torch.no_grad():
            layer.weight.view(-1)[::3] *= 1e-5 if distortion != "kl:2" else 1e-4
    now = {"0.weight": 40, "2.weight": 25}
    for name in now:
        kept = {"0.weight": [40], "2.weight": [25]}
        kept[name] = [now[name] + 6, now[name]]
        error, changes, true = about(deepcopy(net), now, kept, distortion)
        rise = np.mean((error + changes[name][0]) ** 2) - np.mean(error**2)
        measured = true({**now, name: now[name] + 6}) - true(now)
        if distortion == "kl:2":  # its map is that of the dense outputs
            assert np.mean(error**2) == pytest.approx(true(now), rel=0.5)
            assert np.sign(rise) == np.sign(measured)
        else:
            assert np.mean(error**2) == pytest.approx(true(now), rel=1e-9)
            assert rise == pytest.approx(measured, rel=1e-2)


def test_about_the_dense_network_there_is_no_error():
    """Without an error the probes have all of the change."""
    full = {"0.weight": 48, "2.weight": 30}
    kept = {"0.weight": [48, 40], "2.weight": [30]}
    error, changes, true = about(model(), full, kept, probes=2000)
    assert error.tolist() == [0.0] * 2001
    square = np.mean(changes["0.weight"] ** 2, axis=1)
    assert square[0] == 0
    assert square[1] == pytest.approx(true({**full, "0.weight": 40}), rel=0.2)


def test_flags_are_as_before_also_after_an_error():
    """Parameters that need no gradient do not need one afterwards."""
    net = model()
    net[0].weight.requires_grad_(False)
    about(net, {"0.weight": 20, "2.weight": 20}, {"0.weight": [20], "2.weight": [20]})
    with pytest.raises(RuntimeError, match="does not require grad"):
        about(
            net, {"0.weight": 20, "2.weight": 20}, {"0.weight": [20], "2.weight": [20]},
            forward=lambda model, batch: model(batch).detach(),
        )  # fmt: skip
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]


def test_which_distortions_are_squares():
    """Only those whose map knows the distortion."""
    outputs = [torch.randn(4, 3)]
    squares = {
        kind: Reference(outputs, distortion=kind).measures_squares
        for kind in ("mse", "max", "nmse", "cosine", "kl:2")
    }
    assert squares == {"mse": True, "max": True, "nmse": True, "cosine": True, "kl:2": True}
    assert parse("max").error == "mse"
    assert not Reference(
        outputs, distortion=lambda dense, output: (output - dense).abs().mean(1)
    ).measures_squares


@pytest.mark.parametrize("distortion", ["nmse", "cosine"])
def test_a_sample_without_output_has_a_gradient(distortion):
    """A row of zeros, whose direction is not defined, does not spoil the others."""
    net = nn.Sequential(
        nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False)
    ).double()
    now = {"0.weight": 30, "2.weight": 20}

    def forward(model, batch):
        return model(torch.cat([batch, torch.zeros(1, 8, dtype=batch.dtype)]))

    kept = {"0.weight": [30, 10], "2.weight": [20]}
    error, changes, true = about(net, now, kept, distortion, forward=forward)
    assert np.mean(error**2) == pytest.approx(true(now), rel=1e-9)
    assert np.isfinite(changes["0.weight"]).all()
    assert np.abs(changes["0.weight"][1]).max() > 0


def test_batches_of_different_shapes_weigh_by_their_samples():
    """The distortion is a mean over samples, of outputs of any length."""

    def forward(model, batch):
        found = model(batch)
        return found.repeat(1, 1 if len(batch) > 4 else 3)

    now = {"0.weight": 30, "2.weight": 20}
    error, _, true = about(model(), now, {"0.weight": [30], "2.weight": [20]}, forward=forward)
    assert np.mean(error**2) == pytest.approx(true(now), rel=1e-9)
