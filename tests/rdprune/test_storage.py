"""Bytes of every option, counted by hand, and what they decide."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rdprune.cli import app
from rdprune.measuring import measure
from rdprune.storage import with_bytes
from rdprune_core import RDTable, allocate

SHAPES = ["2:4", "1:8", "2x2:0.5", "out:0.5", "in:0.5"]


@pytest.fixture
def model():
    """Return two layers: 6 outputs of 8 inputs, and a grouped convolution."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 6, bias=False), nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 4, 1, groups=2)
    ).eval()


def test_bytes_by_hand(model):
    """Values, and a bitmask, positions in groups, or a bit for each block or channel."""
    data = [torch.randn(4, 8)]
    table = measure(model, data, levels=[0.5, 1.0], shapes=SHAPES, progress=False)
    found = with_bytes(table, model)
    by_label = [
        dict(zip(options, row.tolist(), strict=True))
        for options, row in zip(found.options, found.costs["bytes"], strict=True)
    ]
    # 48 weights: 24 kept of 4 bytes, and 48 bits; or 24 times 2 bits; 6 times 3 bits; 12 blocks.
    assert by_label[0] == {
        "0.0": 192, "0.5": 96 + 6, "1.0": 0, "2:4": 96 + 6, "1:8": 24 + 3,
        "2x2:0.5": 96 + 2, "out:0.5": 96 + 1, "in:0.5": 96 + 1,
    }  # fmt: skip
    # 2 groups of 2 x 3: 2:4 keeps 2 of 3 inputs, so 8; 4 blocks, cut: 2 are kept.
    kept = dict(zip(found.options[1], found.costs["params"][1].tolist(), strict=True))
    assert by_label[1]["2:4"] == 4 * 8 + 2
    assert by_label[1]["2x2:0.5"] == 4 * kept["2x2:0.5"] + 1
    assert by_label[1]["out:0.5"] == 4 * 6 + 1
    assert found.dense["bytes"].tolist() == [192, 48]
    for name, rows in table.costs.items():
        assert all((a == b).all() for a, b in zip(rows, found.costs[name], strict=True))
    allocation = allocate(found, {"bytes": 120})
    assert allocation.cost["bytes"] <= 120
    with pytest.raises(ValueError, match="has a cost 'bytes' already"):
        with_bytes(found, model)


def test_half_precision_counts_two_bytes(model):
    """A value takes what the parameter's type takes."""
    table = measure(model, [torch.randn(4, 8)], levels=[0.5], progress=False)
    half = with_bytes(table, model.half())
    assert half.costs["bytes"][0].tolist() == [96, 48 + 6]


def test_a_table_of_another_model_is_refused(model):
    """The layers' shapes must be the table's."""
    table = measure(model, [torch.randn(4, 8)], levels=[0.5], progress=False)
    with pytest.raises(ValueError, match="table of another model"):
        with_bytes(table, nn.Sequential(nn.Linear(4, 6, bias=False), model[1], model[2]))
    assert isinstance(table, RDTable)


def test_bench_shapes(tmp_path):
    """At the bytes of 2:4 everywhere the distortion is less; at its distortion the bytes are."""
    file = tmp_path / "rows.json"
    done = CliRunner().invoke(
        app,
        ["bench", "shapes", "--images", "8", "--test", "50", "--levels", "6", "--json", str(file)],
    )
    assert done.exit_code == 0, done.stderr
    first, same, both, single = json.loads(file.read_text())["rows"]
    assert first["patterned"] == 20
    assert same["bytes"] <= first["bytes"]
    assert same["predicted"] <= first["predicted"]
    for row in (both, single):
        assert row["bytes"] <= first["bytes"]
        assert row["true"] <= first["true"]
