"""From the errors of single samples to one distortion: their mean, their worst, or between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REDUCTIONS = "'mean', 'max' or 'cvar:FRACTION'"


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which share of the samples counts.

    The conditional value at risk CVaR_a is the mean of the worst fraction a of the samples
    (Rockafellar, Uryasev 2000, *Optimization of conditional value-at-risk*): 1 is the mean over
    all, and a below one sample's share is the worst sample. Where a times the samples is no whole
    number the last of them counts for the rest.

    Parameters
    ----------
    name : str
        ``"mean"``, ``"max"`` or ``"cvar:0.1"``, the worst tenth.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in ("mean", "max"):
            _fraction(self.name)

    def __call__(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reduce the errors of all samples, shape (..., samples), to (...); NaN if one is NaN."""
        if self.name == "mean":
            return np.asarray(errors.mean(axis=-1))
        if self.name == "max":
            return np.asarray(errors.max(axis=-1))
        samples = errors.shape[-1]
        count = max(_fraction(self.name) * samples, 1.0)
        whole = int(count)
        worst = np.sort(errors, axis=-1)[..., ::-1]
        total = worst[..., :whole].sum(axis=-1)
        if whole < samples:
            total = total + (count - whole) * worst[..., whole]
        return np.asarray(total / count)


def is_reduction(name: Any) -> bool:
    """Whether a text is written as a reduction, be it a right one or not."""
    return isinstance(name, str) and (name in ("mean", "max") or name.split(":")[0] == "cvar")


def split(name: str) -> tuple[str, Reduction]:
    """Split a criterion's name into that of its error and its reduction; a callable's too."""
    first, _, second = name.partition(",")
    if is_reduction(first):
        return "mse", Reduction(first)
    return first, Reduction(second or "mean")


def reduced(name: str, reduction: str) -> str:
    """Name of the criterion with the same error and another reduction."""
    return joined(split(name)[0], Reduction(reduction))


def joined(error: str, reduction: Reduction) -> str:
    """Name of a criterion: its error, a comma and the reduction, as short as it may be."""
    if reduction.name == "mean":
        return error
    return reduction.name if error == "mse" else f"{error},{reduction.name}"


def _fraction(name: Any) -> float:
    """Return the fraction of ``"cvar:0.1"``."""
    kind, _, text = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind != "cvar":
        raise ValueError(f"reduction is {name!r}, must be {REDUCTIONS}")
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise ValueError(f"reduction is {name!r}: the fraction must be above 0 and at most 1")
    return fraction
