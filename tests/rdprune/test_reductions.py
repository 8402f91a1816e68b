"""Reducing the samples' errors, and what the reductions are called."""

from __future__ import annotations

import numpy as np
import pytest

from rdprune.reductions import Reduction, is_reduction, reduced, split

ERRORS = np.array([4.0, 1.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", 2.5),
        ("max", 4.0),
        ("cvar:1", 2.5),
        ("cvar:0.5", 3.5),
        ("cvar:0.25", 4.0),
        ("cvar:0.01", 4.0),
        ("cvar:0.375", (4 + 3 * 0.5) / 1.5),
    ],
)
def test_by_hand(name, value):
    """The mean, the worst and the worst share; half a sample counts for half."""
    assert Reduction(name)(ERRORS) == value


def test_cvar_is_the_least_of_its_variational_form():
    """CVaR_a is min over t of t + mean(max(error - t, 0)) / a (Rockafellar, Uryasev)."""
    errors = np.random.default_rng(0).standard_normal(37)
    for fraction in (0.03, 0.1, 0.25, 0.7, 1.0):
        values = [t + np.maximum(errors - t, 0).mean() / fraction for t in errors]
        assert Reduction(f"cvar:{fraction}")(errors) == pytest.approx(min(values), rel=1e-12)


@pytest.mark.parametrize("name", ["mean", "max", "cvar:0.3"])
def test_rows_are_reduced_as_if_alone(name):
    """Many rows at once give, bit for bit, what each gives alone, and NaN stays NaN."""
    errors = np.random.default_rng(0).standard_normal((6, 1001))
    errors[2, 5] = np.nan
    found = Reduction(name)(errors)
    assert np.array_equal(found, [Reduction(name)(row) for row in errors], equal_nan=True)
    assert np.isnan(found).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("name", ["min", "", "cvar", "cvar:0", "cvar:1.5", "cvar:x", "cvar:nan", 3])
def test_unknown_reductions(name):
    """A reduction that does not exist, or of no share of the samples, is refused."""
    with pytest.raises(ValueError, match="reduction is"):
        Reduction(name)


def test_names():
    """A criterion's name splits into error and reduction, and another reduction fits in."""
    assert is_reduction("cvar:7")
    assert not is_reduction("mse")
    assert split("max") == ("mse", Reduction("max"))
    assert split("kl:2,cvar:0.1") == ("kl:2", Reduction("cvar:0.1"))
    assert split("callable:mine") == ("callable:mine", Reduction("mean"))
    assert reduced("mse", "max") == "max"
    assert reduced("cvar:0.2", "mean") == "mse"
    assert reduced("kl,max", "cvar:0.5") == "kl,cvar:0.5"
