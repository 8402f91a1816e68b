"""An option of a layer, and the mask that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rdprune.layers import Prunable
from rdprune.magnitude import magnitude_order, order_mask

MASK = "unstructured-magnitude"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a layer: its label, how many weights it keeps, and which.

    Options of a layer with the same `key` have the same mask.
    """

    label: str
    kept: int
    key: str


Masks = Callable[[Prunable, Tensor], Callable[[Option], Tensor]]
"""Takes a layer and its dense weight; the function returned makes an option's mask."""


def magnitude_masks(layer: Prunable, dense: Tensor) -> Callable[[Option], Tensor]:
    """Masks that keep the largest weights."""
    order = magnitude_order(dense, layer=layer.name)
    return lambda option: order_mask(order, option.kept, dense.shape)


def magnitude_key(kept: int) -> str:
    """Say what a stored measurement was made with; the weights are in the run's signature."""
    return f"{MASK} {kept}"
