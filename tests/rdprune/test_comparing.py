"""Methods side by side, at the same number of weights."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from rdprune.baselines import BASELINES
from rdprune.comparing import METHODS, CompareRow, compare
from rdprune.layers import prunable
from rdprune.magnitude import magnitude_mask
from rdprune.masking import apply_, masks
from rdprune.measuring import measure
from rdprune.recovery import NotFiniteError
from rdprune.repairing import repair_
from rdprune.verifying import verify
from rdprune_core import InfeasibleBudgetError, allocate, predictions


@pytest.fixture
def table(network, batches):
    """Return a table of the network."""
    return measure(network, batches, levels=21, progress=False)


@pytest.fixture
def heldout():
    """Return further batches with labels."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(7, 1, 8, 8, generator=generator)
    return [(x, torch.randint(5, (7,), generator=generator))]


def _evaluate(model, dense, batches):
    with torch.no_grad():
        outputs = torch.cat([model.eval()(x) for x, _ in batches])
        reference = torch.cat([dense.eval()(x) for x, _ in batches])
    right = outputs.argmax(dim=1) == torch.cat([y for _, y in batches])
    error = (outputs.double() - reference.double()).square().mean()
    return float(error), float(right.double().mean())


def test_rows_by_hand(network, batches, heldout, table):
    """Every figure of every row equals that of a copied, hand-masked and repaired model."""
    sparsities = [0.5, 0.8]
    rows = compare(network, batches, table, sparsities=sparsities, heldout=heldout, progress=False)
    assert [(row.method, row.sparsity) for row in rows] == [
        ("dense", 0.0),
        *((method, sparsity) for sparsity in sparsities for method in METHODS[1:]),
    ]
    for row in rows:
        pruned = copy.deepcopy(network)
        if row.method in ("rdprune", "joint"):
            objective = "additive" if row.method == "rdprune" else "joint"
            allocation = allocate(table, sparsity=row.sparsity, objective=objective)
            found = masks(network, allocation)
            assert (row.predicted, row.predicted_joint) == predictions(table, allocation)
        elif row.method == "dense":
            found = {}
        else:
            kept = BASELINES[row.method](network, row.kept)
            layers = prunable(network)
            found = {n: magnitude_mask(p.parameter, kept[n]) for n, p in layers.items()}
        for name, mask in found.items():
            pruned.get_parameter(name).data.mul_(mask)
        dense = copy.deepcopy(network)
        error, _ = _evaluate(pruned, dense, batches)
        error_heldout, top1 = _evaluate(pruned, dense, heldout)
        assert row.distortion == pytest.approx(error, rel=1e-6)
        assert row.distortion_heldout == pytest.approx(error_heldout, rel=1e-6)
        assert row.top1 == top1
        repair_(pruned, batches)
        error, _ = _evaluate(pruned, dense, batches)
        error_heldout, top1 = _evaluate(pruned, dense, heldout)
        assert row.repaired_distortion == pytest.approx(error, rel=1e-6)
        assert row.repaired_distortion_heldout == pytest.approx(error_heldout, rel=1e-6)
        assert row.repaired_top1 == top1


def test_all_methods_keep_the_same(network, batches, table):
    """At each sparsity all baselines keep exactly as many weights as the allocation."""
    rows = compare(network, batches, table, sparsities=[0.3, 0.77], progress=False)
    assert rows[0].kept == 174
    for sparsity in (0.3, 0.77):
        kept = {r.kept for r in rows if r.sparsity == sparsity and r.method != "joint"}
        (joint,) = (r.kept for r in rows if r.sparsity == sparsity and r.method == "joint")
        assert joint <= allocate(table, sparsity=sparsity).budget["params"]
        assert kept == {allocate(table, sparsity=sparsity).cost["params"]}


def test_what_is_not_available_is_none():
    """Without held-out batches, labels or BatchNorm their figures are None."""
    model = nn.Linear(6, 5)
    batches = [torch.randn(4, 6, generator=torch.Generator().manual_seed(0))]
    table = measure(model, batches, levels=5, progress=False)
    (row,) = compare(model, batches, table, sparsities=[0.5], methods=["rdprune"], progress=False)
    assert row == CompareRow(
        method="rdprune",
        sparsity=0.5,
        kept=15,
        distortion=row.predicted,
        distortion_heldout=None,
        top1=None,
        repaired_distortion=None,
        repaired_distortion_heldout=None,
        repaired_top1=None,
        predicted=float(table.distortion[0][2]),
        predicted_joint=row.predicted_joint,
    )


@pytest.mark.parametrize("recovery", ["batchnorm", "least-squares+bias+batchnorm"])
def test_refined_is_best_in_the_state_it_was_measured_in(network, batches, fingerprint, recovery):
    """`verify` finds the refined allocation's repaired distortion, below both others' true one."""
    table = measure(network, batches, levels=9, recovery=recovery, progress=False)
    before = fingerprint(network)
    methods = ["rdprune", "joint", "refined"]
    rows = compare(network, batches, table, sparsities=[0.6], methods=methods, progress=False)
    assert fingerprint(network) == before
    assert [row.method for row in rows] == methods
    for row, objective in zip(rows, ("additive", "joint"), strict=False):
        report = verify(network, batches, allocate(table, sparsity=0.6, objective=objective))
        assert row.repaired_distortion == pytest.approx(report.after, rel=1e-4)
        assert row.distortion == pytest.approx(report.before, rel=1e-4)


def test_searched_has_the_same_weights_and_distorts_less(network, batches, fingerprint):
    """A search goes on from the additive optimum, by its true distortion."""
    table = measure(network, batches, levels=9, progress=False)
    before = fingerprint(network)
    rows = compare(
        network, batches, table, sparsities=[0.6], methods=["searched", "rdprune"], progress=False
    )
    assert fingerprint(network) == before
    searched, ours = rows
    assert searched.method == "searched"
    assert ours.kept <= searched.kept <= 0.4 * sum(table.dense["params"]) + 1
    assert searched.distortion < ours.distortion
    assert searched.predicted is None


def test_without_responses_there_is_no_joint_row(network, batches):
    """A table without responses has no joint objective to compare."""
    table = measure(network, batches, levels=5, responses=0, progress=False)
    rows = compare(network, batches, table, sparsities=[0.5], progress=False)
    assert [row.method for row in rows] == ["dense", "rdprune", *BASELINES]
    with pytest.raises(ValueError, match="needs a table with responses"):
        compare(network, batches, table, sparsities=[0.5], methods=["joint"], progress=False)


def test_top1_without_heldout_is_of_the_calibration_batches(network, batches, table):
    """Without held-out batches top-1 is that of the calibration batches."""
    (row,) = compare(network, batches, table, sparsities=[], methods=["dense"], progress=False)
    assert row.top1 == _evaluate(copy.deepcopy(network), network, batches)[1]
    assert row.distortion == 0.0
    assert dataclasses.asdict(row)["distortion_heldout"] is None


def test_ignored_layers_stay_dense(network, batches, fingerprint):
    """Layers that the table leaves out are left alone, and do not count."""
    table = measure(network, batches, levels=5, ignore=["conv1"], progress=False)
    rows = compare(network, batches, table, sparsities=[0.5], progress=False)
    assert rows[0].kept == 138
    assert {row.kept for row in rows[1:] if row.method != "joint"} == {
        allocate(table, sparsity=0.5).cost["params"]
    }


def test_model_is_left_as_found(network, batches, heldout, table, fingerprint):
    """After success everything is as before, running statistics included."""
    before = fingerprint(network)
    compare(network, batches, table, sparsities=[0.5], heldout=heldout, progress=False)
    assert fingerprint(network) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")], ids=repr)
@pytest.mark.parametrize("after", [0, 2, 5, 7, 8, 11, 14])
def test_model_is_left_as_found_after_an_error(
    network, batches, heldout, table, fingerprint, interrupting, error, after
):
    """After an exception or an interrupt, during repair too, everything is as before."""
    before = fingerprint(network)
    with pytest.raises(type(error)):
        compare(
            network,
            batches,
            table,
            sparsities=[0.5],
            heldout=heldout,
            forward=interrupting(after, error),
            progress=False,
        )
    assert fingerprint(network) == before


def _other_model(arguments):
    arguments["model"] = nn.Linear(2, 2)


def _other_shape(arguments):
    arguments["model"].linear = nn.Linear(6, 7)


def _applied(arguments):
    apply_(arguments["model"], allocate(arguments["table"], sparsity=0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(methods=["wanda"]), "methods holds 'wanda', must hold some of dense"),
        (_other_model, "table of another model: the model has no layer 'conv1.weight'"),
        (_other_shape, "table of another model: layer 'linear.weight' has shape"),
        (_applied, "layer 'conv1.weight' carries a mask: applied already; strip_ first"),
        (lambda a: a.update(batches=[]), "batches is empty"),
        (lambda a: a.update(heldout=[]), "batches is empty"),
        (lambda a: a.update(sparsities=[1.5]), "sparsity"),
    ],
)
def test_bad_input(network, batches, table, change, message, fingerprint):
    """Every bad input gives a message of one line that says what is wrong."""
    arguments = {"model": network, "batches": batches, "table": table, "sparsities": [0.5]}
    change(arguments)
    before = fingerprint(network)
    with pytest.raises(ValueError, match=message) as caught:
        compare(**arguments, progress=False)
    assert "\n" not in str(caught.value)
    assert fingerprint(network) == before


def test_sparsity_out_of_reach(network, batches):
    """A sparsity beyond the table's levels is infeasible."""
    table = measure(network, batches, levels=[0.5], progress=False)
    with pytest.raises(InfeasibleBudgetError):
        compare(network, batches, table, sparsities=[0.9], progress=False)


def test_a_method_that_breaks_the_network_keeps_the_others(network, batches, table, monkeypatch):
    """Where statistics overflow there are no repaired figures, and all rows are there."""

    def overflow(*_args, **_options):
        raise NotFiniteError("the statistics of 'bn1' on the batches are not finite")

    monkeypatch.setattr("rdprune.comparing.repair_", overflow)
    rows = compare(network, batches, table, sparsities=(0.5,), methods=("uniform", "lamp"))
    assert [row.method for row in rows] == ["uniform", "lamp"]
    assert all(row.repaired_distortion is None for row in rows)
    assert all(row.distortion > 0 for row in rows)
