"""Sharing a number of weights among layers, exactly, by one scale or one shift for all."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction

Shares = Callable[[Fraction], list[Fraction]]


def scaled(
    weights: Sequence[int], floors: Sequence[int], caps: Sequence[int], total: int
) -> list[int]:
    """Integers that sum to `total`, near clip(s * weight, floor, cap) for one scale s.

    s is found exactly, between two of the points where a layer reaches its floor or cap; the
    remainders are rounded by the largest first, of equal ones the first layer's.

    Parameters
    ----------
    weights, floors, caps : sequence of int
        One a layer, not negative.
    total : int
        Between the sum of the floors and that of the caps of the layers whose weight is not 0.
    """

    def shares(scale: Fraction) -> list[Fraction]:
        return [
            min(max(scale * weight, Fraction(floor)), Fraction(cap))
            for weight, floor, cap in zip(weights, floors, caps, strict=True)
        ]

    points = {Fraction(0)} | {
        Fraction(bound, weight)
        for bounds in (floors, caps)
        for bound, weight in zip(bounds, weights, strict=True)
        if weight
    }
    return _rounded(_solved(shares, sorted(points), total), total)


def shifted(densities: Sequence[Fraction], sizes: Sequence[int], total: int) -> list[int]:
    """Integers that sum to `total`, near size * clip(density + c, 0, 1) for one shift c.

    c is found exactly; remainders are rounded as by `scaled`.

    Parameters
    ----------
    densities : sequence of Fraction
        Wanted fraction of each layer, up to the shift.
    sizes : sequence of int
        Weights of each layer, at least 1.
    total : int
        Between 0 and the sum of the sizes.
    """

    def shares(shift: Fraction) -> list[Fraction]:
        return [
            size * min(max(density + shift, Fraction(0)), Fraction(1))
            for density, size in zip(densities, sizes, strict=True)
        ]

    points = {bound - density for density in densities for bound in (0, 1)}
    return _rounded(_solved(shares, sorted(points), total), total)


def _solved(shares: Shares, points: Sequence[Fraction], total: int) -> list[Fraction]:
    """Shares that sum to `total`; their sum rises linearly between the points."""
    zero = Fraction(0)
    reached = bisect_right(points, Fraction(total), key=lambda point: sum(shares(point), zero))
    low = shares(points[reached - 1])
    missing = total - sum(low, zero)
    if not missing:
        return low
    high = shares(points[reached])
    part = missing / (sum(high, zero) - sum(low, zero))
    return [a + part * (b - a) for a, b in zip(low, high, strict=True)]


def _rounded(exact: Sequence[Fraction], total: int) -> list[int]:
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for position in by_remainder[: total - sum(counts)]:
        counts[position] += 1
    return counts
