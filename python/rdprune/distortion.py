"""How far outputs are from the dense network's, and a small sketch of the difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdprune.criteria import Beside, SampleErrors, parse
from rdprune.tangents import completion, gradient, tangent

FARTHEST = 10.0
"""Largest offset of `Reference.offset`."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What one option does to the output.

    Attributes
    ----------
    distortion : float
        The samples' errors, reduced.
    response : ndarray, optional
        float32, shape (m,): the sketched difference. The mean of its squares estimates the mean
        square error, and equals it where the sketch is the identity. For other distortions it is
        that of the mapped difference, and estimates the distortion to second order
        (`rdprune.tangents`); for ``"loss"`` see `Reference.offset`.
    errors : ndarray, optional
        float64, shape (samples,): the error of each sample.
    """

    distortion: float
    response: NDArray[np.float32] | None
    errors: NDArray[np.float64] | None = None

    def packed(self) -> NDArray[np.float64]:
        """Return all numbers in one array, float64, which `unpacked` reads."""
        response = np.zeros(0, np.float32) if self.response is None else self.response
        errors = np.zeros(0) if self.errors is None else self.errors
        has = self.response is not None, self.errors is not None
        head = [self.distortion, *has, len(response)]
        return np.concatenate([head, response.astype(np.float64), errors])

    @staticmethod
    def unpacked(row: NDArray[np.float64]) -> Measurement:
        """Return the measurement that was `packed`, bit for bit."""
        distortion, has_response, has_errors, size = row[:4].tolist()
        response, errors = np.split(row[4:], [int(size)])
        return Measurement(
            distortion,
            response.astype(np.float32) if has_response else None,
            errors.copy() if has_errors else None,
        )

    def same_bits(self, other: Measurement) -> bool:
        """Whether all numbers are the same, bit for bit."""
        pairs = ((self.response, other.response), (self.errors, other.errors))
        return self.distortion.hex() == other.distortion.hex() and all(
            a is b or (a is not None and b is not None and a.tobytes() == b.tobytes())
            for a, b in pairs
        )


class Reference:
    """The dense network's outputs on all batches, to measure others against.

    With ``"mse"`` the error of sample i is the mean over its output elements of
    (f(x_i; masked) - f(x_i))²; `criteria.parse` lists the others. All are computed in float64. What
    a callable makes of the dense outputs themselves is subtracted, so that the dense network's
    errors are 0.

    Parameters
    ----------
    outputs : iterable of torch.Tensor
        One a batch, float32 or float64, shape (n, ...).
    distortion : str or callable
        See `criteria.parse`.
    projection : int
        Numbers in a response; 0 for none. No more than there are output elements.
    seed : int
        Of the projection.
    beside : sequence of Beside, optional
        What the distortion needs of each batch.
    cause : callable, optional
        Says of the index of a batch where a dense output that is not finite comes from.

    Attributes
    ----------
    offset : ndarray or None
        float64, shape (m,): what the responses are added to. Only for ``"loss"``, whose gradient at
        the dense outputs is not zero.

    Raises
    ------
    ValueError
        If `distortion` is unknown, does not fit the outputs or is not finite for the dense ones, or
        an output is not finite.
    """

    def __init__(
        self,
        outputs: Iterable[Tensor],
        *,
        distortion: str | SampleErrors = "mse",
        projection: int = 0,
        seed: int = 0,
        beside: Sequence[Beside] | None = None,
        cause: Callable[[int], str] | None = None,
    ) -> None:
        self._criterion = parse(distortion)
        self._outputs = []
        for index, output in enumerate(outputs):
            if not output.isfinite().all():
                more = "" if cause is None else f"; {cause(index)}"
                raise ValueError(
                    f"the dense model's output on batch {index} is not finite: it holds NaN or inf"
                    f"{more}"
                )
            self._outputs.append(output.clone())
        self._beside = [Beside()] * len(self._outputs) if beside is None else list(beside)
        self.samples = sum(len(output) for output in self._outputs)
        self.elements = sum(output.numel() for output in self._outputs)
        self._sketch = _Sketch(self._outputs, projection, seed) if projection else None
        self._unpruned = [self._dense_errors(index) for index in range(len(self._outputs))]
        self._slope: _Slope | None = None
        if self._sketch and self._criterion.needs_labels:
            self._slope = self._make_slope(self._sketch)

    @property
    def projection(self) -> int:
        """Numbers in a response, 0 if none is computed."""
        return self._sketch.size + (self._slope is not None) if self._sketch else 0

    @property
    def offset(self) -> NDArray[np.float64] | None:
        """What the responses are added to; None for nothing."""
        return None if self._slope is None else self._slope.offset

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The dense outputs."""
        return tuple(self._outputs)

    def measure(self, outputs: Iterable[Tensor]) -> Measurement:
        """Compare other outputs on the same batches with the reference.

        Raises
        ------
        ValueError
            If an output has another shape than the reference.
        """
        errors = []
        total = self._sketch.zero() if self._sketch else torch.zeros(0)
        risen = []
        for index, (output, dense) in enumerate(zip(outputs, self._outputs, strict=True)):
            if output.shape != dense.shape:
                raise ValueError(
                    f"the output on batch {index} has shape {tuple(output.shape)}, "
                    f"the dense model's has {tuple(dense.shape)}"
                )
            known = self._beside[index].labels, self._beside[index].weights
            found = self._criterion.errors(dense, output, *known)
            errors.append(found if self.built_in else found - self._unpruned[index])
            if self._sketch:
                difference = output.double() - dense.double()
                mapped = tangent(self._criterion, dense, difference, *known)
                self._sketch.add(total, index, mapped)
                if self._slope:
                    risen.append(gradient(self._criterion, dense, difference, *known))
        error: NDArray[np.float64] = torch.cat(errors).numpy()
        response = self._sketch.scaled(total) if self._sketch else None
        if response is not None and self._slope:
            response = self._slope.extended(response, float(torch.cat(risen).mean()))
        kept = None if response is None else response.astype(np.float32)
        return Measurement(float(self._criterion.reduction(error)), kept, error)

    def mapped(self, index: int, output: Tensor) -> Tensor:
        """Map how far an output is from the dense one: its squares add up to the distortion.

        Exactly for ``"mse"``, ``"nmse"`` and ``"cosine"``, to second order for ``"kl"``; not for
        the others (`measures_squares`). The mean over the samples stands for every reduction.

        Parameters
        ----------
        index : int
            Of the batch.
        output : torch.Tensor
            Shape (n, ...), on any device; may have a graph.

        Returns
        -------
        torch.Tensor
            float64, on the CPU, differentiable by the output.
        """
        dense, weights = self._outputs[index], self._beside[index].weights
        difference = output.to("cpu", torch.float64) - dense.double()
        mapped = tangent(self._criterion, dense, difference, None, weights)
        return mapped * math.sqrt(len(mapped) / (mapped.numel() * self.samples))

    @property
    def built_in(self) -> bool:
        """Whether the distortion's name says all about it: it is no callable."""
        return self._criterion.function is None

    @property
    def measures_squares(self) -> bool:
        """Whether the distortion is a mean of squares of what `mapped` returns."""
        return self._criterion.error in ("mse", "nmse", "cosine", "kl")

    def unchanged(self) -> Measurement:
        """Return the measurement of the dense network itself: no error, no response."""
        response = np.zeros(self.projection, dtype=np.float32) if self._sketch else None
        return Measurement(0.0, response, np.zeros(self.samples))

    def _dense_errors(self, index: int) -> Tensor:
        """Return what a callable makes of the dense outputs of a batch themselves."""
        if self.built_in:
            return torch.zeros(0)
        dense = self._outputs[index]
        found = self._criterion.errors(dense, dense.clone())
        if not found.isfinite().all():
            raise ValueError(
                f"distortion {self._criterion.name!r} is not finite for the dense outputs "
                f"themselves: errors(dense, dense) of batch {index} holds NaN or inf"
            )
        return found

    def _make_slope(self, sketch: _Sketch) -> _Slope:
        total, square = sketch.zero(), 0.0
        for index, (dense, beside) in enumerate(zip(self._outputs, self._beside, strict=True)):
            e0 = completion(self._criterion, dense, beside.labels, beside.weights)
            if e0 is None:
                return _Slope(FARTHEST, np.zeros(sketch.size))
            square += float(e0.square().reshape(len(e0), -1).mean(dim=1).sum()) / self.samples
            sketch.add(total, index, e0)
        length = math.sqrt(square)
        if not length <= FARTHEST:  # may be NaN
            return _Slope(FARTHEST, np.zeros(sketch.size))
        return _Slope(length, sketch.scaled(total) / length if length else np.zeros(sketch.size))


def same_outputs(outputs: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    """Whether outputs on the same batches are the same, bit for bit."""
    return all(
        output.shape == other.shape
        and torch.equal(output.view(torch.int32), other.view(torch.int32))
        for output, other in zip(outputs, expected, strict=True)
    )


class _Slope:
    """The gradient of the loss as one more number, exact, beside the sketch of its curvature.

    With e0 the completion of the square (`rdprune.tangents`), t its length and u = e0 / t, a change
    s has |e0 + s|² - |e0|² = (t + <u, s>)² - t² + |s - <u, s> u|²: one number of exact value,
    <u, s> = a / 2t with the first-order rise a, to which t is added, and the sketch of the rest.
    Lengths are root mean squares. Where labels are so improbable that t is above 10, t is 10 and
    the sketch keeps all of s: then a² / 400 is added that should not be.

    Parameters
    ----------
    length : float
        t.
    direction : ndarray
        Sketch of u, float64, shape (m,); zero if the sketch keeps all of s.
    """

    def __init__(self, length: float, direction: NDArray[np.float64]) -> None:
        self._length = length
        self._direction = direction
        self._width = len(direction) + 1
        self.offset: NDArray[np.float64] = np.zeros(self._width)
        self.offset[-1] = length * math.sqrt(self._width)

    def extended(self, sketch: NDArray[np.float64], rise: float) -> NDArray[np.float64]:
        """Add the number to a sketch, float64 of shape (m,); the mean of squares stays a mean."""
        along = rise / (2 * self._length) if self._length else 0.0
        rest = (sketch - along * self._direction) * math.sqrt(self._width / (self._width - 1))
        return np.append(rest, along * math.sqrt(self._width))


class _Sketch:
    """CountSketch of all output elements to at most `size` numbers.

    Every element adds itself, with a random sign, to a random bucket (Charikar, Chen,
    Farach-Colton 2002, *Finding frequent items in data streams*; Weinberger et al. 2009,
    *Feature hashing for large scale multitask learning*). Inner products of sketches are unbiased
    estimates of those of the vectors. With no more elements than buckets it is the identity.
    """

    def __init__(self, outputs: Sequence[Tensor], size: int, seed: int) -> None:
        elements = sum(output.numel() for output in outputs)
        samples = sum(len(output) for output in outputs)
        self.size = min(size, elements)
        self._scale = math.sqrt(self.size / elements)
        self._buckets: list[Tensor] = []
        self._signs: list[Tensor] = []
        offset = 0
        for index, output in enumerate(outputs):
            count = output.numel()
            # A sample's elements weigh 1 / their number in the mse; all weights are 1 if every
            # sample has the same number.
            weight = math.sqrt(elements * len(output) / (samples * count))
            if elements <= size:
                self._buckets.append(torch.arange(offset, offset + count))
                self._signs.append(torch.full((count,), weight))
            else:
                generator = torch.Generator().manual_seed((seed << 24) + index)
                buckets = torch.randint(self.size, (count,), generator=generator, dtype=torch.int32)
                signs = torch.randint(2, (count,), generator=generator, dtype=torch.int8)
                self._buckets.append(buckets)
                self._signs.append((2 * signs - 1) * weight)
            offset += count

    def zero(self) -> Tensor:
        """Return the sketch of no difference."""
        return torch.zeros(self.size, dtype=torch.float64)

    def add(self, total: Tensor, index: int, difference: Tensor) -> None:
        """Add the difference on one batch, float64, to the sketch `total`, shape (size,)."""
        total.index_add_(0, self._buckets[index], difference.reshape(-1) * self._signs[index])

    def scaled(self, total: Tensor) -> NDArray[np.float64]:
        """Scale a sketch so that the mean of its squares estimates the mean square error."""
        response: NDArray[np.float64] = (total * self._scale).numpy()
        return response
