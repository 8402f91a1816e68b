"""Other reductions without measuring, and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from rdprune.measuring import measure
from rdprune.resampling import bootstrap, reduce
from rdprune_core import InfeasibleBudgetError, RDTable, allocate

LEVELS = (0.0, 0.4, 0.8)


def _table(errors, **arguments):
    errors = [np.asarray(rows, dtype=float) for rows in errors]
    costs = [list(range(10 * len(rows) - 10, -1, -10)) for rows in errors]
    means = [rows.mean(axis=1) for rows in errors]
    return RDTable.from_arrays(costs, means, errors=errors, **arguments)


@pytest.mark.parametrize("kind", ["mse", "max", "cvar:0.35", "kl,max", "loss", "loss,cvar:0.2"])
def test_reduce_equals_measuring(network, batches, kind):
    """A table reduced anew equals, bit for bit, one measured with that reduction."""
    error = kind.split(",")[0] if "," in kind else ("loss" if kind == "loss" else "mse")
    reduction = {"mse": "mean", "loss": "mean"}.get(kind, kind.split(",")[-1])
    arguments = {"levels": LEVELS, "progress": False}
    base = measure(network, batches, distortion=error, keep_errors=True, **arguments)
    measured = measure(network, batches, distortion=kind, **arguments)
    found = reduce(base, reduction)
    assert found.metadata == measured.metadata
    for a, b in zip(found.distortion, measured.distortion, strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(reduce(found, "mean").distortion, base.distortion, strict=True):
        assert np.array_equal(a, b)


def test_reduce_keeps_everything_else(network, batches):
    """Costs, names, options, responses and errors are those of the table."""
    table = measure(network, batches, levels=LEVELS, keep_errors=True, progress=False)
    found = reduce(table, "max")
    assert (found.names, found.options) == (table.names, table.options)
    for mine, other in (
        (found.responses, table.responses),
        (found.errors, table.errors),
        (found.costs["macs"], table.costs["macs"]),
        (tuple(found.dense.values()), tuple(table.dense.values())),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(mine, other, strict=True))


def test_a_table_without_errors():
    """Without the samples' errors there is nothing to reduce or to draw."""
    table = RDTable.from_arrays([[1, 0]], [[0.0, 1.0]])
    for function in (lambda: reduce(table, "max"), lambda: bootstrap(table, sparsity=0.5)):
        with pytest.raises(ValueError, match="measure with keep_errors=True"):
            function()


def test_standard_errors_are_those_of_the_mean():
    """The bootstrap's standard error of a mean is s / sqrt(n), within its own noise."""
    rng = np.random.default_rng(0)
    errors = rng.gamma(1.0, size=(2, 3, 400))
    found = bootstrap(_table(errors), sparsity=0.5, resamples=2000)
    expected = errors.std(axis=2) / np.sqrt(400)
    np.testing.assert_allclose(found.standard_errors, expected, rtol=0.06)
    assert found.samples == 400


def test_equal_samples_leave_no_doubt():
    """If all samples are alike every resample chooses the optimum."""
    errors = [[[0.0] * 9, [1.0] * 9, [5.0] * 9], [[0.0] * 9, [2.0] * 9, [3.0] * 9]]
    found = bootstrap(_table(errors), sparsity=0.5)
    best = found.allocation
    assert best.choice.tolist() == [0, 2] == allocate(_table(errors), sparsity=0.5).choice.tolist()
    assert [row.tolist() for row in found.frequency] == [[1, 0, 0], [0, 0, 1]]
    assert (found.excess, found.moved, found.standard_error) == (0.0, 0.0, 0.0)
    assert not found.too_small


def test_two_samples_that_disagree():
    """Two samples, each against one layer: the draws 11, 22 and 12 come as 1 : 1 : 2.

    Layer a costs sample 1 a distortion of 4, layer b sample 2 one of 6; one must go. On both, a
    costs 2 and b 3, so a goes; only 1 and 1 (a quarter of the draws) makes b the choice, which on
    both costs 3, half as much again: an excess of 1 / 8 in the mean.
    """
    errors = [[[0.0, 0.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 6.0]]]
    found = bootstrap(_table(errors), sparsity=0.5, resamples=4000)
    assert found.allocation.choice.tolist() == [1, 0]
    assert found.frequency[1][1] == pytest.approx(0.25, abs=0.03)
    assert found.frequency[0][1] == pytest.approx(0.75, abs=0.03)
    assert found.excess == pytest.approx(0.125, abs=0.015)
    assert found.too_small


def test_the_seed_decides():
    """The same seed draws the same samples, another draws others."""
    errors = np.random.default_rng(0).gamma(1.0, size=(3, 4, 20))
    first, again, other = (
        bootstrap(_table(errors), sparsity=0.5, seed=seed).standard_error for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_reduction_is_the_tables():
    """A table of worst samples is resampled by its worst samples."""
    errors = np.random.default_rng(0).gamma(1.0, size=(2, 3, 30))
    table = reduce(_table(errors), "max")
    draws = np.random.default_rng(0).integers(30, size=(100, 30))
    expected = errors[1, 2][draws].max(axis=1).std(ddof=1)
    assert bootstrap(table, sparsity=0.5).standard_errors[1][2] == pytest.approx(expected)


def test_bad_arguments():
    """One resample has no spread, and an impossible budget is impossible."""
    table = _table(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="resamples is 1, must be at least 2"):
        bootstrap(table, sparsity=0.5, resamples=1)
    with pytest.raises(InfeasibleBudgetError):
        bootstrap(
            RDTable.from_arrays([[5, 3]], [[0.0, 1.0]], errors=[np.ones((2, 3))]), sparsity=0.9
        )
