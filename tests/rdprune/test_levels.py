"""Levels: even ones, falling ones, and what is refused."""

import numpy as np
import pytest

from rdprune.levels import falling_levels, read_levels


def test_falling_levels_have_one_ratio():
    """Densities fall by one ratio from 1 to a thousandth, then to 0."""
    density = 1 - np.array(falling_levels(9))
    assert density[0] == 1
    assert density[-2:] == pytest.approx([1e-3, 0])
    assert density[1:-1] / density[:-2] == pytest.approx(np.full(7, 1e-3 ** (1 / 7)))


@pytest.mark.parametrize(("name", "count"), [("falling", 101), ("falling:64", 64)])
def test_falling_levels_by_name(name, count):
    """The name stands for as many levels as it says."""
    assert read_levels(name) == pytest.approx(falling_levels(count), abs=1e-12)
    assert len(read_levels(name)) == count


def test_even_levels():
    """A number stands for evenly spaced sparsities with both ends."""
    assert read_levels(5) == [0, 0.25, 0.5, 0.75, 1]
