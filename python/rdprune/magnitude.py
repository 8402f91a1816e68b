"""Magnitude masks that keep an exact number of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def kept_count(numel: int, level: float) -> int:
    """Weights kept of `numel` at a sparsity of `level`: ``numel - round(level * numel)``."""
    return numel - round(level * numel)


def level_label(level: float) -> str:
    """Label of the option that removes the fraction `level`, such as ``"0.35"``."""
    return repr(float(round(level, 12)) + 0.0)


def label_level(label: str) -> float:
    """Return the fraction that the option with this label removes.

    Raises
    ------
    ValueError
        If the label is not a number in [0, 1].
    """
    try:
        level = float(label)
    except ValueError:
        level = math.nan
    if not 0 <= level <= 1:
        raise ValueError(f"option {label!r} is not an unstructured sparsity in [0, 1]")
    return level


def magnitude_order(weight: Tensor, *, layer: str = "") -> Tensor:
    """Flat indices of the weights from the largest magnitude to the smallest.

    Equal magnitudes are in the order of their flat (row-major) indices, so that the order is the
    same on every device.

    Parameters
    ----------
    weight : torch.Tensor
        Floating-point, any shape.
    layer : str
        Name of the layer, for the error message.

    Returns
    -------
    torch.Tensor
        int64, shape (numel,).

    Raises
    ------
    ValueError
        If a weight is NaN.
    """
    magnitudes = weight.detach().reshape(-1).abs()
    if magnitudes.isnan().any():
        where = f"weight of layer {layer!r}" if layer else "weight"
        raise ValueError(f"{where} contains NaN, which has no magnitude")
    return torch.argsort(magnitudes, descending=True, stable=True)


def order_mask(order: Tensor, kept: int, shape: torch.Size) -> Tensor:
    """Mask of the given shape that is True at the first `kept` flat indices of `order`."""
    mask = torch.zeros(order.numel(), dtype=torch.bool, device=order.device)
    mask[order[:kept]] = True
    return mask.reshape(shape)


def magnitude_mask(weight: Tensor, kept: int, *, layer: str = "") -> Tensor:
    """Mask that keeps exactly the `kept` weights of largest magnitude.

    Parameters
    ----------
    weight : torch.Tensor
        Floating-point, any shape.
    kept : int
        Number of weights to keep, 0 to numel. Of equal magnitudes the lowest flat index stays.
    layer : str
        Name of the layer, for the error message.

    Returns
    -------
    torch.Tensor
        bool, shape of the weight, True where it is kept.

    Raises
    ------
    ValueError
        If a weight is NaN or `kept` is out of range.

    Examples
    --------
    >>> magnitude_mask(torch.tensor([1.0, -3.0, 1.0]), 2)
    tensor([ True,  True, False])
    """
    if not 0 <= kept <= weight.numel():
        raise ValueError(f"kept is {kept}, must be between 0 and the {weight.numel()} weights")
    return order_mask(magnitude_order(weight, layer=layer), kept, weight.shape)


@contextmanager
def saved_weights(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[Tensor, ...]]:
    """Yield copies of the parameters and write them back at the end, bit for bit."""
    parameters = tuple(parameters)
    saved = tuple(parameter.detach().clone() for parameter in parameters)
    try:
        yield saved
    finally:
        for parameter, values in zip(parameters, saved, strict=True):
            parameter.data.copy_(values)
        torch.clear_autocast_cache()  # an autocast around us has casts of what was there


def write_masked(parameter: nn.Parameter, dense: Tensor, mask: Tensor) -> None:
    """Set a parameter in place to its dense values where the mask is True and to zero elsewhere.

    The parameter keeps its version, so that a graph recorded before can still be differentiated
    once the weights are back.
    """
    parameter.data.copy_(dense).masked_fill_(~mask, 0)
