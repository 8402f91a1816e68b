"""Arguments that are numbers or allocations: taken as they are, or refused by name."""

from __future__ import annotations

import math
from numbers import Integral

from rdprune_core import Allocation

SEEDS = 2**32


def check_whole(name: str, value: int, least: float = 0) -> None:
    """Refuse what is no integer, or below `least`.

    Raises
    ------
    ValueError
        Names the argument and the value.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, must be an integer")
    if value < least:
        rule = f"be at least {least}" if least else "not be negative"
        raise ValueError(f"{name} is {value}, must {rule}")


def check_seed(seed: int) -> None:
    """Refuse what is no seed of torch's and numpy's generators.

    Raises
    ------
    ValueError
        If it is no integer from 0 to 2**32 - 1.
    """
    check_whole("seed", seed, -math.inf)
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed is {seed!r}, must be between 0 and 2**32 - 1")


def check_allocation(name: str, value: object) -> None:
    """Refuse what is no allocation, and say where it is in what `search` or `refine` returned.

    Raises
    ------
    ValueError
        Names the argument and the type.
    """
    if not isinstance(value, Allocation):
        inside = isinstance(getattr(value, "allocation", None), Allocation)
        way = "give its .allocation" if inside else "Allocation.load(path) reads one"
        kind = type(value).__name__
        raise ValueError(f"{name} is a {kind}, must be an Allocation: {way}")
