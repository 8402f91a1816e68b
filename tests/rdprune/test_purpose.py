"""What runs measure and minimise where they are not told: by what ships."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from rdprune import blended, measure
from rdprune.layers import prunable
from rdprune.masking import load_masks
from rdprune.schedule import iterate
from rdprune_core import Allocation, allocate

PLAIN = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5))


@pytest.fixture
def classes():
    """Return batches of pictures with labels."""
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(6, 3, 5, 5, generator=generator), torch.arange(6) % 5) for _ in range(2)]


@pytest.fixture
def classifier():
    """Return a small classifier with BatchNorm."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5)
    ).eval()


def nothing(model, step):
    """Return no figures and train nothing."""
    return {}


def settings(folder):
    """Return what the run folder says of itself."""
    said = json.loads((folder / "history.json").read_text())["settings"]
    return said["recovery"], said["distortion"], said.get("blend", 0.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("none", "mse", 0.0)),
        ({"repair": "batchnorm"}, ("batchnorm", "nmse", 0.0)),
        ({"repair": "least-squares+bias+batchnorm"}, ("batchnorm", "nmse", 0.0)),
        ({"repair": "bias"}, ("none", "mse", 0.0)),
        ({"finetune": nothing}, ("batchnorm", "nmse", 0.5)),
        ({"finetune": nothing, "recovery": "none"}, ("none", "mse", 0.0)),
        ({"finetune": nothing, "distortion": "kl"}, ("batchnorm", "kl", 0.5)),
        ({"finetune": nothing, "blend": 0.0}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "objective": "joint"}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "method": "lamp"}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "shapes": ["2:4"]}, ("batchnorm", "nmse", 0.0)),
        ({"blend": 0.3}, ("none", "mse", 0.3)),
    ],
)
def test_what_ships_decides(classifier, classes, tmp_path, given, expected):
    """The state, the distortion and the share of energy, as the run folder records them."""
    iterate(
        classifier, classes, folder=tmp_path, rounds=1, amount=0.5, levels=5, progress=False,
        **given,
    )  # fmt: skip
    assert settings(tmp_path) == expected


@pytest.mark.parametrize("labels", ["none", "floats", "beyond"])
def test_no_classifier_is_measured_by_mean_squares(classifier, classes, tmp_path, labels):
    """Without a class for each sample, standardising would hide the scale of the outputs."""
    change = {"none": None, "floats": torch.randn(6), "beyond": torch.arange(6)}[labels]
    batches = [x if change is None else (x, change) for x, _ in classes]
    iterate(
        classifier, batches, folder=tmp_path, rounds=1, amount=0.5, levels=5, finetune=nothing,
        progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("batchnorm", "mse", 0.5)


def test_a_network_without_batchnorm_stays_as_the_paper_has_it(classes, tmp_path):
    """Its fine-tunes were not studied."""
    model = copy.deepcopy(PLAIN)
    model(classes[0][0])
    iterate(
        model, classes, folder=tmp_path, rounds=1, amount=0.5, levels=5, finetune=nothing,
        progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("none", "mse", 0.0)


def test_a_blended_round_is_the_mixture_by_hand(classifier, classes, tmp_path):
    """The optimum of `blended`; what is predicted stays the measured distortion."""
    dense = copy.deepcopy(classifier)
    table = measure(
        dense, classes, levels=21, recovery="batchnorm", distortion="nmse", progress=False
    )
    total = int(sum(p.parameter.numel() for p in prunable(dense).values()) * 0.4)
    mixed = blended(table, dense, {"params": total}, share=0.8)
    expected = allocate(mixed, {"params": total})
    plain = allocate(table, {"params": total})
    assert expected.options != plain.options
    done = iterate(
        classifier, classes, folder=tmp_path, rounds=1, amount=0.6, levels=21,
        finetune=nothing, blend=0.8, progress=False,
    )[0]  # fmt: skip
    found = Allocation.load(tmp_path / "round-001" / "allocation.json")
    assert found.options == expected.options
    measured = sum(
        float(row[option]) for row, option in zip(table.distortion, expected.choice, strict=True)
    )
    assert done.predicted == found.distortion == pytest.approx(measured, rel=1e-12)
    assert found.lower_bound == plain.distortion <= found.distortion
    assert found.metadata["blended"] == "0.8 removed energy"


def test_blended_rounds_keep_their_masks_nested(classifier, classes, tmp_path):
    """Energy is of the weights that are left, and no layer grows again."""
    iterate(
        classifier, classes, folder=tmp_path, rounds=3, amount=0.4, finetune=nothing,
        progress=False,
    )  # fmt: skip
    before = None
    for number in (1, 2, 3):
        made = load_masks(tmp_path / f"round-{number:03d}" / "masks.safetensors")
        assert before is None or all((before[name] | ~mask).all() for name, mask in made.items())
        before = made


def test_weights_that_are_zero_already_leave_nothing_to_mix(classifier, classes, tmp_path):
    """With more zeros than are to go, what was measured decides, and it is said."""
    with torch.no_grad():
        classifier[4].weight[1:] = 0
    with pytest.warns(UserWarning, match="least distortion within the budget is 0.*decides alone"):
        iterate(
            classifier, classes, folder=tmp_path, rounds=1, amount=0.3, levels=21, blend=0.5,
            recovery="batchnorm", progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("given", [{"method": "erk"}, {"objective": "joint"}, {"shapes": "2:4"}])
def test_what_has_no_energy_is_refused(classifier, classes, tmp_path, given):
    """A share of energy is for sums over single weights by magnitude."""
    with pytest.raises(ValueError, match=r"blend is 0\.5, which is for method 'rdprune'"):
        iterate(classifier, classes, folder=tmp_path, blend=0.5, progress=False, **given)
    with pytest.raises(ValueError, match=r"blend is 1\.5, must be a fraction"):
        iterate(classifier, classes, folder=tmp_path, blend=1.5, progress=False)
