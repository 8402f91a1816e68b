"""``rdprune bench search``: equal passes, and an evolution that keeps the budget."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rdprune.bench import search as bench
from rdprune.bench.evolution import evolve, mutated
from rdprune.cli import app
from rdprune.layers import prunable


def test_a_swap_keeps_the_budget():
    """Children differ, keep all weights in sum, and stay between none and all of a layer."""
    random = np.random.default_rng(0)
    sizes = np.array([5, 100, 3000])
    parent = np.array([5, 3, 2990])
    children = [mutated(parent, sizes, random) for _ in range(200)]
    assert all(child.sum() == parent.sum() for child in children)
    assert all((child >= 0).all() and (child <= sizes).all() for child in children)
    assert len({tuple(child) for child in children}) > 20
    assert parent.tolist() == [5, 3, 2990]


@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_a_look_is_of_the_network_that_is_asked_for(network, batches, recovery):
    """Looks without scores between them are of their own allocations, on the first samples."""
    layers = prunable(network)
    dense = {name: layer.parameter.numel() for name, layer in layers.items()}
    half = {name: size // 2 for name, size in dense.items()}
    few = [(x[:4], y[:4]) for x, y in batches[:1]]
    with (
        bench._network(network, layers, batches, recovery) as whole,
        bench._network(network, layers, few, "none") as some,  # in the state of `whole`
    ):
        judge = bench._Judge(layers, whole, some, 100)
        looks = [judge._run(some, kept, 0.1) for kept in (half, dense, half)]
    assert looks[0] == looks[2] > 0
    assert looks[1] == pytest.approx(0, abs=1e-9)
    assert looks[0] == pytest.approx(bench.distortion_of(network, few, half, recovery), rel=1e-9)


def test_evolution_finds_the_optimum_of_a_convex_function():
    """The best never gets worse, and ends near the known optimum."""
    sizes, target = np.full(4, 1000), np.array([100, 200, 300, 400])

    def distance(kept):
        return float(((kept - target) ** 2).sum())

    found = list(itertools.islice(evolve(np.full(4, 250), sizes, distance, distance, seed=0), 200))
    values = [value for _, value in found]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 20
    assert found[-1][0].sum() == 1000


def test_all_searches_get_the_same_passes(network, batches, monkeypatch, tmp_path):
    """No search runs the network more often than allowed, and all end within the budget."""
    monkeypatch.setattr(bench, "load", lambda *_: (network, batches, batches))
    picture = tmp_path / "search.png"
    arguments = ["--levels", "5", "--sparsity", "0.5", "--passes", "140", "--seeds", "2"]
    result = CliRunner().invoke(
        app, ["bench", "search", *arguments, "--picture", str(picture), "--json", "-"]
    )
    assert result.exit_code == 0, result.stderr
    curves = json.loads(result.stdout)["curves"]
    assert [(c["method"], c["seed"]) for c in curves] == [
        ("search", 0),
        ("search", 1),
        ("refine after measuring", 0),
        ("refine after a first look", 0),
        ("evolution", 0),
        ("evolution", 1),
        ("SPDY", 0),
    ]
    for curve in curves:
        assert curve["passes"][-1] <= 140
        assert curve["distortion"] == sorted(curve["distortion"], reverse=True)
        # The test pictures are the calibration's here.
        assert curve["heldout"] == pytest.approx(curve["distortion"][-1], rel=1e-5)
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = CliRunner().invoke(app, ["bench", "search", *arguments])
    assert "140 passes" in shown.stdout
