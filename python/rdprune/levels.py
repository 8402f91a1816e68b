"""Levels: the sparsities that every layer is measured at. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Final

#: Name of levels whose densities fall by one ratio, alone or as ``"falling:64"``.
FALLING: Final = "falling"
COUNT: Final = 101
SPARSEST: Final = 1e-3
_ALLOWED: Final = "must be an integer, a sequence of sparsities, 'falling', 'falling:N' or 'auto'"


def falling_levels(count: int = COUNT, sparsest: float = SPARSEST) -> list[float]:
    """Return sparsities whose densities fall from 1 by one ratio to `sparsest`, and then to 0.

    Even steps of a hundredth are too coarse where little is left: the ratio of what is kept counts.
    At least three, rising.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    if count < 3:
        raise ValueError(f"levels is '{FALLING}:{count}', must be at least 3 levels")
    ratio = sparsest ** (1 / (count - 2))
    return [*(1 - ratio**i for i in range(count - 1)), 1.0]


def read_levels(levels: int | str | Sequence[float]) -> list[float]:
    """Return sorted, unique sparsities, 0 the first.

    Raises
    ------
    ValueError
        If the name is unknown, there are fewer than two, or one is outside of [0, 1].
    """
    if isinstance(levels, str):
        levels = _named(levels)
    if isinstance(levels, Integral) and not isinstance(levels, bool):
        if levels < 2:
            raise ValueError(f"levels is {levels}, must be at least 2")
        last = int(levels) - 1
        return [float(round(i / last, 12)) for i in range(last + 1)]
    if not isinstance(levels, Iterable):
        raise ValueError(f"levels is {levels!r}, {_ALLOWED}")
    values = {0.0}
    for level in levels:
        try:
            value = float(level)
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 1:
            raise ValueError(f"levels holds {level!r}, must hold sparsities in [0, 1]")
        values.add(round(value, 12))
    if len(values) < 2:
        raise ValueError("levels holds no sparsity above 0")
    return sorted(values)


def _named(levels: str) -> list[float]:
    """Return the levels called ``"falling"`` or ``"falling:N"``."""
    name, _, count = levels.partition(":")
    if name != FALLING or (":" in levels and not count.isdecimal()):
        raise ValueError(f"levels is {levels!r}, {_ALLOWED}")
    return falling_levels(int(count) if count else COUNT)
