"""Searches by gradients: of the network as it is pruned, counted, and only where they tell."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rdprune import descent, search, verify
from rdprune.batches import Runner, preserved
from rdprune.breeding import Space
from rdprune.judging import Judge
from rdprune.layers import prunable
from rdprune.probing import gradients_tell
from rdprune.trial import Trial, trial


def numbers(found):
    return found.allocation.to_dict(), found.start, found.generations, found.passes


def dense_net(seed=0):
    torch.manual_seed(seed)
    inner = [part for _ in range(6) for part in (nn.Linear(20, 20), nn.Tanh())]
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), *inner, nn.Linear(20, 4))


def rows(*sizes):
    return [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in sizes]


def tried(model, data, **options):
    settings = {"seed": 0, "recovery": "none", "projection": 0, "forward": None, "parts": 8}
    return trial(model, prunable(model), tuple(data), "mse", **{**settings, **options})


def test_networks_without_batchnorm_start_from_a_first_look(tied, tokens, monkeypatch):
    """Its optimum is one more start, its passes are counted, and bounds and macs hold."""
    samples = backward = 0

    def forward(model, batch):
        nonlocal samples
        samples += len(batch)
        return model(batch)

    def grad(output, *rest, **options):
        nonlocal backward
        backward += len(output)
        return plain(output, *rest, **options)

    plain = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", grad)
    options = {"forward": forward, "progress": False, "budget": {"params": "40%", "macs": "40%"}}
    found = search(tied, tokens, caps={"hidden.weight": "90%"}, passes=100, **options)
    assert "first look" in found.starts
    few = search(tied, tokens, passes=49, **options)
    assert "first look" not in few.starts
    assert found.start <= few.start
    samples = backward = 0
    found = search(tied, tokens, passes=100, **options)
    assert found.passes == 100
    assert 98 < (samples + 2 * backward) / 6 <= 100
    assert found.allocation.cost["macs"] <= found.allocation.budget["macs"]


@pytest.mark.parametrize("distortion", ["mse", "nmse", "kl:2", "loss"])
def test_networks_without_batchnorm_go_by_gradients(tied, tokens, distortion, monkeypatch):
    """All layers' steps come from backward passes, where the distortion is a mean of squares."""
    asked = []
    around = Trial.around
    monkeypatch.setattr(
        Trial, "around", lambda self, *a, **k: asked.append(self.passes) or around(self, *a, **k)
    )
    data = [{"tokens": x, "labels": x} for x in tokens] if distortion == "loss" else tokens
    found = search(tied, data, sparsity=0.5, passes=100, distortion=distortion, progress=False)
    assert bool(asked) == (distortion != "loss")
    assert found.passes == 100
    assert verify(tied, data, found.allocation).ratio == pytest.approx(1, rel=1e-5)
    again = search(tied, data, sparsity=0.5, passes=100, distortion=distortion, progress=False)
    assert numbers(again) == numbers(found)


def test_what_has_no_gradients_is_looked_at(tied, tokens, monkeypatch):
    """A model that cannot be differentiated is searched without a first look, and not refused."""
    monkeypatch.setattr(Trial, "around", lambda *a, **k: pytest.fail("asked"))

    def forward(model, batch):
        return model(batch).detach()

    found = search(tied, tokens, sparsity=0.5, passes=100, forward=forward, progress=False)
    assert found.passes == 100
    assert found.allocation.distortion <= found.start


def test_gradients_are_what_the_search_gains_by(monkeypatch):
    """With their signs turned round, or with nothing of them, it gains less."""
    model, data = dense_net(), rows(64)
    monkeypatch.setattr(descent._Descent, "_next", lambda self, last: self._gradients)

    def reached():
        found = [
            search(model, data, sparsity=0.7, passes=100, seed=s, progress=False) for s in (0, 1)
        ]
        return sum(one.allocation.distortion for one in found)

    right = reached()
    around = Judge.around
    for factor in (-1, 0):

        def changed(self, *rest, factor=factor):
            told = around(self, *rest)
            return told and (told[0], [factor * rows for rows in told[1]])

        monkeypatch.setattr(Judge, "around", changed)
        assert right < 0.95 * reached()


def test_the_estimate_is_of_the_network_as_it_is_pruned():
    """The present error is that of the allocation asked for, on the part asked for."""
    model, data = dense_net(), rows(24)
    with tried(model, data) as network:
        sizes = {name: layer.parameter.numel() for name, layer in prunable(model).items()}
        for share, part in ((2, 3), (3, 5)):
            kept = {name: size // share for name, size in sizes.items()}
            network.prune(kept)
            options = {name: [count, count // 2] for name, count in kept.items()}
            error, _ = network.around(part, options, probes=2, seed=0)
            assert np.mean(error**2) == pytest.approx(network.look(part).distortion, rel=1e-5)


@pytest.mark.parametrize("sizes", [(64, *[1] * 7), (6, 4)])
@pytest.mark.parametrize("passes", [50, 54, 58, 66])
def test_the_limit_holds_with_parts_of_different_sizes(sizes, passes):
    """A backward pass on a large part counts for what it is, and is not begun where too dear."""
    found = search(dense_net(), rows(*sizes), sparsity=0.5, passes=passes, seed=1, progress=False)
    assert found.passes <= passes


def test_layers_in_another_order():
    """An allocation whose layers are not in the model's order has the same first look."""
    model, data = dense_net(), rows(32)
    plain = search(model, data, sparsity=0.6, passes=50, progress=False)
    names = tuple(reversed(plain.allocation.names))
    turned = search(model, data, sparsity=0.6, passes=50, layers=names, progress=False).allocation
    again = search(model, data, turned, passes=50, progress=False)
    assert again.starts["first look"] == plain.starts["first look"]


class Moving(nn.Module):
    """Keeps a mean of what it has seen, in place."""

    def __init__(self):
        super().__init__()
        self.net = dense_net()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        found = self.net(x)
        self.seen.mul_(0.9).add_(0.1 * found.mean(0))
        return found


def test_buffers_stay_leaves(fingerprint):
    """What a forward writes to in place has no graph afterwards, nor has its values."""
    model = Moving()
    before = fingerprint(model)
    search(model, rows(8, 8), sparsity=0.5, passes=60, progress=False)
    assert fingerprint(model) == before
    assert not model.seen.requires_grad
    copy.deepcopy(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no")], ids=repr)
@pytest.mark.parametrize("after", [5, 9, 20])
def test_an_error_in_a_backward_pass_leaves_the_model(fingerprint, monkeypatch, error, after):
    """Weights, flags and gradients are as before."""
    model, calls = dense_net(), 0
    before = fingerprint(model)
    plain = torch.autograd.grad

    def grad(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls > after:
            raise error
        return plain(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    with pytest.raises(type(error)):
        search(model, rows(64), sparsity=0.5, passes=100, progress=False)
    assert fingerprint(model) == before


def test_an_autocast_around_it_has_no_stale_weights():
    """What it cast while the network was pruned is not used afterwards."""
    model, (x,) = dense_net(), rows(16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = model(x)
        search(model, [x], sparsity=0.8, passes=60, progress=False)
        assert torch.equal(model(x), before)


def test_half_precision_has_slopes():
    """In bfloat16 the changes are those of the same network in float32, but for the rounding."""
    half, (x,) = dense_net().bfloat16(), rows(64)
    found = []
    for model in (half, copy.deepcopy(half).float()):
        with tried(model, [x.to(model[0].weight.dtype)]) as network:
            kept = {name: one.parameter.numel() // 2 for name, one in prunable(model).items()}
            network.prune(kept)
            options = {name: [count, count // 2] for name, count in kept.items()}
            _, changes = network.around(0, options, probes=2, seed=0)
            found.append(np.concatenate(list(changes.values())))
    assert np.linalg.norm(found[0] - found[1]) < 0.2 * np.linalg.norm(found[1])


class Detached(nn.Module):
    """Its first layer gets no gradient; the last takes no part in the output."""

    def __init__(self, cut):
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(3, 3)
        self._cut = cut

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        return self.b(hidden.detach() if self._cut else hidden)


def told(model, data):
    with preserved(model):
        runner = Runner(model, tuple(data))
        dense = list(runner.outputs())
        return gradients_tell(prunable(model), runner, dense)


def test_a_layer_without_gradients_is_not_taken_for_harmless(fingerprint):
    """A layer that no gradient reaches is tried; that one takes no part is no reason against it."""
    for cut in (False, True):
        model = Detached(cut)
        before = fingerprint(model)
        assert told(model, rows(5, 3)) == (not cut, 4)
        assert fingerprint(model) == before


class Padded(nn.Module):
    def __init__(self, encoder, padded=True):
        super().__init__()
        self.encoder = encoder
        self._padded = padded

    def forward(self, x):
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[1:, 3:] = self._padded
        return self.encoder(x, src_key_padding_mask=mask)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_other_outputs_with_gradients_are_noticed():
    """The fused kernel of a transformer fills padding with zeros, the others do not."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=True)
    model = Padded(encoder)
    assert told(model, [torch.randn(4, 5, 8)]) == (False, 3)
    assert told(Padded(encoder, padded=False), [torch.randn(4, 5, 8)]) == (True, 3)


def test_no_passes_are_counted_that_were_not_run():
    """Where a first look fails, it is not paid for."""
    samples = 0

    def forward(model, batch):
        nonlocal samples
        samples += len(batch)
        return model(batch).detach()

    found = search(dense_net(), rows(16), sparsity=0.5, passes=60, forward=forward, progress=False)
    assert 58 < samples / 16 <= found.passes == 60


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_estimates_that_are_not_finite_are_not_used(wrong):
    """Looks are made in their place."""

    class Overflowing:
        def around(self, kept, options, part, seed):
            return np.zeros(3), [np.full((len(row), 3), wrong) for row in options]

    sizes = np.array([10, 20])
    limits = Space(sizes, 0 * sizes, sizes, {"params": sizes}, {"params": 15})
    assert descent._foresee(sizes // 2, limits, Overflowing(), 1.0, 0, 0) is None


class Slow:
    """A judge with one way that leads to the least, and one that tells nothing."""

    parts = 8

    def __init__(self, gradients, looks, straight=False):
        self.straight = straight
        self._good = {"gradients": gradients, "looks": looks}
        self.asked = self.looked = 0
        self._target = np.geomspace(20, 4000, 12)
        self._spent = 0.0

    @property
    def passes(self):
        return int(self._spent)

    def _response(self, kept):
        return np.log(np.maximum(kept, 1) / self._target)

    def score(self, kept):
        self._spent += 1
        return float(np.mean(self._response(kept) ** 2))

    def look(self, kept, part):
        self.looked += 1
        self._spent += 1 / 8
        told = self._response(kept)
        return float(np.mean(told**2)), told if self._good["looks"] else np.ones(12)

    def around(self, kept, options, part, seed):
        self.asked += 1
        self._spent += 11 / 8
        good = self._good["gradients"]
        error = self._response(kept)
        told = []
        for at, row in enumerate(options):
            here = np.zeros((len(row), 12))
            here[:, at] = np.log(np.maximum(row, 1) / max(kept[at], 1)) * (1 if good else -1)
            told.append(here)
        return error, told


@pytest.mark.parametrize(
    ("gradients", "straight", "ways"),
    [(True, False, "glgg"), (False, False, "gl"), (True, True, "ggg")],
)
def test_the_search_goes_the_way_that_gains(gradients, straight, ways, monkeypatch):
    """Both are tried; then the one that tells nothing is left until the other gains less.

    Where gradients are trusted looks wait until they gain nothing.
    """
    judge = Slow(gradients, not gradients, straight)
    sizes = np.full(12, 5000)
    limits = Space(sizes, 0 * sizes, sizes, {"params": sizes}, {"params": 13_000})
    start = np.full(12, 1000)
    gone = []
    which = descent._Descent._next

    def noted(self, last):
        way = which(self, last)
        gone.append("g" if way is self._gradients else "l")
        return way

    monkeypatch.setattr(descent._Descent, "_next", noted)
    for _ in descent.descend(start, judge.score(start), limits, judge, seed=0):
        if judge.passes > 110:
            break
    assert "".join(gone)[: len(ways)] == ways


def test_trusted_gradients_that_mislead_are_found_out():
    """Chance gains do not keep looks from being tried for good: after six rounds they are."""
    judge = Slow(False, True, straight=True)
    sizes = np.full(12, 5000)
    limits = Space(sizes, 0 * sizes, sizes, {"params": sizes}, {"params": 13_000})
    start = np.full(12, 1000)
    best = before = judge.score(start)
    for _, distortion, _ in descent.descend(start, before, limits, judge, seed=0):
        best = distortion
        if judge.passes > 400:
            break
    assert best < before / 20


@pytest.mark.parametrize("distortion", ["loss", "callable"])
def test_a_loss_may_fall_below_that_of_the_dense_network(distortion):
    """Where the increase becomes negative the search goes on."""

    def surplus(dense, output):
        change = (output - dense).abs()
        return (change.square() - change).mean(1)

    model = dense_net(3)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(4, (32,), generator=torch.Generator().manual_seed(1))
    kind = "loss" if distortion == "loss" else surplus
    found = search(model, [(x, labels)], sparsity=0.2, passes=120, distortion=kind, progress=False)
    assert found.allocation.distortion < 0
    assert found.passes == 120


def test_where_gradients_breed_nothing_looks_go_on():
    """Steps that change nothing do not end a search."""
    judge = Slow(True, True)
    judge.around = lambda kept, options, part, seed: (
        judge._response(kept),
        [np.zeros((len(row), 12)) for row in options],
    )
    sizes = np.full(12, 5000)
    limits = Space(sizes, 0 * sizes, sizes, {"params": sizes}, {"params": 13_000})
    start = np.full(12, 1000)
    before = judge.score(start)
    steps = descent.descend(start, before, limits, judge, seed=0)
    assert next(value for _, value, _ in steps if judge.passes > 60) < before / 2


class Watching(nn.Module):
    """Has a buffer that is a part of another, and one that becomes a part of the output."""

    def __init__(self):
        super().__init__()
        self.net = dense_net()
        self.register_buffer("all", torch.zeros(3, 4))
        self.register_buffer("part", self.all[1])
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        found = self.net(x)
        self.part.copy_(found.mean(0))
        self.last = found[-1]
        return found


def test_buffers_that_are_views(fingerprint):
    """They have neither a graph nor other values afterwards, and gradients are used."""
    model = Watching()
    before = fingerprint(model)
    found = search(model, rows(8, 8), sparsity=0.5, passes=60, progress=False)
    assert "first look" in found.starts
    assert fingerprint(model) == before


class Refusing(nn.Module):
    """Does not run with gradients on, or not on short batches."""

    def __init__(self, error, short):
        super().__init__()
        self.net = dense_net()
        self._error, self._short = error, short

    def forward(self, x):
        if torch.is_grad_enabled() and (len(x) < 4 or not self._short):
            raise self._error("no")
        return self.net(x)


@pytest.mark.parametrize("error", [AssertionError, ValueError, TypeError, RuntimeError])
@pytest.mark.parametrize("short", [False, True])
def test_what_refuses_gradients_is_looked_at(error, short):
    """At once, or on a part where it does: nothing is lost."""
    model = Refusing(error, short)
    sizes = (5, 3) if short else (8,)
    found = search(model, rows(*sizes), sparsity=0.5, passes=80, progress=False)
    assert found.passes == 80
    assert found.allocation.distortion < found.start


def test_small_errors_in_float16_have_slopes():
    """An error far below the output's size goes back without vanishing."""
    half, (x,) = dense_net().half(), rows(16384)
    kept = {name: int(one.parameter.numel() * 0.9) for name, one in prunable(half).items()}
    found = []
    for model in (half, copy.deepcopy(half).float()):
        with tried(model, [x.to(model[0].weight.dtype)], parts=1) as network:
            network.prune(kept)
            options = {name: [count, count // 2] for name, count in kept.items()}
            _, changes = network.around(0, options, probes=1, seed=0)
            found.append(np.array([row[1, -1] for row in changes.values()]))
    assert np.linalg.norm(found[0] - found[1]) < 0.05 * np.linalg.norm(found[1])
