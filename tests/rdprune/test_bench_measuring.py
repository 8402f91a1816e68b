"""The benchmark of measuring: what it counts and what it tells. Nothing here is timed."""

from __future__ import annotations

import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from rdprune.bench.measuring import MacCounter, Row, show
from rdprune.cli import app


def test_macs_are_counted():
    """A convolution and a linear layer do what their shapes say; two operations a MAC."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    with torch.no_grad(), MacCounter() as counter:
        model(torch.zeros(2, 3, 8, 8))
    assert counter.flops == 2 * 2 * (4 * 6 * 6 * 27 + 4 * 6 * 6 * 5)


def test_every_saving_does_less(tmp_path):
    """Rows have the fields promised; each saving does less work, reuse with the same table."""
    pytest.importorskip("mlxtend")
    target = tmp_path / "rows.json"
    arguments = ["--network", "demo", "--levels", "6", "--json", str(target)]
    result = CliRunner().invoke(app, ["bench", "measure", *arguments])
    assert result.exit_code == 0, result.output
    rows = {row["method"]: row for row in json.loads(target.read_text())}
    assert list(rows) == [
        *("plain", "prefix", "adaptive", "adaptive, prefix", "adaptive, prefix, one table", "all")
    ]
    for row in rows.values():
        assert set(row) == {
            *("network", "method", "macs_ratio", "wall_s", "peak_bytes", "excess_distortion")
        }
        assert row["wall_s"] > 0
        assert row["peak_bytes"] > 1 << 24
    plain, prefix = rows["plain"], rows["prefix"]
    assert plain["excess_distortion"] == prefix["excess_distortion"] == 0.0
    # Reference, MACs, and 20 layers at 5 levels.
    assert plain["macs_ratio"] == pytest.approx(2 + 20 * 5)
    assert prefix["macs_ratio"] < 0.9 * plain["macs_ratio"]
    both, one_table = rows["adaptive, prefix"], rows["adaptive, prefix, one table"]
    assert both["macs_ratio"] < 0.9 * rows["adaptive"]["macs_ratio"]
    assert both["macs_ratio"] < one_table["macs_ratio"]
    # Fewer than a quarter of the 101 levels that are chosen among.
    assert one_table["macs_ratio"] < 500
    assert 8 <= rows["all"]["macs_ratio"] <= 9  # the fewest that a search takes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "vgg"], "--network is 'vgg', must be one of demo"),
        (["--method", "magic"], "--method is 'magic', must be one of plain"),
        (["--quick", "--levels", "7"], "--quick chooses"),
    ],
)
def test_bad_arguments(arguments, message):
    """What is unknown or does not go together is refused in one line."""
    result = CliRunner().invoke(app, ["bench", "measure", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_json_has_the_worst_excess_and_the_table_each():
    """Of three sparsities, the one where most is lost."""
    row = Row("demo", "all", 132.0, 17.0, 1 << 28, (-0.062, 0.015, 0.004))
    assert row.told()["excess_distortion"] == 0.015
    console = Console(width=200, record=True, file=StringIO())
    console.print(show([row]))
    assert "-6.2%  " in (text := console.export_text())
    assert text.split()[-2:] == ["+1.5%", "+0.4%"]
