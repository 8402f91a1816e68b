"""What a distortion is: the error of one sample, and how the samples' errors become one number.

Outputs with positions (tokens, pixels) have their classes or features last, or in dimension 1 of
maps (n, classes, h, w); a sample's error is the mean over its positions, or the weighted mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rdprune.reductions import Reduction, is_reduction, joined

SampleErrors = Callable[[Tensor, Tensor], Tensor]
"""``errors(dense_output, output)``, both of shape (n, ...), returns n errors.

float32, or float64 where the model's output is.
"""

IGNORED = -100  # label of what has none, as in torch
KINDS = (
    "mse", "nmse", "max", "cvar:FRACTION", "kl", "kl:TEMPERATURE", "cosine", "loss", "loss:next",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Beside:
    """What a criterion needs of a batch beside the outputs.

    Attributes
    ----------
    labels : torch.Tensor, optional
        int64, the right classes, for ``"loss"``.
    weights : torch.Tensor, optional
        float64, one for each position.
    """

    labels: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Criterion:
    """The error of one sample and the reduction over the samples; see `parse`.

    Attributes
    ----------
    error : str
        ``"mse"``, ``"nmse"``, ``"kl"``, ``"cosine"``, ``"loss"`` or ``"callable"``.
    argument : str
        What stands after the colon: the temperature, ``"next"``, or the callable's name.
    reduction : Reduction
    function : callable, optional
        The user's.
    weights : str
        Entry of the batches that weighs the positions; empty for the plain mean.
    """

    error: str
    argument: str
    reduction: Reduction
    function: SampleErrors | None = None
    weights: str = ""

    @property
    def name(self) -> str:
        """The criterion as text, which `parse` reads unless it holds a callable."""
        error = f"{self.error}:{self.argument}" if self.argument else self.error
        return joined(f"{error}@{self.weights}" if self.weights else error, self.reduction)

    @property
    def needs_labels(self) -> bool:
        """Whether the errors are of the task's loss."""
        return self.error == "loss"

    def errors(
        self,
        dense: Tensor,
        output: Tensor,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the error of every sample of a batch.

        Parameters
        ----------
        dense, output : torch.Tensor
            float32 or float64, shape (n, ...).
        labels : torch.Tensor, optional
            int64, the right classes, for ``"loss"``.
        weights : torch.Tensor, optional
            float64, one a position: of a weighted criterion.

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
        if self.error == "loss":
            return self._losses(output, labels, weights) - self._losses(dense, labels, weights)
        if self.error == "mse" and not self.weights:
            return by_sample((output.double() - dense.double()).square())
        before, after = positions(dense, self.name), positions(output, self.name)
        shares = self.shares(before, None, weights)
        if self.error == "mse":
            return by_sample((after - before).square().mean(dim=-1), shares)
        if self.error == "nmse":
            changes = standardised(after) - standardised(before)
            return by_sample(changes.square().mean(dim=-1), shares)
        if self.error == "cosine":
            return by_sample(1 - _cosine(before, after), shares)
        logs = [torch.log_softmax(z / self.temperature, dim=-1) for z in (before, after)]
        return by_sample((logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1), shares)

    def shares(
        self, positions: Tensor, labels: Tensor | None, weights: Tensor | None
    ) -> Tensor | None:
        """Which part each position has in its sample's error; None for equal ones.

        Parameters
        ----------
        positions : torch.Tensor
            Output with its classes last, shape (n, ..., classes).
        labels, weights : torch.Tensor, optional
            Shape (n, ...).

        Returns
        -------
        torch.Tensor or None
            float64, shape (n, ...), a sum of 1 for each sample.

        Raises
        ------
        ValueError
            If weights are absent, of another shape, or all zero for a sample, or a sample has no
            label.
        """
        shape = positions.shape[:-1]
        if not self.weights:
            if labels is None:
                return None
            counted = (labels != IGNORED).double()
        else:
            if weights is None or weights.shape != shape or len(shape) < 2:
                found = "absent" if weights is None else f"of shape {tuple(weights.shape)}"
                raise ValueError(
                    f"distortion {self.name!r}: the weights are {found}, must be one for each "
                    "position (n, tokens) of an output (n, tokens, features), this has shape "
                    f"{tuple(positions.shape)}"
                )
            counted = weights if labels is None else weights * (labels != IGNORED)
        total = counted.reshape(len(counted), -1).sum(dim=1)
        if (total <= 0).any():
            what = "label but -100" if not self.weights else "position of positive weight"
            raise ValueError(f"distortion {self.name!r}: a sample has no {what}")
        return counted / total.reshape(-1, *(1 for _ in shape[1:]))

    def _losses(self, output: Tensor, labels: Tensor | None, weights: Tensor | None) -> Tensor:
        """Cross-entropy of every sample, the mean over its labelled positions; or the output."""
        if output.ndim == 1 and not self.weights:
            return output.double()
        logits = positions(output, self.name)
        check_labels(logits, labels)
        assert labels is not None
        loss = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none"
        )
        return by_sample(loss.reshape(labels.shape), self.shares(logits, labels, weights))

    @property
    def temperature(self) -> float:
        """Of the softmax, for ``"kl"``."""
        return float(self.argument or 1)


def parse(distortion: str | SampleErrors) -> Criterion:
    """Read a distortion.

    Parameters
    ----------
    distortion : str or callable
        The error of a sample: ``"mse"``, mean square; ``"nmse"``, mean square after each
        position's logits were brought to mean 0 and variance 1 (Sun et al. 2024, *Logit
        Standardization in Knowledge Distillation*), which is 2 (1 - Pearson's correlation);
        ``"kl"`` or ``"kl:2"``, Kullback-Leibler divergence of the softmax at a temperature;
        ``"cosine"``, 1 - cosine; ``"loss"`` or ``"loss:next"``, increase of the cross-entropy, of
        the output itself or of the next token; or a callable ``errors(dense_output, output)``.
        After an ``@``, the entry of the batches that weighs the positions of a sample, a key or
        a place in a tuple: ``"mse@attention_mask"``. After a comma, how samples are reduced:
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
    text, at, weights = first.partition("@")
    error, _, argument = text.partition(":")
    if not _known(error, argument, text) or bool(at) != bool(weights):
        if error == "callable":
            raise ValueError(f"distortion was {distortion!r}: give distortion= the callable again")
        raise ValueError(
            f"distortion is {distortion!r}, must be one of {', '.join(KINDS)}, maybe with @KEY"
        )
    chosen = Reduction(second if comma or second else "mean")
    return Criterion(error, argument, chosen, weights=weights)


def _known(error: str, argument: str, text: str) -> bool:
    if error == "kl" and ":" in text:
        try:
            return 0 < float(argument) < math.inf
        except ValueError:
            return False
    return text in ("mse", "nmse", "kl", "cosine", "loss", "loss:next")


def by_sample(errors: Tensor, shares: Tensor | None = None) -> Tensor:
    """Mean over all but the first dimension, or the sum weighted by `shares`."""
    if shares is not None:
        return (errors * shares).reshape(len(errors), -1).sum(dim=1)
    return errors.reshape(len(errors), -1).mean(dim=1)


def positions(output: Tensor, name: str) -> Tensor:
    """Output in float64 with classes or features last: dimension 1 of maps, else the last."""
    if output.ndim < 2:
        raise ValueError(
            f"distortion {name!r} needs an output of shape (n, ..., classes), "
            f"the model's has shape {tuple(output.shape)}"
        )
    return (output.movedim(1, -1) if output.ndim > 3 else output).double()


def standardised(z: Tensor) -> Tensor:
    """Bring the last dimension to mean 0 and variance 1; constant ones become 0."""
    centred = z - z.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    # Divided by 1 where it is constant, or the gradient would not be finite.
    return centred / torch.where(variance > 0, variance, 1.0).sqrt()


def _cosine(z: Tensor, w: Tensor) -> Tensor:
    """Cosine along the last dimension; 1 between two zero vectors, 0 between zero and another."""
    lengths = z.norm(dim=-1) * w.norm(dim=-1)
    zero = (z == 0).all(dim=-1) & (w == 0).all(dim=-1)
    return torch.where(lengths == 0, zero.double(), (z * w).sum(dim=-1) / lengths)


def check_labels(logits: Tensor, labels: Tensor | None) -> None:
    """Refuse labels that are absent, of another shape or out of range."""
    if labels is None:
        raise ValueError(
            "distortion 'loss' needs integer labels in every batch, or a forward= that returns "
            "the loss of each sample, of shape (n,)"
        )
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"distortion 'loss': labels have shape {tuple(labels.shape)}, the output has "
            f"{tuple(logits.shape)}; give forward= a function that returns each sample's loss"
        )
    classes = logits.shape[-1]
    if ((labels >= classes) | ((labels < 0) & (labels != IGNORED))).any():
        raise ValueError(f"distortion 'loss': labels must be -100 or below {classes}")


def _checked(errors: object, samples: int, name: str) -> Tensor:
    if not isinstance(errors, Tensor) or errors.shape != (samples,):
        found = tuple(errors.shape) if isinstance(errors, Tensor) else type(errors).__name__
        raise ValueError(
            f"distortion {name!r} returned {found}, must return a tensor of shape ({samples},), "
            "one error a sample"
        )
    return errors.detach().to("cpu", torch.float64)
