"""Mixtures of measured distortion and removed energy."""

import numpy as np
import pytest
import torch
from torch import nn

from rdprune import allocate_by, measure
from rdprune.blending import blended, removed_energy
from rdprune_core import allocate


@pytest.fixture
def model():
    """Return two linear layers, the second with much larger weights."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    with torch.no_grad():
        made[2].weight.mul_(3)
    return made


@pytest.fixture
def table(model):
    """Return its table, every count of weights an option."""
    batches = [torch.randn(32, 8, generator=torch.Generator().manual_seed(1))]
    return measure(model, batches, levels=49, progress=False)


def test_energy_is_of_the_weights_that_are_removed(model, table):
    """Each option's energy, against the sum over its own mask."""
    found = removed_energy(table, model)
    for at, name in enumerate(table.names):
        weight = model.get_parameter(name).detach().double().reshape(-1)
        for option, energy in enumerate(found[at]):
            kept = int(table.costs["params"][at][option])
            removed = weight.abs().sort().values[: weight.numel() - kept]
            assert energy == pytest.approx(float(removed.square().sum()))


def test_all_energy_is_global_magnitude(model, table):
    """With the whole share the exact optimum keeps what global magnitude keeps."""
    chosen = allocate(blended(table, model, sparsity=0.5, share=1), sparsity=0.5)
    plain = allocate_by("global_magnitude", model, kept_total=int(chosen.cost["params"]))
    assert removed(table, model, chosen) <= removed_of(model, plain) * (1 + 1e-12)


def removed(table, model, allocation):
    """Return the energy that an allocation of the table removes."""
    rows = removed_energy(table, model)
    return sum(row[k] for row, k in zip(rows, allocation.choice, strict=True))


def removed_of(model, allocation):
    """Return the energy that any allocation removes, from its counts."""
    total = 0.0
    for name, kept in zip(allocation.names, allocation.layer_costs["params"], strict=True):
        weight = model.get_parameter(name).detach().double().reshape(-1)
        total += float(weight.abs().sort().values[: weight.numel() - int(kept)].square().sum())
    return total


def test_none_is_the_measured_optimum(model, table):
    """Without energy the choice is the table's own."""
    mixed = blended(table, model, "40%", share=0)
    assert allocate(mixed, "40%").choice.tolist() == allocate(table, "40%").choice.tolist()
    assert allocate(mixed, "40%").distortion == pytest.approx(1)


def test_between_it_is_between(model, table):
    """Half of each is worse than neither optimum in its own terms, and between in both."""
    optimum = allocate(table, sparsity=0.6)
    energetic = allocate(blended(table, model, sparsity=0.6, share=1), sparsity=0.6)
    half = allocate(blended(table, model, sparsity=0.6), sparsity=0.6)
    measured = [
        sum(row[k] for row, k in zip(table.distortion, found.choice, strict=True))
        for found in (optimum, half, energetic)
    ]
    energies = [removed(table, model, found) for found in (energetic, half, optimum)]
    for rising in (measured, energies):
        assert np.all(np.diff(rising) >= -1e-12)
        assert rising[0] < rising[2]
    assert blended(table, model, sparsity=0.6).responses is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"sparsity": 0.0}, "least distortion within the budget is 0"),
    ],
)
def test_refused(model, table, changes, message):
    """A share out of range, and a budget at which nothing is lost."""
    with pytest.raises(ValueError, match=message):
        blended(table, model, **{"sparsity": 0.5, **changes})


def test_other_masks_are_refused(model):
    """Energies are of sparsities by magnitude only."""
    shaped = measure(model, [torch.randn(4, 8)], levels=3, shapes=["2:4"], progress=False)
    with pytest.raises(ValueError, match="table has masks of kind"):
        blended(shaped, model, sparsity=0.5)
