"""Quantities of a pruned network that may foretell how well it does after recovery."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.bench.subject import Subject
from rdprune.criteria import parse
from rdprune.demo.data import Batches
from rdprune.layers import Prunable, prunable

KINDS: Final = ("mse", "max", "cvar:0.1", "nmse", "cosine", "kl:1", "kl:2", "kl:4")
FLOOR: Final = 1e-12


class Probe:
    """Logits and features of a network on the calibration pictures, beside the dense network's.

    Parameters
    ----------
    subject : Subject
        Its model is the dense one; the features are what its last linear layer takes.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._labels = torch.cat([labels for _, labels in subject.calibration])
        self._dense = outputs(subject.model, subject.calibration)

    def outcome(self, model: nn.Module) -> dict[str, float]:
        """Measure a network in the state that it is in; the smaller, the nearer to the dense one.

        Returns
        -------
        dict of str to float
            The distortions of `KINDS`; ``loss``, cross-entropy on the labels; ``features``,
            relative mean square of what the classifier takes; ``errors``, the share classified
            wrong; ``differ``, the share classified otherwise than by the dense network.
        """
        (z0, h0), (z, h) = self._dense, outputs(model, self._subject.calibration)
        found = {
            "loss": functional.cross_entropy(z, self._labels),
            "features": (h - h0).square().sum() / h0.square().sum(),
            "errors": (z.argmax(1) != self._labels).double().mean(),
            "differ": (z.argmax(1) != z0.argmax(1)).double().mean(),
        }
        taken = {name: float(value) for name, value in found.items()}
        for kind in KINDS:
            criterion = parse(kind)
            taken[kind] = float(criterion.reduction(criterion.errors(z0, z).numpy()))
        return taken

    def flow(self, model: nn.Module) -> dict[str, float]:
        """Measure the gradient of the loss in the kept weights, BatchNorm on batch statistics.

        Returns
        -------
        dict of str to float
            ``flow``, less the squared norm of the gradient (Wang, Zhang, Grosse 2020, *Picking
            winning tickets before training by preserving gradient flow*): the more, the faster
            the loss falls at first.
        """
        kept = {name: p.parameter != 0 for name, p in prunable(model).items()}
        parameters = {name: p.parameter for name, p in prunable(model).items()}
        training = model.training
        model.train()
        statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
        total = 0.0
        for pictures, labels in self._subject.calibration:
            loss = functional.cross_entropy(model(pictures), labels)
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            total += sum(
                float(gradient[kept[name]].double().square().sum())
                for name, gradient in zip(parameters, gradients, strict=True)
            )
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
        model.train(training)
        return {"flow": -total}


def outputs(model: nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return logits and what the last linear layer takes, float64, shapes (n, classes), (n, f)."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    features: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, taken: features.append(taken[0].double()))
    try:
        with torch.no_grad():
            logits = torch.cat([model(pictures).double() for pictures, _ in batches])
    finally:
        handle.remove()
    return logits, torch.cat(features)


def of_weights(layers: Mapping[str, Prunable], kept: Mapping[str, int]) -> dict[str, float]:
    """Quantities of an allocation that need no run of the network; smaller is meant to be better.

    Returns
    -------
    dict of str to float
        ``energy``, the sum of the squares of the removed weights, which global magnitude
        pruning minimises; ``relative energy``, that over each layer's own sum; ``log energy``,
        less the sum of the logarithms of the layers' shares of kept energy; ``log density``,
        less the sum of the logarithms of the layers' densities; ``narrowest``, less the least
        density.
    """
    energy = relative = logarithm = density = 0.0
    narrowest = 1.0
    for name, layer in layers.items():
        squares = layer.parameter.detach().double().reshape(-1).square()
        squares = squares.sort(descending=True).values
        whole, held = float(squares.sum()), float(squares[: kept[name]].sum())
        share = kept[name] / len(squares)
        energy += whole - held
        relative += (whole - held) / whole
        logarithm -= math.log(max(held / whole, FLOOR))
        density -= math.log(max(share, FLOOR))
        narrowest = min(narrowest, share)
    return {
        "energy": energy,
        "relative energy": relative,
        "log energy": logarithm,
        "log density": density,
        "narrowest": -narrowest,
    }
