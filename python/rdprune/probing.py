"""First-order responses of all layers and levels at once, from a few backward passes.

To first order, removing weights R of a layer changes the output by v = -J w_R, J the Jacobian by
the layer's weights. For a vector z of independent random signs, one an output element, the mean of
<z, v>² = <J'z, w_R>² is |v|², and that of <z, v_1> <z, v_2> is <v_1, v_2>, across layers too. One
backward pass gives J'z for every layer, and one cumulative sum of J'z * w in the order of the
magnitudes gives <z, v> for every level (Hutchinson 1990, *A stochastic estimator of the trace of
the influence matrix*). Squares from p probes are off by a relative standard error of sqrt(2 / p);
what the first order leaves out grows with the sparsity. An estimate is never a measurement.

About a pruned network whose output is off by e, the rise of the distortion is 2 <e, v> + |v|²: one
more backward pass, from e itself, gives its first part without the probes' noise, and the probes
have the part of v that is across e.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdprune.batches import Runner
from rdprune.distortion import Reference
from rdprune.layers import Prunable
from rdprune.magnitude import magnitude_order, saved_weights
from rdprune.progress import Meter

STEP = "first look"
SAME: Final = 0.02  # of the outputs, between two kernels: what half precision explains
Responses = dict[str, NDArray[np.float32]]


def backward_cost(directions: int) -> int:
    """Return how many forward passes one of them and so many backward ones take."""
    return 1 + 2 * directions


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
    removals = {
        name: RemovedSums(layer.parameter.detach(), magnitude_order(layer.parameter, layer=name))
        for name, layer in layers.items()
    }
    generator = torch.Generator().manual_seed(seed)
    samples = 0

    def outputs() -> Iterator[Tensor]:
        nonlocal samples
        for output in runner.live_outputs():
            samples += len(output)
            yield output * math.sqrt(len(output) / output.numel())

    def direction(output: Tensor, _: int) -> Tensor:
        meter.advance(STEP)
        return _signs(output, generator)

    whole = {name: layer.parameter.numel() for name, layer in layers.items()}
    totals = _products(layers, removals, kept, whole, outputs(), direction, probes)
    return {name: (total / math.sqrt(samples)).astype(np.float32) for name, total in totals.items()}


def first_order_about(
    layers: Mapping[str, Prunable],
    removals: Mapping[str, RemovedSums],
    now: Mapping[str, int],
    kept: Mapping[str, Sequence[int]],
    runner: Runner,
    reference: Reference,
    *,
    probes: int,
    seed: int,
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Estimate to first order what options do to the output of a network that is pruned already.

    Use within `preserved`. Costs one forward and `probes` + 1 backward passes over the batches.

    Parameters
    ----------
    layers : mapping of str to Prunable
        As they are now, some of their weights zero.
    removals : mapping of str to RemovedSums
        Their dense weights.
    now : mapping of str to int
        Weights that the layers keep.
    kept : mapping of str to sequence of int
        Weights that each option keeps.
    runner : Runner
    reference : Reference
        The dense outputs; its distortion has a `Reference.mapped`.
    probes, seed : int
        As for `first_order`.

    Returns
    -------
    ndarray and dict of str to ndarray
        float64, shapes (probes + 1,) and (K_l, probes + 1): the present error, and its changes. The
        mean of the squares of their sum estimates the distortion; of the error alone it is what
        `Reference.mapped` says it is. Not finite where the output is not.
    """
    generator = torch.Generator().manual_seed(seed)
    square = 0.0
    along = np.zeros(probes)  # <z, e>

    def direction(error: Tensor, number: int) -> Tensor:
        nonlocal square
        here = error.detach()
        if number == probes:
            square += float(here.square().sum())
            return here
        signs = _signs(error, generator)
        along[number] += float((signs * here).sum())
        return signs

    outputs = runner.live_outputs()
    errors = (reference.mapped(index, output) for index, output in enumerate(outputs))
    both = {name: [*row, now[name]] for name, row in kept.items()}
    most = {name: max(row) for name, row in both.items()}
    totals = _products(layers, removals, both, most, errors, direction, probes + 1)
    length = math.sqrt(square)
    width = probes + 1
    changes = {}
    for name, total in totals.items():
        rows = total[:-1] - total[-1]
        first = rows[:, probes] / length if length else np.zeros(len(rows))
        rest = rows[:, :probes] - np.outer(first, along / length if length else along)
        changes[name] = math.sqrt(width) * np.column_stack([rest / math.sqrt(probes), first])
    error = np.zeros(width)
    error[probes] = length * math.sqrt(width)
    return error, changes


def gradients_tell(
    layers: Mapping[str, Prunable], runner: Runner, dense: Sequence[Tensor]
) -> tuple[bool, int]:
    """Whether gradients tell what the layers do to the outputs, and the passes that it took.

    Not where the model cannot be differentiated, where it gives other outputs with gradients on
    (a fused kernel that fills padding with zeros), or where a layer that no gradient reaches, as
    behind a ``detach()``, changes the outputs. Use within `preserved`.

    Parameters
    ----------
    layers : mapping of str to Prunable
        As they are in the dense model.
    runner : Runner
    dense : sequence of torch.Tensor
        What the runner's `outputs` were, batch for batch.
    """
    parameters = [layer.parameter for layer in layers.values()]
    reached: set[str] = set()
    try:
        with _differentiable(parameters):
            for output, before in zip(runner.live_outputs(), dense, strict=True):
                if not _close(output, before):
                    return False, backward_cost(1)
                ones = torch.ones_like(output)
                found = torch.autograd.grad(output, parameters, ones, allow_unused=True)
                reached |= {n for n, g in zip(layers, found, strict=True) if g is not None}
    except (TypeError, ValueError, RuntimeError):  # a refusal with gradients on: it ran before
        return False, backward_cost(1)
    lost = [layer.parameter for name, layer in layers.items() if name not in reached]
    if not lost:
        return True, backward_cost(1)
    with saved_weights(lost):
        for parameter in lost:
            parameter.data.zero_()
        same = all(_close(a, b) for a, b in zip(runner.outputs(), dense, strict=True))
    return same, backward_cost(1) + 1


def _close(output: Tensor, dense: Tensor) -> bool:
    """Whether outputs are the same, but for the rounding of another kernel."""
    change = output.detach().to("cpu", dense.dtype) - dense
    return bool(change.norm() <= SAME * dense.norm())


class RemovedSums:
    """A layer's dense weights in the order of their magnitudes.

    Parameters
    ----------
    weight : torch.Tensor
    order : torch.Tensor
        What `rdprune.magnitude.magnitude_order` returned.
    """

    def __init__(self, weight: Tensor, order: Tensor) -> None:
        self._weight = weight
        self._order = order

    def product(self, gradient: Tensor, kept: Sequence[int], most: int) -> NDArray[np.float64]:
        """Minus the inner products with what is removed when `most` become so many; shape (K,)."""
        wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        terms = (gradient.to(wide) * self._weight.to(wide)).reshape(-1)
        # Added from the smallest magnitude on, so that the rounding is of what is removed.
        counts = sorted(set(kept) | {most}, reverse=True)
        slices = [
            terms[self._order[fewer:more]].sum(dtype=torch.float64)
            for more, fewer in pairwise(counts)
        ]
        sums = np.cumsum([0.0, *(torch.stack(slices).tolist() if slices else [])])
        place = {count: at for at, count in enumerate(counts)}
        found: NDArray[np.float64] = -sums[[place[count] for count in kept]]
        return found


def _products(
    layers: Mapping[str, Prunable],
    removals: Mapping[str, RemovedSums],
    kept: Mapping[str, Sequence[int]],
    most: Mapping[str, int],
    outputs: Iterable[Tensor],
    direction: Callable[[Tensor, int], Tensor],
    count: int,
) -> dict[str, NDArray[np.float64]]:
    """Return <d, v>, summed over the outputs, of every option and so many directions d; (K, count).

    `outputs` are made with gradients on; `direction` is asked for each of them and each number.
    What is removed is counted from `most` kept weights on. Every direction goes back with a mean
    square of 1, so that in half precision the gradients of a small error do not vanish.
    """
    totals = {name: np.zeros((len(row), count)) for name, row in kept.items()}
    parameters = [layer.parameter for layer in layers.values()]
    with _differentiable(parameters):
        for output in outputs:
            for number in range(count):
                towards = direction(output, number)
                size = float(towards.double().square().mean().sqrt()) or 1.0
                gradients = torch.autograd.grad(
                    output,
                    parameters,
                    towards / size,
                    retain_graph=number < count - 1,
                    allow_unused=True,
                )
                for name, gradient in zip(layers, gradients, strict=True):
                    if gradient is not None:
                        products = removals[name].product(gradient, kept[name], most[name])
                        totals[name][:, number] += size * products
            del output, gradients
    return totals


@contextmanager
def _differentiable(parameters: Sequence[Tensor]) -> Iterator[None]:
    required = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in zip(parameters, required, strict=True):
            parameter.requires_grad_(flag)


def _signs(output: Tensor, generator: torch.Generator) -> Tensor:
    signs = 2 * torch.randint(2, output.shape, generator=generator, dtype=torch.int8) - 1
    return signs.to(output)
