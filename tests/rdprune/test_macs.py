"""Counting the multiplications of every layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdprune.layers import prunable
from rdprune.macs import count_macs


class Subclass(nn.Conv2d):
    """A convolution that is not used as its parent is: it standardises its weight."""

    def forward(self, x):
        weight = self.weight - self.weight.mean()
        return nn.functional.conv2d(x, weight, self.bias)


class Experts(nn.Module):
    """Three matrices in one parameter, taken one by one or gathered."""

    def __init__(self, gathered):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5))
        self.gathered = gathered

    def forward(self, x):
        if self.gathered:
            return torch.bmm(x[:, None], self.weight[torch.arange(len(x)) % 3])
        return sum(x @ self.weight[index] for index in range(3))


def _macs(model, *inputs):
    model.eval()

    def run():
        with torch.no_grad():
            model(*inputs)
        return len(inputs[0])

    return count_macs(prunable(model), run)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(3, 2), (4, 3), 6),
        (nn.Linear(3, 2), (4, 7, 3), 42),
        (nn.Conv1d(2, 3, 3), (4, 2, 10), 3 * 2 * 3 * 8),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5), 6 * 2 * 9 * 9),
        (nn.Conv3d(1, 2, 2), (2, 1, 3, 3, 3), 2 * 8 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5), 4 * 6 * 9 * 25),
        (Subclass(2, 3, 3), (2, 2, 5, 5), 3 * 2 * 9 * 9),
    ],
    ids=["linear", "linear3d", "conv1d", "grouped", "conv3d", "transposed", "subclass"],
)
def test_macs(layer, shape, macs):
    """MACs a sample are counted for every type, also where the weight is transformed first."""
    assert _macs(layer, torch.randn(shape)) == {"weight": macs}


def test_macs_of_shared_weight_add_up(tied):
    """A shared weight costs what all its uses do: the embedding nothing, the head 72 a token."""
    assert _macs(tied, torch.zeros(2, 5, dtype=torch.long)) == {
        "embedding.weight": 5 * 72,
        "hidden.weight": 5 * 36,
    }


def test_macs_inside_attention(fingerprint):
    """Attention's output projection, whose module is never called, is counted by its weight."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    before = fingerprint(model)
    macs = _macs(model, torch.randn(2, 5, 8))
    assert macs == {
        "self_attn.in_proj_weight": 5 * 192,
        "self_attn.out_proj.weight": 5 * 64,
        "linear1.weight": 5 * 128,
        "linear2.weight": 5 * 128,
    }
    before["random"] = torch.get_rng_state().tolist()
    assert fingerprint(model) == before


def test_unused_layer_has_no_macs():
    """A layer that never runs has None, not 0."""
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    model.forward = lambda x: model["used"](x)
    assert _macs(model, torch.randn(3, 2)) == {"used.weight": 4, "idle.weight": None}


def test_hooks_are_removed_when_the_run_fails(network, fingerprint):
    """Counting leaves no hook behind when the model raises."""
    before = fingerprint(network)

    def run():
        network.conv1(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        return 1

    with pytest.raises(RuntimeError):
        count_macs(prunable(network), run)
    assert fingerprint(network) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_macs_of_recurrent_layers(dtype, autocast):
    """Every step multiplies by each of the matrices once, projections too."""
    model = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True, proj_size=2).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        macs = _macs(model, torch.randn(5, 7, 3).to(dtype))
    assert macs == {n: 7 * model.get_parameter(n).numel() for n in macs}
    assert len(macs) == 12
    assert torch.backends.mkldnn.is_available() == torch.backends.mkldnn.enabled
    gru = nn.GRUCell(3, 4)
    assert _macs(gru, torch.randn(5, 3)) == {"weight_ih": 36, "weight_hh": 48}


@pytest.mark.parametrize("autocast", [False, True])
def test_macs_of_packed_attention(autocast):
    """The packed projection counts for itself alone, not for all that attention does."""
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert _macs(model, x, x, x) == {"in_proj_weight": 5 * 192, "out_proj.weight": 5 * 64}


@pytest.mark.parametrize("autocast", [False, True])
def test_macs_of_experts(autocast):
    """Views of a stack, copies of its matrices and autocast's copies count for the stack."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert _macs(Experts(False), torch.randn(6, 4)) == {"weight": 60}
        assert _macs(Experts(True), torch.randn(6, 4)) == {"weight": 20}


def test_macs_of_compiled_models():
    """A model that was compiled and has run is counted as the plain one is."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(5, 3))
    assert _macs(compiled, torch.randn(5, 3)) == {"0.weight": 12, "2.weight": 8}


def test_embeddings_multiply_nothing():
    """A lookup is used but has no multiplications."""
    model = nn.Embedding(5, 3)
    found = count_macs(prunable(model, layers="*"), lambda: len(model(torch.arange(5))))
    assert found == {"weight": 0}
