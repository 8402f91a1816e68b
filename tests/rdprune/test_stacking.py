"""Several options in one pass, against a pass for each, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from architectures import TINY, make
from rdprune import stacking
from rdprune.demo.network import ResNet
from rdprune.measuring import measure
from rdprune.sweeping import Sweep
from rdprune_core import FileFormatError

LEVELS = tuple(np.linspace(0, 1, 27))


@pytest.fixture
def passes(monkeypatch):
    """Count the passes of stacks, which are made whatever the clock says."""
    counted = []
    one = stacking.Stacker._pass

    def count(self, parameter, weights, runner):
        found = one(self, parameter, weights, runner)
        counted.append(len(weights))
        return found

    monkeypatch.setattr(stacking.Stacker, "_pass", count)
    monkeypatch.setattr(stacking.Stacker.__init__, "__defaults__", (math.inf,))
    monkeypatch.setattr(stacking, "ROWS", {"cpu": 64, "cuda": 64})
    return counted


def _batches(*shape: int, sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((size, *shape), generator=generator) for size in sizes]


def _same(model, batches, **options):
    """Measure with stacks and by the plain loop; every number must be the same."""
    options = {"levels": LEVELS, "progress": False, **options}
    plain = measure(model, batches, reuse=False, **options)
    stacked = measure(model, batches, **options)
    assert stacked.metadata == plain.metadata
    for rows, others in (
        (plain.distortion, stacked.distortion),
        (plain.responses, stacked.responses),
    ):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(rows, others, strict=True))
    assert any(row[-1] > 0 for row in plain.distortion)


def test_a_residual_network(passes):
    """Batches of two sizes, functional shortcuts: eight options a pass, the same numbers."""
    torch.manual_seed(0)
    model = ResNet(8, stride=2).eval()
    _same(model, _batches(3, 16, 16, sizes=(8, 4)))
    assert passes
    assert set(passes) == {8}


def test_fewer_passes(passes):
    """27 options: one alone to check the records, one for the stacks, 25 in four after one more."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    options = {"layers": ["2.weight"], "levels": np.linspace(0, 1, 28)}
    _same(model, _batches(6, sizes=(8,)), **options)
    assert passes == [8] * 5  # the first is the check's


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("compiled", "autocast")])
def test_other_networks(name, passes):
    """Whatever a network does with its weights, the numbers are those of the plain loop."""
    case = make(name)
    _same(case.model, case.batches, forward=case.forward, **(case.arguments or {}))


class Coupled(nn.Module):
    """Its samples are not independent: each sees the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Subtract the batch's mean."""
        hidden = self.first(x)
        return self.second(torch.relu(hidden - hidden.mean(0)))


class Ranked(nn.Module):
    """Its samples see each other only where one of them is among the largest."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the upper quarter of all the batch's numbers."""
        return torch.where(x > x.flatten().kthvalue(x.numel() * 3 // 4).values, x, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_samples_that_seldom_see_each_other(seed, passes):
    """A threshold over the batch is the same beside neighbours, but not beside far weights."""
    torch.manual_seed(seed)
    layers = [nn.Linear(32, 64), Ranked(), nn.Linear(64, 64), Ranked(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers).eval()
    _same(model, _batches(32, sizes=(4,)), levels=101)


def test_a_damaged_row_is_not_swallowed(passes, monkeypatch):
    """An option whose look-up fails in the midst of stacks is not lost: the error comes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    asked = []

    def damaged(_, layer, option):
        asked.append(option)
        if option.label == "0.3":
            raise FileFormatError("damaged")

    monkeypatch.setattr(Sweep, "_look_up", damaged)
    monkeypatch.setattr(Sweep, "_known", lambda *_: None)
    with pytest.raises(FileFormatError, match="damaged"):
        measure(model, _batches(6, sizes=(8,)), levels=101, progress=False)


def test_what_another_process_has_is_not_run(passes, monkeypatch):
    """Options that are known by the time their turn comes take no pass, alone or in a stack."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    batches, levels = _batches(6, sizes=(8,)), np.linspace(0.01, 1, 60)
    kept, measured = {}, Sweep._measured

    def note(self, layer, options):
        for option, found in measured(self, layer, options):
            kept[layer.name, option.key] = found
            yield option, found

    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "_measured", note)
        plain = measure(model, batches, levels=levels, reuse=False, progress=False)
    asked = []

    def known(_, layer, option):
        asked.append(option)
        return kept.get((layer.name, option.key)) if len(asked) > 30 else None

    monkeypatch.setattr(Sweep, "_look_up", known)
    monkeypatch.setattr(Sweep, "_known", lambda *_: None)  # when the run begins
    found = measure(model, batches, levels=levels, progress=False)
    assert len(asked) == 2 * 61
    # A check and 28 options; and the check of the second layer, whose dense weight is run.
    assert len(passes) == 1 + 4 + 1
    for rows, others in zip(plain.distortion, found.distortion, strict=True):
        assert rows.tobytes() == others.tobytes()


class Derived(nn.Module):
    """Its layer's weight is made from a parameter in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise the weight first."""
        weight = self.linear.weight
        return nn.functional.linear(x, weight - weight.mean(), self.linear.bias)


class Fixed(Derived):
    """It takes batches of eight samples and no others; `refusal` says how it tells."""

    def __init__(self, refusal: str) -> None:
        super().__init__()
        self.refusal = refusal

    def forward(self, x: Tensor) -> Tensor:
        """Run, or refuse."""
        if self.refusal == "assertion":
            assert len(x) == 8
        if self.refusal == "shape":
            x = x.reshape(8, 6)
        found = self.linear(x)
        return found[:8] if self.refusal == "fewer" else found


@pytest.mark.parametrize("refusal", ["assertion", "shape", "fewer"])
def test_a_model_for_one_size_of_batch_is_left(refusal, passes):
    """Whatever a model does with a batch that is too large, it is measured option by option."""
    torch.manual_seed(0)
    _same(Fixed(refusal).eval(), _batches(6, sizes=(8,)))
    assert passes == []


@pytest.mark.parametrize("kind", [Coupled, Derived])
def test_what_copies_cannot_do_alone_is_left(kind, passes):
    """Samples that see each other, and weights that are derived, are measured one by one."""
    torch.manual_seed(0)
    _same(kind().eval(), _batches(6, sizes=(8,)), layers=None)
    if kind is Derived:
        assert passes == []
    else:
        # The first layer's check fails; the second's copies do not see each other.
        assert len(passes) <= 1 + 3


def test_the_clock_decides(passes, monkeypatch):
    """Stacks that are not sooner end after the first."""
    monkeypatch.setattr(stacking.Stacker.__init__, "__defaults__", (0.0,))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    _same(model, _batches(6, sizes=(8,)), layers=["2.weight"])
    assert passes == [8]


@pytest.mark.parametrize("options", [{"recovery": "bias"}, {"reuse": False}])
def test_only_where_nothing_is_repaired(options, passes):
    """Repairs look at all samples, and the plain loop stays plain."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    measure(model, _batches(6, sizes=(8,)), levels=LEVELS, progress=False, **options)
    assert passes == []
