"""Measuring what the budgets need, and interpolating the rest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rdprune
from rdprune.adaptive import fill, fill_responses, first_wanted, next_wanted
from rdprune_core import allocate

LEVELS = np.linspace(0, 1, 11)
X = [torch.randn(16, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def chain() -> nn.Sequential:
    """Return four linear layers of different widths."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 16), nn.ReLU(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=11, max_size=11), st.sets(st.integers(1, 9)))
def test_fill_keeps_the_measured_and_stays_between(values: list[float], inner: set[int]) -> None:
    """Measured values are untouched; others lie between their measured neighbours."""
    at = sorted({0, 10} | inner)
    known = np.array(values)[at]
    filled = fill(LEVELS, at, known)
    assert filled[at].tolist() == known.tolist()
    for left, right in itertools.pairwise(at):
        low, high = sorted(values[i] for i in (left, right))
        part = filled[left : right + 1]
        slack = 1e-9 * max(values)
        assert (part >= low - slack).all()
        assert (part <= high + slack).all()


def test_fill_is_exact_where_the_response_grows_with_the_level() -> None:
    """A distortion of level squared has a straight root, which the curve meets everywhere."""
    at = [0, 3, 10]
    assert fill(LEVELS, at, LEVELS[at] ** 2) == pytest.approx(LEVELS**2)


def test_fill_takes_negative_distortions() -> None:
    """Where a loss falls, the values themselves are interpolated: here they lie on a line."""
    at = [0, 2, 10]
    assert fill(LEVELS, at, -LEVELS[at]) == pytest.approx(-LEVELS)


def test_responses_are_mixed_and_stretched_to_the_distortion() -> None:
    """Halfway between two responses of one direction lies that direction, as long as it must be."""
    levels = np.array([0.0, 0.5, 1.0])
    responses = np.array([[0.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    distortion = np.array([0.0, 2.0, 12.5])
    filled = fill_responses(levels, [0, 2], responses, distortion)
    assert filled[[0, 2]].tolist() == responses.tolist()
    assert np.square(filled[1]).mean() == pytest.approx(2.0)
    assert filled[1, 1] / filled[1, 0] == pytest.approx(4 / 3)


def test_wanted_are_the_choices_and_their_neighbours() -> None:
    """Of two choices of a layer and the options beside them, those are wanted not yet measured."""
    levels = {"a": LEVELS, "b": LEVELS}
    assert first_wanted(levels)["a"][0] == 0
    assert first_wanted(levels)["b"][-1] == 10
    measured = {"a": [0, 4, 5, 6, 10], "b": [0, 1, 5, 10]}
    choices = [np.array([5, 0]), np.array([5, 9])]
    assert next_wanted(measured, {"a": 11, "b": 11}, choices) == {"b": [8, 9]}


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("objective", ["additive", "joint"])
def test_what_is_chosen_was_measured(reuse: bool, objective: str) -> None:
    """At every budget the choice and its neighbours are as in the table measured whole."""
    model = chain()
    budgets = ["60%", {"params": "30%", "macs": "35%"}]
    full = rdprune.measure(model, X, progress=False, reuse=False)
    auto = rdprune.measure(
        model, X, levels="auto", budgets=budgets, objective=objective, reuse=reuse, progress=False
    )
    interpolated = auto.metadata["interpolated"]
    assert auto.options == full.options
    assert sum(map(len, interpolated.values())) > 200  # of 404
    for layer, name in enumerate(auto.names):
        measured = [label not in interpolated[name] for label in auto.options[layer]]
        assert (
            auto.distortion[layer][measured].tolist() == full.distortion[layer][measured].tolist()
        )
        assert auto.responses is not None
        assert full.responses is not None
        assert np.array_equal(auto.responses[layer][measured], full.responses[layer][measured])
    for budget in budgets:
        found = allocate(auto, budget, objective=objective)
        for layer, (name, position) in enumerate(zip(auto.names, found.choice, strict=True)):
            near = auto.options[layer][max(0, position - 1) : position + 2]
            assert not set(near) & set(interpolated[name])


def test_one_mask_has_one_distortion() -> None:
    """In layers of fewer weights than levels many labels stand for the same mask."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 1), nn.Tanh(), nn.Linear(1, 4)).eval()
    auto = rdprune.measure(model, X, levels="auto", budgets=["60%"], progress=False)
    full = rdprune.measure(model, X, progress=False)
    assert auto.responses is not None
    assert auto.metadata["interpolated"]
    for layer, kept in enumerate(auto.costs["params"]):
        assert len(set(auto.distortion[layer])) == len(set(kept))
        for count in set(kept):
            same = kept == count
            assert len(set(auto.distortion[layer][same])) == 1
            assert len(np.unique(auto.responses[layer][same], axis=0)) == 1
        names = auto.metadata["interpolated"].get(auto.names[layer], [])
        known = [label not in names for label in auto.options[layer]]
        assert auto.distortion[layer][known].tolist() == full.distortion[layer][known].tolist()


def test_a_store_serves_later_budgets(tmp_path) -> None:
    """What one budget needed is not measured again for another, and the tables do not change."""
    model = chain()
    calls = 0

    def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return model(batch)

    def run(budget: str, store: object) -> object:
        nonlocal calls
        calls = 0
        return rdprune.measure(
            model, X, levels="auto", budgets=[budget], store=store, reuse=False, forward=forward,
            progress=False,
        )  # fmt: skip

    first = run("40%", tmp_path)
    fresh = calls
    again = run("40%", tmp_path)
    assert calls < fresh / 3
    assert all(
        a.tolist() == b.tolist() for a, b in zip(first.distortion, again.distortion, strict=True)
    )
    run("35%", tmp_path)
    kept = calls
    run("35%", None)
    assert kept < calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "auto"}, "levels 'auto' needs a sparsity or a budget"),
        ({"budgets": ["20%"]}, "is for levels 'auto'"),
        ({"levels": "auto", "budgets": "20%"}, "budgets is '20%', must be a list of budgets"),
        ({"levels": "auto", "budgets": [0.2]}, "is the float 0.2, which could mean"),
        ({"levels": "auto", "budgets": ["20%"], "objective": "best"}, "objective is 'best'"),
        (
            {"levels": "auto", "budgets": ["20%"], "objective": "joint", "responses": 0},
            "needs responses",
        ),
        ({"levels": "auto", "budgets": ["20%"], "keep_errors": True}, "keep_errors needs every"),
        ({"levels": "many"}, "levels is 'many', must be an integer, a sequence"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    """Every bad input is refused before anything runs, in words that name it."""
    calls: list[int] = []
    with pytest.raises(ValueError, match=r".") as caught:
        rdprune.measure(
            chain(), X, progress=False, forward=lambda m, b: (calls.append(1), m(b))[1], **options
        )
    assert message in str(caught.value)
    assert len(calls) <= 2 * len(X)  # the reference and the count of MACs
