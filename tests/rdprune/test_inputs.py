"""Input norms, beside their definition: one weight at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdprune.inputs import input_squares
from rdprune.layers import prunable

KINDS = {
    "linear": (lambda: nn.Linear(3, 2), (5, 3)),
    "linear over positions": (lambda: nn.Linear(3, 2), (2, 4, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), dilation=(1, 2), bias=False), (2, 2, 6, 5)),
    "circular": (lambda: nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"), (2, 2, 5, 5)),
    "same": (lambda: nn.Conv2d(1, 2, 3, padding="same"), (2, 1, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 3, 3),
    ),
}


def _by_definition(module, x):
    """Σ x² of weight k is that of the output where W is 1 at k and 0 elsewhere."""
    found = torch.zeros_like(module.weight, dtype=torch.float64)
    if module.bias is not None:
        module.bias.data.zero_()
    with torch.no_grad():
        for k in range(module.weight.numel()):
            module.weight.zero_()
            module.weight.view(-1)[k] = 1
            found.view(-1)[k] = module(x).double().square().sum()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_definition(kind):
    """Every kind of layer agrees with putting a one in each place of its weight."""
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    x = torch.randn(shape)
    found = input_squares(model, prunable(model), [x])
    torch.testing.assert_close(found["0.weight"], _by_definition(model[0], x), rtol=1e-5, atol=1e-6)


def test_sums_over_batches_and_uses():
    """Batches add up, and so do the modules that share a weight."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second)
    x, y = torch.randn(3, 2), torch.randn(2, 2)
    found = input_squares(model, prunable(model), [x, y])["0.weight"]
    both = torch.cat([x, y])
    hidden = torch.relu(first(both)).detach()
    expected = both.double().square().sum(0) + hidden.double().square().sum(0)
    torch.testing.assert_close(found, expected.expand(2, 2), rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was(network, batches, fingerprint, interrupting):
    """Weights, hooks, buffers and random state are as before, also after an error."""
    before = fingerprint(network)
    input_squares(network, prunable(network), batches)
    assert fingerprint(network) == before
    with pytest.raises(KeyboardInterrupt):
        input_squares(
            network, prunable(network), batches, forward=interrupting(1, KeyboardInterrupt())
        )
    assert fingerprint(network) == before


def test_a_module_that_is_never_called(network, batches):
    """A layer whose inputs are not seen is named."""
    network.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"layer 'spare\.weight': its module is never called"):
        input_squares(network, prunable(network), batches)
