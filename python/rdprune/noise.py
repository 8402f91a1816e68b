"""Calibration without data: inputs drawn from a normal distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise(list[Tensor]):
    """Batches that `gaussian` made."""


def gaussian(shape: Sequence[int], samples: int = 256, *, batch: int = 64, seed: int = 0) -> Noise:
    """Make batches of inputs from N(0, 1), for measuring without any data.

    Xu et al. 2023, section 4.5, calibrate so: every pixel of a normalised picture has mean 0 and
    variance 1.

    Parameters
    ----------
    shape : sequence of int
        Of one sample, such as (3, 32, 32).
    samples : int
        Number of samples in all.
    batch : int
        Samples in a batch, but for the last.
    seed : int
        The same seed gives the same inputs; torch's own generators are not touched.

    Returns
    -------
    Noise
        A list, which runs know as noise (copies of it they do not), of torch.Tensor, float32, each
        of shape (n, *shape) with n at most `batch`.

    Raises
    ------
    ValueError
        If a number is not positive.

    Examples
    --------
    >>> [tuple(x.shape) for x in gaussian((3, 8, 8), 10, batch=8)]
    [(8, 3, 8, 8), (2, 3, 8, 8)]
    """
    for name, number in (("samples", samples), ("batch", batch), *(("shape", n) for n in shape)):
        if number < 1:
            raise ValueError(f"{name} holds {number}, must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((samples, *shape), generator=generator)
    return Noise(inputs[start : start + batch] for start in range(0, samples, batch))
