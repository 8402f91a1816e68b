"""How far outputs are from the dense network's, and a small sketch of the difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdprune.criteria import SampleErrors, parse


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What one option does to the output.

    Attributes
    ----------
    distortion : float
        The samples' errors, reduced.
    response : ndarray, optional
        float32, shape (m,): the sketched difference. The mean of its squares estimates the mean
        square error, and equals it where the sketch is the identity. For ``"kl"`` and
        ``"cosine"`` it is that of the mapped difference, and estimates the distortion to second
        order (`Criterion.tangent`).
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
    (f(x_i; masked) - f(x_i))²; `criteria.parse` lists the others. All are computed in float64.

    Parameters
    ----------
    outputs : iterable of torch.Tensor
        One a batch, float32, shape (n, ...).
    distortion : str or callable
        See `criteria.parse`.
    projection : int
        Numbers in a response; 0 for none. No more than there are output elements.
    seed : int
        Of the projection.
    labels : sequence of torch.Tensor or None, optional
        One a batch, int64, for ``"loss"``.

    Raises
    ------
    ValueError
        If `distortion` is unknown or does not fit the outputs, or an output is not finite.
    """

    def __init__(
        self,
        outputs: Iterable[Tensor],
        *,
        distortion: str | SampleErrors = "mse",
        projection: int = 0,
        seed: int = 0,
        labels: Sequence[Tensor | None] | None = None,
    ) -> None:
        self._criterion = parse(distortion)
        self._outputs = []
        for index, output in enumerate(outputs):
            if not output.isfinite().all():
                raise ValueError(
                    f"the dense model's output on batch {index} is not finite: it holds NaN or inf"
                )
            self._outputs.append(output.clone())
        self._labels = [None] * len(self._outputs) if labels is None else list(labels)
        self.samples = sum(len(output) for output in self._outputs)
        self.elements = sum(output.numel() for output in self._outputs)
        self._sketch = _Sketch(self._outputs, projection, seed) if projection else None

    @property
    def projection(self) -> int:
        """Numbers in a response, 0 if none is computed."""
        return self._sketch.size if self._sketch else 0

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The dense outputs."""
        return tuple(self._outputs)

    def equals(self, outputs: Iterable[Tensor]) -> bool:
        """Whether outputs on the same batches are the reference, bit for bit."""
        return all(
            output.shape == dense.shape
            and torch.equal(output.view(torch.int32), dense.view(torch.int32))
            for output, dense in zip(outputs, self._outputs, strict=True)
        )

    def measure(self, outputs: Iterable[Tensor]) -> Measurement:
        """Compare other outputs on the same batches with the reference.

        Raises
        ------
        ValueError
            If an output has another shape than the reference.
        """
        errors = []
        total = torch.zeros(self.projection, dtype=torch.float64)
        for index, (output, dense) in enumerate(zip(outputs, self._outputs, strict=True)):
            if output.shape != dense.shape:
                raise ValueError(
                    f"the output on batch {index} has shape {tuple(output.shape)}, "
                    f"the dense model's has {tuple(dense.shape)}"
                )
            errors.append(self._criterion.errors(dense, output, self._labels[index]))
            if self._sketch:
                difference = output.double() - dense.double()
                self._sketch.add(total, index, self._criterion.tangent(dense, difference))
        error: NDArray[np.float64] = torch.cat(errors).numpy()
        response = self._sketch.scaled(total) if self._sketch else None
        return Measurement(float(self._criterion.reduction(error)), response, error)

    def unchanged(self) -> Measurement:
        """Return the measurement of the dense network itself: no error, no response."""
        response = np.zeros(self.projection, dtype=np.float32) if self._sketch else None
        return Measurement(0.0, response, np.zeros(self.samples))


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

    def add(self, total: Tensor, index: int, difference: Tensor) -> None:
        """Add the difference on one batch, float64, to the sketch `total`, shape (size,)."""
        total.index_add_(0, self._buckets[index], difference.reshape(-1) * self._signs[index])

    def scaled(self, total: Tensor) -> NDArray[np.float32]:
        """Scale a sketch so that the mean of its squares estimates the mean square error."""
        response: NDArray[np.float32] = (total * self._scale).to(torch.float32).numpy()
        return response
