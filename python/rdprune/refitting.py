"""Pruned layers brought closer to the dense ones: output means restored, kept weights re-fitted.

For a layer with dense weights W on dense inputs x, and kept weights V on the inputs x' that the
pruned network gives it, *bias* adds ``E[W x] - E[V x']`` to the bias (Nagel et al. 2019,
*Data-free quantization through weight equalization and bias correction*, section 4.2), and
*least-squares* takes for every output the kept weights v that minimise

    ``E (v x' - w x)² + λ |v - w|²``,   λ = ridge · mean of E x'_i²

(Frantar, Alistarh 2022, *Optimal brain compression*, fit them to dense inputs). Together, v is
fitted with an intercept: all moments are taken about the means.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rdprune.layers import Prunable, is_masked
from rdprune.patches import input_rows, weight_index
from rdprune.recovery import NotFiniteError
from rdprune.sites import Site

RIDGE = 0.01
FITS = 2  # their version: other ones give other weights
TIMED_ROWS = 256  # of inputs, for their moments
TIMED_PARTS, TIMES = (16, 4, 2, 1), 2  # of a row's weights, and how often
MOST_TIMED = 4096  # weights of a row, of which a fit takes a second or so


@dataclass(slots=True)
class Moments:
    """Means of a layer's inputs, and covariances; float64.

    Attributes
    ----------
    count : int
        Rows.
    mean, dense_mean : torch.Tensor
        Shape (groups, inputs): of the inputs as they are, and of the dense network's.
    square, cross : torch.Tensor, optional
        Covariances of x' with itself, shape (groups, inputs, inputs), and with W x, shape (groups,
        inputs, outputs).
    rounding : float
        Of the inputs' type: the least relative change.
    """

    count: int
    mean: Tensor
    dense_mean: Tensor
    square: Tensor | None = None
    cross: Tensor | None = None
    rounding: float = torch.finfo(torch.float64).eps


class _Sums:
    """Moments of a layer's rows, chunk after chunk, each about its own mean.

    Merged by Chan, Golub, LeVeque 1983, *Algorithms for computing the sample variance*, in float64;
    the products within a chunk are of the rows' own type, float32 at least.

    Parameters
    ----------
    weight : torch.Tensor, optional
        Dense weights, shape (groups, outputs, inputs); without them means alone are taken.
    """

    def __init__(self, weight: Tensor | None) -> None:
        self._weight = weight
        self._found: Moments | None = None

    def add(self, module: nn.Module, inputs: Tensor, dense: Tensor | None) -> None:
        others = input_rows(module, inputs if dense is None else dense)
        for own, origin in zip(input_rows(module, inputs), others, strict=True):
            if own.shape[1]:
                self._merge(self._chunk(own, None if dense is None else origin))

    def _chunk(self, own: Tensor, origin: Tensor | None) -> Moments:
        rows, mean = _centred(own)
        dense_rows, dense_mean = (rows, mean) if origin is None else _centred(origin)
        found = Moments(own.shape[1], mean, dense_mean, rounding=torch.finfo(rows.dtype).eps)
        if self._weight is not None:
            found.square = (rows.mT @ rows).double() / found.count
            if origin is None:
                found.cross = found.square @ self._weight.double().mT
            else:
                targets = dense_rows @ self._weight.to(rows.dtype).mT
                found.cross = (rows.mT @ targets).double() / found.count
        return found

    def _merge(self, new: Moments) -> None:
        old = self._found
        if old is None:
            self._found = new
            return
        count = old.count + new.count
        share = new.count / count
        off, dense_off = new.mean - old.mean, new.dense_mean - old.dense_mean
        mean, dense_mean = old.mean + share * off, old.dense_mean + share * dense_off
        found = Moments(count, mean, dense_mean, rounding=old.rounding)
        if self._weight is not None:
            across = share * (1 - share) * off[:, :, None]
            square = across * off[:, None, :]
            cross = across * (dense_off[:, None, :] @ self._weight.double().mT)
            found.square = _mixed(old.square, new.square, share) + square
            found.cross = _mixed(old.cross, new.cross, share) + cross
        self._found = found

    def moments(self) -> Moments | None:
        """Return the moments; None where the layer was never given a row."""
        return self._found


def _mixed(old: Tensor | None, new: Tensor | None, share: float) -> Tensor:
    assert old is not None
    assert new is not None
    return (1 - share) * old + share * new


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows about their mean, float32 at least, and the mean, shape (groups, inputs)."""
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    about = rows.mean(dim=1, keepdim=True)
    rows = rows - about
    left = rows.mean(dim=1, keepdim=True)  # what rounding left
    return rows - left, (about.double() + left.double())[:, 0]


class Refitter:
    """One layer of a pruned network, to be re-fitted for any mask.

    Parameters
    ----------
    layer : Prunable
        Of the network that is pruned.
    sites : sequence of Site
        Where it runs.
    parts : sequence of str
        Some of ``"least-squares"`` and ``"bias"``.
    inputs : list of (int, torch.Tensor)
        What `inputs_of` saw.
    dense_inputs : list of (int, torch.Tensor), optional
        The same in the dense network, if that is another one.
    dense : torch.Tensor
        The dense weights.
    dense_sites : sequence of Site
        Where they run: the biases and means to shift from.
    """

    def __init__(
        self,
        layer: Prunable,
        sites: Sequence[Site],
        parts: Sequence[str],
        inputs: Sequence[tuple[int, Tensor]],
        dense_inputs: Sequence[tuple[int, Tensor]] | None,
        dense: Tensor,
        dense_sites: Sequence[Site],
    ) -> None:
        self._layer = layer
        self._parts = parts
        self._dense = dense
        self._index = weight_index(sites[0].module).to(dense.device)
        second = "least-squares" in parts
        whole = _Sums(dense.detach().reshape(-1)[self._index] if second else None)
        single = [_Sums(None) for _ in sites] if len(sites) > 1 else [whole]
        for call, (position, value) in enumerate(inputs):
            other = None if dense_inputs is None else dense_inputs[call][1]
            for sums in {whole, single[position]}:
                sums.add(sites[position].module, value, other)
        self._moments = self._finite(whole.moments())
        # Copied, because the origin may be the very place that is shifted.
        origins = [site.shiftable for site in dense_sites]
        self._origins = [None if o is None else o.detach().clone() for o in origins]
        self._places = [(site, sums.moments()) for site, sums in zip(sites, single, strict=True)]

    def _finite(self, moments: Moments | None) -> Moments | None:
        parts = () if moments is None else (moments.mean, moments.square, moments.cross)
        if not all(part is None or bool(part.isfinite().all()) for part in parts):
            raise NotFiniteError(
                f"layer {self._layer.name!r} cannot be fitted: its inputs, or products of them, "
                "are not finite"
            )
        return moments

    def write(self, mask: Tensor) -> None:
        """Set the weights, the biases and the running means for a mask of the weight's shape.

        A layer that keeps all its weights is the dense one.
        """
        dense = self._dense.detach().reshape(-1)[self._index].double()
        kept = mask.reshape(-1)[self._index]
        fitted = dense * kept
        if "least-squares" in self._parts and self._moments is not None and not mask.all():
            fitted = least_squares(dense, kept, self._moments, intercept="bias" in self._parts)
        # What a mask that the layer carries hides remains as it was.
        flat = self._dense.detach().clone().reshape(-1)
        if not self._layer.masked:
            flat[~mask.reshape(-1)] = 0
        chosen = self._index[kept]
        flat[chosen] = fitted[kept].to(flat.dtype)
        self._layer.parameter.data.copy_(flat.reshape(self._dense.shape))
        if "bias" not in self._parts:
            return
        for (site, moments), origin in zip(self._places, self._origins, strict=True):
            target = site.shiftable
            if target is None or origin is None or moments is None:
                continue
            shift = torch.einsum("gof,gf->go", dense, moments.dense_mean)
            shift -= torch.einsum("gof,gf->go", fitted, moments.mean)
            sign = 1 if target is site.module.bias else -1
            if mask.all():
                sign = 0
            target.data.copy_(origin + sign * shift.reshape(-1).to(origin.dtype))


def least_squares(dense: Tensor, kept: Tensor, moments: Moments, *, intercept: bool) -> Tensor:
    """Kept weights that come closest to the dense outputs; see the module's text.

    Parameters
    ----------
    dense : torch.Tensor
        float64, shape (groups, outputs, inputs).
    kept : torch.Tensor
        bool, the same shape.
    moments : Moments
        With second moments.
    intercept : bool
        Fit with a constant, which is not returned.

    Returns
    -------
    torch.Tensor
        The shape of `dense`, zero where not kept.
    """
    assert moments.square is not None
    assert moments.cross is not None
    square, cross, mean = moments.square, moments.cross, moments.mean
    if not intercept:
        square = square + mean[:, :, None] * mean[:, None, :]
        cross = cross + mean[:, :, None] * (dense @ moments.dense_mean[:, :, None]).mT
    fitted = torch.zeros_like(dense)
    for group in range(len(dense)):
        spread = square[group].diagonal()
        ridge = RIDGE * float(spread.mean())
        # Inputs that never change but for rounding: nothing to learn from.
        if not (spread > moments.rounding**2 * mean[group].square()).any():
            fitted[group] = dense[group] * kept[group]
            continue
        targets = cross[group].T + ridge * dense[group]
        for row in range(dense.shape[1]):
            chosen = kept[group, row].nonzero()[:, 0]
            if not len(chosen):
                continue
            fitted[group, row, chosen] = _row(square[group], targets[row], chosen, ridge)
    return fitted


def _row(square: Tensor, targets: Tensor, chosen: Tensor, ridge: float) -> Tensor:
    """Fit the chosen weights of one output."""
    system = square[chosen][:, chosen]
    system.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(system)
    return torch.cholesky_solve(targets[chosen][:, None], factor)[:, 0]


@dataclass(frozen=True, slots=True)
class FitCost:
    """Seconds that fits of a layer take, judged by rows of it that were timed.

    Attributes
    ----------
    rows, inputs : int
        Outputs of all groups, and the weights of each.
    start : float
        Seconds of the moments.
    timed : tuple of (int, float)
        Weights of a row and the seconds that their fit took, ascending.
    """

    rows: int
    inputs: int
    start: float
    timed: tuple[tuple[int, float], ...]

    def seconds(self, kept: int) -> float:
        """Return the seconds of a fit of so many weights, by those of a row.

        Between two timed rows by the power that leads from one to the other, beyond the last by
        that which led there, the cube at most.
        """
        if not kept:
            return 0.0
        counts, seconds = np.log(np.array(self.timed).T)
        power = 3.0 if len(counts) < 2 else np.diff(seconds)[-1] / np.diff(counts)[-1]
        row = math.log(max(kept / self.rows, 1.0))
        beyond = min(max(power, 0.0), 3.0) * max(row - counts[-1], 0.0)
        return self.rows * math.exp(float(np.interp(row, counts, seconds) + beyond))


def fit_cost(module: nn.Module, dtype: torch.dtype, positions: int) -> FitCost:
    """Time the fits of a few rows of a layer, with the moments of so many positions to come."""
    shape = weight_index(module).shape
    groups, outputs, inputs = shape
    device = next(module.parameters()).device
    square = torch.eye(inputs, dtype=torch.float64, device=device)
    targets = torch.ones(inputs, dtype=torch.float64, device=device)

    def timed(count: int) -> float:
        chosen = torch.arange(count, device=device)
        began = time.perf_counter()
        _row(square, targets, chosen, 1.0)
        return time.perf_counter() - began

    timed(1)  # the first call loads the library
    rows = torch.ones((TIMED_ROWS, inputs), dtype=dtype, device=device)
    began = time.perf_counter()
    rows.T @ rows
    moments = (time.perf_counter() - began) * groups * positions / TIMED_ROWS
    wide = min(inputs, MOST_TIMED)
    counts = sorted({1, *(max(wide // part, 1) for part in TIMED_PARTS)})
    seconds = [(count, min(timed(count) for _ in range(TIMES))) for count in counts]
    return FitCost(groups * outputs, inputs, moments, tuple(seconds))


def kept_weights(layer: Prunable) -> Tensor:
    """Mask of a layer: the one it carries, else where its weight is not zero."""
    for module, attribute, _ in layer.owners:
        if is_masked(module, attribute):
            return module.get_buffer(f"{attribute}_mask").bool()
    return layer.parameter.detach() != 0
