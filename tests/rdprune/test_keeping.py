"""Zeros through training: kept exactly, or their loss is told."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

from rdprune import keeping
from rdprune.keeping import MaskKeeper, SparsityLostError, verify_sparsity_, zero_masks
from rdprune.layers import prunable
from rdprune.magnitude import magnitude_mask
from rdprune.masking import apply_, strip_

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.fixture
def made(network):
    """Return masks that keep half of every layer."""
    network.conv1.weight.requires_grad_(True)
    return {
        name: magnitude_mask(layer.parameter, layer.parameter.numel() // 2)
        for name, layer in prunable(network).items()
    }


def _train(model, batches, optimizer, steps=3):
    model.train()
    for _ in range(steps):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_keeper_holds_zeros_exactly(network, batches, made, kind):
    """Through momentum and weight decay the zeros stay zero, and the others learn."""
    strip_(apply_(network, made))
    optimizer = OPTIMIZERS[kind](network.parameters())
    _train(network, batches, optimizer)  # fills momentum at the zeros
    with pytest.raises(SparsityLostError):
        verify_sparsity_(network, made)
    before = network.conv2.weight.detach().clone()
    with MaskKeeper(network, made).attached(optimizer) as keeper:
        _train(network, batches, optimizer)
        for name, mask in made.items():
            weight = network.get_parameter(name).detach()
            assert weight[~mask].eq(0).all()
            assert weight[mask].ne(0).any()
        assert keeper.verify() == {name: int(mask.sum()) for name, mask in made.items()}
    assert not network.conv2.weight.equal(before)
    _train(network, batches, optimizer)  # detached again
    with pytest.raises(SparsityLostError):
        verify_sparsity_(network, made)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_torch_masks_hold_by_themselves(network, batches, made, kind):
    """Under apply_ any optimiser may train; after strip_ the zeros are exact."""
    apply_(network, made)
    _train(network, batches, OPTIMIZERS[kind](network.parameters()))
    verify_sparsity_(network, made)
    strip_(network)
    assert verify_sparsity_(network, made) == {n: int(m.sum()) for n, m in made.items()}
    for name, mask in made.items():
        assert int((network.get_parameter(name) == 0).sum()) == int((~mask).sum())


def test_a_lora_merge_is_noticed(network, made):
    """A low-rank update added to a pruned weight is told, layer and number, and undone at will."""
    strip_(apply_(network, made))
    with torch.no_grad():
        network.linear.weight += torch.ones(5, 1) @ torch.ones(1, 6)
    with pytest.raises(SparsityLostError, match=r"15 pruned .*'linear\.weight' 15") as caught:
        verify_sparsity_(network, made)
    assert caught.value.filled == {"linear.weight": 15}
    verify_sparsity_(network, made, restore=True)
    assert network.linear.weight[~made["linear.weight"]].eq(0).all()
    verify_sparsity_(network, made)


def test_the_error_in_the_middle_of_training_passes(network, made):
    """An error inside the keeper's block is not replaced by its check."""
    strip_(apply_(network, made))

    def fails():
        with MaskKeeper(network, made):
            network.linear.weight.data.fill_(1)
            raise KeyError

    with pytest.raises(KeyError):
        fails()


def test_a_masked_weight_that_is_not_finite_is_lost(network, made):
    """Under a mask inf becomes NaN, not zero."""
    apply_(network, made)
    removed = (~made["linear.weight"]).nonzero()[0]
    network.linear.weight_orig.data[tuple(removed)] = float("inf")
    with pytest.raises(SparsityLostError, match=r"1 pruned weights"):
        verify_sparsity_(network, made)


def test_masks_that_keep_more(network, made):
    """A torch mask that keeps what the masks remove is told."""
    apply_(network, {"linear.weight": torch.ones(5, 6, dtype=torch.bool)})
    with pytest.raises(SparsityLostError, match="15"):
        verify_sparsity_(network, {"linear.weight": made["linear.weight"]})
    with pytest.raises(ValueError, match="carries a mask that keeps more"):
        verify_sparsity_(network, {"linear.weight": made["linear.weight"]}, restore=True)


def test_zero_masks(network, made):
    """The masks of a stripped model are found again; a dense one has none."""
    with pytest.raises(ValueError, match="has no weight of zero"):
        zero_masks(network)
    strip_(apply_(network, made))
    assert all(mask.equal(made[name]) for name, mask in zero_masks(network).items())
    assert list(zero_masks(network, ignore=["conv2"])) == ["conv1.weight", "linear.weight"]


def test_refusals(network, made):
    """Masks that do not fit, none, and a masked model are named."""
    with pytest.raises(ValueError, match="masks is empty"):
        verify_sparsity_(network, {})
    with pytest.raises(ValueError, match="masks is a list, must be bool masks by parameter name"):
        verify_sparsity_(network, ["conv1.weight"])
    with pytest.raises(ValueError, match=r"mask of layer 'linear\.weight' is torch\.bool of sha"):
        MaskKeeper(network, {"linear.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no layer 'other'"):
        MaskKeeper(network, {"other": torch.ones(2, dtype=torch.bool)})
    apply_(network, made)
    for call in (lambda: MaskKeeper(network, made), lambda: zero_masks(network)):
        with pytest.raises(ValueError, match="which holds by itself"):
            call()


def test_examples():
    """The example in the documentation gives what it shows."""
    assert doctest.testmod(keeping).failed == 0
