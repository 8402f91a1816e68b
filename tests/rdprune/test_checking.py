"""Allocations and whole numbers: what is none is refused by name, with what to give instead."""

from __future__ import annotations

import pytest

from rdprune import apply_, masks, measure, refine, search, verify
from rdprune.checking import check_seed, check_whole
from rdprune.layers import prunable


def test_what_a_search_returned_is_no_allocation(network, batches):
    """Everything that takes an allocation says where it is in what `search` returned."""
    table = measure(network, batches, levels=5, progress=False)
    found = search(network, batches, sparsity=0.5, passes=9, progress=False)
    calls = (
        lambda: masks(network, found),
        lambda: apply_(network, found),
        lambda: verify(network, batches, found),
        lambda: search(network, batches, found),
        lambda: refine(network, batches, table, found),
    )
    for call in calls:
        with pytest.raises(
            ValueError, match=r"is a Searched, must be an Allocation: give its \.all"
        ):
            call()
    with pytest.raises(ValueError, match=r"is a str, must be an Allocation: Allocation\.load"):
        verify(network, batches, "a.json")
    assert not any(layer.masked for layer in prunable(network).values())


@pytest.mark.parametrize(
    ("value", "least", "message"),
    [
        (2.0, 0, "rounds is 2.0, must be an integer"),
        (True, 0, "rounds is True, must be an integer"),
        (None, 0, "rounds is None, must be an integer"),
        (-1, 0, "rounds is -1, must not be negative"),
        (0, 1, "rounds is 0, must be at least 1"),
    ],
)
def test_whole_numbers(value, least, message):
    """The argument, its value and the rule are named."""
    with pytest.raises(ValueError, match=message):
        check_whole("rounds", value, least)
    with pytest.raises(ValueError, match="seed is 4294967296, must be between 0"):
        check_seed(2**32)
