"""Distortions as quadratic forms: maps of output changes whose squares are the errors.

Changes dz of outputs z are mapped to s(dz) so that the mean of |s(dz)|² is the distortion; for
small changes s is linear, so that responses add up as the outputs do. At every position, C classes:

- mean square: s = dz, exact;
- standardised: s = the change of the standardised z, exact. (Its tangent at z would not see that
  the output is lost: dz = -z is along z.)
- cosine: s = the change of z / |z|, |s|² = 1/2 of its square, exact where no output is zero;
- KL(softmax(z / T) | softmax((z + dz) / T)): |s|² = 1/2 Var_p(dz) / T² to second order, p the dense
  softmax;
- cross-entropy on a label y: g dz + 1/2 Var_p(dz), with the gradient g = p - y. Its Hessian is the
  Gauss-Newton and Fisher matrix in the logits (Martens 2020, *New Insights and Perspectives on the
  Natural Gradient Method*), g lies in its range, so the form is |e0 + s(dz)|² - |e0|², the square
  completed, with e0 = s(-y / p), 1/2 (1 / p_y - 1) at a position.

Every other error has the identity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdprune.criteria import Criterion, by_sample, check_labels, positions, standardised


def tangent(
    criterion: Criterion,
    dense: Tensor,
    difference: Tensor,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Map an output difference so that its mean square is the error, at least to second order.

    Parameters
    ----------
    criterion : Criterion
    dense, difference : torch.Tensor
        float32 or float64, and float64, shape (n, ...).
    labels, weights : torch.Tensor, optional
        As for `Criterion.errors`.

    Returns
    -------
    torch.Tensor
        float64, with as many elements, a sample's in one row.
    """
    plain = criterion.error in ("mse", "callable") and not criterion.weights
    if plain:
        return difference
    if criterion.error == "loss" and dense.ndim == 1:
        return torch.zeros_like(difference)  # of a loss itself only the first order is known
    z, dz = positions(dense, criterion.name), positions(difference, criterion.name)
    if criterion.error == "mse":
        across = dz
    elif criterion.error == "nmse":
        across = standardised(z + dz) - standardised(z)
    elif criterion.error == "cosine":
        across = (_unit(z + dz) - _unit(z)) * math.sqrt(z.shape[-1] / 2)
    else:
        p = torch.softmax(z / _temperature(criterion), dim=-1)
        across = p.sqrt() * (dz - (p * dz).sum(-1, keepdim=True)) / _temperature(criterion)
        across = across * math.sqrt(z.shape[-1] / 2)
    shares = criterion.shares(z, labels if criterion.needs_labels else None, weights)
    return across if shares is None else across * _roots(shares)


def gradient(
    criterion: Criterion,
    dense: Tensor,
    difference: Tensor,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute what the errors of ``"loss"`` rise to first order, float64, shape (n,)."""
    if dense.ndim == 1:
        return difference
    z, dz = positions(dense, criterion.name), positions(difference, criterion.name)
    check_labels(z, labels)
    assert labels is not None
    chosen = dz.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    rise = (torch.softmax(z, dim=-1) * dz).sum(dim=-1) - chosen
    return by_sample(rise, criterion.shares(z, labels, weights))


def completion(
    criterion: Criterion,
    dense: Tensor,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor | None:
    """Compute e0 of ``"loss"``, laid out as `tangent`; not finite where a label has p = 0.

    None for an output that is the loss itself.
    """
    if dense.ndim == 1:
        return None
    z = positions(dense, criterion.name)
    check_labels(z, labels)
    assert labels is not None
    roots = torch.softmax(z, dim=-1).sqrt()
    at = labels.clamp(min=0)[..., None]
    e0 = roots.scatter_add(-1, at, -1 / roots.gather(-1, at)) * math.sqrt(z.shape[-1] / 2)
    shares = criterion.shares(z, labels, weights)
    return e0 if shares is None else torch.where(shares[..., None] > 0, e0 * _roots(shares), 0.0)


def _unit(z: Tensor) -> Tensor:
    """Scale to length 1 along the last dimension; zero stays zero."""
    square = z.square().sum(dim=-1, keepdim=True)
    # Divided by 1 where it is zero, or the gradient would not be finite.
    return z / torch.where(square > 0, square, 1.0).sqrt()


def _roots(shares: Tensor) -> Tensor:
    """Factors of the elements for unequal shares: the mean over positions weighs them equally."""
    return (shares * shares[0].numel()).sqrt()[..., None]


def _temperature(criterion: Criterion) -> float:
    return criterion.temperature if criterion.error == "kl" else 1.0
