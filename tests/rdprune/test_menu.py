"""Several shapes in one table: measured with the masks that are applied, counted exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rdprune.comparing import compare
from rdprune.layers import prunable
from rdprune.masking import apply_, masks
from rdprune.measuring import measure
from rdprune.menu import menu
from rdprune.scoring import scores
from rdprune.shapes import geometry, make_mask
from rdprune.verifying import verify
from rdprune_core import allocate

SHAPES = ["2:4", "2x2:0.5", "out:0.5", "in:0.5"]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "taylor"])
def test_every_option_is_its_mask(network, batches, criterion, fingerprint):
    """Costs and distortions are those of the hand-masked network, option by option."""
    before = fingerprint(network)
    table = measure(
        network, batches, levels=[0.35, 0.8], shapes=SHAPES, criterion=criterion, progress=False
    )
    assert fingerprint(network) == before
    assert table.options[0] == ("0.0", "0.35", "0.8", *SHAPES)
    layers = prunable(network)
    found = scores(criterion, network, layers, batches)
    with torch.no_grad():
        dense = torch.cat([copy.deepcopy(network).eval()(x) for x, _ in batches]).double()
    for row, (name, layer) in enumerate(layers.items()):
        for column, label in enumerate(table.options[row]):
            mask = make_mask(label, found[name], geometry(layer))
            assert int(mask.sum()) == table.costs["params"][row][column]
            masked = copy.deepcopy(network).eval()
            masked.get_parameter(name).data.mul_(mask)
            with torch.no_grad():
                output = torch.cat([masked(x) for x, _ in batches]).double()
            error = float((output - dense).square().mean())
            assert table.distortion[row][column] == pytest.approx(error, rel=1e-4, abs=1e-12)


def test_allocated_masks_are_the_measured_ones(network, batches):
    """From a table of mixed shapes an allocation's masks keep exactly what it says."""
    table = measure(network, batches, levels=[0.5], shapes=SHAPES, progress=False)
    allocation = allocate(table, sparsity=0.5, forbidden={"linear.weight": ["0.5"]})
    made = masks(network, allocation)
    kept = allocation.layer_costs["params"].tolist()
    assert [int(mask.sum()) for mask in made.values()] == kept
    report = verify(network, batches, allocation)
    assert report.kept_total == sum(kept) <= 87
    applied = verify(apply_(copy.deepcopy(network), allocation), batches, allocation)
    assert applied.true == pytest.approx(report.true, rel=1e-6)


def test_one_option_alone_is_predicted_exactly(network, batches):
    """With one layer masked, prediction and truth are the same measurement."""
    table = measure(network, batches, levels=[0.5], shapes=SHAPES, progress=False)
    for label in SHAPES:
        others = {"conv1.weight": ["0.0"], "linear.weight": ["0.0"], "conv2.weight": [label]}
        forbidden = {
            name: [o for o in options if o not in others[name]]
            for name, options in zip(table.names, table.options, strict=True)
        }
        allocation = allocate(table, budget="100%", forbidden=forbidden)
        report = verify(network, batches, allocation)
        assert report.true == pytest.approx(report.predicted, rel=1e-9)


def test_scores_are_needed_again(network, batches):
    """Masks by another criterion need its scores, and other scores are noticed by the count."""
    table = measure(
        network, batches, levels=[0.5], shapes=["4x2:0.4"], criterion="wanda", progress=False
    )
    allocation = allocate(table, sparsity=0.5)
    with pytest.raises(ValueError, match="by the criterion 'wanda': give the masks"):
        masks(network, allocation)
    found = scores("wanda", network, prunable(network), batches)
    made = masks(network, allocation, scores=found)
    assert sum(int(mask.sum()) for mask in made.values()) == allocation.cost["params"]


def test_other_weights_are_noticed(network, batches):
    """Where a block is cut at the edge, other weights may keep another number: refused."""
    table = measure(network, batches, levels=[0.5], shapes=["4x4:0.5"], progress=False)
    options = {n: [o for o in row if o != "4x4:0.5"] for n, row in zip(
        table.names, table.options, strict=True)}  # fmt: skip
    allocation = allocate(table, budget="100%", forbidden=options)
    weight = network.linear.weight.data
    # 5 x 6 in four blocks of 16, 8, 4 and 2: the largest sums now lie at the other corner.
    weight.fill_(0)
    weight[4, 4:] = 9
    weight[4, :4] = 8
    with pytest.raises(ValueError, match=r"the mask '4x4:0\.5' of layer 'linear\.weight' keeps 6"):
        masks(network, allocation)


def test_comparing_refuses(network, batches):
    """The baselines share single weights, so a table of other shapes is refused."""
    table = measure(network, batches, levels=[0.5], shapes=SHAPES, progress=False)
    with pytest.raises(ValueError, match="masks of kind 'labelled'"):
        compare(network, batches, table, sparsities=[0.5], progress=False)


def test_shapes_in_a_store(network, batches, tmp_path):
    """A stored measurement is of one mask: another criterion does not find it."""
    options = {"levels": [0.5], "shapes": SHAPES, "store": tmp_path, "progress": False}
    first = measure(network, batches, **options)
    again = measure(network, batches, **options)
    wanda = measure(network, batches, criterion="wanda", **options)
    fresh = measure(network, batches, criterion="wanda", **{**options, "store": None})
    for a, b, c, d in zip(first.distortion, again.distortion, wanda.distortion,
                          fresh.distortion, strict=True):  # fmt: skip
        assert a.tolist() == b.tolist()
        assert c.tolist() == d.tolist()


def test_shapes_need_to_know_inputs_from_outputs():
    """Stacks of experts and embeddings take sparsities, and shapes are refused for them."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    layers = prunable(model, layers="*")
    assert set(menu(layers, [0.0, 0.5], (), None).options) == {"0.weight", "1.weight"}
    with pytest.raises(ValueError, match=r"layer '0\.weight': its kind is 'embedding'"):
        menu(layers, [0.0, 0.5], ["2:4"], None)
    assert "2:4" in [o.label for o in menu(prunable(model), [0.0], "2:4", None).options["1.weight"]]
    stack = nn.ParameterList([nn.Parameter(torch.ones(2, 4, 4))])
    with pytest.raises(ValueError, match="layer '0': its kind is 'experts'"):
        menu(prunable(stack), [0.0], ["out:0.5"], None)


def test_conv1d_of_hugging_face_has_its_inputs_first():
    """Its weight is that of a linear layer, transposed, and so are its masks."""
    utilities = pytest.importorskip("transformers.pytorch_utils", reason="needs transformers")
    torch.manual_seed(0)
    module = utilities.Conv1D(3, 4)
    (layer,) = prunable(module).values()
    linear = nn.Linear(4, 3)
    linear.weight.data.copy_(module.weight.T)
    (other,) = prunable(linear).values()
    for label in SHAPES:
        found = make_mask(label, module.weight.abs(), geometry(layer))
        expected = make_mask(label, linear.weight.abs(), geometry(other))
        assert torch.equal(found, expected.T)
