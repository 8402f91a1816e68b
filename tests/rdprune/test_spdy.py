"""SPDY's search: exact totals, the best of what was scored, the same every time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rdprune.layers import prunable
from rdprune.spdy import levels, spdy


def _layers(*sizes):
    model = torch.nn.Sequential(*(torch.nn.Linear(size, 1) for size in sizes))
    return prunable(model)


def test_levels_remove_equal_fractions():
    """0 and 41 sparsities from 0.4 to 0.99, each removing 9.7 % of what the last one left."""
    found = levels()
    assert len(found) == 42
    assert found[0] == 0
    assert found[1] == pytest.approx(0.4)
    assert found[-1] == pytest.approx(0.99)
    ratios = {round((1 - b) / (1 - a), 9) for a, b in itertools.pairwise(found[1:])}
    assert ratios == {round((0.01 / 0.6) ** (1 / 40), 9)}


@pytest.mark.parametrize("total", [0, 3, 5, 60, 333, 599, 600])
def test_total_is_exact(total):
    """Whatever is scored, and returned, keeps exactly the total."""
    seen = []

    def score(kept):
        seen.append(sum(kept.values()))
        return 0.0

    kept = spdy(_layers(100, 200, 300), total, score, starts=3, patience=3)
    assert sum(kept.values()) == total
    assert set(seen) <= {total}


def test_the_best_scored_is_returned():
    """The answer is the allocation of the lowest score among all that were tried."""
    scores = {}

    def score(kept):
        scores[tuple(kept.values())] = sum(c * c for c in kept.values()) + 1e4 / kept["2.weight"]
        return scores[tuple(kept.values())]

    found = spdy(_layers(100, 200, 300), 150, score, starts=20, patience=10)
    assert len(scores) > 10
    assert scores[tuple(found.values())] == min(scores.values())


def test_search_finds_the_sensitive_layer():
    """If only the first layer matters, it ends at 0.4, its first sparsity, or denser.

    The prior sees little in going on to dense: (1 / 41)² for 40 % of the weights.
    """
    found = spdy(_layers(100, 200, 300), 200, lambda kept: -kept["0.weight"], patience=50)
    assert found["0.weight"] >= 60


def test_the_same_seed_gives_the_same_answer():
    """Twice the same search, and another seed looks elsewhere."""
    layers = _layers(100, 200, 300)
    runs = []
    for seed in (0, 0, 1):
        tried = []

        def score(kept, tried=tried):
            tried.append(tuple(kept.values()))
            return math.fsum(kept.values()) + kept["1.weight"] % 7

        runs.append((spdy(layers, 150, score, starts=5, patience=5, seed=seed), tried))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": 0}, "starts is 0"),
        ({"patience": 0}, "patience 0"),
        ({"neighbourhood": 0}, "neighbourhood is 0"),
    ],
)
def test_refusals(arguments, message):
    """Arguments out of range are named."""
    with pytest.raises(ValueError, match=message):
        spdy(_layers(10), 5, lambda kept: 0.0, **arguments)


def test_a_score_that_is_no_number_is_never_the_best():
    """A network that overflows at first does not end the search."""
    calls = []

    def score(kept):
        calls.append(kept)
        return math.nan if len(calls) == 1 else float(len(calls))

    found = spdy(_layers(100, 200, 300), 200, score, patience=3)
    assert len(calls) > 2
    assert found != calls[0]
