"""Which options to measure, so that the allocation is that of a table measured whole.

A few levels of every layer are measured, the rest interpolated; the solver chooses at every budget
asked for; what it chose, and the options next to it, are measured; and so on until the choice no
longer moves and everything chosen was measured.

Between measured levels the square root of the distortion, the length of the response, is
interpolated by a cubic that keeps the data's shape (Fritsch, Butland 1984, *A method for
constructing local monotone piecewise cubic interpolants*).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

START = (0.5, 0.85, 1.0)

Wanted = dict[str, list[int]]
"""Positions among each layer's options."""


def first_wanted(levels: Mapping[str, NDArray[np.float64]]) -> Wanted:
    """Return the positions measured first: the levels nearest to `START`, and the ends."""
    wanted = {}
    for name, values in levels.items():
        near = {int(np.abs(values - level).argmin()) for level in START}
        wanted[name] = sorted(near | {0, len(values) - 1})
    return wanted


def next_wanted(
    measured: Mapping[str, Sequence[int]],
    sizes: Mapping[str, int],
    choices: Sequence[NDArray[np.int64]],
) -> Wanted:
    """Return what is not measured of the options chosen and of those next to them.

    Parameters
    ----------
    measured : mapping of str to sequence of int
        Positions measured so far, of each layer in the order of the choices.
    sizes : mapping of str to int
        Number of options of each layer.
    choices : sequence of int64 arrays (L,)
        One choice a budget.
    """
    wanted = {}
    for layer, (name, done) in enumerate(measured.items()):
        near = {int(choice[layer]) + step for choice in choices for step in (-1, 0, 1)}
        missing = sorted(near.intersection(range(sizes[name])) - set(done))
        if missing:
            wanted[name] = missing
    return wanted


def fill(
    levels: NDArray[np.float64], at: Sequence[int], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate a layer's distortions between its measured options.

    Parameters
    ----------
    levels : float64 array (K,)
        Increasing, 0 the first.
    at : sequence of int
        Positions that were measured, increasing, the first and the last option among them.
    values : float64 array
        Distortions there. Where one is negative, the values themselves are interpolated.

    Returns
    -------
    float64 array (K,)
        Measured values unchanged.
    """
    from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]

    known = np.asarray(at)
    rooted = bool((values >= 0).all())
    curve = PchipInterpolator(levels[known], np.sqrt(values) if rooted else values)(levels)
    filled: NDArray[np.float64] = np.square(curve) if rooted else curve
    filled[known] = values
    return filled


def fill_responses(
    levels: NDArray[np.float64],
    at: Sequence[int],
    responses: NDArray[np.float32],
    distortion: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Interpolate a layer's responses linearly, each stretched to fit its own distortion.

    Parameters
    ----------
    levels : float64 array (K,)
    at : sequence of int
        Positions that were measured, as in `fill`.
    responses : float32 array (len(at), m)
    distortion : float64 array (K,)
        What `fill` returned. The ratio of a response's mean square to its distortion is
        interpolated too, so that a response keeps the sketch's error and no other.

    Returns
    -------
    float32 array (K, m)
    """
    known = np.asarray(at)
    x = levels[known]
    right = np.searchsorted(x, levels, side="left").clip(1, len(x) - 1)
    share = ((levels - x[right - 1]) / (x[right] - x[right - 1]))[:, None]
    values = responses.astype(np.float64)
    mixed = (1 - share) * values[right - 1] + share * values[right]
    square = np.square(values).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(distortion[known] > 0, square / distortion[known], 1.0)
        wanted = np.interp(levels, x, ratios) * distortion
        stretch = np.sqrt(np.maximum(wanted, 0.0) / np.square(mixed).mean(axis=1))
    mixed *= np.where(np.isfinite(stretch), stretch, 1.0)[:, None]
    mixed[known] = values
    result: NDArray[np.float32] = mixed.astype(np.float32)
    return result


def settle(
    measure: Callable[[Wanted], None],
    choose: Callable[[], Sequence[NDArray[np.int64]]],
    measured: Callable[[], Mapping[str, Sequence[int]]],
    levels: Mapping[str, NDArray[np.float64]],
) -> int:
    """Measure until every choice and its neighbours are measured.

    Parameters
    ----------
    measure : callable
        Measures the options wanted.
    choose : callable
        Solves at every budget on what is measured and filled in.
    measured : callable
        Returns the positions measured of every layer.
    levels : mapping of str to float64 array (K,)

    Returns
    -------
    int
        Rounds taken. Every round measures at least one option more, so it ends.
    """
    sizes = {name: len(values) for name, values in levels.items()}
    wanted = first_wanted(levels)
    rounds = 0
    while wanted:
        measure(wanted)
        rounds += 1
        wanted = next_wanted(measured(), sizes, choose())
    return rounds
