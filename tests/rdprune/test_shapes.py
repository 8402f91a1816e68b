"""Masks of every shape, beside plain loops over their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from rdprune.layers import prunable
from rdprune.magnitude import kept_count, magnitude_mask
from rdprune.shapes import Geometry, geometry, make_mask, parse_shape

MODULES = {
    "linear": (lambda: nn.Linear(7, 6), Geometry()),
    "conv": (lambda: nn.Conv2d(6, 4, (2, 3)), Geometry()),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), Geometry(2)),
    "depthwise": (lambda: nn.Conv1d(5, 5, 3, groups=5), Geometry(5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), Geometry(2, True)),
}


def _places(weight, place):
    """Yield every index of a weight with its group, output, input and position, by hand."""
    for index in itertools.product(*map(range, weight.shape)):
        first, second, *position = index
        size = weight.shape[0] // place.groups
        group, inside = divmod(first, size)
        output, given = (second, inside) if place.transposed else (inside, second)
        yield index, (group, output, given, tuple(position))


def _weight(kind):
    torch.manual_seed(0)
    make, place = MODULES[kind]
    module = make()
    (layer,) = prunable(module).values()
    assert geometry(layer) == place
    return module.weight.detach().abs(), place


def _by_loops(scores, place, unit):
    """Sum the scores of each unit that `unit` names, and say which weights it has."""
    members: dict[tuple, list] = {}
    for index, where in _places(scores, place):
        members.setdefault(unit(*where), []).append(index)
    return {key: (sum(float(scores[i]) for i in own), own) for key, own in members.items()}


def _expected(scores, place, unit, level):
    units = _by_loops(scores, place, unit)
    best = sorted(units.values(), key=lambda pair: -pair[0])
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for _, own in best[: kept_count(len(units), level)]:
        for index in own:
            mask[index] = True
    return mask


UNITS = {
    "out": lambda g, o, i, p: (g, o),
    "in": lambda g, o, i, p: (g, i),
    "2x3": lambda g, o, i, p: (g, p, o // 2, i // 3),
    "4x1": lambda g, o, i, p: (g, p, o // 4, i),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_units(kind, unit, level):
    """Blocks and channels of highest sum stay, as many as the level says, edges cut."""
    scores, place = _weight(kind)
    mask = make_mask(f"{unit}:{level}", scores, place)
    assert mask.equal(_expected(scores, place, UNITS[unit], level))


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize(("kept", "size"), [(2, 4), (4, 8), (1, 2), (1, 4)])
def test_patterns(kind, kept, size):
    """Of every M consecutive inputs of an output and position the N highest stay."""
    scores, place = _weight(kind)
    mask = make_mask(f"{kept}:{size}", scores, place)
    expected = torch.zeros_like(mask)
    groups = _by_loops(scores, place, lambda g, o, i, p: (g, o, p, i // size))
    for _, own in groups.values():
        for index in sorted(own, key=lambda i: -float(scores[i]))[:kept]:
            expected[index] = True
    assert mask.equal(expected)


def test_two_of_four_by_hand():
    """Ties go to the first input, and a last group of two keeps both."""
    scores = torch.tensor([[3.0, 1.0, 3.0, 3.0, 0.0, 0.0]])
    assert make_mask("2:4", scores, Geometry()).tolist() == [[True, False, True, False, True, True]]


@pytest.mark.parametrize("kind", MODULES)
def test_unstructured_is_magnitude(kind):
    """A sparsity gives the same mask as `magnitude_mask`."""
    scores, place = _weight(kind)
    for level in (0.0, 0.35, 0.8, 1.0):
        kept = kept_count(scores.numel(), level)
        assert make_mask(str(level), scores, place).equal(magnitude_mask(scores, kept))


@pytest.mark.parametrize(
    ("label", "spelling"),
    [
        ("0.50", "0.5"),
        ("2:4", "2:4"),
        ("04:8", "4:8"),
        ("4x2:.50", "4x2:0.5"),
        ("out:0", "out:0.0"),
        ("in:1", "in:1.0"),
    ],
)
def test_one_spelling(label, spelling):
    """A label has one spelling, which reads as itself."""
    assert parse_shape(label).label == spelling
    assert parse_shape(spelling) == parse_shape(label)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("half", "option 'half' is no mask"),
        ("4:2", "N:M needs 0 < N < M"),
        ("0:4", "N:M needs 0 < N < M"),
        ("0x2:0.5", "at least one output"),
        ("out:1.5", "'1.5' is not a fraction"),
        ("in:x", "'x' is not a fraction"),
        ("-0.5", "is no mask"),
    ],
)
def test_refusals(label, message):
    """Labels that are none are named."""
    with pytest.raises(ValueError, match=message):
        make_mask(label, torch.ones(4, 4), Geometry())


def test_nan():
    """A score that is NaN is refused with the layer's name."""
    scores = torch.tensor([[1.0, float("nan")]])
    with pytest.raises(ValueError, match="layer 'a': a score is NaN"):
        make_mask("1:2", scores, Geometry(), layer="a")
