"""``rdprune refine``, and repair as it was measured, from the command line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rdprune.cli import app
from rdprune_core import Allocation

USE = ["--model", "mine:model", "--data", "mine:batches"]


@pytest.fixture(autouse=True)
def here(mine: list[str]) -> None:
    """Work in a folder with a module mine.py."""


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, list(arguments))


def succeed(*arguments: str) -> Any:
    """Run a command that must succeed, and return the JSON it prints."""
    result = invoke(*arguments, "--json", "-")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


def test_refine_goes_on_from_its_own_file() -> None:
    """`refine` writes the best so far, and takes it up again; `compare` and `verify` show it."""
    succeed("measure", *USE, "--levels", "9", "--recovery", "bias", "--output", "r.npz")
    rest = [*USE, "r.npz", "--output", "refined.json", "--rounds", "1"]
    first = succeed("refine", *rest, "--sparsity", "0.7")
    found = Allocation.load("refined.json")
    assert found.distortion == first["allocation"]["distortion"] <= first["start"]
    assert first["passes"] > first["rounds"][0]["passes"] > 0
    further = invoke("refine", *rest, "--allocation", "refined.json", "--path", "0.3,0.5")
    assert (further.exit_code, "layers moved" in further.stdout) == (0, True)
    assert Allocation.load("refined.json").distortion <= found.distortion * (1 + 1e-6)
    report = succeed("verify", *USE, "--allocation", "refined.json", "--table", "r.npz")
    assert report["ratio"] == pytest.approx(1, rel=1e-4)
    assert report["additive"] > 0
    layer = found.names[1]
    bounded = succeed("refine", *rest, "--sparsity", "0.6", "--floor", f"{layer}=100%")
    kept = dict(zip(found.names, bounded["allocation"]["layer_costs"]["params"], strict=True))
    assert kept[layer] == math.prod(found.metadata["shapes"][layer])
    refused = invoke("refine", *rest, "--allocation", "refined.json", "--cap", f"{layer}=0")
    assert "give another start" in refused.stderr
    spent = invoke("refine", *rest, "--sparsity", "0.7", "--passes", "30")
    assert "ended: another round may take" in " ".join(spent.stdout.split())
    methods = ["--method", "rdprune", "--method", "refined"]
    rows = succeed("compare", *USE, "r.npz", "--sparsity", "0.7", *methods)
    assert [row["method"] for row in rows] == ["rdprune", "refined"]


def test_apply_repairs_as_measured() -> None:
    """The repair on batches is the measured one, or the one asked for."""
    from safetensors.torch import load_file

    succeed("measure", *USE, "--levels", "5", "--recovery", "bias", "--output", "b.npz")
    succeed("allocate", "b.npz", "--sparsity", "0.5", "--output", "b.json")
    rest = ["apply", "--model", "mine:model", "--allocation", "b.json", "--output"]
    shown = invoke(*rest, "plain.safetensors")
    assert "measured in the state bias, and nothing is repaired: give --repair-d" in shown.stderr
    assert "weights kept, not repaired; written" in " ".join(shown.stdout.split())
    done = succeed(*rest, "bias.safetensors", "--repair-data", "mine:batches")
    assert done["repair"] == "bias"
    fitted = ["--recovery", "least-squares"]
    succeed(*rest, "fit.safetensors", "--repair-data", "mine:batches", *fitted)
    plain, bias, fit = (load_file(f"{n}.safetensors") for n in ("plain", "bias", "fit"))

    def changed(found: dict[str, Any]) -> set[str]:
        return {name for name in plain if not plain[name].equal(found[name])}

    assert changed(bias) <= {"0.bias", "3.bias"} != changed(fit)
    assert changed(bias)
    assert changed(fit) <= {"0.weight", "3.weight"}
