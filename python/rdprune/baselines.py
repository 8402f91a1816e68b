"""Ways to share a number of weights among the layers that need no measuring.

Each takes a model, or the layers that `rdprune.prunable` lists, and the number of weights to
keep in all, and returns how many to keep in each layer: exactly that number in total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rdprune.kinds import CONVOLUTION_TYPES
from rdprune.layers import Prunable, prunable
from rdprune.magnitude import magnitude_order
from rdprune.sharing import scaled

Layers = nn.Module | Mapping[str, Prunable]


def uniform(layers: Layers, kept_total: int) -> dict[str, int]:
    """Keep the same fraction of every layer."""
    found, total = check(layers, kept_total)
    sizes = sizes_of(found)
    return named(found, scaled(sizes, [0] * len(sizes), sizes, total))


def uniform_plus(layers: Layers, kept_total: int) -> dict[str, int]:
    """Keep the first convolution whole, at least 20 % of the last layer, and the rest uniformly.

    Gale, Elsen, Hooker 2019, *The State of Sparsity in Deep Neural Networks*, section 4. First
    and last are in the order in which the model declares them. Where the total does not allow for
    both, it is shared in proportion to them.
    """
    found, total = check(layers, kept_total)
    sizes = sizes_of(found)
    floors = [0] * len(sizes)
    floors[-1] = -(-sizes[-1] // 5)
    first = _first_convolution(found)
    if first is not None:
        floors[first] = sizes[first]
    if sum(floors) > total:
        return named(found, scaled(floors, [0] * len(sizes), floors, total))
    return named(found, scaled(sizes, floors, sizes, total))


def erk(layers: Layers, kept_total: int) -> dict[str, int]:
    """Keep of each layer in proportion to the sum of its weight's dimensions.

    The Erdős-Rényi kernel of Evci et al. 2020, *Rigging the Lottery*, section 3: a density of
    (n_in + n_out + k_1 + ...) / (n_in n_out k_1 ...) times a constant, and at most 1.
    """
    found, total = check(layers, kept_total)
    sizes = sizes_of(found)
    sums = [sum(layer.parameter.shape) for layer in found.values()]
    return named(found, scaled(sums, [0] * len(sizes), sizes, total))


def global_magnitude(layers: Layers, kept_total: int) -> dict[str, int]:
    """Keep the weights of largest magnitude in all layers together."""
    return _by_score(layers, kept_total, lambda magnitudes: magnitudes)


def lamp(layers: Layers, kept_total: int) -> dict[str, int]:
    """Keep the weights of largest layer-adaptive magnitude in all layers together.

    Lee et al. 2021, *Layer-adaptive Sparsity for the Magnitude-based Pruning*, equation 2.1: the
    score of a weight is its square divided by the sum of the squares of the weights of its layer
    that are at least as large.
    """
    return _by_score(layers, kept_total, _lamp_scores)


BASELINES: Mapping[str, Callable[[Layers, int], dict[str, int]]] = {
    "uniform": uniform,
    "uniform_plus": uniform_plus,
    "erk": erk,
    "global_magnitude": global_magnitude,
    "lamp": lamp,
}


def check(layers: Layers, kept_total: int) -> tuple[dict[str, Prunable], int]:
    """Return the layers by name and the number of weights to keep.

    Raises
    ------
    ValueError
        If there is no layer, or the number is below 0 or above that of the weights.
    """
    found = prunable(layers) if isinstance(layers, nn.Module) else dict(layers)
    if not found:
        raise ValueError("layers is empty: there is no layer to prune")
    size = sum(sizes_of(found))
    if not 0 <= kept_total <= size:
        raise ValueError(f"kept_total is {kept_total}, must be between 0 and the {size} weights")
    return found, int(kept_total)


def sizes_of(layers: Mapping[str, Prunable]) -> list[int]:
    """Return the number of weights of each layer."""
    return [layer.parameter.numel() for layer in layers.values()]


def named(layers: Mapping[str, Prunable], counts: Sequence[int]) -> dict[str, int]:
    """Return counts by the layers' names."""
    return dict(zip(layers, counts, strict=True))


def _first_convolution(layers: Mapping[str, Prunable]) -> int | None:
    for position, layer in enumerate(layers.values()):
        if any(isinstance(module, CONVOLUTION_TYPES) for module, _, _ in layer.owners):
            return position
    return None


def _by_score(layers: Layers, kept_total: int, score: Callable[[Tensor], Tensor]) -> dict[str, int]:
    """Count, by layer, the `kept_total` highest scores; of equal ones the first layer's stay.

    `score` gets a layer's magnitudes, float64 and falling, and returns falling scores.
    """
    found, total = check(layers, kept_total)
    scores = []
    for name, layer in found.items():
        weight = layer.parameter.detach()
        order = magnitude_order(weight, layer=name)
        scores.append(score(weight.reshape(-1)[order].abs().cpu().double()))
    owners = torch.repeat_interleave(torch.tensor(sizes_of(found)))
    top = torch.argsort(torch.cat(scores), descending=True, stable=True)[:total]
    return named(found, torch.bincount(owners[top], minlength=len(found)).tolist())


def _lamp_scores(magnitudes: Tensor) -> Tensor:
    squares = magnitudes.square()
    return torch.nan_to_num(squares / squares.cumsum(0), nan=0.0)
