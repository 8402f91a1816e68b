"""From an option's label and a layer's scores to its mask: the one door for measuring and masking.

A label is a sparsity (``"0.35"``: single weights), N:M (``"2:4"``: at most 2 of every 4
consecutive inputs stay), blocks (``"4x2:0.5"``: of 4 outputs by 2 inputs), output channels
(``"out:0.5"``) or input channels (``"in:0.5"``), the number after the colon being the fraction of
blocks or channels that is removed. What stays is what scores highest; of equal scores, what comes
first in the weight.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from rdprune.kinds import CONVOLUTION_TYPES, is_transposed_linear
from rdprune.layers import Prunable
from rdprune.magnitude import kept_count, label_level, level_label, order_mask

_SHAPE = re.compile(r"(?:(\d+)x(\d+)|(out|in)):(\S+)")
_PATTERN = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a label says.

    Attributes
    ----------
    kind : str
        ``"weights"``, ``"n:m"``, ``"blocks"``, ``"out"`` or ``"in"``.
    first, second : int
        N and M, or a block's outputs and inputs; else 0.
    level : float
        Fraction of the weights, blocks or channels removed; 0 for N:M.
    """

    kind: str
    first: int = 0
    second: int = 0
    level: float = 0.0

    @property
    def label(self) -> str:
        """The label in its one spelling: ``"out:.50"`` is ``"out:0.5"``."""
        if self.kind == "weights":
            return level_label(self.level)
        if self.kind == "n:m":
            return f"{self.first}:{self.second}"
        start = f"{self.first}x{self.second}" if self.kind == "blocks" else self.kind
        return f"{start}:{level_label(self.level)}"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a weight has its outputs and inputs.

    Attributes
    ----------
    groups : int
        Groups of the convolution, 1 for a linear layer.
    transposed : bool
        Whether the weight begins with the inputs, as those of transposed convolutions do.
    """

    groups: int = 1
    transposed: bool = False

    def view(self, weight: Tensor) -> Tensor:
        """Return the weight as (groups, outputs a group, inputs a group, kernel positions)."""
        found = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        return found.transpose(1, 2) if self.transposed else found

    def back(self, view: Tensor, shape: torch.Size) -> Tensor:
        """Undo `view`."""
        return (view.transpose(1, 2) if self.transposed else view).reshape(shape)


def geometry(layer: Prunable) -> Geometry:
    """Geometry of a layer's weight, from the first module that computes with it."""
    for module, _, _ in layer.owners:
        if is_transposed_linear(module):
            return Geometry(transposed=True)
        if isinstance(module, CONVOLUTION_TYPES):
            return Geometry(int(module.groups), isinstance(module, _ConvTransposeNd))  # type: ignore[arg-type]
    return Geometry()


def parse_shape(label: str) -> Shape:
    """Read a label.

    Raises
    ------
    ValueError
        If it is none, or a number in it is out of range.
    """
    pattern = _PATTERN.fullmatch(label)
    if pattern is not None:
        first, second = int(pattern[1]), int(pattern[2])
        if not 0 < first < second:
            raise ValueError(f"option {label!r}: N:M needs 0 < N < M")
        return Shape("n:m", first, second)
    found = _SHAPE.fullmatch(label)
    if found is None:
        try:
            return Shape("weights", level=label_level(label))
        except ValueError:
            raise ValueError(
                f"option {label!r} is no mask: write a sparsity as 0.35, or 2:4, 4x2:0.5, "
                "out:0.5, in:0.5"
            ) from None
    rows, columns, channel, text = found.groups()
    try:
        level = label_level(text)
    except ValueError:
        raise ValueError(f"option {label!r}: {text!r} is not a fraction in [0, 1]") from None
    if channel:
        return Shape(channel, level=level)
    if int(rows) < 1 or int(columns) < 1:
        raise ValueError(f"option {label!r}: a block has at least one output and one input")
    return Shape("blocks", int(rows), int(columns), level)


def make_mask(label: str, scores: Tensor, place: Geometry, *, layer: str = "") -> Tensor:
    """Mask of an option: what scores highest stays.

    Parameters
    ----------
    label : str
        See the module.
    scores : torch.Tensor
        One a weight, not negative. Blocks and channels count with the sum of theirs. At the edges
        blocks may be cut and the last N:M group short; of this at most N weights stay.
    place : Geometry
        Of the layer.
    layer : str
        Name of the layer, for the error message.

    Returns
    -------
    torch.Tensor
        bool, shape of the scores, True where a weight is kept.

    Raises
    ------
    ValueError
        If the label is none or a score is NaN.
    """
    shape = parse_shape(label)
    if scores.isnan().any():
        where = f"layer {layer!r}: " if layer else ""
        raise ValueError(f"{where}a score is NaN, which has no order")
    if shape.kind == "weights":
        return order_mask(_order(scores), kept_count(scores.numel(), shape.level), scores.shape)
    view = place.view(scores)
    if shape.kind == "n:m":
        mask = _pattern(view, shape.first, shape.second)
    elif shape.kind == "blocks":
        mask = _blocks(view, shape)
    else:
        axes = (2, 3) if shape.kind == "out" else (1, 3)
        sums = view.double().sum(dim=axes, keepdim=True)
        mask = _highest(sums, shape.level).expand(view.shape)
    return place.back(mask, scores.shape).contiguous()


def nested_mask(
    label: str, scores: Tensor, place: Geometry, within: Tensor | None, *, layer: str = ""
) -> Tensor:
    """Mask of an option that keeps nothing that a mask before it removes.

    Single weights are chosen among those that `within` keeps, so that their count is the option's;
    of other shapes what `within` removes scores nothing and stays removed.

    Parameters
    ----------
    label, scores, place, layer
        As for `make_mask`.
    within : torch.Tensor, optional
        bool, shape of the scores; None where nothing was removed.
    """
    if within is None:
        return make_mask(label, scores, place, layer=layer)
    inside = within.to(scores.device)
    if parse_shape(label).kind == "weights":
        return make_mask(label, torch.where(inside, scores, -1), place, layer=layer)
    return make_mask(label, scores * inside, place, layer=layer) & inside


def _order(values: Tensor) -> Tensor:
    return torch.argsort(values.reshape(-1), descending=True, stable=True)


def _highest(values: Tensor, level: float) -> Tensor:
    return order_mask(_order(values), kept_count(values.numel(), level), values.shape)


def _pattern(view: Tensor, kept: int, size: int) -> Tensor:
    """Keep the `kept` highest of every `size` consecutive inputs of an output and position."""
    rows = view.transpose(2, 3)
    short = -rows.shape[-1] % size
    padded = nn.functional.pad(rows.double(), (0, short), value=-1.0)
    groups = padded.reshape(*rows.shape[:-1], -1, size)
    order = torch.argsort(groups, dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :kept], True)
    return mask.reshape(padded.shape)[..., : rows.shape[-1]].transpose(2, 3)


def _blocks(view: Tensor, shape: Shape) -> Tensor:
    """Keep the blocks of highest sum, of `first` outputs by `second` inputs at one position."""
    values = view.double().permute(0, 3, 1, 2)
    rows, columns = values.shape[-2:]
    edges = (0, -columns % shape.second, 0, -rows % shape.first)
    padded = nn.functional.pad(values, edges)
    split = padded.reshape(
        *values.shape[:2], padded.shape[2] // shape.first, shape.first,
        padded.shape[3] // shape.second, shape.second,
    )  # fmt: skip
    mask = _highest(split.sum(dim=(3, 5), keepdim=True), shape.level).expand(split.shape)
    return mask.reshape(padded.shape)[..., :rows, :columns].permute(0, 2, 3, 1)
