"""Re-measured rounds: never worse, within the budget, and exact where responses add up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from rdprune import measure, refine, verify
from rdprune.baselines import global_magnitude, lamp
from rdprune_core import Allocation, InfeasibleBudgetError, RDTable, allocate, predictions


class Branches(nn.Module):
    """Linear layers side by side, whose responses add up exactly."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 5) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(layer(x) for layer in self.layers)


@pytest.fixture
def branches():
    torch.manual_seed(5)
    return Branches()


@pytest.fixture
def rows():
    return [torch.randn(8, 6, generator=torch.Generator().manual_seed(6)) for _ in range(2)]


@pytest.fixture
def table(network, batches):
    return measure(network, batches, levels=9, recovery="batchnorm", progress=False)


def test_finds_the_true_optimum_where_responses_add_up(branches, rows):
    """With a wide radius one round from the worst start is the exhaustive optimum, as predicted."""
    table = measure(branches, rows, levels=6, responses=80, progress=False)
    budget = 70
    best = min(
        predictions(table, Allocation.from_choice(table, choice))[1]
        for choice in itertools.product(range(6), repeat=4)
        if sum(table.costs["params"][i][k] for i, k in enumerate(choice)) <= budget
    )
    worst = Allocation.from_choice(table, [5, 5, 5, 5], budget={"params": budget})
    found = refine(branches, rows, table, worst, rounds=1, radius=5, spacing=0.01, progress=False)
    assert found.allocation.distortion == pytest.approx(best, rel=1e-4)
    alone = _without_starts(branches, rows, table, worst)
    assert alone.rounds[0].predicted == pytest.approx(best, rel=1e-4)
    assert alone.rounds[0].distortion == pytest.approx(best, rel=1e-4)
    assert alone.start > 2 * best


@pytest.mark.parametrize("kind", ["mse", "nmse", "kl:2", "cosine", "loss", "mse@1"])
def test_joint_predictions_of_every_distortion(kind):
    """Where responses add up, the joint prediction is the truth, to second order, and refines."""
    torch.manual_seed(7)
    model = Branches(3)
    rows = [(torch.randn(6, 4, 6), torch.rand(6, 4)) for _ in range(2)]
    if kind == "loss":
        rows = [(x, torch.randint(5, (6, 4))) for x, _ in rows]
    with torch.no_grad():
        for layer in model.layers:  # four weights of a row are small, and only those go
            layer.weight.copy_(torch.randn(5, 6) * torch.tensor([1, 0.02, 0.02, 0.02, 0.02, 1]))
    table = measure(
        model, rows, levels=[0.2, 0.4, 0.6], distortion=kind, responses=5000, progress=False
    )
    for choice in ([1, 2, 3], [3, 3, 3], [2, 0, 1]):
        allocation = Allocation.from_choice(table, choice, budget={"params": 90})
        joint = predictions(table, allocation)[1]
        assert verify(model, rows, allocation).true == pytest.approx(joint, rel=0.06)
    found = refine(model, rows, table, allocation, rounds=1, progress=False)
    true = verify(model, rows, found.allocation, distortion=kind).true
    assert found.allocation.distortion == pytest.approx(true)
    assert found.rounds[0].predicted == pytest.approx(true, rel=0.06)


@pytest.mark.parametrize("recovery", ["none", "batchnorm", "bias"])
def test_the_same_from_records_and_from_the_store(network, batches, table, tmp_path, recovery):
    """Reuse changes no number; a second run finds every measurement, and runs hardly anything."""
    calls = 0

    def forward(model, batch):
        nonlocal calls
        calls += 1
        return model(batch[0])

    def run(**settings):
        nonlocal calls
        calls = 0
        return refine(
            network,
            batches,
            table,
            sparsity=0.6,
            radius=3,
            recovery=recovery,
            forward=forward,
            progress=False,
            **settings,
        )

    plain = run(reuse=False)
    expected = _numbers(plain)
    assert _numbers(run(reuse=True)) == expected
    first = run(store=tmp_path)
    assert _numbers(first) == expected
    assert first.found <= 1  # a step back to where a round before had looked
    further = run(store=tmp_path)
    assert _numbers(further) == expected
    assert further.found > 10
    # The dense outputs, what the trace and a repair's first look take; no measurement.
    assert calls < 7 * len(batches) < plain.passes * len(batches)


def test_goes_on_after_an_interrupt(network, batches, table, tmp_path, interrupting):
    """What a stopped run measured is found; the result is that of a run without a stop."""
    expected = _numbers(refine(network, batches, table, sparsity=0.6, progress=False))
    with pytest.raises(KeyboardInterrupt):
        refine(
            network,
            batches,
            table,
            sparsity=0.6,
            forward=interrupting(20, KeyboardInterrupt()),
            store=tmp_path,
            progress=False,
        )
    forward = interrupting(10**6, KeyboardInterrupt())
    found = refine(
        network, batches, table, sparsity=0.6, forward=forward, store=tmp_path, progress=False
    )
    assert _numbers(found) == expected
    assert found.found > 0
    measured = measure(network, batches, levels=9, recovery="batchnorm", store=tmp_path)
    for a, b in zip(measured.distortion, table.distortion, strict=True):
        assert np.array_equal(a, b)  # the two kinds of measurement do not get mixed up


def _numbers(found):
    return found.allocation.to_dict(), found.start, found.rounds, found.passes


def _without_starts(model, rows, table, start):
    """Refine from one start alone, none of the table's own optima beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdprune.refining._starts", lambda *_: [])
        patch.setattr("rdprune.refining._magnitude_starts", lambda *_: [])
        return refine(model, rows, table, start, rounds=1, radius=5, spacing=0.01, progress=False)


@pytest.mark.parametrize("recovery", ["none", "batchnorm", "bias", "least-squares+bias+batchnorm"])
def test_never_worse_and_true(network, batches, fingerprint, recovery):
    """The result keeps the budget, is no worse than every start, and `verify` finds the same."""
    before = fingerprint(network)
    table = measure(network, batches, levels=9, recovery=recovery, progress=False)
    starts = [allocate(table, sparsity=0.5, objective=o) for o in ("additive", "joint")]
    found = refine(network, batches, table, sparsity=0.5, rounds=3, progress=False)
    assert fingerprint(network) == before
    a = found.allocation
    assert a.cost["params"] <= a.budget["params"] == starts[0].budget["params"]
    truths = [verify(network, batches, start).true for start in starts]
    assert found.start <= min(truths) * (1 + 1e-5)
    assert a.distortion <= found.start
    assert a.objective == "refined"
    assert a.metadata["recovery"] == recovery
    assert verify(network, batches, a).ratio == pytest.approx(1, rel=1e-5)
    truth = [found.start, *(r.distortion for r in found.rounds)]
    assert truth == sorted(truth, reverse=True)
    assert a.distortion == truth[-1]


@pytest.mark.parametrize("distortion", ["kl", "loss", "mse,max"])
def test_other_distortions(network, batches, distortion):
    """Rounds accept by the table's own distortion, and `verify` finds the same."""
    options = {"levels": 9, "distortion": distortion, "progress": False}
    table = measure(network, batches, **options)
    found = refine(network, batches, table, sparsity=0.5, rounds=2, progress=False)
    assert found.allocation.distortion <= found.start
    assert verify(network, batches, found.allocation).ratio == pytest.approx(1, rel=1e-5)


def test_starts_near_magnitude_where_that_is_best(branches, rows):
    """Where the table says nothing, the start is near what LAMP or global magnitude keep."""
    measured = measure(branches, rows, levels=11, responses=0, progress=False)
    blank = RDTable.from_arrays(
        dict(measured.costs),
        [np.zeros(11)] * 4,
        names=measured.names,
        options=measured.options,
        dense=measured.dense,
        metadata=measured.metadata,
    )
    found = refine(branches, rows, blank, sparsity=0.5, rounds=0, progress=False)
    kept = found.allocation.layer_costs["params"].tolist()
    near = [
        list(method(branches, found.allocation.budget["params"]).values())
        for method in (global_magnitude, lamp)
    ]
    assert any(np.abs(np.subtract(kept, other)).max() <= 3 for other in near)
    assert found.allocation.choice.tolist() != allocate(blank, sparsity=0.5).choice.tolist()


def test_gains_on_a_network(network, batches, table):
    """From the additive optimum at 0.6, rounds find something truly better."""
    found = refine(network, batches, table, sparsity=0.6, rounds=4, progress=False)
    assert found.allocation.distortion < found.start
    assert any(r.moved for r in found.rounds)


def test_counts_passes_and_keeps_to_them(network, batches, table):
    """Every run of the network is counted; no round begins that would take too many."""
    calls = 0

    def forward(model, batch):
        nonlocal calls
        calls += 1
        return model(batch[0])

    found = refine(
        network, batches, table, sparsity=0.5, forward=forward, reuse=False, progress=False
    )
    assert calls == found.passes * len(batches)
    few = refine(network, batches, table, sparsity=0.5, passes=found.passes - 1, progress=False)
    assert few.passes < found.passes
    none = refine(network, batches, table, sparsity=0.5, rounds=0, progress=False)
    assert none.rounds == ()
    assert none.allocation.distortion == none.start


def test_goes_on_from_an_earlier_round(network, batches, table):
    """What `on_round` was given is a start that the next call does not fall behind."""
    seen = []
    refine(network, batches, table, sparsity=0.6, rounds=1, on_round=seen.append, progress=False)
    (first,) = seen
    further = refine(network, batches, table, first.allocation, rounds=2, progress=False)
    assert further.start <= first.allocation.distortion * (1 + 1e-6)
    assert further.allocation.budget == first.allocation.budget


def test_path_refines_on_the_way(network, batches, table):
    """With sparsities on the way there are rounds at each, and the end is at the one asked for."""
    found = refine(network, batches, table, sparsity=0.7, path=[0.3, 0.5], rounds=2, progress=False)
    assert found.allocation.sparsity >= 0.7
    sparsities = [r.sparsity for r in found.rounds]
    assert sparsities == sorted(sparsities)
    assert sparsities[0] < 0.45


def test_constraints_hold(network, batches, table):
    """Floors, caps and forbidden options hold at the end of every round."""
    seen = []
    found = refine(
        network,
        batches,
        table,
        sparsity=0.5,
        floors={"conv1.weight": "60%"},
        forbidden={"conv2.weight": ["0.5", "0.625"]},
        on_round=seen.append,
        progress=False,
    )
    for a in (found.allocation, *(s.allocation for s in seen)):
        assert a.layer_costs["params"][0] >= 0.6 * 36
        assert a.options[1] not in ("0.5", "0.625")


def test_tied_layers_move_together(branches, rows):
    """Layers that must take the same option still do."""
    table = measure(branches, rows, levels=9, progress=False)
    tied = [["layers.0.weight", "layers.3.weight"]]
    found = refine(branches, rows, table, sparsity=0.5, tied=tied, progress=False)
    assert found.allocation.choice[0] == found.allocation.choice[3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")], ids=repr)
@pytest.mark.parametrize("after", [1, 9, 30])
def test_failure_leaves_the_model(network, batches, table, fingerprint, interrupting, error, after):
    """After an error or an interrupt the model is as it was."""
    before = fingerprint(network)
    with pytest.raises(type(error)):
        refine(
            network,
            batches,
            table,
            sparsity=0.5,
            recovery="bias",
            forward=interrupting(after, error),
            progress=False,
        )
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "rounds is -1"),
        ({"radius": 0}, "radius is 0"),
        ({"spacing": 0.0}, r"spacing is 0\.0"),
        ({"passes": -1}, "passes is -1"),
        ({"path": [0.5, 0.3]}, "ascending order"),
        ({"path": [0.5, 0.9]}, "ends beyond the budget of"),
        ({"recovery": "magic"}, "recovery is 'magic'"),
        ({"sparsity": None}, "budget"),
        ({"batches": []}, "batches is empty"),
    ],
)
def test_bad_input(network, batches, table, options, message):
    """Every bad argument is named."""
    with pytest.raises(ValueError, match=message):
        refine(
            network,
            **{"batches": batches, "table": table, "sparsity": 0.5, "progress": False, **options},
        )


def test_refuses_another_budget_table_or_an_impossible_one(network, branches, batches, table):
    """An allocation has its own budget and must be the table's; the table must be the model's."""
    a = allocate(table, sparsity=0.5)
    with pytest.raises(ValueError, match="has its own budget"):
        refine(network, batches, table, a, sparsity=0.5)
    other = measure(network, batches, levels=3, progress=False)
    with pytest.raises(ValueError, match="not the one that the allocation is of"):
        refine(network, batches, other, a)
    with pytest.raises(ValueError, match="table of another model"):
        refine(branches, batches, table, sparsity=0.5)
    narrow = measure(network, batches, levels=[0.0, 0.5], progress=False)
    with pytest.raises(InfeasibleBudgetError):
        refine(network, batches, narrow, sparsity=0.9, progress=False)


class Divided(nn.Module):
    """Divides by the mean of two branches: nothing is left where both are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8, bias=False)
        self.b = nn.Linear(4, 8, bias=False)
        self.c = nn.Linear(8, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.a(x).abs() + self.b(x).abs()
        return self.c(found / found.mean(1, keepdim=True))


def changed(dense: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Whether the class is another one, which NaN does not show."""
    return (dense.argmax(1) != output.argmax(1)).double()


@pytest.mark.parametrize("tied", [(), [("a.weight", "b.weight")]], ids=["free", "tied"])
@pytest.mark.parametrize("kind", ["mse", changed])
@pytest.mark.parametrize("sparsity", [0.7, 0.75, 0.8, 0.85])
def test_starts_and_neighbours_that_are_not_finite_are_left_out(sparsity, kind, tied):
    """The best of the others is refined, and what is found is finite."""
    torch.manual_seed(0)
    model, rows = Divided(), [torch.randn(16, 4) for _ in range(2)]
    table = measure(model, rows, levels=6, distortion=kind, progress=False)
    found = refine(
        model, rows, table, sparsity=sparsity, distortion=kind, tied=tied, progress=False
    )
    if tied:
        assert found.allocation.choice[0] == found.allocation.choice[1]
    assert np.isfinite(found.start)
    assert found.allocation.distortion <= found.start
    report = verify(model, rows, found.allocation, distortion=kind)
    assert report.true == found.allocation.distortion


def test_no_finite_start():
    """Where every start is lost the error says so."""
    torch.manual_seed(0)
    model, rows = Divided(), [torch.randn(16, 4)]
    table = measure(model, rows, levels=2, progress=False)
    with pytest.raises(ValueError, match="distortion of every start is infinite or NaN"):
        refine(
            model, rows, table, budget=24, progress=False,
            forbidden={"a.weight": ["0.0"], "b.weight": ["0.0"]},
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["mse", "kl", "loss"])
@pytest.mark.parametrize("measured", ["mse", "loss"])
@pytest.mark.parametrize("responses", [0, 256])
def test_another_distortion_than_the_tables(measured, kind, responses):
    """Steps are made by it, and the allocation says what it was refined by, and on what."""
    torch.manual_seed(7)
    model = Branches(3)
    rows = [(torch.randn(40, 6), torch.randint(5, (40,))) for _ in range(2)]
    table = measure(model, rows, levels=9, distortion=measured, responses=responses, progress=False)
    found = refine(
        model, rows, table, sparsity=0.4, distortion=kind, radius=1, rounds=2, progress=False
    )
    report = verify(model, rows, found.allocation)
    assert report.true == pytest.approx(found.allocation.distortion, rel=1e-6)
    assert found.allocation.metadata["distortion"] == kind
    # Branches add up, so a step is worth what it was predicted to be, to second order.
    done = found.rounds[0]
    assert done.predicted == pytest.approx(done.distortion, rel=0.3, abs=1e-3)


def test_an_allocation_of_a_table_of_other_weights(branches, rows):
    """What was refined on a network is that network's."""
    table = measure(branches, rows, levels=6, progress=False)
    torch.manual_seed(9)
    other = Branches()
    found = refine(other, rows, table, sparsity=0.5, rounds=1, progress=False)
    assert verify(other, rows, found.allocation).true == found.allocation.distortion
    with pytest.raises(ValueError, match="does not have the weights that were measured"):
        verify(branches, rows, found.allocation)


def test_a_start_that_breaks_the_constraints(branches, rows):
    """It is refused by the layer and the rule."""
    table = measure(branches, rows, levels=6, progress=False)
    start = Allocation.from_choice(table, [3, 3, 1, 2], budget={"params": 80})
    refined = lambda **options: refine(branches, rows, table, start, progress=False, **options)  # noqa: E731
    with pytest.raises(
        ValueError,
        match=r"option '0\.6' in layer 'layers\.0\.weight', against the floor params >= 27",
    ):
        refined(floors={"layers.0.weight": "90%"})
    with pytest.raises(ValueError, match="against the floor params >= 27: give another start"):
        refined(floors={"layers.0": "90%"})
    with pytest.raises(ValueError, match="against its forbidden options: give another start"):
        refined(forbidden={"layers.0": ["0.6"]})
    with pytest.raises(ValueError, match=r"'layers\.3\.weight' and '0\.2' in 'layers\.2\.w"):
        refined(tied=[("layers.2.weight", "layers.3.weight")])


def test_why_it_ended(network, batches, table):
    """Said where there is no further round for another reason than that all were done."""
    options = {"sparsity": 0.6, "progress": False}
    assert refine(network, batches, table, rounds=1, **options).ended == ""
    spent = refine(network, batches, table, passes=8, **options).ended
    assert "more than are left" in spent
    coarse = measure(network, batches, levels=2, recovery="batchnorm", progress=False)
    assert "no closer options" in refine(network, batches, coarse, **options).ended


@pytest.mark.parametrize("recovery", ["none", "batchnorm", "bias", "least-squares+bias"])
@pytest.mark.parametrize("most", [2, 5, 30, 60, 100])
@pytest.mark.parametrize("path", [(), np.array([0.3, 0.5])], ids=["", "path"])
def test_passes_are_a_limit(network, batches, recovery, most, path):
    """Beyond the first start nothing runs that would take more."""
    table = measure(network, batches, levels=9, recovery=recovery, progress=False)
    options = {"sparsity": 0.6, "rounds": 5, "path": path, "progress": False}
    least = refine(network, batches, table, passes=0, **options).passes
    found = refine(network, batches, table, passes=most, **options)
    assert found.passes <= max(most, least)
