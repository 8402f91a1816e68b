"""The experiments that train: their data, their candidates, and their run folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rdprune import store
from rdprune.bench import accuracy, accuracy_view, predictors
from rdprune.bench.candidates import candidates, filled
from rdprune.bench.commands import app
from rdprune.bench.ledger import Ledger
from rdprune.bench.quantities import Probe, of_weights, outputs
from rdprune.bench.subject import Protocol, figures, open_subject
from rdprune.layers import prunable
from rdprune.levels import falling_levels
from rdprune.recipes.datasets import augment

SMALL = Protocol(steps=1, batch=4)


@pytest.fixture(scope="module")
def subject():
    return open_subject("mnist", 8, 20)


@pytest.fixture(scope="module")
def half(subject):
    return {name: layer.parameter.numel() // 2 for name, layer in subject.layers.items()}


def test_a_ledger_makes_a_row_once(tmp_path):
    """A row that is there, from this process or an earlier one, is not made again."""
    made = []

    def make():
        made.append(1)
        return {"value": 0.1 + len(made)}

    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            assert ledger.find({"b": 2, "a": [2]}) is None
            assert ledger.once({"b": 2, "a": [1]}, make) == {"value": 1.1}
            assert ledger.find({"a": [1], "b": 2}) == {"value": 1.1}
    assert len(made) == 1


def test_a_row_that_fails_is_not_kept(tmp_path):
    """An error while a row is made leaves nothing behind."""
    with Ledger(tmp_path) as ledger:
        with pytest.raises(ZeroDivisionError):
            ledger.once({"a": 1}, lambda: {"value": 1 / 0})
        assert ledger.find({"a": 1}) is None


def test_a_damaged_ledger_is_refused(tmp_path):
    """A file that is no database is named in the error."""
    (tmp_path / store.FILE).write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match=store.FILE):
        Ledger(tmp_path)


def test_digits_are_never_mirrored():
    """Where a mirrored picture is another class, pictures are moved only."""
    ramp = torch.arange(1.0, 29).expand(50, 1, 28, 28)
    moved = augment(ramp, mirrored=False, generator=torch.Generator().manual_seed(0))
    steps = moved[:, 0, 14, 5:23].diff()
    assert (steps == 1).all()
    assert len(set(moved[:, 0, 14, 14].tolist())) == 9


def test_pruned_and_tuned_copies_keep_their_zeros(subject, half):
    """Counts are exact before and after a fine-tune, the same seed repeats, nothing dense moves."""
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    pruned = subject.pruned(half)
    first, second = (subject.tuned(pruned, Protocol(steps=2, batch=4), 3) for _ in range(2))
    other = subject.tuned(pruned, Protocol(steps=2, batch=4), 4)
    for name, layer in prunable(pruned).items():
        zero = layer.parameter == 0
        assert int((~zero).sum()) == half[name]
        tuned = prunable(first)[name].parameter
        assert not tuned[zero].any()
        assert torch.equal(tuned, prunable(second)[name].parameter)
    weight = "linear.weight"
    assert not torch.equal(first.state_dict()[weight], pruned.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
    for name, value in subject.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_figures_are_those_of_the_definitions():
    """Mean square, KL of the softmax and top-1 of two samples, worked out by hand."""
    dense = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]])
    found = figures(dense, torch.tensor([[0.0, 2.0], [0.0, np.log(3.0)]]), torch.tensor([0, 1]))
    # Softmax (1/2, 1/2) against (1, e²) / (1 + e²), and no change.
    expected = -0.5 * (np.log(2 / (1 + np.e**2)) + np.log(2 * np.e**2 / (1 + np.e**2))) / 2
    assert found == pytest.approx({"mse": 1.0, "kl": expected, "top1": 0.5}, rel=1e-6)


def test_candidates_keep_the_same_number_of_weights(subject):
    """All allocations of a list use the budget whole, are made again alike, and differ."""
    table = accuracy.rdprune.measure(
        subject.model, subject.calibration, levels=falling_levels(4), progress=False
    )
    found = candidates(subject, {"none": table}, 0.9, 16)
    total = round(0.1 * subject.size)
    assert len(found) >= 14  # with so few levels the additive and the joint optimum are the same
    assert all(sum(kept.values()) == total for kept in found.values())
    assert found == candidates(subject, {"none": table}, 0.9, 16)
    assert len({tuple(kept.values()) for kept in found.values()}) == len(found)


def test_filled_scales_up_to_the_total(subject, half):
    """An allocation that leaves some of the budget gets it, in proportion."""
    total = sum(half.values()) + 1000
    found = filled(subject, half, total)
    assert sum(found.values()) == total
    assert all(half[name] <= found[name] <= half[name] * 1.02 + 1 for name in half)


def test_quantities_of_the_dense_network_are_zero(subject):
    """The dense network differs from itself in nothing, and its label loss is the loss."""
    found = Probe(subject).outcome(subject.model)
    zero = {k: v for k, v in found.items() if k not in ("loss", "errors")}
    assert zero == pytest.approx(dict.fromkeys(zero, 0.0), abs=1e-12)
    logits, features = outputs(subject.model, subject.calibration)
    labels = subject.calibration[0][1]
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))
    assert features.shape == (8, 64)


def test_gradient_flow_leaves_the_network_alone(subject, half):
    """Taking the gradient changes neither statistics nor mode, and is that of kept weights."""
    pruned = subject.pruned(half)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    assert Probe(subject).flow(pruned)["flow"] < 0
    assert not pruned.training
    for name, value in pruned.state_dict().items():
        assert torch.equal(value, before[name])
    for layer in prunable(pruned).values():
        layer.parameter.data.zero_()
    assert Probe(subject).flow(pruned)["flow"] == 0


def test_weight_quantities_of_everything_and_of_half(subject, half):
    """Nothing removed is no energy; global magnitude has the least of all that keep as much."""
    everything = {name: layer.parameter.numel() for name, layer in subject.layers.items()}
    zero = of_weights(subject.layers, everything)
    assert zero == pytest.approx(
        {"energy": 0, "relative energy": 0, "log energy": 0, "log density": 0, "narrowest": -1},
        abs=1e-9,
    )
    best = accuracy.counts(
        "global_magnitude", accuracy.Problem(subject.model, subject.layers, sum(half.values()))
    )
    least = of_weights(subject.layers, best)["energy"]
    assert least < of_weights(subject.layers, half)["energy"]


def test_accuracy_goes_on_where_it_stopped(tmp_path):
    """Two halves of the work make the whole; a second run of it makes nothing new."""
    plan = accuracy.Plan(
        networks=("mnist",), methods=("dense", "lamp", "additive"), sparsities=(0.9,),
        tuned=("batchnorm",), seeds=1, images=8, test=20, levels=4, protocol=SMALL,
    )  # fmt: skip
    said = []
    for part in ((0, 2), (1, 2)):
        rows = accuracy.collect(plan, tmp_path, said.append, part=part)
    assert said
    said.clear()
    again = accuracy.collect(plan, tmp_path, said.append)
    assert not said
    assert again == rows
    assert accuracy.collect(plan, tmp_path, said.append, fresh=False) == rows
    dense, lamp, ours = rows
    assert dense["one-shot"]["mse"] == 0
    assert dense["batchnorm, tuned"] == []
    assert lamp["kept"] == ours["kept"]
    assert len(ours["batchnorm, tuned"]) == 1
    assert len(accuracy_view.show(plan, rows)) == 1
    accuracy_view.draw(tmp_path / "densities.png", rows)
    assert (tmp_path / "densities.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_methods_and_states_are_named(tmp_path):
    """A mistake is told before anything runs."""
    with pytest.raises(ValueError, match="'magic'"):
        accuracy.collect(accuracy.Plan(("mnist",), methods=("magic",)), tmp_path, print)
    with pytest.raises(ValueError, match="'warm'"):
        accuracy.collect(accuracy.Plan(("mnist",), tuned=("warm",)), tmp_path, print)


def test_predictors_from_the_command_line(tmp_path, monkeypatch):
    """The study runs from the command, shows what it has, and gives rows and correlations."""
    arguments = [
        "predictors", "--folder", str(tmp_path), "--sparsity", "0.9", "--allocations", "3",
        "--steps", "1", "--images", "8", "--test", "20", "--json", "-",
    ]  # fmt: skip
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    found = json.loads(ran.stdout)
    assert [row["allocation"] for row in found["rows"]] == ["uniform", "uniform_plus", "erk"]
    assert set(found["correlations"]["energy"]) == set(predictors.TARGETS)
    monkeypatch.setattr(predictors.rdprune, "measure", None)
    shown = CliRunner().invoke(app, [*arguments, "--show"], catch_exceptions=False)
    assert json.loads(shown.stdout) == found


@pytest.mark.parametrize("command", ["accuracy", "predictors"])
def test_showing_an_empty_folder_runs_nothing_and_says_so(tmp_path, monkeypatch, command):
    """Nothing is measured for --show; that there is nothing is an error that says what to do."""
    monkeypatch.setattr(predictors.rdprune, "measure", None)
    with pytest.raises(ValueError, match="no results of these settings"):
        CliRunner().invoke(
            app, [command, "--folder", str(tmp_path), "--show"], catch_exceptions=False
        )


def test_correlation_is_one_where_less_is_always_better():
    """A quantity in the order of the errors gets 1, one in that of top-1 gets -1."""
    rows = [
        {"network": "a", "sparsity": s, "allocation": str(i), "good": -i, "bad": i + s}
        | dict.fromkeys(predictors.TARGETS.values(), i / 10)
        for s in (0.8, 0.9)
        for i in range(5)
    ]
    found = predictors.correlations(rows)
    assert all(value == pytest.approx(1) for value in found["good"].values())
    assert all(value == pytest.approx(-1) for value in found["bad"].values())
