"""Magnitude masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdprune.magnitude import (
    kept_count,
    label_level,
    level_label,
    magnitude_mask,
    magnitude_order,
    saved_weights,
    write_masked,
)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.floats(0, 1))
def test_kept_count_is_within_range(numel, level):
    """Kept weights are between none and all, and all or none at the ends."""
    assert 0 <= kept_count(numel, level) <= numel
    assert kept_count(numel, 0.0) == numel
    assert kept_count(numel, 1.0) == 0


@settings(deadline=None)
@given(st.floats(0, 1))
def test_label_gives_its_level_back(level):
    """The label of a level, read back, is the level rounded to 12 digits, and its own label."""
    label = level_label(level)
    assert label_level(label) == round(level, 12)
    assert level_label(label_level(label)) == label


@pytest.mark.parametrize("label", ["2:4", "", "nan", "-0.1", "1.5", "int8"])
def test_other_labels_are_refused(label):
    """A label that is no sparsity in [0, 1] is refused by name."""
    with pytest.raises(ValueError, match=f"option '{label}' is not an unstructured sparsity"):
        label_level(label)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0]), min_size=1, max_size=30), st.data()
)
def test_mask_is_exact_with_ties(values, data):
    """A mask keeps exactly `kept` weights: by magnitude, then by the lowest flat index."""
    kept = data.draw(st.integers(0, len(values)))
    mask = magnitude_mask(torch.tensor(values), kept)
    expected = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:kept]
    assert mask.nonzero().reshape(-1).tolist() == sorted(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kept", [0, 1, 17, 36])
def test_every_type_is_exact(dtype, kept):
    """The count is exact for every floating-point type, heavy ties included."""
    weight = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert int(magnitude_mask(weight.round(), kept).sum()) == kept


def test_order_does_not_depend_on_the_layout():
    """A channels-last weight has the same mask as a contiguous one."""
    weight = torch.ones(2, 3, 2, 2)
    other = weight.to(memory_format=torch.channels_last)
    assert torch.equal(magnitude_mask(weight, 7), magnitude_mask(other, 7))
    assert magnitude_mask(other, 7).reshape(-1).tolist() == [True] * 7 + [False] * 17


@pytest.mark.parametrize("kept", [-1, 5])
def test_kept_out_of_range(kept):
    """A count below zero or above the weights is refused."""
    with pytest.raises(ValueError, match=f"kept is {kept}, must be between 0 and the 4 weights"):
        magnitude_mask(torch.ones(4), kept)


def test_nan_is_refused():
    """A weight of NaN has no rank."""
    with pytest.raises(ValueError, match="NaN"):
        magnitude_order(torch.tensor([1.0, float("nan")]))


def test_weights_come_back_bit_for_bit():
    """Masked weights are restored to the bit after an interrupt, negative zero and NaN included."""
    weight = nn.Parameter(torch.tensor([[-0.0, 1.0], [float("nan"), -1e-45]]))
    before = weight.detach().view(torch.int32).tolist()
    version = weight._version

    def interrupted():
        with saved_weights([weight]) as (saved,):
            write_masked(weight, saved, torch.zeros(2, 2, dtype=torch.bool))
            assert weight.detach().tolist() == [[0.0, 0.0], [0.0, 0.0]]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert weight.detach().view(torch.int32).tolist() == before
    assert weight._version == version
