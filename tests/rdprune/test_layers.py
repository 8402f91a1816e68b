"""Finding layers and choosing among them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from rdprune.layers import named_layers, prunable, signature

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
        ({"ignore": ["bn1"]}, "ignore entry 'bn1' matches no layer; there are 'conv1.weight', "),
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


class Mixed(nn.Module):
    """One parameter of every kind, and some that are none."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.ones(2, 3, 4))
        self.stack_bias = nn.Parameter(torch.ones(2, 3, 4))
        self.token = nn.Parameter(torch.ones(1, 5, 4))
        self.table = nn.Parameter(torch.ones(5, 4))
        self.scale = nn.Parameter(torch.ones(4))
        self.list = nn.ParameterList([nn.Parameter(torch.ones(2, 2, 2))])
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm((3, 4))
        self.linear = nn.Linear(4, 4)
        self.conv = nn.Conv1d(1, 1, 3)
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.lstm = nn.LSTM(4, 6, proj_size=2)
        self.cell = nn.RNNCell(4, 4)
        self.same = nn.MultiheadAttention(4, 1, add_bias_kv=True)
        self.cross = nn.MultiheadAttention(4, 1, kdim=3)


KINDS = {
    "experts": ["stack", "list.0"],
    "linear": ["linear.weight", "same.out_proj.weight", "cross.out_proj.weight"],
    "convolution": ["conv.weight"],
    "recurrent": [
        "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_hr_l0",
        "cell.weight_ih", "cell.weight_hh",
    ],
    "attention": [
        "same.in_proj_weight",
        "cross.q_proj_weight", "cross.k_proj_weight", "cross.v_proj_weight",
    ],
    "embedding": ["embedding.weight"],
    "parameter": [
        "stack_bias", "token", "table", "norm.weight", "norm.bias", "bilinear.weight",
        "same.bias_k", "same.bias_v",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    """Every parameter is of its kind, and `kind:` chooses it."""
    layers = prunable(Mixed(), layers=f"kind:{kind}")
    assert sorted(layers) == sorted(KINDS[kind])
    assert {layer.kind for layer in layers.values()} == {kind}


def test_what_is_pruned_by_default():
    """All kinds but embeddings and other parameters; a pattern or a name chooses those too."""
    model = Mixed()
    default = [n for kind in KINDS if kind not in ("embedding", "parameter") for n in KINDS[kind]]
    everything = [name for names in KINDS.values() for name in names]
    assert sorted(prunable(model)) == sorted(default)
    assert sorted(prunable(model, layers="kind:default")) == sorted(default)
    assert sorted(prunable(model, layers="*")) == sorted(everything)
    assert list(prunable(model, layers="re:(table|embedding)")) == ["table", "embedding.weight"]
    assert list(prunable(model, ignore=["kind:default", "table"], layers="*b*")) == [
        "stack_bias", "embedding.weight", "norm.bias", "bilinear.weight",
        "same.bias_k", "same.bias_v",
    ]  # fmt: skip
    holder = nn.ModuleDict({"body": model})
    assert len(prunable(holder, layers="body")) == len(default)
    assert list(prunable(holder, layers="body.embedding")) == ["body.embedding.weight"]
    assert list(prunable(holder, layers="*", ignore="body")) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [("kind:magic", "the kind must be default, linear"), ("kind:convolution", "matches no layer")],
)
def test_bad_kinds(entry, message):
    """A kind that does not exist, or of which there is no layer, is refused."""
    with pytest.raises(ValueError, match=message):
        prunable(nn.Linear(2, 2), layers=entry)


def test_compiled_models_have_the_same_names(network):
    """Names, kinds and the signature are those without torch.compile, also of a part."""
    expected, signed = list(prunable(network)), signature(network)
    compiled = torch.compile(network, backend="eager")
    assert list(prunable(compiled)) == expected
    assert list(named_layers(compiled, expected, "table")) == expected
    assert signature(compiled) == signed
    part = nn.ModuleDict({"body": torch.compile(network, backend="eager")})
    assert list(prunable(part)) == [f"body.{name}" for name in expected]
    assert list(prunable(part, ignore="body.conv1")) == [f"body.{n}" for n in expected[1:]]


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        (nn.LSTM(3, 4), "weight_hh_l0"),
        (nn.MultiheadAttention(4, 1), "in_proj_weight"),
        (nn.Conv2d(1, 1, 1), "weight"),
    ],
)
def test_parametrised_layers_are_refused_by_name(module, attribute):
    """The message names the weight and says how to take the parametrisation off."""
    parametrizations.weight_norm(module, attribute)
    with pytest.raises(ValueError, match=f"layer '{attribute}' .*remove_parametrizations"):
        prunable(module)
    names = [n for n in prunable(module, ignore=[attribute]) if "original" in n]
    assert names == []


def test_an_embedding_that_rewrites_itself():
    """An embedding with `max_norm` is refused if chosen, and no matter otherwise."""
    model = nn.Sequential(nn.Embedding(4, 3, max_norm=1.0), nn.Linear(3, 2))
    assert list(prunable(model)) == ["1.weight"]
    with pytest.raises(ValueError, match="max_norm rewrites its rows"):
        prunable(model, layers="*")
