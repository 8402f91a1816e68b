"""What a distortion is: the error of one sample, and how the samples' errors become one number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rdprune.reductions import Reduction, is_reduction, joined

SampleErrors = Callable[[Tensor, Tensor], Tensor]
"""``errors(dense_output, output)``, both float32 of shape (n, ...), returns n errors."""

KINDS = ("mse", "max", "cvar:FRACTION", "kl", "kl:TEMPERATURE", "cosine", "loss", "loss:next")


@dataclass(frozen=True, slots=True)
class Criterion:
    """The error of one sample and the reduction over the samples; see `parse`.

    Attributes
    ----------
    error : str
        ``"mse"``, ``"kl"``, ``"cosine"``, ``"loss"`` or ``"callable"``.
    argument : str
        What stands after the colon: the temperature, ``"next"``, or the callable's name.
    reduction : Reduction
    function : callable, optional
        The user's.
    """

    error: str
    argument: str
    reduction: Reduction
    function: SampleErrors | None = None

    @property
    def name(self) -> str:
        """The criterion as text, which `parse` reads unless it holds a callable."""
        return joined(
            f"{self.error}:{self.argument}" if self.argument else self.error, self.reduction
        )

    @property
    def needs_labels(self) -> bool:
        """Whether the errors are of the task's loss."""
        return self.error == "loss"

    def errors(self, dense: Tensor, output: Tensor, labels: Tensor | None) -> Tensor:
        """Compute the error of every sample of a batch.

        Parameters
        ----------
        dense, output : torch.Tensor
            float32, shape (n, ...).
        labels : torch.Tensor, optional
            int64, the right classes, for ``"loss"``.

        Returns
        -------
        torch.Tensor
            float64, shape (n,).

        Raises
        ------
        ValueError
            If the output has a shape that the error is not defined for.
        """
        if self.function is not None:
            return _checked(self.function(dense.clone(), output), len(dense), self.name)
        if self.error == "mse":
            return _by_sample((output.double() - dense.double()).square())
        if self.error == "loss":
            return _losses(output, labels) - _losses(dense, labels)
        before, after = _positions(dense, self.name), _positions(output, self.name)
        if self.error == "cosine":
            return _by_sample(1 - _cosine(before, after))
        logs = [torch.log_softmax(z / self._temperature, dim=-1) for z in (before, after)]
        return _by_sample((logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1))

    def tangent(self, dense: Tensor, difference: Tensor) -> Tensor:
        """Map an output difference linearly so that its mean square is the error, to second order.

        Small changes dz of an output z have KL(softmax(z / T) | softmax((z + dz) / T)) =
        1/2 Var_p(dz) / T² and 1 - cos(z, z + dz) = 1/2 |dz across z|² / |z|², up to third order.
        Responses mapped so add up like the outputs do. For every other error the map is the
        identity.

        Parameters
        ----------
        dense, difference : torch.Tensor
            float32 and float64, shape (n, ...).

        Returns
        -------
        torch.Tensor
            float64, shape of `difference` with the classes moved to the end.
        """
        if self.error not in ("kl", "cosine"):
            return difference
        z, dz = _positions(dense, self.name), _positions(difference, self.name)
        if self.error == "kl":
            p = torch.softmax(z / self._temperature, dim=-1)
            across = p.sqrt() * (dz - (p * dz).sum(-1, keepdim=True)) / self._temperature
        else:
            length = z.norm(dim=-1, keepdim=True)
            unit = torch.where(length > 0, z / length, 0.0)
            along = (unit * dz).sum(-1, keepdim=True)
            across = torch.where(length > 0, (dz - along * unit) / length, 0.0)
        return across * math.sqrt(z.shape[-1] / 2)

    @property
    def _temperature(self) -> float:
        return float(self.argument or 1)


def parse(distortion: str | SampleErrors) -> Criterion:
    """Read a distortion.

    Parameters
    ----------
    distortion : str or callable
        The error of a sample: ``"mse"``, mean square; ``"kl"`` or ``"kl:2"``, Kullback-Leibler
        divergence of the softmax at a temperature; ``"cosine"``, 1 - cosine; ``"loss"`` or
        ``"loss:next"``, increase of the cross-entropy, of the output itself or of the next token;
        or a callable ``errors(dense_output, output)``. After a comma, how samples are reduced:
        ``"mean"``, the default, ``"max"`` or ``"cvar:0.1"``. A reduction alone is of ``"mse"``.

    Raises
    ------
    ValueError
        If it is none of these.

    Examples
    --------
    >>> parse("kl:2,cvar:0.1").reduction.name, parse("max").error
    ('cvar:0.1', 'mse')
    """
    if callable(distortion):
        name = getattr(distortion, "__qualname__", type(distortion).__qualname__)
        return Criterion("callable", name, Reduction("mean"), distortion)
    if not isinstance(distortion, str):
        raise ValueError(f"distortion is {distortion!r}, must be a string or a callable")
    first, comma, second = (part.strip() for part in distortion.partition(","))
    if is_reduction(first) and not comma:
        first, second = "mse", first
    error, _, argument = first.partition(":")
    if not _known(error, argument, first):
        if error == "callable":
            raise ValueError(f"distortion was {distortion!r}: give distortion= the callable again")
        raise ValueError(f"distortion is {distortion!r}, must be one of {', '.join(KINDS)}")
    return Criterion(error, argument, Reduction(second if comma or second else "mean"))


def _known(error: str, argument: str, text: str) -> bool:
    if error == "kl" and ":" in text:
        try:
            return 0 < float(argument) < math.inf
        except ValueError:
            return False
    return text in ("mse", "kl", "cosine", "loss", "loss:next")


def _by_sample(errors: Tensor) -> Tensor:
    return errors.reshape(len(errors), -1).mean(dim=1)


def _positions(output: Tensor, name: str) -> Tensor:
    """Output in float64 with classes or features last: dimension 1 of maps, else the last."""
    if output.ndim < 2:
        raise ValueError(
            f"distortion {name!r} needs an output of shape (n, ..., classes), "
            f"the model's has shape {tuple(output.shape)}"
        )
    return (output.movedim(1, -1) if output.ndim > 3 else output).double()


def _cosine(z: Tensor, w: Tensor) -> Tensor:
    """Cosine along the last dimension; 1 between two zero vectors, 0 between zero and another."""
    lengths = z.norm(dim=-1) * w.norm(dim=-1)
    zero = (z == 0).all(dim=-1) & (w == 0).all(dim=-1)
    return torch.where(lengths == 0, zero.double(), (z * w).sum(dim=-1) / lengths)


def _losses(output: Tensor, labels: Tensor | None) -> Tensor:
    """Cross-entropy of every sample, the mean over its labelled positions; or the output itself."""
    if output.ndim == 1:
        return output.double()
    if labels is None:
        raise ValueError(
            "distortion 'loss' needs integer labels in every batch, or a forward= that returns "
            "the loss of each sample, of shape (n,)"
        )
    logits = _positions(output, "loss")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"distortion 'loss': labels have shape {tuple(labels.shape)}, the output has "
            f"{tuple(output.shape)}; give forward= a function that returns each sample's loss"
        )
    classes = logits.shape[-1]
    if ((labels >= classes) | ((labels < 0) & (labels != -100))).any():
        raise ValueError(f"distortion 'loss': labels must be -100 or below {classes}")
    loss = F.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1), reduction="none")
    counted = (labels != -100).reshape(len(labels), -1)
    if not counted.any(dim=1).all():
        raise ValueError("distortion 'loss': a sample has no label but -100")
    return loss.reshape(counted.shape).sum(dim=1) / counted.sum(dim=1)


def _checked(errors: object, samples: int, name: str) -> Tensor:
    if not isinstance(errors, Tensor) or errors.shape != (samples,):
        found = tuple(errors.shape) if isinstance(errors, Tensor) else type(errors).__name__
        raise ValueError(
            f"distortion {name!r} returned {found}, must return a tensor of shape ({samples},), "
            "one error a sample"
        )
    return errors.detach().to("cpu", torch.float64)
