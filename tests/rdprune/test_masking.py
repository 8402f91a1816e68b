"""Masks: exact, reversible, and saved whole."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import rdprune
from rdprune.masking import apply_, load_masks, masks, save_masks, strip_
from rdprune.tensorfiles import save_tensors
from rdprune_core import FileFormatError, allocate

CHOICE = {"conv1.weight": "0.3", "conv2.weight": "0.55", "linear.weight": "0.3"}


@pytest.fixture
def table(network, batches):
    """Return a small table of the network."""
    return rdprune.measure(network, batches, levels=(0.3, 0.55, 1.0), progress=False)


@pytest.fixture
def allocation(table, allocation_of):
    """Return an allocation that prunes every layer."""
    return allocation_of(table, CHOICE)


def test_zeros_equal_the_cost(network, batches):
    """Every mask of every allocation keeps exactly the layer's cost."""
    table = rdprune.measure(network, batches, levels=41, progress=False)
    for sparsity in (0.0, 0.1, 0.333, 0.5, 0.77, 0.95, 1.0):
        allocation = allocate(table, sparsity=sparsity)
        found = masks(network, allocation)
        assert tuple(found) == allocation.names
        counts = [int(mask.sum()) for mask in found.values()]
        assert counts == allocation.layer_costs["params"].tolist()
        assert sum(counts) == allocation.cost["params"]


def test_apply_masks_the_forward_pass(network, batches, allocation):
    """An applied model computes with the masked weights and is returned itself."""
    expected = copy.deepcopy(network).eval()
    for name, mask in masks(network, allocation).items():
        expected.get_parameter(name).data.mul_(mask)
    assert apply_(network, allocation) is network
    x = batches[0][0]
    assert torch.equal(network.eval()(x), expected(x))


def test_strip_gives_the_dense_models_state(network, allocation, fingerprint):
    """Stripping leaves the same parameters, names, order, hooks and flags, and exact zeros."""
    before = fingerprint(network)
    names = list(network.state_dict())
    strip_(apply_(network, allocation))
    after = fingerprint(network)
    assert list(network.state_dict()) == names
    for name, count in zip(allocation.names, allocation.layer_costs["params"], strict=True):
        weight = network.get_parameter(name)
        assert int((weight == 0).sum()) == weight.numel() - count
    for part in (before, after):
        del part["weights"], part["attributes"]
    assert after == before


def test_masks_given_directly(network, fingerprint):
    """Any bool masks by parameter name can be applied, and layers without one stay dense."""
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[0] = True
    strip_(apply_(network, {"linear.weight": mask}))
    assert int(network.linear.weight.count_nonzero()) == 6
    assert int(network.conv2.weight.count_nonzero()) == 108


def test_shared_weight_stays_shared(tied, tokens, allocation_of):
    """A shared weight is one parameter and one mask before, between and after."""
    table = rdprune.measure(tied, tokens, levels=(0.5,), progress=False)
    allocation = allocation_of(table, {"embedding.weight": "0.5"})
    dense = tied(tokens[0])
    apply_(tied, allocation)
    assert tied.embedding.weight_orig is tied.head.weight_orig
    assert torch.equal(tied.embedding.weight_mask, tied.head.weight_mask)
    applied = tied(tokens[0])
    assert not torch.equal(applied, dense)
    strip_(tied)
    assert tied.embedding.weight is tied.head.weight
    assert isinstance(tied.head.weight, nn.Parameter)
    assert int(tied.head.weight.count_nonzero()) == 36
    assert torch.equal(tied(tokens[0]), applied)
    assert list(tied.state_dict()) == [
        "embedding.weight", "hidden.weight", "hidden.bias", "head.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("forwards", [0, 1])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_applied_model_can_be_copied(network, batches, allocation, forwards, copied):
    """An applied model can be copied and pickled, also after a forward pass with gradients."""
    x = batches[0][0]
    apply_(network, allocation).eval()
    for _ in range(forwards):
        network(x).sum().backward()
    other = copied(network)
    assert torch.equal(other(x), network(x))
    assert torch.equal(strip_(other)(x), strip_(network)(x))


def test_training_goes_on_under_the_mask(network, batches, allocation):
    """Gradients reach the kept weights only, and pruned weights stay zero after steps."""
    apply_(network, allocation)
    found = masks(network, allocation)["conv2.weight"]
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for x, y in batches:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    assert not network.conv2.weight_orig.grad[~found].any()
    assert network.conv2.weight_orig.grad[found].any()
    strip_(network)
    assert not network.conv2.weight[~found].any()


def test_state_dict_round_trip(network, batches, allocation):
    """State dicts load into a like model, applied ones into applied, stripped into dense."""
    x = batches[0][0]
    fresh = type(network)().eval()
    applied = apply_(copy.deepcopy(network), allocation).eval()
    other = apply_(copy.deepcopy(fresh), allocation)
    other.load_state_dict(applied.state_dict())
    assert torch.equal(other(x), applied(x))
    fresh.load_state_dict(strip_(applied).state_dict())
    assert torch.equal(fresh(x), applied(x))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_half_way_restores(network, allocation, fingerprint, monkeypatch, error):
    """When the third layer fails, the model is as before, hooks and order included."""
    before = fingerprint(network)
    original = prune.custom_from_mask
    calls = []

    def failing(module, name, mask):
        calls.append(name)
        if len(calls) == 3:
            raise error("no")
        return original(module, name, mask)

    monkeypatch.setattr(prune, "custom_from_mask", failing)
    with pytest.raises(error):
        apply_(network, allocation)
    assert fingerprint(network) == before


def _other_shape(network, allocation):
    network.linear = nn.Linear(6, 7)


def _other_name(network, allocation):
    network.head = network.linear
    del network.linear


def _applied(network, allocation):
    apply_(network, allocation)


def _parametrised(network, allocation):
    parametrizations.weight_norm(network.linear)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_shape, "allocation of another model: layer 'linear.weight' has shape (7, 6)"),
        (_other_name, "allocation of another model: the model has no layer 'linear.weight'"),
        (_applied, "layer 'conv1.weight' carries a mask: applied already; strip_ first"),
        (_parametrised, "layer 'linear.weight' cannot be pruned: its weight is computed"),
    ],
)
def test_models_that_do_not_fit(network, allocation, fingerprint, change, message):
    """A model that the allocation is not for, or masked already, is refused unchanged."""
    change(network, allocation)
    before = fingerprint(network)
    with pytest.raises(ValueError, match=r".") as caught:
        apply_(network, allocation)
    assert message in str(caught.value)
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"mask": "2:4"}}, "allocation has masks of kind '2:4'"),
        ({"metadata": {}, "options": ("0.3", "2:4", "0.3")}, "layer 'conv2.weight': option '2:4'"),
        ({"metadata": {}, "options": ("0.3", "0.5", "0.3")}, "at sparsity 0.5 keeps 54"),
        (
            {"layer_costs": {"bytes": np.array([1, 2, 3])}, "dense": {"bytes": 9}},
            "allocation has no cost 'params'",
        ),
    ],
)
def test_allocations_that_do_not_fit(network, allocation, changes, message):
    """An allocation of another kind, or whose labels and costs disagree, is refused."""
    with pytest.raises(ValueError, match=message):
        masks(network, dataclasses.replace(allocation, **changes))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(5, 6), "mask of layer 'linear.weight' is torch.float32, must be a bool tensor"),
        ([True], "mask of layer 'linear.weight' is list"),
        (torch.ones(6, 5, dtype=torch.bool), "has shape \\(6, 5\\), the weight has \\(5, 6\\)"),
    ],
)
def test_bad_masks(network, fingerprint, mask, message):
    """Masks of another type or shape are refused before anything changes."""
    before = fingerprint(network)
    good = torch.ones(4, 1, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        apply_(network, {"conv1.weight": good, "linear.weight": mask})
    with pytest.raises(ValueError, match="masks of another model"):
        apply_(network, {"conv9.weight": good})
    assert fingerprint(network) == before


def test_nan_weight_names_the_layer(network, allocation):
    """A NaN weight is refused with the layer's name."""
    network.linear.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"weight of layer 'linear\.weight' contains NaN"):
        masks(network, allocation)


def test_strip_needs_masks(network):
    """A model without masks has nothing to strip."""
    with pytest.raises(ValueError, match="model carries no masks: apply_ first"):
        strip_(network)


def test_masks_survive_their_file(network, allocation, tmp_path):
    """Saved masks load equal, and no temporary file is left."""
    found = masks(network, allocation)
    path = tmp_path / "masks.safetensors"
    save_masks(path, found)
    loaded = load_masks(path)
    assert loaded.keys() == found.keys()
    assert all(torch.equal(loaded[name], mask) for name, mask in found.items())
    assert [file.name for file in tmp_path.iterdir()] == ["masks.safetensors"]


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-5])


def _short(path):
    path.write_bytes(path.read_bytes()[:20])


def _garbage(path):
    path.write_bytes(b"\xff" * 100)


def _no_bytes(path):
    path.write_bytes(b"")


def _weights(path):
    save_file({"a": torch.zeros(3)}, path)


def _floats(path):
    save_tensors(path, {"a": torch.zeros(3)}, "rdprune-masks")


def _flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncated, "not a complete safetensors file"),
        (_short, "not a complete safetensors file"),
        (_garbage, "not a complete safetensors file"),
        (_no_bytes, "not a complete safetensors file"),
        (_flipped, "damaged: its tensors are not those that were written"),
        (_weights, "not a file of kind rdprune-masks"),
        (_floats, "mask 'a' is torch.float32, must be bool"),
    ],
)
def test_damaged_files(tmp_path, damage, message):
    """A truncated, corrupted or different file is refused by name, in one line."""
    path = tmp_path / "masks.safetensors"
    save_masks(path, {"a": torch.ones(64, dtype=torch.bool)})
    damage(path)
    with pytest.raises(FileFormatError, match=message) as caught:
        load_masks(path)
    assert "masks.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    """A missing file is a FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        load_masks(tmp_path / "none.safetensors")


def test_attention_keeps_no_hook_of_ours():
    """Masking the output projection hooks attention itself, and stripping takes that off again."""
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    mask = torch.rand(4, 4) > 0.5
    apply_(model, {"out_proj.weight": mask})
    model(x, x, x)[0].sum().backward()
    assert model.out_proj.weight_orig.grad[mask].any()
    assert not model.out_proj.weight_orig.grad[~mask].any()
    with torch.no_grad():
        model.out_proj.weight_orig.fill_(2.0)
        model(x, x, x)
    assert torch.equal(model.out_proj.weight, 2.0 * mask)
    copy.deepcopy(model)
    strip_(model)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called


def test_a_failed_apply_unhooks_attention(monkeypatch):
    """If the second mask fails, the first one's hooks on attention go too."""
    model = nn.MultiheadAttention(4, 2)
    good = torch.ones(4, 4, dtype=torch.bool)
    real = prune.custom_from_mask

    def failing(module, name, mask):
        if name == "in_proj_weight":
            raise RuntimeError("no")
        return real(module, name, mask)

    monkeypatch.setattr(prune, "custom_from_mask", failing)
    with pytest.raises(RuntimeError):
        apply_(model, {"out_proj.weight": good, "in_proj_weight": good.repeat(3, 1)})
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert list(model.state_dict()) == list(nn.MultiheadAttention(4, 2).state_dict())
