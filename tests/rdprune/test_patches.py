"""Rows of inputs and of weights, whose products are a layer's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdprune.patches import input_rows, weight_index

LAYERS = [
    (nn.Linear(5, 4), (2, 3, 5)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 11)),
    (nn.Conv2d(3, 4, 3, padding="same", dilation=2), (2, 3, 7, 6)),
    (nn.Conv2d(4, 4, (3, 2), stride=(1, 2), padding=(2, 0), padding_mode="circular"), (2, 4, 7, 6)),
    (nn.Conv2d(6, 9, 3, stride=2, padding=1, padding_mode="reflect", groups=3), (2, 6, 8, 8)),
    (nn.Conv2d(4, 2, 1, stride=2), (4, 5, 5)),
    (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1), groups=2), (2, 2, 3, 4, 5)),
    (nn.ConvTranspose1d(3, 4, 4, stride=3, padding=2, output_padding=1), (2, 3, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), (3, 4, 4, 5)),
    (nn.ConvTranspose2d(2, 3, 2, padding=2), (1, 2, 6, 6)),
    (nn.ConvTranspose3d(2, 2, (1, 2, 3), stride=(2, 1, 1)), (2, 2, 2, 3, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_products_are_the_outputs(layer, shape, chunk, monkeypatch):
    """Rows times rows, plus the bias, is what the module computes, however it is cut up."""
    monkeypatch.setattr("rdprune.patches._CHUNK", chunk)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weights = layer.weight.detach().reshape(-1)[weight_index(layer)]
    products = [rows @ weights.transpose(1, 2) for rows in input_rows(layer, x)]
    found = torch.cat(products, dim=1).permute(1, 0, 2).flatten(1) + layer.bias
    expected = layer(x).detach()
    if isinstance(layer, nn.Linear):
        expected = expected.flatten(0, -2)
    else:
        batched = expected if x.ndim == len(layer.kernel_size) + 2 else expected[None]
        expected = batched.flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, expected)


def test_weight_index_is_a_permutation():
    """Every weight stands in exactly one row."""
    for layer, _ in LAYERS:
        index = weight_index(layer).flatten().sort().values
        assert index.tolist() == list(range(layer.weight.numel()))
