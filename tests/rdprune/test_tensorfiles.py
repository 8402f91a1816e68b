"""Safetensors files: whole, checked, and of the right model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from rdprune.tensorfiles import digest, load_weights_, save_weights
from rdprune_core import FileFormatError


def network(width: int = 3, seed: int = 0) -> nn.Module:
    """Return two linear layers that share a weight, and BatchNorm."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width))
    model[2].weight = model[0].weight
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_weights_and_buffers_survive_their_file(tmp_path: Path) -> None:
    """A model of other values has all of the saved ones after loading, shared weights too."""
    saved, other = network(), network(seed=1)
    saved[1].running_mean.fill_(0.25)
    save_weights(tmp_path / "w.safetensors", saved)
    loaded = load_weights_(tmp_path / "w.safetensors", other)
    assert loaded is other
    assert all(torch.equal(tensor, state(other)[name]) for name, tensor in state(saved).items())
    assert other[2].weight is other[0].weight
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("back", [1, 7, 30])
def test_a_flipped_bit_is_found(tmp_path: Path, back: int) -> None:
    """One bit changed anywhere in the tensors is damage, and the model is not touched."""
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    data = bytearray(path.read_bytes())
    data[-back] ^= 4
    path.write_bytes(data)
    model = network(seed=1)
    before = state(model)
    with pytest.raises(FileFormatError, match="damaged: its tensors are not those"):
        load_weights_(path, model)
    assert digest(state(model)) == digest(before)


def test_a_file_of_somebody_else_is_taken(tmp_path: Path) -> None:
    """Weights that another program saved, without a digest, load too."""
    save_model(network(), str(tmp_path / "w.safetensors"))
    model = load_weights_(tmp_path / "w.safetensors", network(seed=1))
    assert digest(state(model)) == digest(state(network()))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """Other shapes are an error that names the file."""
    save_weights(tmp_path / "w.safetensors", network())
    with pytest.raises(ValueError, match=r"w\.safetensors does not fit the model"):
        load_weights_(tmp_path / "w.safetensors", network(width=4))
