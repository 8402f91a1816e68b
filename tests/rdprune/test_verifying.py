"""Predicted against true, and counted weights."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from rdprune.masking import apply_, masks, strip_
from rdprune.measuring import measure
from rdprune.repairing import repair_
from rdprune.verifying import CountMismatchError, VerifyReport, verify
from rdprune_core import Allocation, allocate

LEVELS = (0.0, 0.3, 0.55, 1.0)
CHOICE = {"conv1.weight": "0.3", "conv2.weight": "0.55", "linear.weight": "0.3"}


@pytest.fixture
def table(network, batches):
    """Return a small table of the network."""
    return measure(network, batches, levels=LEVELS, progress=False)


@pytest.fixture
def allocation(table, allocation_of):
    """Return an allocation that prunes every layer."""
    return allocation_of(table, CHOICE)


@pytest.mark.parametrize("kind", ["mse", "max"])
@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_one_pruned_layer_is_predicted_exactly(network, batches, allocation_of, kind, recovery):
    """Where one layer alone is pruned, the truth is the prediction, to the last bit."""
    table = measure(
        network, batches, levels=LEVELS, distortion=kind, recovery=recovery, progress=False
    )
    for i, name in enumerate(table.names):
        for label in table.options[i]:
            report = verify(network, batches, allocation_of(table, {name: label}))
            assert report.true == report.predicted
            assert report.ratio == 1.0
            assert report.recovery == recovery


def test_linear_model_of_one_layer_is_additive(batches):
    """On a linear model of one layer the optimal allocation's prediction is exact."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    table = measure(model, batches, levels=21, progress=False)
    for sparsity in (0.25, 0.5, 0.9):
        report = verify(model, batches, allocate(table, sparsity=sparsity))
        assert report.true == report.predicted > 0


def test_true_distortion_by_hand(network, batches, allocation):
    """The truth is the mean square error of a copied model with the masks multiplied in."""
    pruned = copy.deepcopy(network)
    for name, mask in masks(network, allocation).items():
        pruned.get_parameter(name).data.mul_(mask)
    pruned.eval()
    dense = copy.deepcopy(network).eval()
    with torch.no_grad():
        errors = [(pruned(x) - dense(x)).double().square().mean(dim=1) for x, _ in batches]
    report = verify(network, batches, allocation)
    assert report.true == pytest.approx(float(torch.cat(errors).mean()), rel=1e-6)
    assert report.predicted == allocation.distortion
    assert report.ratio == report.true / report.predicted
    assert report.kept == dict(
        zip(allocation.names, allocation.layer_costs["params"].tolist(), strict=True)
    )
    assert report.kept_total == report.expected_total == allocation.cost["params"]
    assert (report.samples, report.objective, report.recovery) == (10, "additive", "none")


@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_dense_applied_and_stripped_agree(network, batches, allocation, recovery):
    """The report is the same for the dense, the applied and the stripped model.

    What repair would leave is not known of a model given pruned.
    """
    dense = copy.deepcopy(network)
    reports = [verify(network, batches, allocation, recovery=recovery)]
    apply_(network, allocation)
    reports.append(verify(network, batches, allocation, recovery=recovery))
    reports.append(verify(network, batches, allocation, recovery=recovery, dense=dense))
    strip_(network)
    reports.append(verify(network, batches, allocation, recovery=recovery, dense=dense))
    assert (reports[0].after is None) == (recovery == "none")
    given = dataclasses.replace(reports[0], after=None)
    assert reports == [reports[0], reports[0], given, given]
    assert isinstance(reports[0], VerifyReport)


def test_predictions_and_repair_stand_side_by_side(network, batches):
    """Both objectives' predictions, and the network before and after the repair, are reported."""
    table = measure(network, batches, levels=LEVELS, recovery="batchnorm", progress=False)
    allocation = allocate(table, sparsity=0.4)
    report = verify(network, batches, allocation, table=table)
    assert report.additive == report.predicted
    joint = allocate(table, sparsity=0.4, objective="joint")
    assert verify(network, batches, joint, table=table).joint == pytest.approx(joint.distortion)
    assert report.joint >= joint.distortion * (1 - 1e-6)
    assert report.before == verify(network, batches, allocation, recovery="none").true
    pruned = strip_(apply_(copy.deepcopy(network), allocation))
    repair_(pruned, batches)
    found = verify(pruned, batches, allocation, dense=network, recovery="none").true
    assert report.after == pytest.approx(found, rel=1e-5)
    assert verify(network, batches, allocation).joint is None


def test_refuses_another_table(network, batches, table, allocation):
    """A table without the allocation's options is refused."""
    other = measure(network, batches, levels=3, progress=False)
    with pytest.raises(ValueError, match="table is not the one that the allocation is of"):
        verify(network, batches, allocation, table=other)


def test_shared_weight(tied, tokens, allocation_of):
    """A shared weight is verified in all its forms."""
    table = measure(tied, tokens, levels=LEVELS, progress=False)
    allocation = allocation_of(table, {"embedding.weight": "0.55"})
    dense = copy.deepcopy(tied)
    reports = [
        verify(tied, tokens, allocation),
        verify(apply_(tied, allocation), tokens, allocation),
    ]
    reports.append(verify(strip_(tied), tokens, allocation, dense=dense))
    assert reports == [reports[0]] * 3
    assert reports[0].true == reports[0].predicted


def test_repaired_model_against_the_dense_one(network, batches, allocation):
    """A repaired model is compared with the dense model given, whose statistics differ."""
    dense = copy.deepcopy(network)
    apply_(network, allocation)
    plain = verify(network, batches, allocation)
    repair_(network, batches)
    repaired = verify(network, batches, allocation, dense=dense)
    assert repaired.true != plain.true


def test_dense_zeros_do_not_count_as_pruned(network, batches, allocation_of):
    """A stripped layer whose dense weights were zero already is counted right."""
    network.linear.weight.data[:4] = 0
    dense = copy.deepcopy(network)
    table = measure(network, batches, levels=LEVELS, progress=False)
    allocation = allocation_of(table, {"linear.weight": "0.55"})
    strip_(apply_(network, allocation))
    report = verify(network, batches, allocation, dense=dense)
    assert report.kept["linear.weight"] == 30 - round(0.55 * 30)
    assert report.true == 0.0
    assert report.ratio == 1.0


def _dense(model, allocation):
    return model


def _apply(model, allocation):
    return apply_(model, allocation)


@pytest.mark.parametrize("prepare", [_dense, _apply])
@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_model_is_left_as_found(network, batches, allocation, fingerprint, prepare, recovery):
    """After success a dense and a masked model are exactly as before."""
    prepare(network, allocation)
    before = fingerprint(network)
    verify(network, batches, allocation, recovery=recovery)
    assert fingerprint(network) == before


@pytest.mark.parametrize("prepare", [_dense, _apply])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")], ids=repr)
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_model_is_left_as_found_after_an_error(
    network, batches, allocation, fingerprint, interrupting, prepare, error, after
):
    """After an exception or an interrupt a dense and a masked model are exactly as before."""
    prepare(network, allocation)
    before = fingerprint(network)
    with pytest.raises(type(error)):
        verify(
            network,
            batches,
            allocation,
            forward=interrupting(after, error),
            recovery="batchnorm",
        )
    assert fingerprint(network) == before


def test_both_models_are_left_as_found(network, batches, allocation, fingerprint):
    """A stripped and its dense model are exactly as before."""
    dense = copy.deepcopy(network)
    strip_(apply_(network, allocation))
    before = fingerprint(network), fingerprint(dense)
    verify(network, batches, allocation, dense=dense)
    assert (fingerprint(network), fingerprint(dense)) == before


def _one_more(model, allocation):
    strip_(apply_(model, allocation))
    weight = model.conv2.weight.data.view(-1)
    weight[int((weight == 0).nonzero()[0])] = 1.0


def _one_less(model, allocation):
    strip_(apply_(model, allocation))
    weight = model.conv2.weight.data.view(-1)
    weight[int(weight.nonzero()[0])] = 0.0


def _other_mask(model, allocation):
    apply_(model, allocation)
    model.conv2.weight_mask.view(-1)[:] = 1


@pytest.mark.parametrize(
    ("change", "counted"), [(_one_more, 50), (_one_less, 48), (_other_mask, 108)]
)
def test_wrong_count(network, batches, allocation, change, counted):
    """One weight more or less than the allocation says is an error with the layer and counts."""
    dense = copy.deepcopy(network)
    change(network, allocation)
    with pytest.raises(CountMismatchError) as caught:
        verify(network, batches, allocation, dense=dense)
    error = caught.value
    assert (error.layer, error.counted, error.expected) == ("conv2.weight", counted, 49)
    assert str(error) == f"layer 'conv2.weight' keeps {counted} weights, the allocation says 49"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def _stripped(model, allocation):
    strip_(apply_(model, allocation))
    return {}


def _applied_dense(model, allocation):
    return {"dense": apply_(copy.deepcopy(model), allocation)}


def _other_dense(model, allocation):
    return {"dense": nn.Linear(2, 2)}


def _partly_masked(model, allocation):
    found = masks(model, allocation)
    apply_(model, {"conv1.weight": found["conv1.weight"]})
    return {}


def _no_layer(model, allocation):
    model.head = model.linear
    del model.linear
    return {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_stripped, "pruned already: give the dense model"),
        (_applied_dense, "dense carries a mask on layer 'conv1.weight'"),
        (_other_dense, "dense of another model: the model has no layer 'conv1.weight'"),
        (_partly_masked, "layer 'conv2.weight' carries no mask in module 'conv2', others do"),
        (_no_layer, "allocation of another model: the model has no layer 'linear.weight'"),
        (lambda *_: {"recovery": "biases"}, "recovery is 'biases', must be one of none"),
        (lambda *_: {"batches": []}, "batches is empty"),
        (lambda *_: {"batches": [torch.full((2, 1, 8, 8), math.nan)]}, "dense model's output on"),
    ],
)
def test_bad_input(network, batches, allocation, change, message, fingerprint):
    """Every bad input gives a message of one line that says what is wrong."""
    arguments = {"batches": batches, **change(network, allocation)}
    before = fingerprint(network)
    with pytest.raises(ValueError, match=message) as caught:
        verify(network, allocation=allocation, **arguments)
    assert "\n" not in str(caught.value)
    assert fingerprint(network) == before


def test_pruned_output_must_be_finite(network, batches, allocation):
    """A pruned network whose output is not finite is refused."""

    def forward(model, batch):
        return model(batch[0]) / (model.conv1.weight.count_nonzero() == 36)

    with pytest.raises(ValueError, match="distortion of the pruned network is"):
        verify(network, batches, allocation, forward=forward)


def test_ratio_without_prediction(network, batches, allocation):
    """A prediction of 0 that does not hold has an infinite ratio."""
    report = verify(network, batches, dataclasses.replace(allocation, distortion=0.0))
    assert report.ratio == math.inf


def test_allocation_without_metadata(network, batches, allocation):
    """An allocation of a table made by hand is verified with the defaults."""
    bare = Allocation(
        **{
            field.name: getattr(allocation, field.name)
            for field in dataclasses.fields(Allocation)
            if field.name != "metadata"
        }
    )
    assert verify(network, batches, bare) == verify(network, batches, allocation)
    assert np.isfinite(verify(network, batches, bare).true)


def test_a_model_stripped_otherwise_is_not_taken_for_the_dense_one(
    network, batches, table, allocation_of
):
    """A network pruned less than the allocation says is neither dense nor the pruned one."""
    less = allocation_of(table, dict.fromkeys(CHOICE, "0.3"))
    more = allocation_of(table, dict.fromkeys(CHOICE, "0.55"))
    strip_(apply_(network, less))
    with pytest.raises(ValueError, match="model does not have the weights that were measured"):
        verify(network, batches, more)


def test_another_dense_model_is_refused(network, batches, allocation):
    """Distortions of other weights are not compared with the prediction."""
    other = copy.deepcopy(network)
    other.linear.bias.data.add_(1)
    with pytest.raises(ValueError, match="dense does not have the weights that were measured"):
        verify(apply_(network, allocation), batches, allocation, dense=other)


def test_what_runs_is_what_is_counted(network, batches, allocation, monkeypatch):
    """If masks did not reach the weights that run, the count would tell."""
    monkeypatch.setattr("rdprune.verifying.write_masked", lambda *_: None)
    with pytest.raises(CountMismatchError, match=r"conv1\.weight"):
        verify(network, batches, allocation)


def test_dense_zeros_count_as_kept_where_a_mask_keeps_them(network, batches):
    """A dense network that is sparse by nature is verified like any other."""
    with torch.no_grad():
        network.linear.weight[:, 2:] = 0
    table = measure(network, batches, levels=[0.3, 0.5], progress=False)
    allocation = allocate(table, sparsity=0.5)
    assert verify(network, batches, allocation).kept_total == allocation.cost["params"]
