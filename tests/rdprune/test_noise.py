"""Inputs without data."""

from __future__ import annotations

import pytest
import torch

from rdprune.measuring import measure
from rdprune.noise import gaussian


def test_shapes_and_moments():
    """Batches of the shape, normal, the same for the same seed, global state untouched."""
    state = torch.get_rng_state()
    found = gaussian((3, 4, 5), 1000, batch=300)
    assert torch.get_rng_state().equal(state)
    assert [tuple(x.shape) for x in found] == [(300, 3, 4, 5)] * 3 + [(100, 3, 4, 5)]
    values = torch.cat(found)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert torch.cat(gaussian((3, 4, 5), 1000, batch=1000)).equal(values)
    assert not torch.cat(gaussian((3, 4, 5), 1000, seed=1)).equal(values)


def test_measuring_without_data(network):
    """A table can be measured on noise."""
    table = measure(network, gaussian((1, 8, 8), 8), levels=3, progress=False)
    assert table.metadata["samples"] == 8


@pytest.mark.parametrize(
    ("arguments", "name"), [(((3,), 0), "samples"), (((0,), 3), "shape"), (((3,), 3, 0), "batch")]
)
def test_refusals(arguments, name):
    """Numbers below 1 are named."""
    with pytest.raises(ValueError, match=f"{name} holds 0, must be at least 1"):
        gaussian(arguments[0], arguments[1], batch=(*arguments, 8)[2])
