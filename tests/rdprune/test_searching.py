"""Searches: never worse, within the budget, of the true distortion, the same every time."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rdprune import descent, features, measure, search, searching, verify
from rdprune.baselines import erk, global_magnitude, lamp, uniform
from rdprune.batches import parts_of
from rdprune.breeding import Space, swapped
from rdprune.cli import app
from rdprune.descent import descend
from rdprune.layers import prunable
from rdprune.progress import Meter
from rdprune.trial import trial
from rdprune_core import Allocation, InfeasibleBudgetError, allocate


def run(network, batches, **options):
    return search(network, batches, **{"sparsity": 0.6, "progress": False, **options})


def numbers(found):
    return found.allocation.to_dict(), found.start, found.generations, found.passes


class Bowl:
    """A judge whose responses add up: each layer's grows with its distance from a target."""

    parts = 4
    straight = False

    def __init__(self, target, dimensions=6, slopes=False):
        self._slopes = slopes
        self.looks = self.asked = 0
        random = np.random.default_rng(0)
        self._target = target
        self._directions = random.normal(size=(len(target), dimensions))
        self.scores = []

    def _response(self, kept):
        return (np.log(np.maximum(kept, 1) / self._target)) @ self._directions

    @property
    def passes(self):
        return len(self.scores) + (self.looks + 11 * self.asked) // 8

    def score(self, kept):
        self.scores.append(kept.copy())
        return float(np.mean(self._response(kept) ** 2))

    def look(self, kept, part):
        self.looks += 1
        response = self._response(kept)
        return float(np.mean(response**2)), response

    def around(self, kept, options, part, seed):
        """Tell the first order, which is off by more the farther away."""
        if not self._slopes:
            return None
        self.asked += 1
        here = np.maximum(kept, 1)
        relative = [row / size - 1 for row, size in zip(options, here, strict=True)]
        ways = zip(relative, self._directions, strict=True)
        return self._response(kept), [np.outer(by, way) for by, way in ways]


def space(sizes, total, low=0):
    sizes = np.array(sizes)
    return Space(sizes, np.full_like(sizes, low), sizes, {"params": sizes}, {"params": total})


@pytest.mark.parametrize("slopes", [False, True])
def test_finds_the_least_of_a_bowl(slopes):
    """Where responses add up, the search comes near the optimum, step by step, in the budget."""
    target = np.array([50, 400, 30, 900])
    judge = Bowl(target, slopes=slopes)
    start = np.array([345, 345, 345, 345])
    limits = space([1000, 2000, 500, 3000], 1380)
    steps = list(itertools.islice(descend(start, judge.score(start), limits, judge, seed=1), 60))
    values = [value for _, value, _ in steps]
    assert values == sorted(values, reverse=True)
    assert values[-1] < judge.score(start) / 1000
    assert all(kept.sum() <= 1380 for kept in judge.scores)
    assert all((kept <= limits.sizes).all() for kept in judge.scores)
    assert (judge.asked > 10) == slopes
    assert judge.looks <= 16 * 60 or not slopes  # children alone


def test_uses_what_the_budget_leaves():
    """What an allocation leaves of the budget goes to a layer that can take it, of any cost."""
    sizes = np.array([10, 100, 100])
    macs = np.array([1000, 100, 300])
    limits = Space(
        sizes,
        np.zeros(3, int),
        np.array([10, 40, 50]),
        {"params": sizes, "macs": macs},
        {"params": 100, "macs": 1200},
    )
    kept = np.array([10, 30, 20])
    assert limits.filled(kept, [0, 1, 2]).tolist() == [10, 40, 50]  # both 100 and 1,200 at most
    assert limits.filled(kept, [2, 1]).tolist() == [10, 40, 50]
    assert limits.filled(kept, [0]).tolist() == kept.tolist()
    few = replace(limits, budget={"params": 75, "macs": 1200})
    assert few.filled(kept, [1, 2]).tolist() == [10, 40, 25]
    assert few.filled(kept, [2, 1]).tolist() == [10, 30, 35]
    free = replace(limits, dense={"params": sizes, "macs": np.array([0, 100, 300])})
    free = replace(free, budget={"params": 75, "macs": 90})
    assert free.filled(np.array([5, 30, 20]), [2, 0, 1]).tolist() == [10, 30, 20]
    tight = Space(sizes, np.zeros(3, int), sizes, {"macs": macs}, {"macs": 1100})
    assert tight.left(kept) == {"macs": 10}
    assert tight.filled(kept, [1, 2]).tolist() == [10, 40, 20]
    assert tight.filled(kept, [2, 1]).tolist() == [10, 31, 23]


def test_a_swap_keeps_the_budget():
    """What one layer gives another gets; both stay between their bounds."""
    sizes = np.array([50, 100, 3000])
    limits = Space(
        sizes, np.array([1, 0, 0]), np.array([50, 60, 3000]), {"params": sizes}, {"params": 2120}
    )
    random = np.random.default_rng(0)
    start = np.array([5, 30, 2085])
    children = [swapped(start, limits, random) for _ in range(300)]
    assert all(child.sum() <= 2120 for child in children)
    assert sum(child.sum() == 2120 for child in children) > 250
    assert all((child >= limits.low).all() and (child <= limits.high).all() for child in children)
    assert len({tuple(child) for child in children}) > 20


@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_never_worse_and_true(network, batches, fingerprint, recovery):
    """The result keeps the budget, beats all starts, and `verify` finds the same distortion."""
    before = fingerprint(network)
    found = run(network, batches, recovery=recovery, passes=60)
    assert fingerprint(network) == before
    a = found.allocation
    assert a.cost["params"] <= a.budget["params"]
    assert a.objective == "searched"
    assert a.metadata["recovery"] == recovery
    assert verify(network, batches, a).ratio == pytest.approx(1, rel=1e-5)
    assert a.distortion < found.start
    truth = [found.start, *(g.distortion for g in found.generations)]
    assert truth == sorted(truth, reverse=True)
    assert a.distortion == truth[-1]
    assert found.passes <= 60
    layers = prunable(network)
    with trial(
        network, layers, tuple(batches), "mse", seed=0, recovery=recovery, projection=0,
        forward=None,
    ) as whole:  # fmt: skip
        for method in (uniform, erk, global_magnitude, lamp):
            whole.prune(method(layers, a.budget["params"]))
            assert whole.measure().distortion >= found.start * (1 - 1e-6)


@pytest.mark.parametrize("distortion", ["nmse", "kl:2", "loss", "mse,max"])
def test_other_distortions(network, batches, distortion):
    """The search goes by the distortion that is asked for, and `verify` finds the same."""
    found = run(network, batches, distortion=distortion, passes=40)
    assert found.allocation.distortion <= found.start
    assert verify(network, batches, found.allocation).ratio == pytest.approx(1, rel=1e-5)


def test_counts_passes(network, batches):
    """Every run of the network is counted, parts as parts, and the limit holds."""
    samples = 0

    def forward(model, batch):
        nonlocal samples
        samples += len(batch[0])
        return model(batch[0])

    found = run(network, batches, forward=forward, passes=30)
    total = sum(len(x) for x, _ in batches)
    assert found.passes - 1 < samples / total <= found.passes == 30


def test_goes_on_where_it_was_stopped(network, batches, tmp_path, interrupting):
    """A stopped run's measurements are found; the result is that of a run without a stop."""
    expected = numbers(run(network, batches, passes=30))
    with pytest.raises(KeyboardInterrupt):
        run(
            network,
            batches,
            passes=30,
            forward=interrupting(90, KeyboardInterrupt()),
            store=tmp_path,
        )
    forward = interrupting(10**6, KeyboardInterrupt())
    found = run(network, batches, passes=30, forward=forward, store=tmp_path)
    assert numbers(found) == expected
    assert found.found > 20
    again = run(network, batches, passes=30, forward=forward, store=tmp_path)
    assert numbers(again) == expected
    assert again.found > found.found
    fresh = run(network, batches, passes=30, store=tmp_path / "fresh")
    assert numbers(fresh) == expected
    assert fresh.found == 0


def test_time_left_after_a_stop(network, batches, tmp_path, monkeypatch):
    """What the store has took no time: the rest is judged by what was run."""
    lines = []
    run(network, batches, passes=30, store=tmp_path)
    now = itertools.count()

    @contextmanager
    def bar(total, _shown):
        yield Meter(total, lambda m: lines.append((m.done, m.left)), lambda: 0.0 + next(now))

    monkeypatch.setattr(searching, "progress_bar", bar)
    run(network, batches, passes=45, store=tmp_path)
    known = [left for done, left in lines if done <= 30]
    assert known.count(None) == len(known) > 30
    assert lines[-1][1] == 0
    assert any(left for _, left in lines)


def test_starts_are_named(network, batches):
    """Every start has its true distortion; the search begins with the best."""
    found = run(network, batches, passes=20)
    assert list(found.starts) == ["uniform", "erk", "global_magnitude", "lamp"]
    assert found.start == min(found.starts.values())
    again = search(network, batches, found.allocation, passes=20, progress=False)
    assert again.starts["allocation"] == pytest.approx(found.allocation.distortion, rel=1e-6)
    assert again.start == again.starts["allocation"]


def test_seeds(network, batches):
    """The same seed gives the same allocation, another one another way."""
    first, same, other = (run(network, batches, passes=25, seed=s) for s in (0, 0, 1))
    assert numbers(first) == numbers(same)
    assert first.generations != other.generations


def test_starts_from_an_allocation(network, batches):
    """An allocation is a start with its own budget, recovery and distortion."""
    first = run(network, batches, recovery="batchnorm", distortion="nmse", passes=40).allocation
    found = search(network, batches, first, passes=20, progress=False)
    assert found.start <= first.distortion * (1 + 1e-6)
    assert found.allocation.budget == first.budget
    assert found.allocation.metadata["recovery"] == "batchnorm"
    assert found.allocation.metadata["distortion"] == "nmse"


def test_budgets_and_bounds(network, batches):
    """Two budgets, floors, caps and layers left out hold at the end."""
    floor, cap = {"conv1": "60%"}, {"conv2.weight": 20}
    found = run(
        network,
        batches,
        sparsity=None,
        budget={"params": "50%", "macs": "45%"},
        floors=floor,
        caps=cap,
        ignore="linear*",
        passes=40,
    ).allocation
    assert found.names == ("conv1.weight", "conv2.weight")
    assert found.layer_costs["params"][0] >= 0.6 * 36
    assert found.layer_costs["params"][1] <= 20
    assert all(found.cost[name] <= bound for name, bound in found.budget.items())
    assert verify(network, batches, found).kept_total == found.cost["params"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")], ids=repr)
@pytest.mark.parametrize("after", [1, 9, 60])
def test_failure_leaves_the_model(network, batches, fingerprint, interrupting, error, after):
    """After an error or an interrupt the model is as it was."""
    before = fingerprint(network)
    with pytest.raises(type(error)):
        run(network, batches, recovery="batchnorm", forward=interrupting(after, error))
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 8}, "passes is 8, must be at least 9: .* and 5 starts"),
        ({"seed": -1}, "seed is -1"),
        ({"passes": 2.5}, "passes is 2.5, must be an integer"),
        ({"seed": "1"}, "seed is '1', must be an integer"),
        ({"seed": 2**32}, "seed is 4294967296, must be between 0 and"),
        (
            {"floors": {"linear.weight": 31}},
            "floors of 'linear.weight' is 31, above the layer's 30",
        ),
        ({"recovery": "bias"}, "recovery is 'bias'.*refine"),
        ({"recovery": "magic"}, "recovery is 'magic'"),
        ({"sparsity": None}, "budget"),
        ({"batches": []}, "batches is empty"),
        ({"floors": {"x": 1}}, "floors: unknown layer 'x'"),
        ({"allocation": "a.json"}, "allocation is a str, must be an Allocation"),
        ({"floors": {"linear.weight": 30}, "caps": {"linear.weight": 3}}, "above its cap of 3"),
        ({"floors": {"linear.weight": 0.5}}, "floors of 'linear.weight'"),
    ],
)
def test_bad_input(network, batches, options, message):
    """Every bad argument is named."""
    with pytest.raises(ValueError, match=message):
        run(network, **{"batches": batches, **options})


def test_refuses_what_is_out_of_reach(network, batches):
    """A budget below the floors says what can be reached."""
    with pytest.raises(InfeasibleBudgetError, match="least"):
        run(network, batches, sparsity=0.9, floors={"conv2.weight": "100%"})
    a = run(network, batches, passes=9).allocation
    with pytest.raises(ValueError, match="does not have the weights"):
        search(nn.Sequential(nn.Linear(3, 3)), batches, a, progress=False)
    table = measure(network, batches, levels=5, criterion="wanda", progress=False)
    with pytest.raises(ValueError, match="another criterion or shape"):
        search(network, batches, allocate(table, sparsity=0.5), progress=False)
    with pytest.raises(ValueError, match="without an allocation"):
        search(network, batches, a, ignore="linear*", progress=False)


def test_parts_have_every_sample_once():
    """Whole batches where there are enough of them, else pieces, with what belongs to them."""
    batches = tuple((torch.arange(10 * i, 10 * i + 3), {"scale": torch.ones(2)}) for i in range(9))
    parts = parts_of(batches, 4)
    assert sorted(int(x) for part in parts for b in part for x in b[0]) == sorted(
        int(x) for b in batches for x in b[0]
    )
    assert len(parts) == 4
    pieces = parts_of(batches[:3], 8)
    assert [len(part) for part in pieces] == [1] * 9
    assert torch.equal(torch.cat([p[0][0] for p in pieces]), torch.cat([b[0] for b in batches[:3]]))
    assert all(torch.equal(part[0][1]["scale"], torch.ones(2)) for part in pieces)
    uneven = parts_of((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(60, 3)), 8)
    assert len(uneven) >= 8
    assert max(len(part[0]) for part in uneven) < 10
    few = parts_of(({"x": torch.zeros(2, 5), "labels": torch.arange(2)},), 8)
    assert [part[0]["labels"].tolist() for part in few] == [[0], [1]]


def test_a_look_is_of_the_part(network, batches):
    """Looks at parts weigh up to the whole, in the state that is measured."""
    layers = prunable(network)
    half = {name: layer.parameter.numel() // 2 for name, layer in layers.items()}
    with trial(
        network, layers, tuple(batches), "mse", seed=0, recovery="none", projection=0,
        forward=None, parts=8,
    ) as whole:  # fmt: skip
        assert whole.parts >= 8
        whole.prune(half)
        looks = [whole.look(part) for part in range(whole.parts)]
        sizes = [len(look.errors) for look in looks]
        mean = sum(look.distortion * n for look, n in zip(looks, sizes, strict=True)) / sum(sizes)
        assert sum(sizes) == 10
        assert mean == pytest.approx(whole.measure().distortion, rel=1e-5)
    part = tuple(parts_of(tuple(batches), 8, 4)[0])
    with trial(
        network, layers, part, "mse", seed=0, recovery="batchnorm", projection=0, forward=None
    ) as alone:
        alone.prune(half)
        expected = alone.measure().distortion
    with trial(
        network, layers, tuple(batches), "mse", seed=0, recovery="batchnorm", projection=0,
        forward=None, parts=8,
    ) as whole:  # fmt: skip
        whole.prune(half)
        assert whole.look(0).distortion == expected


def test_the_command(mine):
    """`rdprune search` writes what it finds, takes it up again, and `verify` agrees."""
    rest = ["search", *mine, "--output", "s.json", "--passes", "30", "--store", "run"]

    def invoke(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, (result.stderr, result.exception)
        return result.stdout

    first = json.loads(invoke(*rest, "--sparsity", "0.7", "--json", "-"))
    found = Allocation.load("s.json")
    assert found.distortion == first["allocation"]["distortion"] < first["start"]
    assert min(first["starts"].values()) == first["start"]
    text = invoke(*rest, "--allocation", "s.json", "--floor", "0.weight=25%", "--cap", "3=20")
    assert "true distortion" in text
    assert re.search(r"\n +3 +64 +\d+ ", text)
    assert re.search(r"\n +global_magnitude +\d", text)
    kept = Allocation.load("s.json").layer_costs["params"]
    assert kept[0] >= 32
    assert kept[1] <= 20
    assert "in 30 passes" in text
    rest[-3] = "9"
    for sparsity, said in (("0.5", "give more passes"), ("1.0", "nothing left to change")):
        assert said in " ".join(invoke(*rest[:-2], "--sparsity", sparsity).split())
    report = json.loads(invoke("verify", *mine, "--allocation", "s.json", "--json", "-"))
    assert report["ratio"] == pytest.approx(1, rel=1e-4)


def test_the_command_runs_alone(mine, monkeypatch):
    """Several ranks would all search, and write one file."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(app, ["search", *mine, "--output", "s.json", "--sparsity", "0.5"])
    assert result.exit_code
    assert "search runs in one process" in f"{result.stderr}{result.exception}"


def test_ends_where_nothing_is_left_to_change(network, batches):
    """All weights, none, or one layer: the search ends by itself."""
    for options in ({"sparsity": 0.0}, {"sparsity": 1.0}, {"layers": ["linear.weight"]}):
        found = run(network, batches, **options)
        assert found.passes < 60
        assert found.allocation.cost["params"] == found.allocation.budget["params"]


class Fragile(nn.Module):
    """A network whose output is NaN where too little is left."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        return torch.log(self.b(torch.relu(self.a(x))) + 0.6)


def test_what_overflows_is_no_step(monkeypatch):
    """Looks that are not finite are left out, and the search goes on."""
    torch.manual_seed(3)
    model = Fragile()
    x = torch.randn(400, 6)
    with torch.no_grad():
        x = x[model(x).isfinite().all(dim=1)][:32]
    usable, seen = descent._usable, []
    monkeypatch.setattr(descent, "_usable", lambda *look: seen.append(usable(*look)) or seen[-1])
    found = search(model, [x], sparsity=0.4, passes=40, progress=False)
    assert set(seen) == {True, False}
    assert found.allocation.distortion <= found.start
    assert found.passes == 40


class Masked(nn.Module):
    """A network with a square mask beside its inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x, mask):
        return self.b(torch.tanh(mask @ self.a(x)))


@pytest.mark.parametrize("size", [7, 8])
def test_batches_that_cannot_be_cut_are_the_parts(size):
    """A mask as long as the batch is no row a sample; what is counted is still what is run."""
    torch.manual_seed(4)
    model = Masked()
    rows = [{"x": torch.randn(8, size, 6), "mask": torch.ones(size, size).tril()} for _ in "ab"]
    runs = 0

    def forward(model, batch):
        nonlocal runs
        runs += len(batch["x"])
        return model(**batch)

    found = search(model, rows, sparsity=0.5, passes=30, forward=forward, progress=False)
    assert found.passes - 1 < runs / 16 <= found.passes == 30
    assert found.allocation.distortion < found.start


def test_time_first_batches_are_not_cut(network):
    """Where the batch is the second dimension, pieces would have all rows: batches are parts."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    rows = [torch.randn(9, 4, 6) for _ in range(3)]
    layers = prunable(model)
    with trial(
        model, layers, tuple(rows), "mse", seed=0, recovery="none", projection=0, parts=8,
        forward=lambda model, batch: model(batch).mean(0),
    ) as whole:  # fmt: skip
        assert whole.parts == 3


@pytest.mark.parametrize("samples", [1, 3, 8, 15])
def test_few_samples_under_batch_statistics(samples):
    """No piece is so small that BatchNorm has no statistics."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rows = [torch.randn(samples + 1, 6)]
    few = pytest.warns(UserWarning, match="batch 0 of 1 has 2 samples, too few for BatchNorm")
    with few if samples == 1 else nullcontext():
        found = search(model, rows, sparsity=0.5, recovery="batchnorm", passes=30, progress=False)
    assert found.allocation.distortion <= found.start


def test_goes_by_the_features_that_were_measured(network, batches):
    """An allocation of a module's output is searched by that output, and says so."""
    options = {"forward": features("bn2"), "ignore": "linear", "progress": False}
    table = measure(network, batches, levels=9, **options)
    a = allocate(table, sparsity=0.6)
    found = search(network, batches, a, passes=20, progress=False)
    assert found.start <= verify(network, batches, a).true * (1 + 1e-6)
    assert verify(network, batches, found.allocation).ratio == pytest.approx(1, rel=1e-5)


def test_a_cap_above_the_size_is_the_size(network, batches):
    """What a cap does not bind stays free, and what it does is used up elsewhere."""
    found = run(network, batches, caps={"linear.weight": 10**6}, passes=20)
    assert found.allocation.layer_costs["params"][2] <= 30
    found = run(network, batches, sparsity=0.5, caps={"conv1.weight": 2}, passes=9)
    assert found.allocation.cost["params"] > 0.9 * found.allocation.budget["params"]
