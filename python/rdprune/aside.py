"""What stands in a batch beside the model's inputs: labels, and weights of positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from rdprune.criteria import Criterion

_LABELS: Final = ("labels", "label")
ASIDE: Final = (*_LABELS, "token_weights")
"""Entries of a batch that the model is not called with."""


def labels(batch: Any) -> Tensor | None:
    """Return the labels of a batch, int64 of shape (n,), or None if it has none.

    They are the ``labels`` or ``label`` of a dict, or a second element that is a 1-D integer
    tensor as long as the inputs.
    """
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABELS if key in batch), None)
    else:
        found = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(found, Tensor) or found.ndim != 1:
        return None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        return None
    return found if samples(batch) in (None, len(found)) else None


def loss_labels(batch: Any, *, following: bool, checked: bool = True) -> Tensor | None:
    """Return the labels of a batch for the task's loss, int64 of any shape, or None.

    Parameters
    ----------
    batch : object
        A dict with ``labels`` or ``label``, or a tuple whose second element they are.
    following : bool
        Whether the output at each position is about the next one, as in causal language models:
        the labels move back by one, and the last position has none (-100).
    checked : bool
        Refuse labels that are the inputs themselves and are not to be moved.

    Raises
    ------
    ValueError
        If the labels have the wrong shape, or are refused as said.
    """
    inputs = None
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABELS if key in batch), None)
        inputs = batch.get("input_ids")
    else:
        found = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(found, Tensor) or found.dtype == torch.bool or found.ndim == 0:
        return None
    if found.is_floating_point() or found.is_complex():
        return None
    truth = found.detach().to("cpu", torch.int64)
    if following:
        if truth.ndim != 2:
            raise ValueError(
                "distortion 'loss:next' needs labels of shape (n, tokens), "
                f"the batch's have {tuple(truth.shape)}"
            )
        return torch.nn.functional.pad(truth[:, 1:], (0, 1), value=-100)
    if checked and isinstance(inputs, Tensor) and inputs.shape == truth.shape and truth.ndim == 2:
        known = truth != -100
        if known.any() and torch.equal(truth[known], inputs.detach().cpu().long()[known]):
            raise ValueError(
                "the labels are the input_ids themselves: for the loss of the next token say "
                "distortion='loss:next'"
            )
    return truth


def position_weights(batch: Any, criterion: Criterion) -> Tensor:
    """Return the entry of a batch that weighs its positions, float64 of any shape.

    Raises
    ------
    ValueError
        If there is no such entry, or it is no tensor of numbers, finite and not negative.
    """
    key, found = criterion.weights, None
    if isinstance(batch, Mapping):
        found = batch.get(key)
    elif isinstance(batch, (tuple, list)) and key.isdecimal() and int(key) < len(batch):
        found = batch[int(key)]
    if not isinstance(found, Tensor) or found.is_complex():
        kind = "absent" if found is None else f"a {type(found).__name__}"
        raise ValueError(
            f"distortion {criterion.name!r}: the entry {key!r} of a batch is {kind}, must be a "
            "tensor of weights, one for each position"
        )
    weights = found.detach().to("cpu", torch.float64)
    if not weights.isfinite().all() or (weights < 0).any():
        raise ValueError(
            f"distortion {criterion.name!r}: a weight in {key!r} is negative or not finite"
        )
    if criterion.argument == "next" and weights.ndim == 2:
        return torch.nn.functional.pad(weights[:, 1:], (0, 1))
    return weights


def samples(batch: Any) -> int | None:
    """Return the length of the first tensor among the inputs, or None."""
    if isinstance(batch, (tuple, list)) and batch:
        return samples(batch[0])
    if isinstance(batch, Mapping):
        values = (value for key, value in batch.items() if key not in ASIDE)
        batch = next((value for value in values if isinstance(value, Tensor)), None)
    return len(batch) if isinstance(batch, Tensor) and batch.ndim else None
