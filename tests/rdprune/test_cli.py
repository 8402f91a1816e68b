"""The command line: what it writes, and how it refuses."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import rdprune_core
from rdprune.cli import app
from rdprune.commands.measure import too_few_samples
from rdprune.commands.options import fraction
from rdprune.layers import prunable
from rdprune.masking import load_masks, masks
from rdprune.scoring import scores
from rdprune_core import Allocation, RDTable

MINE = """
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
    ).eval()

def other():
    made = model()
    torch.nn.init.zeros_(made[3].bias)
    return made

def plain():
    torch.manual_seed(1)
    return torch.nn.Linear(8, 4).eval()

def batches():
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):
        yield torch.randn(16, 8, generator=generator), torch.arange(16) % 4

def wrong_shape():
    return [torch.zeros(3, 7)]

def one_batch():
    return next(iter(batches()))

def tensor():
    return torch.zeros(3, 8)

def empty():
    return []

def number():
    return 3

def breaks():
    yield torch.zeros(3, 8)
    raise KeyError("next")

class Asserts(torch.nn.Linear):
    def forward(self, x):
        raise AssertionError("no")

def asserts():
    return Asserts(8, 4)

def broken():
    return {}["weights"]

def needs(argument):
    return argument

constant = 1

def finetune(model, step):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    model.train()
    for x, y in batches():
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {"number": step.number}

def others():
    return [(x + 1, y) for x, y in batches()]

def evaluate(model):
    return {"first": float(model[0].weight.detach().abs().sum())}
"""
USE = ["--model", "mine:model", "--data", "mine:batches"]
COMMANDS = [
    "demo",
    "measure",
    "look",
    "allocate",
    "frontier",
    "refine",
    "apply",
    "verify",
    "compare",
    "prune",
    "iterate",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a module mine.py, a table and an allocation."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(MINE)
    Path("typo.py").write_text("def model(:\n")
    table = RDTable.from_arrays(
        {"params": [[128, 64, 26], [64, 32, 13]], "macs": [[128, 64, 26], [64, 32, 13]]},
        [[0.0, 1.0, 5.0], [0.0, 2.0, 9.0]],
        names=["0.weight", "3.weight"],
        options=["0.0", "0.5", "0.8"],
        metadata={"shapes": {"0.weight": [16, 8], "3.weight": [4, 16]}},
    )
    table.save("table.npz")
    rdprune_core.allocate(table, sparsity=0.5).save("a.json")
    return tmp_path


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, list(arguments))


def succeed(*arguments: str) -> Any:
    """Run a command that must succeed, and return the JSON it prints."""
    result = invoke(*arguments, "--json", "-")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    """The help of each command ends with a call of it."""
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    rdprune {command}" in result.stdout


def test_without_a_command_there_is_help() -> None:
    """The bare command lists all commands and succeeds."""
    result = invoke()
    assert result.exit_code == 0
    assert all(f"  {command} " in result.stdout for command in COMMANDS)


def test_version() -> None:
    """The version printed is the package's."""
    assert invoke("--version").stdout == f"rdprune {rdprune_core.__version__}\n"


@pytest.mark.usefixtures("here")
def test_the_whole_way() -> None:
    """Measured, allocated, applied and verified, the numbers agree from step to step."""
    measured = succeed("measure", *USE, "--levels", "5", "--output", "mine.npz")
    assert measured["layers"] == ["0.weight", "3.weight"]
    assert measured["options"] == 10
    allocated = succeed("allocate", "mine.npz", "--sparsity", "0.5", "--output", "mine.json")
    assert Allocation.load("mine.json").choice.tolist() == allocated["choice"]
    out = ["--allocation", "mine.json", "--output", "pruned.safetensors"]
    applied = succeed("apply", "--model", "mine:model", *out, "--masks", "masks.safetensors")
    assert applied["kept_total"] == allocated["cost"]["params"]
    assert Path("masks.safetensors").stat().st_size > 0
    verified = succeed("verify", *USE, "--allocation", "mine.json")
    assert verified["kept_total"] == verified["expected_total"] == applied["kept_total"]
    stored = [*USE, "--allocation", "mine.json", "--weights", "pruned.safetensors"]
    assert succeed("verify", *stored)["true"] == pytest.approx(verified["true"], rel=1e-6)
    succeed("measure", *USE, "--levels", "5", "--distortion", "kl", "--output", "kl.npz")
    succeed("measure", *USE, "--levels", "5", "--recovery", "bias", "--output", "bias.npz")
    tables = [*USE, "--allocation", "mine.json", "--table"]
    assert succeed("verify", *tables, "mine.npz")["additive"] == verified["predicted"]
    for name, said in (("kl", "distortion 'kl', the"), ("bias", "recovery 'bias', the")):
        refused = invoke("verify", *tables, f"{name}.npz")
        assert refused.exit_code == 2
        assert f"was measured with {said} allocation's with" in refused.stderr
    refined = [*USE, "mine.npz", "--sparsity", "0.5", "--recovery", "bias", "--rounds", "1"]
    succeed("refine", *refined, "--output", "fine.json")
    succeed("verify", *USE, "--allocation", "fine.json", "--table", "mine.npz")


@pytest.mark.usefixtures("here")
def test_measuring_for_budgets() -> None:
    """With --levels auto the choices at the budgets given are measured, and most others are not."""
    budgets = ["--sparsity", "50%", "--budget", "macs=40%"]
    found = succeed("measure", *USE, "--levels", "auto", *budgets, "--output", "auto.npz")
    assert found["options"] == 202
    assert found["interpolated"] > 101
    table = RDTable.load("auto.npz")
    skipped = table.metadata["interpolated"]
    for option in (["--sparsity", "0.5"], ["--budget", "macs=40%"]):
        chosen = succeed("allocate", "auto.npz", *option)
        for name, label in zip(chosen["names"], chosen["options"], strict=True):
            assert label not in skipped.get(name, ())


@pytest.mark.usefixtures("here")
def test_a_first_look() -> None:
    """Look writes a table of estimates that says so and can be allocated from."""
    found = succeed("look", *USE, "--probes", "3", "--levels", "5", "--output", "look.npz")
    assert found["metadata"]["estimated"] == "to first order, from 3 probes"
    assert succeed("allocate", "look.npz", "--sparsity", "0.5")["status"] == "optimal"
    assert "estimated distortion" in invoke("look", *USE, "--output", "look.npz").stdout


@pytest.mark.usefixtures("here")
def test_other_weights_are_warned_of() -> None:
    """A model of the same shape but with other weights than were measured is not silently taken."""
    succeed("measure", *USE, "--levels", "3", "--output", "mine.npz")
    succeed("allocate", "mine.npz", "--sparsity", "50%", "--output", "mine.json")
    out = ["--allocation", "mine.json", "--output", "pruned.safetensors"]
    refused = invoke("verify", "--model", "mine:other", "--data", "mine:batches", *out[:2])
    assert refused.exit_code == 2
    assert "model does not have the weights that were measured" in refused.stderr
    for command in (
        ["apply", *out],
        ["compare", "--data", "mine:batches", "mine.npz", "--sparsity", "0.5"],
    ):
        found = invoke(*command, "--model", "mine:other")
        assert found.exit_code == 0
        assert "was measured on other weights than --model gives" in found.stderr
        assert "warning" not in invoke(*command, "--model", "mine:model").stderr


@pytest.mark.usefixtures("here")
def test_measure_says_when_samples_are_too_few() -> None:
    """The rows say how much the choice costs that other samples make; above the limit it warns."""
    found = invoke(
        "measure", *USE, "--levels", "11", "--output", "mine.npz", "--json", "noise.json"
    )
    rows = json.loads(Path("noise.json").read_text())["noise"]
    assert [row["sparsity"] for row in rows] == [0.5, 0.7, 0.9]
    assert ("too few samples" in found.stderr) == (max(row["excess"] for row in rows) > 0.02)
    few = [{"sparsity": 0.5, "excess": 0.01}, {"sparsity": 0.7, "excess": 0.031}]
    assert "at sparsity 0.7 another draw" in too_few_samples(few)
    assert "3.1% above" in too_few_samples(few)
    assert too_few_samples(few[:1]) == too_few_samples([]) == ""
    assert "inf" in too_few_samples([{"sparsity": 0.5, "excess": None}])


@pytest.mark.usefixtures("here")
def test_allocate_reduces_anew() -> None:
    """`--reduction` solves for another reduction of the errors that were kept."""
    succeed("measure", *USE, "--levels", "5", "--output", "mine.npz")
    succeed("measure", *USE, "--levels", "5", "--distortion", "max", "--output", "max.npz")
    found = succeed("allocate", "mine.npz", "--sparsity", "0.5", "--reduction", "max")
    assert found == succeed("allocate", "max.npz", "--sparsity", "0.5")
    succeed("measure", *USE, "--levels", "5", "--no-keep-errors", "--output", "none.npz")
    result = invoke("allocate", "none.npz", "--sparsity", "0.5", "--reduction", "max")
    assert result.exit_code == 2
    assert "measure with keep_errors=True" in result.stderr


@pytest.mark.usefixtures("here")
def test_measure_heeds_its_options() -> None:
    """Ignored layers are absent, listed levels are the options, metadata tells the rest."""
    options = ["--levels", "0,0.5", "--ignore", "3", "--distortion", "max", "--responses", "8"]
    succeed("measure", *USE, *options, "--recovery", "batchnorm", "--output", "mine.npz")
    table = RDTable.load("mine.npz")
    assert table.names == ("0.weight",)
    assert table.options == (("0.0", "0.5"),)
    assert table.responses is not None
    assert table.responses[0].shape == (2, 8)
    assert (table.metadata["distortion"], table.metadata["recovery"]) == ("max", "batchnorm")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "taylor"])
def test_a_criterion_goes_from_measuring_to_the_masks(criterion: str) -> None:
    """Apply writes, and verify runs, the masks that were measured by the criterion."""
    chosen = ["--criterion", criterion, "--shape", "2:4"]
    succeed("measure", *USE, "--levels", "0,0.3,0.6", *chosen, "--output", "mine.npz")
    found = succeed("allocate", "mine.npz", "--sparsity", "0.45", "--output", "own.json")
    files = ["--allocation", "own.json", "--output", "p.safetensors", "--masks", "m.safetensors"]
    succeed("apply", *USE, *files)
    mine = importlib.import_module("mine")
    model, data = mine.model(), list(mine.batches())
    scored = scores(criterion, model, prunable(model), data)
    expected = masks(model, rdprune_core.Allocation.load("own.json"), scores=scored)
    made = load_masks("m.safetensors")
    assert all(made[name].equal(mask) for name, mask in expected.items())
    report = succeed("verify", *USE, "--allocation", "own.json")
    assert report["kept_total"] == found["cost"]["params"]
    pruned = succeed("verify", *USE, "--allocation", "own.json", "--weights", "p.safetensors")
    assert pruned["true"] == pytest.approx(report["true"], rel=1e-6)
    if criterion == "magnitude":
        return
    lacking = invoke("apply", *USE[:2], *files)
    assert lacking.exit_code == 2
    assert f"the allocation is by {criterion}: give --data" in lacking.stderr
    other = invoke("apply", *USE[:2], "--data", "mine:others", *files)
    assert other.exit_code == 2
    assert "scores are not those of the allocation" in other.stderr


@pytest.mark.usefixtures("here")
def test_constraints_reach_the_solver() -> None:
    """Budget, floor, cap, forbidden option, tie and previous allocation all hold."""
    assert succeed("allocate", "table.npz", "--budget", "params=96")["cost"]["params"] <= 96
    floored = succeed("allocate", "table.npz", "--sparsity", "0.25", "--floor", "0.weight=128")
    assert floored["options"][0] == "0.0"
    capped = succeed("allocate", "table.npz", "--sparsity", "0", "--cap", "3.weight=20")
    assert capped["options"] == ["0.0", "0.8"]
    rest = ["table.npz", "--sparsity", "0.5", "--forbid", "3.weight=0.5"]
    assert succeed("allocate", *rest)["options"][1] != "0.5"
    both = succeed("allocate", "table.npz", "--budget", "100", "--budget", "macs=60%")
    assert both["budget"] == {"params": 100, "macs": 115}
    tied = succeed("allocate", "table.npz", "--budget", "100", "--tie", "0.weight,3.weight")
    assert tied["options"] == ["0.5", "0.5"]
    after = succeed("allocate", "table.npz", "--budget", "params=100%", "--previous", "a.json")
    assert after["choice"] == Allocation.load("a.json").choice.tolist()


@pytest.mark.usefixtures("here")
def test_json_goes_to_a_file_beside_the_table() -> None:
    """With a file for the JSON the table is still printed, and the file holds the same choice."""
    result = invoke("allocate", "table.npz", "--sparsity", "0.5", "--json", "out.json")
    assert "optimal, proved" in result.stdout
    found = json.loads(Path("out.json").read_text())
    assert found["choice"] == Allocation.load("a.json").choice.tolist()


@pytest.mark.usefixtures("here")
def test_frontier_sweeps_the_cost_and_draws() -> None:
    """The frontier has the points asked for, of the cost asked for, and a picture."""
    options = ["--cost", "macs", "--points", "7", "--picture", "f.png"]
    found = succeed("frontier", "table.npz", *options)
    assert found["cost"] == "macs"
    assert [point["budget"] for point in found["points"]][-1] == 192
    assert len(found["points"]) == 7
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("here")
def test_compare_gives_every_method_the_same_count() -> None:
    """At each sparsity all methods keep equally many weights, held-out figures included."""
    rows = succeed("compare", *USE, "table.npz", "--heldout", "mine:batches", "--sparsity", "0.5")
    assert len({row["kept"] for row in rows if row["method"] != "dense"}) == 1
    assert all(row["top1"] is not None for row in rows)


@pytest.mark.usefixtures("here")
def test_compare_takes_methods() -> None:
    """With --method the methods named stand in the table and no other; a wrong one is named."""
    use = ["compare", *USE, "table.npz", "--sparsity", "0.5", "--method", "rdprune"]
    rows = succeed(*use, "--method", "owl", "--method", "spdy")
    assert [row["method"] for row in rows] == ["rdprune", "owl", "spdy"]
    assert len({row["kept"] for row in rows}) == 1
    result = CliRunner().invoke(app, [*use, "--method", "best"])
    assert result.exit_code == 2
    assert "methods holds 'best'" in result.stderr


@pytest.mark.usefixtures("here")
def test_shapes_go_through() -> None:
    """Options of other shapes are measured, chosen, applied and verified with equal counts."""
    shapes = ["--shape", "2:4", "--shape", "out:0.25"]
    succeed("measure", *USE, "--levels", "0,0.9", *shapes, "--output", "mixed.npz")
    found = succeed("allocate", "mixed.npz", "--sparsity", "0.5", "--output", "mixed.json")
    assert set(Allocation.load("mixed.json").options) <= {"0.0", "0.9", "2:4", "out:0.25"}
    applied = succeed("apply", *USE[:2], "--allocation", "mixed.json", "--output", "m.safetensors")
    assert applied["kept_total"] == found["cost"]["params"]
    verified = succeed("verify", *USE, "--allocation", "mixed.json")
    assert verified["kept_total"] == found["cost"]["params"]


@pytest.mark.usefixtures("here")
def test_prune_in_one_shot() -> None:
    """One round at the sparsity asked for, on batches or on noise; the weights' zeros agree."""
    from safetensors.torch import load_file

    use = ["prune", "--model", "mine:model", "--sparsity", "0.6", "--levels", "11"]
    for name, inputs in {"a": ["--data", "mine:batches"], "b": ["--noise", "8"]}.items():
        found = succeed(*use, *inputs, "--folder", name)
        (done,) = found["rounds"]
        assert done["kept"] <= 192 * 0.4
        weights = load_file(found["weights"])
        assert (
            sum(int(weights[w].count_nonzero()) for w in ("0.weight", "3.weight")) == done["kept"]
        )
    use += ["--data", "mine:batches", "--evaluate", "mine:evaluate", "--folder", "c"]
    shown = CliRunner().invoke(app, use).stdout
    assert "first pruned" in shown
    assert "tuned" not in shown.split("distortion:")[0]


@pytest.mark.usefixtures("here")
def test_warnings_are_lines_of_the_command() -> None:
    """A batch of three is warned of without a path or a line of the source."""
    Path("few.py").write_text("import torch\ndef batches():\n    return [torch.randn(3, 8)]\n")
    use = ["measure", "--model", "mine:model", "--data", "few:batches", "--recovery", "batchnorm"]
    command = [sys.executable, "-m", "rdprune", *use, "--levels", "3", "--output", "few.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "rdprune: warning: batch 0 of 1 has 3 samples, too few for Batch" in done.stderr
    assert ".py" not in done.stderr


@pytest.mark.usefixtures("here")
def test_iterate_goes_on() -> None:
    """Rounds are tuned and evaluated; a second call with more rounds keeps the first ones."""
    use = ["iterate", *USE, "--amount", "0.3", "--folder", "run", "--levels", "11", "--rewind"]
    use += ["--finetune", "mine:finetune", "--evaluate", "mine:evaluate", "--repair", "batchnorm"]
    use += ["--blend", "0"]
    first = succeed(*use, "--rounds", "1")["rounds"]
    rounds = succeed(*use, "--rounds", "2")["rounds"]
    assert rounds[0] == first[0]
    assert [done["finetune"]["number"] for done in rounds] == [1, 2]
    assert rounds[1]["tuned"]["first"] != rounds[1]["pruned"]["first"]
    shown = CliRunner().invoke(app, [*use, "--rounds", "2"]).stdout
    assert "first tuned" in shown
    fewer = CliRunner().invoke(app, [*use, "--rounds", "1"]).stdout
    assert "run has 2 rounds; asked for and shown: 1" in " ".join(fewer.split())
    assert "51.0 %" in shown
    assert "distortion: mse, state batchnorm, blend 0" in " ".join(shown.split())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("option", ["--finetune", "--evaluate"])
def test_errors_inside_your_functions_keep_their_traceback(option: str) -> None:
    """Of whatever kind, with the line of your file and whose function it was."""
    Path("faulty.py").write_text("def train(*_):\n    raise ValueError('bad rate')\n")
    use = ["prune", *USE, "--sparsity", "0.5", "--folder", "run", "--levels", "5"]
    found = invoke(*use, option, "faulty:train")
    assert found.exit_code == 1
    assert 'faulty.py", line 2, in train' in found.stderr
    assert "ValueError: bad rate" in found.stderr
    assert f"rdprune: error: {option} faulty:train failed" in found.stderr


@pytest.mark.usefixtures("here")
def test_repair_changes_only_the_statistics() -> None:
    """Re-estimating BatchNorm changes its buffers in the file and no weight."""
    from safetensors.torch import load_file

    rest = ["--model", "mine:model", "--allocation", "a.json", "--output"]
    succeed("apply", *rest, "plain.safetensors")
    succeed("apply", *rest, "repaired.safetensors", "--repair-data", "mine:batches")
    plain, repaired = load_file("plain.safetensors"), load_file("repaired.safetensors")
    changed = {name for name in plain if not plain[name].equal(repaired[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


BAD = {
    "no model": (
        ["measure", "--data", "mine:batches", "--output", "t"],
        "Missing option '--model'",
    ),
    "no colon": (["measure", *USE, "--model", "mine", "--output", "t"], "package.module:function"),
    "a file": (
        ["measure", *USE, "--model", "mine.py:model", "--output", "t"],
        "--model must name a module, not a file: mine:model",
    ),
    "no module": (["measure", *USE, "--model", "nowhere:f", "--output", "t"], "No module named"),
    "typo": (["measure", *USE, "--model", "typo:model", "--output", "t"], "SyntaxError"),
    "misspelt": (["measure", *USE, "--model", "mine:modle", "--output", "t"], "close: model"),
    "no function": (["measure", *USE, "--model", "mine:constant", "--output", "t"], "no function"),
    "arguments": (["measure", *USE, "--model", "mine:needs", "--output", "t"], "needs() failed"),
    "generator": (
        ["measure", *USE, "--data", "mine:breaks", "--output", "t"],
        "reading batches failed: KeyError",
    ),
    "assertion": (
        ["measure", *USE, "--model", "mine:asserts", "--output", "t"],
        "the model cannot run on batch 0, a tuple of 2, the first of shape ",
    ),
    "a folder": (["measure", *USE, "--output", "."], "Is a directory"),
    "raises": (["measure", *USE, "--model", "mine:broken", "--output", "t"], "KeyError: 'weights'"),
    "no module object": (["measure", *USE, "--model", "mine:number", "--output", "t"], "int, not"),
    "one batch": (
        ["measure", *USE, "--data", "mine:one_batch", "--output", "t"],
        "is it one batch? Then [batch]",
    ),
    "tensor": (["measure", *USE, "--data", "mine:tensor", "--output", "t"], "Tensor, not batches"),
    "no batches": (["measure", *USE, "--data", "mine:empty", "--output", "t"], "batches"),
    "shape": (["measure", *USE, "--data", "mine:wrong_shape", "--output", "t"], "shapes"),
    "levels": (["measure", *USE, "--levels", "a,b", "--output", "t"], "got 'a,b'"),
    "auto alone": (["measure", *USE, "--levels", "auto", "--output", "t"], "needs a sparsity"),
    "auto errors": (
        [
            "measure",
            *USE,
            "--levels",
            "auto",
            "--sparsity",
            "0.5",
            "--keep-errors",
            "--output",
            "t",
        ],
        "keep_errors needs every level measured",
    ),
    "look auto": (["look", *USE, "--levels", "auto", "--output", "t"], "--levels auto is for"),
    "prune auto": (
        ["prune", *USE, "--levels", "auto", "--sparsity", "0.5", "--folder", "t"],
        "--levels auto is for",
    ),
    "level range": (["measure", *USE, "--levels", "0,1.5", "--output", "t"], "1.5"),
    "bytes": (["measure", *USE, "--reuse-memory", "4T", "--output", "t"], "got '4T'"),
    "distortion": (["measure", *USE, "--distortion", "psnr", "--output", "t"], "psnr"),
    "recovery": (["measure", *USE, "--recovery", "magic", "--output", "t"], "magic"),
    "path": (
        ["refine", *USE, "table.npz", "--sparsity", "0.5", "--output", "r.json", "--path", "x"],
        "--path must be sparsities like 0.3,0.5, got 'x'",
    ),
    "recovery without data": (
        [
            *("apply", "--model", "mine:model", "--allocation", "a.json", "--output", "w"),
            *("--recovery", "bias"),
        ],
        "--recovery needs --repair-data",
    ),
    "no batchnorm": (
        ["measure", *USE, "--model", "mine:plain", "--recovery", "batchnorm", "--output", "t"],
        "BatchNorm",
    ),
    "ignore": (["measure", *USE, "--ignore", "nosuch*", "--output", "t"], "nosuch*"),
    "device": (["measure", *USE, "--device", "abacus", "--output", "t"], "--device 'abacus'"),
    "folder": (["measure", *USE, "--output", "no/t.npz"], "no: No such file or directory"),
    "json folder": (
        ["measure", *USE, "--output", "t.npz", "--json", "no/a.json"],
        "no: No such file or directory",
    ),
    "no table": (["allocate", "no.npz", "--sparsity", "0.5"], "no.npz: No such file"),
    "not a table": (["allocate", "mine.py", "--sparsity", "0.5"], "not a table"),
    "no budget": (["allocate", "table.npz"], "give a budget or a sparsity"),
    "sparsity": (["allocate", "table.npz", "--sparsity", "1.2"], "between 0 and 1"),
    "no number": (["allocate", "table.npz", "--sparsity", "much"], "'--sparsity'"),
    "float": (["allocate", "table.npz", "--budget", "params=0.2"], '"20%"'),
    "unknown cost": (["allocate", "table.npz", "--budget", "watts=20%"], "watts"),
    "no pair": (["allocate", "table.npz", "--budget", "=5"], "--budget must be COST=AMOUNT"),
    "twice": (
        ["allocate", "table.npz", "--budget", "params=9", "--budget", "params=8"],
        "names 'params' twice",
    ),
    "impossible": (["allocate", "table.npz", "--sparsity", "0.99"], "39"),
    "floor": (["allocate", "table.npz", "--sparsity", "0.5", "--floor", "0.weight"], "LAYER=COST"),
    "unknown layer": (
        ["allocate", "table.npz", "--sparsity", "0.5", "--cap", "O.weight=9"],
        "unknown layer 'O.weight'",
    ),
    "forbid": (["allocate", "table.npz", "--sparsity", "0", "--forbid", "x"], "LAYER=OPTION"),
    "option": (
        ["allocate", "table.npz", "--sparsity", "0", "--forbid", "0.weight=0.7"],
        "no option '0.7'",
    ),
    "frontier cost": (["frontier", "table.npz", "--cost", "watts"], "watts"),
    "frontier points": (["frontier", "table.npz", "--points", "1"], "points"),
    "other model": (
        ["apply", "--model", "mine:plain", "--allocation", "a.json", "--output", "p"],
        "0.weight",
    ),
    "not an allocation": (
        ["apply", "--model", "mine:model", "--allocation", "mine.py", "--output", "p"],
        "mine.py",
    ),
    "nothing to repair": (
        [
            *("apply", "--model", "mine:plain", "--allocation", "plain.json", "--output", "p"),
            *("--repair-data", "mine:batches"),
        ],
        "no BatchNorm statistics",
    ),
    "weights": (
        ["verify", *USE, "--allocation", "a.json", "--weights", "mine.py"],
        "mine.py: not a complete safetensors file",
    ),
    "heldout": (["compare", *USE, "table.npz", "--heldout", "mine:number"], "--heldout"),
    "no data": (["prune", *USE[:2], "--sparsity", "0.5", "--folder", "x"], "--data or --noise"),
    "noise": (
        ["prune", *USE[:2], "--sparsity", "0.5", "--folder", "x", "--noise", "3x4"],
        "--noise must be a shape like 3,32,32, got '3x4'",
    ),
    "finetune": (["iterate", *USE, "--folder", "x", "--finetune", "mine:tune"], "close: finetune"),
    "amount": (["iterate", *USE, "--folder", "x", "--amount", "20"], "amount is 20.0"),
    "unknown command": (["shrink"], "No such command 'shrink'"),
    "unknown option": (["allocate", "table.npz", "--speed", "9"], "No such option"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    """Bad input gives exit code 2, nothing on stdout, and one line that says what is wrong."""
    table = RDTable.from_arrays([[32, 16]], [[0.0, 1.0]], names=["weight"], options=["0.0", "0.5"])
    rdprune_core.allocate(table, sparsity=0.5).save("plain.json")
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.stderr, result.exception)
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith("rdprune: error: ")
    assert message in line
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("here")
def test_a_missing_folder_is_found_before_the_work() -> None:
    """Nothing is measured for a table that has nowhere to go: the model is not even made."""
    result = invoke("measure", "--model", "no:no", "--data", "no:no", "--output", "no/t.npz")
    assert result.stderr == "rdprune: error: no: No such file or directory\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that no input should cause is not dressed up as bad input."""

    def fault(*_: object) -> None:
        raise KeyError("fault")

    monkeypatch.setattr("rdprune.demo.run.run", fault)
    result = invoke("demo")
    assert isinstance(result.exception, KeyError)


def start(*arguments: str, code: str = "") -> subprocess.Popen[str]:
    """Start the command in its own process, after some code."""
    program = f"import sys\n{code}\nfrom rdprune.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.usefixtures("here")
def test_a_process_ends_with_code_2_and_one_line() -> None:
    """The real command answers an impossible budget on stderr, with exit code 2."""
    process = start("allocate", "table.npz", "--sparsity", "0.99")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("rdprune: error: ")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("here")
def test_interrupting_ends_with_code_130() -> None:
    """Ctrl-C while measuring ends with one line and 130, without a traceback or a table."""
    Path("slow.py").write_text(
        "import pathlib, time, mine\nmodel = mine.model\n"
        "def batches():\n    pathlib.Path('started').touch()\n    time.sleep(60)\n"
    )
    process = start("measure", *USE[:2], "--data", "slow:batches", "--output", "slow.npz")
    while not Path("started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "rdprune: interrupted"
    assert "Traceback" not in err
    assert not Path("slow.npz").exists()


@pytest.mark.usefixtures("here")
def test_an_interrupted_run_goes_on() -> None:
    """Ctrl-C with a store says how to go on; the same command then only measures the rest."""
    Path("slow.py").write_text(
        "import mine, time\nbatches = mine.batches\n"
        "def model():\n    model = mine.model()\n"
        "    model.register_forward_hook(lambda *_: time.sleep(0.05))\n    return model\n"
    )
    command = ["measure", "--model", "slow:model", *USE[2:], "--output", "t.npz", "--store", "run"]
    process = start(*command)
    while rows("run") < 5 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "what was measured is kept in run: run the same command again to go on" in err
    kept = rows("run")
    assert not Path("t.npz").exists()
    succeed("measure", *USE, "--output", "plain.npz")
    Path("slow.py").write_text("import mine\nbatches = mine.batches\nmodel = mine.model\n")
    succeed(*command)
    assert kept < rows("run")
    one, other = RDTable.load("t.npz"), RDTable.load("plain.npz")
    assert all((a == b).all() for a, b in zip(one.distortion, other.distortion, strict=True))


def rows(folder: str) -> int:
    """Count the measurements in a run folder."""
    if not Path(folder, "measurements.sqlite").exists():
        return 0
    database = sqlite3.connect(Path(folder, "measurements.sqlite"))
    try:
        return int(database.execute("SELECT count(*) FROM measurement").fetchone()[0])
    except sqlite3.OperationalError:  # the tables are being made
        return 0
    finally:
        database.close()


def test_without_typer_the_extra_is_named() -> None:
    """Where typer is missing, one line says what to install."""
    process = start("demo", code="sys.modules['typer'] = None")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == "rdprune: error: typer is missing: pip install 'rdprune-core[torch]'\n"


def test_per_cent_is_read_in_decimals():
    """Tenths of a per cent are the doubles nearest to them, as the fractions written out are."""
    for tenths in range(1001):
        assert fraction(f"{tenths / 10:.1f}%") == float(f"{tenths / 1000:.3f}")
