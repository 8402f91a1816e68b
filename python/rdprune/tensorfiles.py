"""Safetensors files with a digest of what is in them: written whole, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from rdprune_core import FileFormatError
from rdprune_core.files import atomic_write

VERSION: Final = "1"
WEIGHTS: Final = "rdprune-weights"
_DIGEST: Final = "sha256"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, types and bytes of tensors, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(data.view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], kind: str) -> None:
    """Save tensors, none of which share memory, atomically.

    Parameters
    ----------
    path : path-like
        The file, usually ``.safetensors``.
    tensors : mapping of str to torch.Tensor
    kind : str
        What the file is, such as ``"rdprune-masks"``.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": kind, "version": VERSION, _DIGEST: digest(plain)}
    with atomic_write(path) as temporary:
        save_file(plain, temporary, metadata=metadata)


def load_tensors(path: str | os.PathLike[str], kind: str) -> dict[str, Tensor]:
    """Load what `save_tensors` wrote.

    Raises
    ------
    FileFormatError
        If the file is damaged, cut short or of another kind.
    FileNotFoundError
        If there is no such file.
    """
    tensors, found = _read(path)
    wanted = {"format": kind, "version": VERSION}
    given = {key: value for key, value in found.items() if key != _DIGEST}
    if given != wanted:
        raise FileFormatError(
            f"{os.fspath(path)}: not a file of kind {kind}: its metadata is {json.dumps(given)}, "
            f"must be {json.dumps(wanted)}"
        )
    return tensors


def save_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Save all weights and buffers of a model, shared ones once, atomically."""
    with atomic_write(path) as temporary:
        save_model(model, str(temporary))
        tensors = load_file(temporary)
        metadata = {"format": WEIGHTS, "version": VERSION, _DIGEST: digest(tensors)}
        save_file(tensors, temporary, metadata=metadata)


def load_weights_(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Load the weights of a model of the same shape, in place.

    Parameters
    ----------
    path : path-like
        What `save_weights` wrote, or any safetensors file with the names of the state dict.
    model : torch.nn.Module

    Raises
    ------
    FileFormatError
        If the file is damaged or no safetensors file.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the weights are of another model.
    """
    _read(path)
    try:
        load_model(model, os.fspath(path))
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)} does not fit the model: {error}") from error
    return model


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata; the digest, if there is one, must be the tensors'."""
    name = os.fspath(path)
    try:
        with safe_open(name, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            found = dict(file.metadata() or {})
    except SafetensorError as error:
        raise FileFormatError(f"{name}: not a complete safetensors file: {error}") from None
    if _DIGEST in found and found[_DIGEST] != digest(tensors):
        raise FileFormatError(f"{name}: damaged: its tensors are not those that were written")
    return tensors, found
