"""The demo: its data, its network, its training, and the whole run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_model

from rdprune.demo import data, network, run, train

if TYPE_CHECKING:
    from pathlib import Path


def test_split_is_stratified_and_disjoint() -> None:
    """Of every digit 400 train and 100 test pictures, and no picture is in both."""
    (pictures, labels), (tested, test_labels) = data.split()
    assert labels.bincount().tolist() == [400] * 10
    assert test_labels.bincount().tolist() == [100] * 10
    seen = {picture.numpy().tobytes() for picture in pictures}
    assert not any(picture.numpy().tobytes() in seen for picture in tested)


def test_split_is_the_same_everywhere() -> None:
    """The order of the digits is fixed: these are the first ones."""
    (_, labels), (_, test_labels) = data.split()
    assert labels[:8].tolist() == [3, 5, 1, 8, 7, 7, 4, 7]
    assert test_labels[:8].tolist() == [1, 2, 9, 2, 7, 7, 0, 7]


def test_pictures_are_normalised() -> None:
    """Mean and standard deviation of the training pictures are near 0 and 1."""
    pictures, _ = data.split()[0]
    assert pictures.shape[1:] == (1, 28, 28)
    assert pictures.dtype == torch.float32
    assert abs(float(pictures.mean())) < 0.02
    assert abs(float(pictures.std()) - 1) < 0.02


def test_batches_hold_every_sample_once() -> None:
    """Cutting into batches keeps order and number, the last batch being smaller."""
    cut = data.batches(torch.arange(10), torch.arange(10), 4)
    assert [len(labels) for _, labels in cut] == [4, 4, 2]
    assert torch.cat([x for x, _ in cut]).tolist() == list(range(10))


def test_trained_network_is_as_good_as_its_file_says() -> None:
    """The shipped weights classify the test digits as well as their metadata claims."""
    with safe_open(network.CHECKPOINT, "pt") as file:
        claimed = float(file.metadata()["top1_on_test"])
    assert claimed >= 0.985
    assert train.accuracy(network.trained(), data.test()) == pytest.approx(claimed, abs=0.0021)


def test_checkpoint_stays_small() -> None:
    """The shipped weights take at most 1.2 MB."""
    assert network.CHECKPOINT.stat().st_size <= 1_200_000


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_network_has_the_published_number_of_parameters(depth: int, count: int) -> None:
    """He et al.'s CIFAR networks have 0.27, 0.46 and 0.85 million parameters."""
    assert sum(p.numel() for p in network.ResNet(depth).parameters()) == count


@pytest.mark.parametrize("depth", [2, 19, 21, -4])
def test_impossible_depths_are_refused(depth: int) -> None:
    """A depth that is not 6n + 2 is named in the message."""
    with pytest.raises(ValueError, match=f"depth must be 6n \\+ 2 with n >= 1, got {depth}"):
        network.ResNet(depth)


def test_weights_of_another_network_are_refused() -> None:
    """Loading the demo's weights into a deeper network names the file."""
    with pytest.raises(ValueError, match=r"resnet20_mnist\.safetensors does not fit"):
        network.load_weights(network.ResNet(32), network.CHECKPOINT)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    """A weights file cut short is reported as unreadable."""
    path = tmp_path / "short.safetensors"
    path.write_bytes(network.CHECKPOINT.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        network.load_weights(network.untrained(), path)


def test_shifting_moves_and_pads() -> None:
    """A shifted picture has its shape, its dot moved by at most two pixels, and no new values."""
    pictures = torch.zeros(50, 1, 9, 9)
    pictures[:, 0, 4, 4] = 1
    moved = train.shifted(pictures, torch.Generator().manual_seed(0))
    assert moved.shape == pictures.shape
    assert moved.sum(dim=(1, 2, 3)).eq(1).all()
    places = moved.nonzero()[:, 2:]
    assert places.min() == 2
    assert places.max() == 6


def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four epochs on a few digits lower the training loss."""
    pictures, labels = data.split()[0]
    monkeypatch.setattr(train, "split", lambda: ((pictures[:256], labels[:256]), None))
    torch.manual_seed(0)
    losses = train.fit(network.untrained(), epochs=4)
    assert losses[-1] < 0.7 * losses[0]


def test_training_saves_what_can_be_loaded(tmp_path: Path) -> None:
    """Saved weights come back bit for bit, with the accuracy beside them."""
    model = network.untrained()
    train.save(model, tmp_path / "a.safetensors", 0.5, 1)
    again = network.load_weights(network.untrained(), tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["top1_on_test"] == "0.5000"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the demo small: few levels, few digits, two sparsities."""
    monkeypatch.setattr(run, "LEVELS", (0.0, 0.5, 0.8, 0.95))
    monkeypatch.setattr(run, "SPARSITIES", (0.5, 0.8))
    monkeypatch.setattr(run, "CALIBRATION", 16)
    monkeypatch.setattr(run, "HELDOUT", 40)


@pytest.mark.usefixtures("small")
def test_run_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo leaves table, allocations, masks and picture, and says what comes next."""
    folder = tmp_path / "deep" / "demo"
    run.run(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "allocation-0.5.json",
        "allocation-0.8.json",
        "masks-0.5.safetensors",
        "masks-0.8.safetensors",
        "picture.png",
        "table.npz",
    ]
    shown = capsys.readouterr().out
    assert "optimal" in shown
    assert "counts agree" in shown
    assert "lamp" in shown
    assert "rdprune measure  --model mine:model" in shown


@pytest.mark.usefixtures("small")
def test_run_can_speak_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON on standard output there is nothing else, and counts and budgets agree."""
    run.run(tmp_path, "-")
    found = json.loads(capsys.readouterr().out)
    for allocation, verified in zip(found["allocations"], found["verify"], strict=True):
        assert allocation["cost"]["params"] <= allocation["budget"]["params"]
        assert verified["kept_total"] == allocation["cost"]["params"]
    for sparsity in (0.5, 0.8):
        rows = [row for row in found["compare"] if row["sparsity"] == sparsity]
        assert len({row["kept"] for row in rows if row["method"] != "joint"}) == 1


def test_weights_of_another_depth(tmp_path: Path) -> None:
    """A few of the names that do not fit are named, and the others counted."""
    path = tmp_path / "deeper.safetensors"
    save_model(network.ResNet(26), str(path))
    with pytest.raises(ValueError, match=r"not the network's: [^,]+, [^,]+, [^,]+ and \d+ more$"):
        network.load_weights(network.ResNet(20), path)
