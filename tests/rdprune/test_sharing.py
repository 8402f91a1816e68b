"""Sharing by one scale or one shift: exact totals, near the wanted shares."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdprune.sharing import scaled, shifted

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=6)


def test_scaled_by_hand():
    """Of weights 1, 2, 4 with floors 3, 0, 0 and caps 9, 9, 5, 14 in all: 3, 6, 5.

    The scale 3 fills the third, gives the second 6 and the first its floor.
    """
    assert scaled([1, 2, 4], [3, 0, 0], [9, 9, 5], 14) == [3, 6, 5]


def test_shifted_by_hand():
    """Densities 0 and 0.4 of 10 and 30 weights, 20 in all: shift by 0.2, to 2 and 18."""
    assert shifted([Fraction(0), Fraction(2, 5)], [10, 30], 20) == [2, 18]


def test_shifted_is_clipped():
    """Where the shift would leave [0, 1], a layer is full, and the others have the rest."""
    assert shifted([Fraction(0), Fraction(9, 10)], [10, 10], 16) == [6, 10]
    assert shifted([Fraction(0), Fraction(9, 10)], [10, 10], 5) == [0, 5]


@given(sizes=SIZES, data=st.data())
def test_shifted_laws(sizes, data):
    """The total is exact, no layer has more than it holds, and one shift explains all layers."""
    densities = [Fraction(data.draw(st.integers(-20, 20)), 10) for _ in sizes]
    total = data.draw(st.integers(0, sum(sizes)))
    counts = shifted(densities, sizes, total)
    assert sum(counts) == total
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    inner = [
        (Fraction(c - 1, n) - d, Fraction(c + 1, n) - d)
        for c, n, d in zip(counts, sizes, densities, strict=True)
        if 1 < c < n - 1
    ]
    assert not inner or max(low for low, _ in inner) <= min(high for _, high in inner)


@pytest.mark.parametrize("total", [0, 7, 60])
def test_nothing_to_shift(total):
    """Equal densities give equal fractions."""
    counts = shifted([Fraction(1, 3)] * 3, [10, 20, 30], total)
    for count, size in zip(counts, [10, 20, 30], strict=True):
        assert abs(count - Fraction(total * size, 60)) < 1
