"""A first look at all layers and levels at once: first-order responses from random probes.

To first order, removing weights R of a layer changes the output by v = -J w_R, J the Jacobian by
the layer's weights. For a vector z of independent random signs, one an output element, the mean of
<z, v>² = <J'z, w_R>² is |v|², and that of <z, v_1> <z, v_2> is <v_1, v_2>, across layers too. One
backward pass gives J'z for every layer, and one cumulative sum of J'z * w in the order of the
magnitudes gives <z, v> for every level (Hutchinson 1990, *A stochastic estimator of the trace of
the influence matrix*). Squares from p probes are off by a relative standard error of sqrt(2 / p);
what the first order leaves out grows with the sparsity. An estimate is never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdprune.batches import Runner
from rdprune.layers import Prunable
from rdprune.magnitude import magnitude_order
from rdprune.progress import Meter

STEP = "first look"
Responses = dict[str, NDArray[np.float32]]


def first_order(
    layers: Mapping[str, Prunable],
    kept: Mapping[str, Sequence[int]],
    runner: Runner,
    *,
    probes: int,
    seed: int,
    meter: Meter,
) -> Responses:
    """Estimate the response of every option of every layer to first order.

    Use within `preserved`. Costs one forward and `probes` backward passes over the batches.

    Parameters
    ----------
    layers : mapping of str to Prunable
    kept : mapping of str to sequence of int
        Weights that each option of a layer keeps.
    runner : Runner
    probes : int
        Random sign vectors, at least 1.
    seed : int
        Of the signs.
    meter : Meter
        Told of every backward pass on a batch.

    Returns
    -------
    dict of str to ndarray
        float32, shape (K_l, probes): as in a table, the mean of a row's squares estimates the
        mean square error of the output.
    """
    removal = {name: _Removal(layer, kept[name]) for name, layer in layers.items()}
    totals = {name: torch.zeros(len(kept[name]), probes, dtype=torch.float64) for name in layers}
    parameters = [layer.parameter for layer in layers.values()]
    required = [parameter.requires_grad for parameter in parameters]
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for output in runner.live_outputs():
                samples += len(output)
                scale = math.sqrt(len(output) / output.numel())
                for probe in range(probes):
                    signs = 2 * torch.randint(2, output.shape, generator=generator) - 1
                    gradients = torch.autograd.grad(
                        output,
                        parameters,
                        scale * signs.to(output),
                        retain_graph=probe < probes - 1,
                        allow_unused=True,
                    )
                    for (name, removed), gradient in zip(removal.items(), gradients, strict=True):
                        if gradient is not None:
                            totals[name][:, probe] += removed.product(gradient)
                    meter.advance(STEP)
                del output, gradients
    finally:
        for parameter, flag in zip(parameters, required, strict=True):
            parameter.requires_grad_(flag)
    return {
        name: (total / math.sqrt(samples)).to(torch.float32).numpy()
        for name, total in totals.items()
    }


class _Removal:
    """What every option of a layer removes, against gradients of the layer's weight."""

    def __init__(self, layer: Prunable, kept: Sequence[int]) -> None:
        weight = layer.parameter.detach()
        self._order = magnitude_order(weight, layer=layer.name)
        self._sorted = weight.reshape(-1)[self._order].double()
        self._kept = torch.tensor(kept, device=weight.device)

    def product(self, gradient: Tensor) -> Tensor:
        """Minus the inner product with the removed weights, float64 on the CPU, shape (K,)."""
        terms = gradient.reshape(-1)[self._order].double() * self._sorted
        # Summed from the smallest magnitude on, so that the rounding is of what is removed.
        removed = terms.flip(0).cumsum(0)
        count = len(terms) - self._kept
        sums = torch.where(count > 0, removed[(count - 1).clamp(min=0)], 0.0)
        return -sums.cpu()
