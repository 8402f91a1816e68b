"""The door to all allocators: exact totals, honest distortions, masks of those counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rdprune.allocators import ALLOCATORS, Problem, allocate_by, as_allocation, counts
from rdprune.comparing import compare
from rdprune.layers import prunable
from rdprune.masking import masks
from rdprune.measuring import measure
from rdprune_core import Allocation


@pytest.mark.parametrize("method", ALLOCATORS)
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_masks_keep_exactly_the_total(network, batches, method, sparsity, fingerprint):
    """Every method's allocation makes masks of exactly its total; the model is left as it was."""
    before = fingerprint(network)
    allocation = allocate_by(method, network, sparsity=sparsity, batches=batches)
    assert fingerprint(network) == before
    total = int((10 - round(10 * sparsity)) * 174 / 10)
    made = masks(network, allocation)
    assert sum(int(mask.sum()) for mask in made.values()) == total == allocation.cost["params"]
    assert allocation.metadata["method"] == method
    assert allocation.distortion == math.inf
    assert allocation.gap == math.inf


def test_files(network, tmp_path):
    """An allocation of unknown distortion is stored and read back."""
    allocation = allocate_by("lamp", network, kept_total=57)
    allocation.save(tmp_path / "a.json")
    loaded = Allocation.load(tmp_path / "a.json")
    assert loaded.distortion == math.inf
    assert loaded.options == allocation.options
    assert loaded.cost == {"params": 57}


def test_distortion_between_the_measured(network, batches):
    """With a table, the distortion is on the lines between measured points, and costs agree."""
    table = measure(network, batches, levels=[0, 0.5, 1], progress=False)
    kept = {"conv1.weight": 36, "conv2.weight": 81, "linear.weight": 15}
    layers = prunable(network)
    allocation = as_allocation(layers, kept, table=table, method="mine")
    conv2, linear = table.distortion[1], table.distortion[2]
    assert allocation.distortion == pytest.approx((conv2[0] + conv2[1]) / 2 + linear[1], rel=1e-12)
    assert set(allocation.cost) == {"params", "macs"}
    dense = int(table.dense["macs"][1])
    assert allocation.layer_costs["macs"][1] == -(-dense * 81 // 108)
    np.testing.assert_array_equal(allocation.layer_costs["params"], [36, 81, 15])


def test_distortion_of_single_weights_alone(network, batches):
    """Options of other shapes in the table do not change what a baseline's masks distort."""
    options = {"levels": [0, 0.5, 1], "progress": False}
    plain = measure(network, batches, **options)
    shaped = measure(network, batches, shapes=["2:4", "out:0.5"], **options)
    found = [
        allocate_by("uniform", network, sparsity=0.5, table=table).distortion
        for table in (plain, shaped)
    ]
    assert found[0] == found[1] > 0


def test_layers_of_a_table():
    """A table's layers are pruned, also those that are left alone by default."""
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    texts = [torch.arange(8).reshape(4, 2)]
    table = measure(model.eval(), texts, layers=["0", "2"], levels=3, progress=False)
    found = allocate_by("uniform", model, kept_total=30, table=table)
    assert found.names == ("0.weight", "2.weight")
    assert found.cost["params"] == 30


def test_spdy_is_no_worse_than_its_start(network, batches):
    """The search's answer distorts no more than equal coefficients for all do."""
    table = measure(network, batches, levels=[0, 0.5, 1], progress=False)
    rows = compare(
        network, batches, table, sparsities=[0.5], methods=["uniform", "spdy"], progress=False
    )
    assert rows[0].kept == rows[1].kept
    assert rows[1].distortion <= rows[0].distortion


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "best"}, "method is 'best', must be one of uniform"),
        ({"method": "owl", "sparsity": 0.5}, "method 'owl' runs the network: give batches"),
        ({"method": "erk", "sparsity": 1.5}, r"sparsity is 1\.5"),
        ({"method": "erk", "kept_total": None}, "give sparsity or kept_total"),
        ({"method": "erk", "kept_total": 175}, "kept_total is 175"),
        ({"method": "erk", "kept_total": 2.7}, r"kept_total is 2\.7, must be an integer"),
    ],
)
def test_refusals(network, arguments, message):
    """Bad input is named."""
    if "sparsity" not in arguments:
        arguments = {"kept_total": 5, **arguments}
    with pytest.raises(ValueError, match=message):
        allocate_by(arguments.pop("method"), network, **arguments)


def test_counts_out_of_range(network):
    """A count above the weights of a layer is refused."""
    layers = prunable(network)
    with pytest.raises(ValueError, match=r"layer 'conv1\.weight': 37 of 36 weights"):
        as_allocation(layers, dict.fromkeys(layers, 37), method="mine")


def test_unknown_method(network):
    """The problem's method must be known."""
    with pytest.raises(ValueError, match="method is 'x'"):
        counts("x", Problem(network, prunable(network), 3))
