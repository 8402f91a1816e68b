"""How much each weight matters inside its layer: what a mask keeps first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.aside import labels
from rdprune.batches import Forward, Runner, call, output_tensor, preserved, read
from rdprune.inputs import input_squares
from rdprune.layers import Prunable
from rdprune.recovery import recovered

Score = Callable[[Prunable], Tensor]
"""Takes a layer and returns a score for each of its weights, none negative."""

CRITERIA = ("magnitude", "wanda", "taylor")


def scores(
    criterion: str | Score,
    model: nn.Module,
    layers: Mapping[str, Prunable],
    batches: Iterable[Any] = (),
    *,
    forward: Forward | None = None,
    recovery: str = "none",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score every weight of every layer; the model is left as it was.

    Parameters
    ----------
    criterion : str or callable
        ``"magnitude"``: |W|. ``"wanda"``: |W| ‖X‖ (Sun et al. 2024, *A Simple and Effective
        Pruning Approach for Large Language Models*, equation 1), ranked over the whole layer and
        not row by row. ``"taylor"``: |W ∂L/∂W|, L being the cross entropy on the labels (Molchanov
        et al. 2017, *Pruning Convolutional Neural Networks for Resource Efficient Inference*,
        equation 7). Or a callable that takes a layer and returns its scores.
    model : torch.nn.Module
        The model.
    layers : mapping of str to Prunable
        Its layers.
    batches : iterable
        Calibration batches, for Wanda and, with labels, for Taylor.
    forward, recovery, seed
        As for `measure`.

    Returns
    -------
    dict of str to torch.Tensor
        Shape of the weight.

    Raises
    ------
    ValueError
        If the criterion is unknown, labels are missing, or a score is negative, NaN or of another
        shape.
    """
    if callable(criterion):
        found = {name: criterion(layer) for name, layer in layers.items()}
    elif criterion == "magnitude":
        found = {name: layer.parameter.detach().abs() for name, layer in layers.items()}
    elif criterion == "wanda":
        squares = input_squares(
            model, layers, batches, forward=forward, recovery=recovery, seed=seed
        )
        found = {
            name: layer.parameter.detach().abs().double() * squares[name].sqrt()
            for name, layer in layers.items()
        }
    elif criterion == "taylor":
        with recovered(model, recovery):
            found = _taylor(model, layers, read(batches), forward, seed)
    else:
        known = ", ".join(CRITERIA)
        raise ValueError(f"criterion is {criterion!r}, must be one of {known}, or a callable")
    for name, layer in layers.items():
        _check(name, found[name], layer)
    return found


def digest(found: Mapping[str, Tensor]) -> str:
    """Digest of scores, by which a table's scores are known again."""
    total = hashlib.sha256()
    for name, values in found.items():
        total.update(f"{name} {tuple(values.shape)}\n".encode())
        total.update(values.detach().cpu().double().contiguous().numpy().tobytes())
    return total.hexdigest()


def _taylor(
    model: nn.Module,
    layers: Mapping[str, Prunable],
    data: tuple[Any, ...],
    forward: Forward | None,
    seed: int,
) -> dict[str, Tensor]:
    """|W ∂L/∂W| of the mean cross entropy over all samples."""
    weights = [layer.parameter for layer in layers.values()]
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    flags = [weight.requires_grad for weight in weights]
    samples = 0
    truths = [labels(batch) for batch in data]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with preserved(model):
            for index, output in enumerate(_outputs(model, data, forward, seed)):
                truth = truths[index]
                if truth is None or output.ndim != 2:
                    raise ValueError(
                        f"criterion 'taylor' needs labels and logits of shape (n, classes); "
                        f"batch {index} has outputs of shape {tuple(output.shape)} and "
                        f"{'no' if truth is None else 'some'} labels"
                    )
                with torch.enable_grad():
                    target = truth.to(output.device)
                    loss = functional.cross_entropy(output, target, reduction="sum")
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
                for total, gradient in zip(sums, gradients, strict=True):
                    if gradient is not None:
                        total += gradient
                samples += len(truth)
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    return {
        name: (weight.detach() * total / samples).abs()
        for name, weight, total in zip(layers, weights, sums, strict=True)
    }


def _outputs(
    model: nn.Module, data: tuple[Any, ...], forward: Forward | None, seed: int
) -> Iterable[Tensor]:
    """Yield the outputs of all batches with their graphs, which `Runner` cuts off."""
    kept: list[Tensor] = []

    def graphed(network: nn.Module, batch: Any) -> Tensor:
        with torch.enable_grad():
            kept.append(output_tensor((forward or call)(network, batch)))
        return kept[-1].detach()

    for _ in Runner(model, data, graphed, seed).outputs():
        yield kept.pop()


def _check(name: str, found: Tensor, layer: Prunable) -> None:
    if not isinstance(found, Tensor) or found.shape != layer.parameter.shape:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the scores of layer {name!r} are {what}, must be a tensor of shape "
            f"{tuple(layer.parameter.shape)}"
        )
    if found.isnan().any() or (found < 0).any():
        raise ValueError(f"a score of layer {name!r} is NaN or negative")
