"""CIFAR-10 networks and pictures for the command line, from one folder of files.

The environment variable ``RDPRUNE_DATA`` names the folder. It holds

- ``cifar10_jpeg_train.npz`` and ``cifar10_jpeg_test.npz``: the pictures as JPEG files, all bytes
  in ``jpeg`` (uint8), file i at ``jpeg[offsets[i]:offsets[i + 1]]``, ``labels`` (uint8);
- ``resnet20_cifar10_jpeg.safetensors`` and so on: weights of He et al.'s CIFAR ResNets,
  adapted to the JPEG pictures; or ``resnet20_cifar10.safetensors``, trained on lossless ones.

Every function is a ``--model`` or a ``--data``::

    rdprune measure --model rdprune.recipes.cifar10:resnet32
        --data rdprune.recipes.cifar10:calibration --recovery batchnorm --output resnet32.npz
"""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from rdprune.demo.data import Batches, batches
from rdprune.demo.network import ResNet, load_weights

VARIABLE: Final = "RDPRUNE_DATA"
MEAN: Final = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD: Final = np.array([0.229, 0.224, 0.225], dtype=np.float32)
CALIBRATION: Final = 256
HELDOUT: Final = 2000
BATCH: Final = 256


def folder() -> Path:
    """Return the data folder that ``RDPRUNE_DATA`` names.

    Raises
    ------
    ValueError
        If the variable is unset or names no folder.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        raise ValueError(f"{VARIABLE} is not set: it must name the folder of the CIFAR-10 files")
    path = Path(name)
    if not path.is_dir():
        raise ValueError(f"{VARIABLE} names {name!r}, which is not a folder")
    return path


def _resnet(depth: int) -> nn.Module:
    """Return a CIFAR ResNet, with the weights adapted to JPEG where the folder has them."""
    names = (f"resnet{depth}_cifar10_jpeg.safetensors", f"resnet{depth}_cifar10.safetensors")
    for name in names:
        path = folder() / name
        if path.is_file():
            return load_weights(ResNet(depth), path)
    raise ValueError(f"{folder()} ({VARIABLE}) has neither {names[0]} nor {names[1]}")


def resnet20() -> nn.Module:
    """Return ResNet-20, 0.27 million weights."""
    return _resnet(20)


def resnet32() -> nn.Module:
    """Return ResNet-32, 0.46 million weights."""
    return _resnet(32)


def resnet56() -> nn.Module:
    """Return ResNet-56, 0.85 million weights."""
    return _resnet(56)


def pictures(part: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return pictures ``start`` to ``stop`` of a part, normalised as the networks expect.

    Parameters
    ----------
    part
        ``"train"`` (50,000 pictures) or ``"test"`` (10,000).
    start, stop
        The slice. The files are shuffled, so every slice is a fair sample.

    Returns
    -------
    pictures, labels
        float32 of shape (n, 3, 32, 32) and int64 of shape (n,).

    Raises
    ------
    ValueError
        If the part or the folder is missing, or the part has fewer pictures.
    ImportError
        If Pillow, which decodes the pictures, is not installed.
    """
    path = folder() / f"cifar10_jpeg_{part}.npz"
    if not path.is_file():
        raise ValueError(f"{path.parent} ({VARIABLE}) has no {path.name}")
    return _decoded(path, start, stop)


@cache
def _decoded(path: Path, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return pictures ``start`` to ``stop`` of a file, read once."""
    try:
        from PIL import Image
    except ImportError as error:
        message = (
            "decoding CIFAR-10 needs Pillow, which is missing: pip install 'rdprune-core[recipes]'"
        )
        raise ImportError(message, name="PIL") from error
    with np.load(path, allow_pickle=False) as archive:
        data, offsets, labels = archive["jpeg"], archive["offsets"], archive["labels"]
    if not 0 <= start < stop <= len(labels):
        raise ValueError(f"{path.name} has {len(labels)} pictures, {start} to {stop} asked for")
    decoded = np.empty((stop - start, 32, 32, 3), dtype=np.float32)
    for row, index in enumerate(range(start, stop)):
        file = io.BytesIO(data[offsets[index] : offsets[index + 1]].tobytes())
        with Image.open(file) as image:
            decoded[row] = np.asarray(image.convert("RGB"), dtype=np.float32)
    normalised = np.ascontiguousarray(((decoded / 255 - MEAN) / STD).transpose(0, 3, 1, 2))
    return torch.from_numpy(normalised), torch.from_numpy(labels[start:stop].astype(np.int64))


def calibration(samples: int = CALIBRATION) -> Batches:
    """Return the first ``samples`` training pictures in batches of at most 256."""
    return batches(*pictures("train", 0, samples), BATCH)


def heldout(samples: int = HELDOUT) -> Batches:
    """Return the first ``samples`` test pictures: a quick look."""
    return batches(*pictures("test", 0, samples), BATCH)


def test() -> Batches:
    """Return all 10,000 test pictures: the figure to quote."""
    return batches(*pictures("test", 0, 10_000), BATCH)
