"""The benchmark of measuring: what it counts and what it tells. Nothing here is timed."""

from __future__ import annotations

import json
import os
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from rdprune.bench import measuring
from rdprune.bench.counting import MacCounter, OperationCounter
from rdprune.bench.measuring import Row, show
from rdprune.bench.networks import NETWORKS
from rdprune.bench.process import apart
from rdprune.cli import app


def test_macs_are_counted():
    """A convolution and a linear layer do what their shapes say; two operations a MAC."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    with torch.no_grad(), MacCounter() as counter:
        model(torch.zeros(2, 3, 8, 8))
        assert counter.flops == 2 * 2 * (4 * 6 * 6 * 27 + 4 * 6 * 6 * 5)
        model(torch.zeros(2, 3, 8, 8))  # from memory
        assert counter.flops == 2 * 2 * 2 * (4 * 6 * 6 * 27 + 4 * 6 * 6 * 5)
        model[0](torch.zeros(1, 3, 5, 5))  # another shape
    assert counter.flops == 2 * 2 * 2 * (4 * 6 * 6 * 27 + 4 * 6 * 6 * 5) + 2 * 4 * 3 * 3 * 27


@pytest.mark.parametrize("stride", [1, 2])
def test_backward_passes_are_counted(stride):
    """As every single operation says, whether the input needs a gradient or not."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride), nn.Conv2d(4, 5, 1))
    counted = []
    for counter in (MacCounter(), OperationCounter()):
        with counter:
            for wanted in (True, False):
                images = torch.zeros(2, 3, 8, 8, requires_grad=wanted)
                model(images).sum().backward()
                torch.autograd.grad(model(images).sum(), model[1].weight)
                torch.autograd.backward(model[0](images).sum())
                torch.autograd.backward(model(images).sum())
        counted.append(counter.flops)
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_functions_are_remembered_by_all_that_matters(dropout):
    """Attention takes another kernel with dropout, and for inputs of other strides."""
    first = torch.randn(1, 2, 8, 8)
    counted = []
    for counter in (MacCounter(), OperationCounter()):
        with counter:
            for query in (first, first.transpose(2, 3), first.double()):
                for share in (0.0, dropout):
                    nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=share)
        counted.append(counter.flops)
    assert counted[0] == counted[1]


def test_a_function_that_raises_is_counted():
    """What was done before it did."""
    layer, unused = nn.Linear(4, 5), torch.zeros(1, requires_grad=True)
    with MacCounter() as counter:
        total = layer(torch.zeros(2, 4, requires_grad=True)).sum()
        before = counter.flops
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(total, (layer.weight, unused))
    assert before == 2 * 2 * 4 * 5
    assert counter.flops == 2 * before


def test_a_search_is_counted_like_its_operations():
    """Looks, gradients and measurements: from memory as by every operation."""
    pytest.importorskip("mlxtend")
    network = NETWORKS["demo"]
    model, batches = network.model(), network.batches(8)
    counted = []
    for counter in (MacCounter(), OperationCounter()):
        with counter:
            network.search(model, batches, sparsity=0.7, passes=12)
        counted.append(counter.flops)
    assert counted[0] == counted[1] > 0


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


def test_quick_takes_the_demo_alone(monkeypatch):
    """At 101 levels, each saving and all together; nothing is measured here."""
    asked = []
    monkeypatch.setattr(measuring, "run", lambda *arguments: asked.append(arguments) or [])
    assert CliRunner().invoke(app, ["bench", "measure", "--quick"]).exit_code == 0
    ((networks, methods, levels, _, samples),) = asked
    assert (networks, methods, levels) == (["demo"], ["plain", "prefix", "adaptive", "all"], 101)
    assert samples < NETWORKS["demo"].samples


def test_a_process_that_dies_is_named():
    """With what was asked of it."""
    with pytest.raises(RuntimeError, match=r"^exit 3: the process died$"):
        apart(os._exit, 3)


def test_an_error_in_the_process_is_told():
    """In one line, whether it can be pickled or not."""
    with pytest.raises(RuntimeError, match=r"^divmod 1 0: ZeroDivisionError: .*zero"):
        apart(divmod, 1, 0)


def test_the_process_has_folder_path_and_environment_of_now(tmp_path, monkeypatch):
    """Those of the call, though it is forked from one that began earlier and elsewhere."""
    (tmp_path / "torch.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    for value in "12":
        monkeypatch.setenv("RDPRUNE_TRIED", value)
        assert apart(os.getenv, "RDPRUNE_TRIED") == value
    assert apart(os.getcwd) == str(tmp_path)
    # It has torch before it runs anything, though another one is in the folder.
    assert apart(eval, "'torch._dynamo' in __import__('sys').modules")


def test_json_has_the_worst_excess_and_the_table_each():
    """Of three sparsities, the one where most is lost."""
    row = Row("demo", "all", 132.0, 17.0, 1 << 28, (-0.062, 0.015, 0.004))
    assert row.told()["excess_distortion"] == 0.015
    console = Console(width=200, record=True, file=StringIO())
    console.print(show([row]))
    assert "-6.2%  " in (text := console.export_text())
    assert text.split()[-2:] == ["+1.5%", "+0.4%"]
