"""Fitted weights against a plain least-squares solver, and restored means."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from rdprune import measure, prunable, repair_, sweeping, verify
from rdprune.batches import Runner, preserved
from rdprune.masking import apply_, strip_
from rdprune.recovery import NotFiniteError
from rdprune.refitting import RIDGE, FitCost, Moments, least_squares
from rdprune.repairing import Writer
from rdprune.store import Store
from rdprune_core import Allocation, allocate


class Chain(nn.Module):
    """A grouped convolution with BatchNorm, a transposed one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, groups=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        return self.linear(torch.relu(self.up(x)).mean(dim=(2, 3)))


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(1)
    model = Chain().eval()
    nn.init.uniform_(model.bn.running_mean, -0.2, 0.2)
    nn.init.uniform_(model.bn.running_var, 0.5, 1.5)
    return model


@pytest.fixture
def data() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, 2, 5, 5, generator=generator) + 0.5 for n in (12, 7)]


def outputs(model: nn.Module, name: str, data: list[torch.Tensor]) -> torch.Tensor:
    """Return all outputs of a module, channels last, one row a position."""
    found = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, o: found.append(o))
    with torch.no_grad():
        for batch in data:
            model(batch)
    handle.remove()
    return torch.cat(
        [o.flatten(2).transpose(1, 2).flatten(0, 1) if o.ndim > 2 else o for o in found]
    )


@pytest.mark.parametrize("intercept", [False, True])
def test_least_squares_equals_a_plain_solver(intercept):
    """The fit is that of the stacked rows: the inputs, and the ridge towards the dense weights."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, dense_x, weights = draw(2, 50, 6) + 1, draw(2, 50, 6), draw(2, 3, 6)
    x += dense_x
    kept = torch.rand(2, 3, 6, generator=generator) < 0.6
    kept[0, 0] = False
    cross = x.mT @ dense_x @ weights.mT / 50
    means = x.mean(1), dense_x.mean(1)
    square = x.mT @ x / 50 - means[0][:, :, None] * means[0][:, None, :]
    cross = cross - means[0][:, :, None] * (weights @ means[1][:, :, None]).mT
    moments = Moments(50, *means, square, cross)
    found = least_squares(weights, kept, moments, intercept=intercept)
    for group in range(2):
        inputs, target = x[group], dense_x[group] @ weights[group].T
        if intercept:
            inputs, target = inputs - inputs.mean(0), target - target.mean(0)
        ridge = RIDGE * inputs.square().mean()
        for row in range(3):
            chosen = kept[group, row].nonzero()[:, 0]
            left = torch.cat([inputs[:, chosen], (50 * ridge).sqrt() * torch.eye(len(chosen))])
            right = torch.cat([target[:, row], (50 * ridge).sqrt() * weights[group, row, chosen]])
            expected = torch.zeros(6, dtype=torch.float64)
            if len(chosen):
                expected[chosen] = torch.linalg.lstsq(left, right).solution
            torch.testing.assert_close(found[group, row], expected)


@pytest.mark.parametrize("seed", range(8))
def test_layers_behind_an_emptied_one_are_repaired(seed):
    """Inputs that do not change have variances of rounding alone: nothing is fitted to those."""
    torch.manual_seed(seed)
    sizes = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    model = nn.Sequential(*sizes)
    x = torch.randn(64, 16)
    mean = model(x).mean(0)
    apply_(model, {"0.weight": torch.zeros(16, 16, dtype=torch.bool)} | {
        name: layer.parameter.detach().abs() > 0.1
        for name, layer in prunable(model).items() if name != "0.weight"
    })  # fmt: skip
    repair_(model, [x], recovery="least-squares+bias")
    torch.testing.assert_close(model(x).mean(0), mean)


@pytest.mark.parametrize("odd", [0, 1], ids=["alike", "an odd batch first"])
def test_inputs_far_from_zero(odd):
    """In float32 a fit sees what changes about a mean a thousand times as large, as in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    x = torch.randn(2, 128, 8) @ (0.3 + torch.eye(8)) + 1000
    batches = [*[torch.zeros(4, 8)] * odd, *x]
    mask = {"0.weight": model[0].weight.detach().abs() > 0.15}
    found = []
    for dtype in (torch.float32, torch.float64):
        pruned = deepcopy(model).to(dtype)
        apply_(pruned, mask)
        repair_(pruned, [batch.to(dtype) for batch in batches], recovery="least-squares+bias")
        strip_(pruned)
        found.append(pruned[0].weight.detach().double())
    torch.testing.assert_close(found[0], found[1], rtol=2e-3, atol=2e-3)
    assert (found[1] - model[0].weight.detach() * mask["0.weight"]).abs().max() > 0.01


@torch.no_grad()
def errors_of_repairs(model, x):
    """Return what restored means alone leave of a layer's error, and what fitted weights do."""
    expected = model(x).double()
    apply_(model, {"0.weight": model[0].weight.detach().abs() > 0.15})
    errors = []
    for recovery in ("bias", "least-squares+bias"):
        repaired = deepcopy(model)
        repair_(repaired, [x], recovery=recovery)
        errors.append(float((repaired(x).double() - expected).square().mean()))
    return errors


def test_one_input_that_is_large_and_constant():
    """It does not hide that the others change."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8)).double()
    x = torch.randn(256, 8, dtype=torch.float64) @ (0.3 + torch.eye(8, dtype=torch.float64))
    x[:, 3] = 1e6
    errors = errors_of_repairs(model, x)
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_fitted(dtype):
    """Products of a hundred thousand rows are taken in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8)).to(dtype)
    x = (torch.randn(100_000, 8) @ (0.3 + torch.eye(8))).to(dtype)
    errors = errors_of_repairs(model, x)
    assert errors[1] < 0.8 * errors[0]


class Routed(nn.Module):
    """Two experts, each of which gets the rows of one sign, perhaps none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros_like(x)
        for expert, rows in ((self.first, x[:, 0] > 0), (self.second, x[:, 0] <= 0)):
            found[rows] = expert(x[rows])
        return found


@pytest.mark.parametrize("recovery", ["bias", "least-squares+bias"])
def test_calls_without_rows(recovery):
    """They say nothing; a layer that never gets a row keeps its bias and its kept weights."""
    torch.manual_seed(0)
    model = Routed()
    mixed = torch.randn(32, 6)
    positive = torch.cat([mixed[:, :1].abs(), mixed[:, 1:]], 1)
    masks = {n: p.parameter.detach().abs() > 0.2 for n, p in prunable(model).items()}
    found = []
    for batches in ([positive, mixed], [mixed[mixed[:, 0] > 0], mixed], [positive]):
        pruned = deepcopy(model)
        apply_(pruned, masks)
        repair_(pruned, batches, recovery=recovery)
        strip_(pruned)
        assert all(p.isfinite().all() for p in pruned.parameters())
        found.append(pruned.second)
    torch.testing.assert_close(found[0].weight, found[1].weight)
    torch.testing.assert_close(found[0].bias, found[1].bias)
    assert torch.equal(found[2].bias, model.second.bias)
    assert torch.equal(found[2].weight, model.second.weight * masks["second.weight"])


def test_inputs_that_are_not_finite_are_named():
    """By the layer that gets them."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    apply_(model, {n: p.parameter.detach() > 0 for n, p in prunable(model).items()})
    x = torch.randn(8, 4)
    x[2, 1] = torch.inf
    with pytest.raises(NotFiniteError, match=r"layer '0\.weight' cannot be fitted: its inputs"):
        repair_(model, [x], recovery="least-squares")


def test_a_store_of_other_fits_is_not_used(tmp_path, monkeypatch):
    """Rows of fits by another version are measured anew; those without fits are found."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4)), [torch.randn(32, 4)]
    for recovery, more in (("bias", True), ("none", False)):
        sizes = []
        for version in (1, 2):
            monkeypatch.setattr(sweeping, "FITS", version)
            folder = tmp_path / recovery
            measure(model, x, levels=3, recovery=recovery, store=folder, progress=False)
            with Store(folder) as store:
                sizes.append(store.execute("SELECT COUNT(*) FROM measurement", ())[0][0])
        assert (sizes[1] > sizes[0]) == more


@pytest.mark.parametrize("name", ["conv", "up", "linear"])
def test_bias_restores_the_mean_of_the_layer(chain, data, fingerprint, name):
    """With one layer pruned, its channel means, through BatchNorm too, are the dense ones."""
    seen = "bn" if name == "conv" else name
    expected = outputs(chain, seen, data).mean(0)
    before = fingerprint(chain)
    layer = prunable(chain)[f"{name}.weight"]
    mask = layer.parameter.detach().abs() > layer.parameter.detach().abs().median()
    with preserved(chain):
        writer = Writer(prunable(chain), Runner(chain, tuple(data)), "bias")
        with writer.layer(layer.name) as write:
            write(mask)
            assert torch.equal(layer.parameter != 0, mask)
            torch.testing.assert_close(outputs(chain, seen, data).mean(0), expected)
            write(torch.ones_like(mask))
            torch.testing.assert_close(outputs(chain, seen, data).mean(0), expected)
    assert fingerprint(chain) == before


@pytest.mark.parametrize(
    "row", [lambda n: 2e-5, lambda n: 1e-6 * n, lambda n: max(2e-5, 1e-11 * n**3)]
)
def test_seconds_of_fits_are_those_of_timed_rows(row):
    """Whatever a row of so many weights takes, constant at first or not: within a quarter."""
    timed = tuple((count, row(count)) for count in (1, 48, 192, 384, 768))
    cost = FitCost(rows=10, inputs=768, start=0.0, timed=timed)
    for count in (1, 48, 192, 384, 576, 768):
        assert cost.seconds(10 * count) == pytest.approx(10 * row(count), rel=0.25)
    assert cost.seconds(0) == 0.0


def test_seconds_of_fits_beyond_the_timed_rows():
    """Wider rows go on by the power that the last two have, the cube at most."""
    for power, expected in ((2, 4.0), (3, 8.0), (5, 8.0)):
        cost = FitCost(1, 8192, 0.0, ((1, 1e-9), (2048, 0.5**power), (4096, 1.0)))
        assert cost.seconds(8192) == pytest.approx(expected)


@pytest.mark.parametrize("recovery", ["least-squares", "least-squares+bias"])
@pytest.mark.parametrize("name", ["conv", "up", "linear"])
def test_least_squares_comes_closer(chain, data, name, recovery):
    """The layer's outputs are closer to the dense ones than those of the mask alone."""
    expected = outputs(chain, name, data)
    layer = prunable(chain)[f"{name}.weight"]
    weight = layer.parameter
    mask = weight.detach().abs() > weight.detach().abs().median()
    error = {}
    with preserved(chain):
        for state in ("none", "bias", recovery):
            writer = Writer(prunable(chain), Runner(chain, tuple(data)), state)
            with writer.layer(layer.name) as write:
                write(mask)
                found = outputs(chain, name, data)
                if name == "conv" and "bias" in state:  # its mean is restored behind it
                    found = found - found.mean(0) + expected.mean(0)
                error[state] = float((found - expected).square().mean())
    other = "bias" if "bias" in recovery else "none"
    assert error[recovery] < error[other]


@pytest.mark.parametrize("recovery", ["bias", "least-squares", "bias+least-squares+batchnorm"])
def test_repair_is_what_was_measured(chain, data, recovery):
    """With one layer pruned, `verify` and the repaired model are as far off as the table says."""
    table = measure(chain, data, levels=3, recovery=recovery, layers=["up"], progress=False)
    a = allocate(table, sparsity=0.5)
    assert table.metadata["recovery"] == recovery.replace(
        "bias+least-squares", "least-squares+bias"
    )
    report = verify(chain, data, a)
    assert report.ratio == pytest.approx(1, rel=1e-4)
    if "batchnorm" in recovery:
        return
    model = deepcopy(chain)
    apply_(model, a)
    assert repair_(model, data, recovery=recovery) == 1
    strip_(model)
    assert verify(model, data, a, dense=chain).true == pytest.approx(report.true, rel=1e-4)
    assert verify(model, data, a, dense=chain).kept == report.kept


def test_masked_and_stripped_models_are_repaired_alike(chain, data):
    """Repair under masks, and after them with the dense model, gives the same network."""
    table = measure(chain, data, levels=5, progress=False)
    a = allocate(table, sparsity=0.6)
    masked, stripped = deepcopy(chain), deepcopy(chain)
    apply_(masked, a)
    apply_(stripped, a)
    strip_(stripped)
    done = repair_(masked, data, recovery="least-squares+bias+batchnorm")
    assert repair_(stripped, data, recovery="least-squares+bias+batchnorm", dense=chain) == done
    strip_(masked)
    for one, two in zip(masked.state_dict().values(), stripped.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two)
    assert all(b.isfinite().all() for b in masked.buffers())


def test_repair_after_repair_is_closer_to_the_dense_network(chain, data):
    """Restoring all layers in turn leaves less distortion than the masks alone."""
    table = measure(chain, data, levels=5, progress=False)
    a = Allocation.from_choice(table, [2, 2, 2])
    found = {
        state: verify(chain, data, a, recovery=state).true
        for state in ("none", "bias", "least-squares", "least-squares+bias")
    }
    assert found["bias"] < found["none"]
    assert found["least-squares+bias"] < found["none"]


def test_weights_that_cannot_be_pruned_are_left_alone(chain, data):
    """A parametrised layer that was ignored does not keep the others from being repaired."""
    nn.utils.parametrizations.weight_norm(chain.linear)
    table = measure(chain, data, levels=3, ignore=["linear"], progress=False)
    model = apply_(deepcopy(chain), allocate(table, sparsity=0.4))
    assert repair_(model, data, recovery="bias") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")], ids=repr)
@pytest.mark.parametrize("after", [1, 6, 13, 17])
def test_failing_repair_changes_nothing(chain, data, fingerprint, interrupting, error, after):
    """Weights, biases and statistics are the old ones when a batch fails or the user interrupts."""
    table = measure(chain, data, levels=3, progress=False)
    model = apply_(deepcopy(chain), allocate(table, sparsity=0.5))
    before = fingerprint(model)
    forward = interrupting(after, error)
    with pytest.raises(type(error)):
        repair_(
            model,
            data,
            recovery="least-squares+bias+batchnorm",
            forward=lambda m, b: forward(m, (b,)),
        )
    assert fingerprint(model) == before


def test_refuses_what_it_cannot_repair(tied, tokens):
    """An embedding's weight, no place for a mean, and a module that never runs are refused."""
    with pytest.raises(
        ValueError, match=r"layer 'embedding.weight' is weight of 'embedding', a Em"
    ):
        measure(tied, tokens, levels=2, recovery="bias", progress=False)
    with pytest.raises(
        ValueError, match=r"layer 'weight_ih_l0' is weight_ih_l0 of '', a LSTM: its"
    ):
        measure(nn.LSTM(4, 5), [torch.ones(2, 3, 4)], levels=2, recovery="bias", progress=False)
    plain = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"layer '0.weight': module '0' has no bias and no Batch"):
        measure(plain, [torch.ones(2, 3)], levels=2, recovery="bias", progress=False)

    class Attention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    with pytest.raises(ValueError, match=r"layer 'in_proj_weight' is in_proj_weight of ''"):
        measure(Attention(4, 2), [torch.ones(2, 3, 4)], levels=2, recovery="bias", progress=False)


def test_reuse_and_store_change_nothing(chain, data, tmp_path):
    """With prefix reuse, and from the store, repaired layers measure the same to the last bit."""
    options = {"levels": 7, "recovery": "least-squares+bias", "progress": False}
    plain = measure(chain, data, reuse=False, **options)
    stored = [measure(chain, data, store=tmp_path, **options) for _ in range(2)]
    for table in stored:
        assert table.flat_distortion.tolist() == plain.flat_distortion.tolist()
        assert np.array_equal(np.concatenate(table.responses), np.concatenate(plain.responses))
