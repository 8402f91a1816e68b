"""Training a dense network on: what is written, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from rdprune.bench import adapting
from rdprune.cli import app
from rdprune.demo.network import trained


@pytest.fixture(autouse=True)
def one_thread():
    """Run on one thread."""
    torch.set_num_threads(1)


def test_a_network_is_trained_on_and_written(tmp_path):
    """Other weights under the same names, and the top-1 before and after; never over a file."""
    output = tmp_path / "adapted.safetensors"
    use = ["bench", "adapt", "--network", "mnist", "--output", str(output), "--steps", "2"]
    use += ["--test", "64", "--json", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, use)
    assert done.exit_code == 0, done.stderr
    assert "after 2 steps; written to" in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0.8 <= found["before"] <= 1
    assert 0 <= found["after"] <= 1
    dense, adapted = trained().state_dict(), load_file(output)
    assert dense.keys() == adapted.keys()
    assert all(value.isfinite().all() for value in adapted.values())
    assert not dense["conv1.weight"].equal(adapted["conv1.weight"])
    again = CliRunner().invoke(app, use)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_training_that_diverges_writes_nothing(tmp_path):
    """Weights that are not finite are an error."""
    output = tmp_path / "adapted.safetensors"
    with pytest.raises(ValueError, match="training diverged"):
        adapting.run("mnist", output, steps=3, rate=1e20, test=32)
    assert not output.exists()
