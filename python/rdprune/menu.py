"""The options of every layer: sparsities and other shapes of masks, with exact counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rdprune.layers import Prunable
from rdprune.magnitude import kept_count, level_label
from rdprune.options import MASK, Masks, Option, magnitude_key, magnitude_masks
from rdprune.shapes import geometry, nested_mask, parse_shape

LABELLED = "labelled"

_SHAPELESS = ("experts", "embedding", "parameter")


@dataclass(frozen=True, slots=True, eq=False)
class Menu:
    """What can be measured.

    Attributes
    ----------
    options : dict of str to list of Option
        Of each layer.
    masks : callable
        Makes their masks.
    kind : str
        For the table's metadata: ``"unstructured-magnitude"``, or ``"labelled"`` where an option's
        label says what its mask is.
    """

    options: dict[str, list[Option]]
    masks: Masks
    kind: str


def menu(
    layers: Mapping[str, Prunable],
    levels: Sequence[float],
    shapes: Iterable[str],
    scores: Mapping[str, Tensor] | None,
    within: Mapping[str, Tensor] | None = None,
) -> Menu:
    """List every layer's options: the sparsities, then the shapes, in the order given.

    Parameters
    ----------
    layers : mapping of str to Prunable
        The layers.
    levels : sequence of float
        Sparsities of unstructured masks.
    shapes : iterable of str
        Labels such as ``"2:4"`` or ``"out:0.5"``; see `rdprune.shapes`. The counts are those of
        the very masks.
    scores : mapping of str to Tensor, optional
        Scores of the weights; their magnitudes by default.
    within : mapping of str to Tensor, optional
        Masks that every option lies in. Sparsities that keep as much or more are left out but for
        one option, which keeps what the mask does.

    Raises
    ------
    ValueError
        If a label is none, or is not for a layer of this kind.
    """
    sparsities = [level_label(level) for level in levels]
    labels = [parse_shape(label).label for label in _entries(shapes)]
    labels = [label for label in dict.fromkeys(labels) if label not in sparsities]
    for name, layer in layers.items():
        if labels and layer.kind in _SHAPELESS:
            raise ValueError(
                f"shape {labels[0]!r} of layer {name!r}: its kind is {layer.kind!r}, which does "
                "not say which dimensions are inputs and outputs; leave out shapes or the layer"
            )
    if not labels and scores is None and within is None:
        plain = {name: _plain(layer, sparsities) for name, layer in layers.items()}
        return Menu(plain, magnitude_masks, MASK)

    def masks(layer: Prunable, dense: Tensor) -> Callable[[Option], Tensor]:
        values = dense.detach().abs() if scores is None else scores[layer.name]
        place = geometry(layer)
        inside = None if within is None else within[layer.name]
        return lambda option: nested_mask(option.label, values, place, inside, layer=layer.name)

    options = {}
    for name, layer in layers.items():
        made = masks(layer, layer.parameter)
        known = scores is None and within is None
        row = _plain(layer, sparsities) if known else []
        single = sparsities if within is None else _finer(within[name], sparsities)
        for label in labels if known else (*single, *labels):
            mask = made(Option(label, 0, ""))
            row.append(Option(label, int(mask.count_nonzero()), _digest(mask)))
        options[name] = row
    return Menu(options, masks, LABELLED)


def _finer(within: Tensor, labels: Sequence[str]) -> list[str]:
    """Sparsities that remove more than a mask does, after the mask's own."""
    numel, kept = within.numel(), int(within.count_nonzero())
    finer = [label for label in labels if kept_count(numel, float(label)) < kept]
    return [level_label((numel - kept) / numel), *finer]


def _plain(layer: Prunable, labels: Iterable[str]) -> list[Option]:
    numel = layer.parameter.numel()
    counts = [(label, kept_count(numel, float(label))) for label in labels]
    return [Option(label, kept, magnitude_key(kept)) for label, kept in counts]


def _digest(mask: Tensor) -> str:
    data = mask.cpu().contiguous().numpy()
    return f"mask {hashlib.sha256(data.tobytes()).hexdigest()}"


def _entries(shapes: Iterable[str]) -> tuple[str, ...]:
    return (shapes,) if isinstance(shapes, str) else tuple(shapes)
