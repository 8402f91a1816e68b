"""Channels removed by Torch-Pruning: the smaller network gives the masked network's output."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from rdprune.demo.network import ResNet
from rdprune.layers import prunable
from rdprune.masking import apply_, strip_
from rdprune.removal import RemovalError, remove_channels
from rdprune.shapes import geometry, make_mask

pytest.importorskip("torch_pruning", reason="needs Torch-Pruning", exc_type=ImportError)


class Residual(nn.Module):
    """A residual block with BatchNorm and biases, a depthwise layer, and a head."""

    def __init__(self, activation=torch.relu):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.bn0(self.stem(x)))
        y = self.depth(self.activation(self.bn1(self.conv1(x))))
        x = self.activation(self.bn2(self.conv2(y)) + x)
        return self.head(self.activation(self.hidden(x.mean((2, 3)))))


@pytest.fixture
def model():
    """Return the block with statistics of its own, in evaluation mode."""
    return _shaken(Residual())


@pytest.fixture
def batch():
    """Return a batch of pictures."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def _shaken(model):
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                nn.init.uniform_(tensor, 0.3, 0.9)
    return model.eval()


def _masks(model, labels):
    layers = prunable(model)
    return {
        name: make_mask(label, layers[name].parameter.detach().abs(), geometry(layers[name]))
        for name, label in labels.items()
    }


def _out(model, batch):
    with torch.no_grad():
        return model(batch)


def _quiet(model, modules, masks):
    """Silence by hand: zero bias and BatchNorm of the channels that a layer's mask empties."""
    for name, norms in modules.items():
        gone = ~masks[f"{name}.weight"].flatten(1).any(1)
        for module in (model.get_submodule(name), *map(model.get_submodule, norms)):
            if module.bias is not None:
                module.bias.data[gone] = 0
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data[gone] = 0
    return model


def test_an_inner_layer_and_the_depthwise_one_behind_it(model, batch):
    """Half of the inner channels go from all that they run through; the output is the silenced."""
    masks = _masks(model, {"conv1.weight": "out:0.5", "hidden.weight": "out:0.25"})
    masked = strip_(apply_(copy.deepcopy(model), masks))
    expected = _out(_quiet(masked, {"conv1": ["bn1", "depth"], "hidden": []}, masks), batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = remove_channels(model, masks, batch)
    assert made.removed == {"conv1": 6, "depth": 6, "hidden": 4}
    assert made.left == {}
    assert made.model.conv1.out_channels == made.model.conv2.in_channels == 6
    assert made.model.bn1.num_features == made.model.depth.groups == 6
    assert made.model.hidden.out_features == made.model.head.in_features == 12
    torch.testing.assert_close(_out(made.model, batch), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_out(made.silenced, batch), expected, rtol=1e-5, atol=1e-5)
    assert made.parameters == sum(p.numel() for p in made.model.parameters())
    assert made.parameters < made.dense_parameters
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


def test_channels_that_a_sum_joins_go_only_together(model, batch):
    """Of a residual sum those channels go that all layers writing into it have emptied."""
    masks = _masks(model, {"stem.weight": "0.0", "conv2.weight": "0.0"})
    masks["stem.weight"][[0, 1, 2]] = False
    masks["conv2.weight"][[1, 2, 5]] = False
    made = remove_channels(model, masks, batch)
    assert made.removed == {"stem": 2, "conv2": 2}
    assert made.left == {"stem": 1, "conv2": 1}
    masked = strip_(apply_(copy.deepcopy(model), masks))
    for module in (masked.stem, masked.bn0, masked.bn2):
        module.bias.data[[1, 2]] = 0
    for module in (masked.bn0, masked.bn2):
        module.weight.data[[1, 2]] = 0
    torch.testing.assert_close(_out(made.model, batch), _out(masked, batch), rtol=1e-5, atol=1e-5)


def test_input_channels_need_no_silence(model, batch):
    """A channel that nobody reads goes, and the output is that of the masked network itself."""
    masks = _masks(model, {"head.weight": "in:0.5", "depth.weight": "0.0"})
    masked = strip_(apply_(copy.deepcopy(model), masks))
    made = remove_channels(model, masks, batch)
    assert made.removed == {"hidden": 8}
    torch.testing.assert_close(_out(made.model, batch), _out(masked, batch), rtol=1e-5, atol=1e-5)


def test_masks_that_empty_nothing_remove_nothing(model, batch):
    """Single weights are not channels; the output's channels and a layer's last one stay."""
    made = remove_channels(model, _masks(model, {"conv1.weight": "0.7"}), batch)
    assert made.removed == {}
    assert made.parameters == made.dense_parameters
    made = remove_channels(
        model, _masks(model, {"head.weight": "out:0.4", "hidden.weight": "out:1"}), batch
    )
    assert made.removed == {"hidden": 15}
    assert made.left == {"hidden": 1, "head": 2}


def test_an_activation_that_does_not_keep_zeros_is_refused(batch):
    """Behind a sigmoid a removed channel is missed, which is an error and no small network."""
    model = _shaken(Residual(torch.sigmoid))
    with pytest.raises(RemovalError, match="does not keep zeros"):
        remove_channels(model, _masks(model, {"conv1.weight": "out:0.5"}), batch)


def test_a_real_residual_network():
    """Of a ResNet-20 with channel padding the blocks' inner channels go, the joined ones stay."""
    torch.manual_seed(0)
    model = _shaken(ResNet(20))
    labels = {name: "out:0.5" for name in prunable(model) if name != "linear.weight"}
    masks = _masks(model, labels)
    batch = (torch.randn(2, 3, 16, 16), torch.tensor([1, 2]))
    made = remove_channels(apply_(model, masks), masks, batch)
    assert set(made.removed) == {f"layer{i}.{k}.conv1" for i in (1, 2, 3) for k in range(3)}
    assert made.removed["layer3.0.conv1"] == 32
    assert set(made.left) == {"conv1"} | {
        f"layer{i}.{k}.conv2" for i in (1, 2, 3) for k in range(3)
    }
    assert made.parameters < 0.6 * made.dense_parameters
    assert made.difference < 1e-5


def test_a_missing_library_says_what_to_install(model, batch, monkeypatch):
    """Without Torch-Pruning the error names the extra."""
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r"rdprune-core\[removal\]"):
        remove_channels(model, _masks(model, {"conv1.weight": "out:0.5"}), batch)
