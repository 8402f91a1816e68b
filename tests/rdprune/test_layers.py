"""Finding layers, and counting their multiplications."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from rdprune.layers import count_macs, named_layers, prunable, signature

NAMES = ["conv1.weight", "conv2.weight", "linear.weight"]


class Subclass(nn.Conv2d):
    """A convolution that is not used as its parent is: it standardises its weight."""

    def forward(self, x):
        weight = self.weight - self.weight.mean()
        return nn.functional.conv2d(x, weight, self.bias)


def test_layers_are_parameters_in_model_order(network):
    """The layers are the convolution and linear weights, by parameter name, in model order."""
    layers = prunable(network)
    assert list(layers) == NAMES
    assert layers["conv2.weight"].parameter is network.conv2.weight
    assert layers["conv2.weight"].owners == ((network.conv2, "weight", "conv2"),)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 2),
        nn.Conv1d(2, 3, 1),
        nn.Conv2d(2, 3, 1),
        nn.Conv3d(2, 3, 1),
        nn.ConvTranspose1d(2, 3, 1),
        nn.ConvTranspose2d(2, 3, 1),
        nn.ConvTranspose3d(2, 3, 1),
        Subclass(2, 3, 1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_type_is_prunable(layer):
    """Each documented type and a subclass is a layer, and BatchNorm and embeddings are not."""
    model = nn.Sequential(nn.BatchNorm1d(3), layer, nn.Embedding(4, 3))
    assert list(prunable(model)) == ["1.weight"]


def test_shared_weight_is_one_layer(tied):
    """A shared weight is one layer under its first name, owned by every module that holds it."""
    layers = prunable(tied)
    assert list(layers) == ["embedding.weight", "hidden.weight"]
    owners = layers["embedding.weight"].owners
    assert [owner.name for owner in owners] == ["embedding", "head"]


def test_shared_module_is_owned_once():
    """A module registered under two names is one owner, and either name finds it."""
    linear = nn.Linear(2, 2)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    assert [len(layer.owners) for layer in prunable(model).values()] == [1]
    assert prunable(model, ignore=["2"]) == {}


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        (["conv1.weight"], NAMES[1:]),
        (["conv1"], NAMES[1:]),
        ("conv1", NAMES[1:]),
        (["conv*"], NAMES[2:]),
        (["*.weight"], []),
        (["re:conv[12]"], NAMES[2:]),
        (["re:(?!conv).*"], NAMES[:2]),
        (["linear", "conv2"], NAMES[:1]),
    ],
)
def test_ignore(network, ignore, left):
    """An entry is a parameter, a module, a glob or a regular expression of the whole name."""
    assert list(prunable(network, ignore=ignore)) == left


def test_layers_restricts_and_ignore_wins(network):
    """`layers` restricts to what it matches, less what `ignore` matches."""
    assert list(prunable(network, layers=["conv*"], ignore=["conv1"])) == NAMES[1:2]


def test_module_around_stands_for_its_layers(network):
    """The exact name of a containing module stands for every layer inside."""
    model = nn.ModuleDict({"body": network, "head": nn.Linear(2, 2)})
    assert list(prunable(model, ignore=["body"])) == ["head.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignore": ["conv3"]}, "ignore entry 'conv3' matches no layer; did you mean 'conv"),
        ({"ignore": ["bn1"]}, "ignore entry 'bn1' matches no layer"),
        ({"layers": ["zzz"]}, "layers entry 'zzz' matches no layer"),
        ({"ignore": ["re:conv"]}, "ignore entry 're:conv' matches no layer"),
        ({"ignore": ["re:("]}, "is no regular expression"),
        ({"ignore": [3]}, "ignore entry 3 is not a string"),
    ],
)
def test_bad_entries(network, arguments, message):
    """An entry that is no string, no regular expression or matches nothing is refused."""
    with pytest.raises(ValueError, match=r"(?s).*") as caught:
        prunable(network, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _empty():
    linear = nn.Linear(1, 2)
    linear.weight = nn.Parameter(torch.empty(2, 0))
    return linear


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (parametrizations.weight_norm(nn.Linear(2, 2)), "computed by a parametrisation"),
        (nn.LazyLinear(3), "not initialised"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (_empty(), "empty"),
    ],
    ids=["parametrised", "lazy", "meta", "empty"],
)
def test_unprunable_layers(model, message):
    """A layer whose weight cannot be pruned is refused by name unless it is ignored."""
    holder = nn.ModuleDict({"odd": model, "even": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=f"layer 'odd.weight' cannot be pruned: .*{message}"):
        prunable(holder)
    with pytest.raises(ValueError, match="cannot be pruned"):
        named_layers(holder, ["odd.weight"], "table")
    assert list(prunable(holder, ignore=["odd"])) == ["even.weight"]


def test_names_are_the_same_under_masks(network):
    """A masked layer keeps its name, and its parameter is the dense weight."""
    dense = network.conv1.weight
    prune.l1_unstructured(network.conv1, "weight", 3)
    layers = prunable(network)
    assert set(layers) == set(NAMES)
    assert layers["conv1.weight"].parameter is dense
    assert [layer.masked for layer in layers.values()].count(True) == 1


def test_missing_layer_is_another_model(network):
    """A name that the model does not have is said to be of another model, with a hint."""
    with pytest.raises(
        ValueError, match=r"table of another model: .* 'conv3.weight'; did you mean"
    ):
        named_layers(network, ["conv3.weight"], "table")


def test_signature_follows_the_weights(network):
    """Equal models have equal signatures, and one changed bit changes the digest."""
    other = copy.deepcopy(network)
    assert signature(network) == signature(other)
    other.linear.bias.data[0] = torch.nextafter(other.linear.bias.data[0], torch.tensor(9.0))
    assert signature(network)["digest"] != signature(other)["digest"]
    assert signature(network)["parameters"] == sum(p.numel() for p in network.parameters())


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
