"""What runs measure and minimise where they are not told: by what ships."""

from __future__ import annotations

import copy
import json
from fractions import Fraction

import pytest
import torch
from safetensors.torch import load_model
from torch import nn

from rdprune import blended, gaussian, measure
from rdprune.layers import prunable
from rdprune.schedule import iterate
from rdprune_core import Allocation, RDTable, allocate

PLAIN = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5))


@pytest.fixture
def classes(classifier):
    """Return batches of pictures with labels, most of which the classifier knows."""
    generator = torch.Generator().manual_seed(3)
    pictures = [torch.randn(6, 3, 5, 5, generator=generator) for _ in range(2)]
    with torch.no_grad():
        return [(x, classifier(x).argmax(1)) for x in pictures]


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
        ({"finetune": nothing, "rounds": 2}, ("batchnorm", "mse", 0.0)),
        ({"repair": "batchnorm", "rounds": 2}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "recovery": "none"}, ("none", "mse", 0.0)),
        ({"finetune": nothing, "distortion": "kl"}, ("batchnorm", "kl", 0.5)),
        ({"finetune": nothing, "blend": 0.0}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "objective": "joint"}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "method": "lamp"}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "shapes": ["2:4"]}, ("batchnorm", "nmse", 0.0)),
        ({"finetune": nothing, "distortion": "loss"}, ("batchnorm", "loss", 0.0)),
        ({"blend": 0.3}, ("none", "mse", 0.3)),
        ({"blend": Fraction(1, 4)}, ("none", "mse", 0.25)),
    ],
)
def test_what_ships_decides(classifier, classes, tmp_path, given, expected):
    """The state, the distortion and the share of energy, as the run folder records them."""
    iterate(
        classifier, classes, folder=tmp_path, amount=0.5, levels=5, progress=False,
        **{"rounds": 1, **given},
    )  # fmt: skip
    assert settings(tmp_path) == expected


@pytest.mark.parametrize("change", [
    lambda x, y: x,
    lambda x, y: (x, y.float()),
    lambda x, y: (x, y + 1),  # wrong, or beyond
    lambda x, y: (x, (y + 1) % 5),
    lambda x, y: (x, torch.stack([y, y], 1)),
])  # fmt: skip
def test_no_classifier_is_measured_by_mean_squares(classifier, classes, tmp_path, change):
    """Without outputs that are right about labels, standardising would hide their scale."""
    iterate(
        classifier, [change(*batch) for batch in classes], folder=tmp_path, rounds=1, amount=0.5,
        levels=5, finetune=nothing, progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("batchnorm", "mse", 0.5)


def test_a_forward_of_ones_own_is_no_classifier(classifier, classes, tmp_path):
    """What it returns is unknown."""
    iterate(
        classifier, classes, folder=tmp_path, rounds=1, amount=0.5, levels=5, finetune=nothing,
        forward=lambda model, batch: model(batch[0]), progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("batchnorm", "mse", 0.5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.int32])
def test_labels_of_any_integers(classifier, classes, tmp_path, kind):
    """Types that torch hardly computes with are labels too."""
    batches = [{"input": x, "labels": y.to(kind)} for x, y in classes]
    iterate(
        classifier, batches, folder=tmp_path, rounds=1, amount=0.5, levels=5, finetune=nothing,
        progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("batchnorm", "nmse", 0.5)


def test_noise_has_statistics_of_its_own(classifier, tmp_path):
    """Nothing about it is estimated again."""
    iterate(
        classifier, gaussian((3, 5, 5), 16), folder=tmp_path, rounds=1, amount=0.5, levels=5,
        finetune=nothing, progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("none", "mse", 0.0)


@pytest.mark.parametrize("returned", [0.5, torch.tensor(0.5), "good"])
def test_figures_have_names(classifier, classes, tmp_path, returned):
    """A bare number is refused, and said how."""
    with pytest.raises(ValueError, match=r"evaluate returned a .*must return named figures"):
        iterate(
            classifier, classes, folder=tmp_path, rounds=1, amount=0.5, levels=5,
            evaluate=lambda model: returned, progress=False,
        )  # fmt: skip


def test_small_batches_have_no_statistics(classifier, classes, tmp_path):
    """A rest of one sample in the last batch is no reason to fail."""
    batches = [*classes, tuple(part[:1] for part in classes[0])]
    with pytest.warns(
        UserWarning, match="batch 2 of 3 has 1 sample, too few for BatchNorm statistics"
    ):
        iterate(
            classifier, batches, folder=tmp_path, rounds=1, amount=0.5, levels=5,
            finetune=nothing, progress=False,
        )  # fmt: skip
    assert settings(tmp_path) == ("none", "mse", 0.0)


def test_a_sample_alone_has_no_statistics():
    """Asked for all the same, the batch is named, and the way out."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval()
    with (
        pytest.warns(UserWarning, match="batch 1 of 2 has 1 sample"),
        pytest.raises(ValueError, match=r"batch 1, .*needs several samples; leave that batch"),
    ):
        measure(
            model, [torch.randn(4, 4), torch.randn(1, 4)], levels=3, recovery="batchnorm",
            progress=False,
        )  # fmt: skip


class Branched(nn.Module):
    """Frozen features with BatchNorm, a head without, and a head that never runs."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten())
        self.head = nn.Linear(54, 5)
        self.aside = nn.Sequential(nn.Linear(54, 5), nn.BatchNorm1d(5))

    def forward(self, x):
        """Run the first head."""
        return self.head(self.features(x))


def test_batchnorm_that_no_pruned_layer_reaches_does_not_count(classes, tmp_path):
    """Its statistics stay as they are."""
    iterate(
        Branched().eval(), classes, folder=tmp_path / "head", rounds=1, amount=0.5, levels=5,
        finetune=nothing, ignore=["features", "aside"], progress=False,
    )  # fmt: skip
    assert settings(tmp_path / "head") == ("none", "mse", 0.0)
    iterate(
        Branched().eval(), classes, folder=tmp_path / "all", rounds=1, amount=0.5, levels=5,
        finetune=nothing, ignore="aside", progress=False,
    )  # fmt: skip
    assert settings(tmp_path / "all")[0] == "batchnorm"


def test_a_run_goes_on_as_it_was_begun(classifier, classes, tmp_path):
    """Also from a folder of before, and where nothing is fine-tuned any more."""
    dense = copy.deepcopy(classifier)
    options = {"folder": tmp_path, "amount": 0.3, "levels": 11, "progress": False}
    said = {"recovery": "none", "distortion": "kl", "blend": 0}
    iterate(classifier, classes, rounds=1, finetune=nothing, **said, **options)
    assert len(iterate(copy.deepcopy(dense), classes, rounds=2, finetune=nothing, **options)) == 2
    assert len(iterate(copy.deepcopy(dense), classes, rounds=2, **options)) == 2
    assert settings(tmp_path) == ("none", "kl", 0.0)
    with pytest.raises(ValueError, match='run with distortion "kl", this one has "mse"'):
        iterate(dense, classes, rounds=2, distortion="mse", **options)


def test_a_network_without_batchnorm_stays_as_the_paper_has_it(classes, tmp_path):
    """Its fine-tunes were not studied."""
    model = copy.deepcopy(PLAIN)
    model(classes[0][0])
    iterate(
        model, classes, folder=tmp_path, rounds=1, amount=0.5, levels=5, finetune=nothing,
        progress=False,
    )  # fmt: skip
    assert settings(tmp_path) == ("none", "mse", 0.0)


def test_a_folder_of_one_round_that_grows_says_what_it_goes_by(classifier, classes, tmp_path):
    """What one round takes is not what several do; another method is refused by its own name."""
    dense = copy.deepcopy(classifier)
    options = {"folder": tmp_path, "amount": 0.3, "levels": 11, "progress": False}
    iterate(classifier, classes, rounds=1, finetune=nothing, **options)
    with pytest.warns(UserWarning, match=r"as it was begun, for one round: .*nmse, blend 0\.5"):
        iterate(copy.deepcopy(dense), classes, rounds=2, finetune=nothing, **options)
    assert settings(tmp_path) == ("batchnorm", "nmse", 0.5)
    with pytest.raises(ValueError, match=r"holds a run with .*: take another folder"):
        iterate(dense, classes, rounds=2, method="lamp", **options)


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


def test_later_rounds_blend_the_energy_that_is_left(classifier, classes, tmp_path):
    """Of the weights of the round before, and no layer grows again."""

    def shrink(model, step):
        with torch.no_grad():
            model[0].weight_orig.mul_(0.05)
        return {}

    dense = copy.deepcopy(classifier)
    iterate(
        classifier, classes, folder=tmp_path, rounds=2, amount=0.3, finetune=shrink, levels=21,
        distortion="mse", blend=0.9, progress=False,
    )  # fmt: skip
    load_model(dense, tmp_path / "round-001" / "weights.safetensors")
    table = RDTable.load(tmp_path / "round-002" / "table.npz")
    first, found = (Allocation.load(tmp_path / f"round-00{n}" / "allocation.json") for n in (1, 2))
    budget = dict(found.budget)
    mixed = blended(table, dense, budget, share=0.9)
    expected = allocate(mixed, budget, previous=first)
    assert found.options == expected.options
    assert (found.layer_costs["params"] <= first.layer_costs["params"]).all()


def test_weights_that_are_zero_already_leave_nothing_to_mix(classifier, classes, tmp_path):
    """With more zeros than are to go, what was measured decides."""
    with torch.no_grad():
        classifier[4].weight[1:] = 0
    done = iterate(
        classifier, classes, folder=tmp_path, rounds=1, amount=0.3, levels=21, blend=0.5,
        recovery="batchnorm", progress=False,
    )  # fmt: skip
    assert done[0].predicted == 0


@pytest.mark.parametrize(
    "given",
    [{"method": "erk"}, {"objective": "joint"}, {"shapes": "2:4"}, {"distortion": "loss"}],
)
def test_what_has_no_energy_is_refused(classifier, classes, tmp_path, given):
    """A share of energy is for sums over single weights by magnitude."""
    with pytest.raises(
        ValueError,
        match=r"blend is 0\.5, but (method|objective|shapes|distortion) .*leave blend out",
    ):
        iterate(classifier, classes, folder=tmp_path, blend=0.5, progress=False, **given)
    with pytest.raises(ValueError, match=r"blend is 1\.5, must be a fraction"):
        iterate(classifier, classes, folder=tmp_path, blend=1.5, progress=False)
