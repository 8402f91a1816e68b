"""The recipes: their list, their settings, and each from start to end on made-up pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_model
from typer.testing import CliRunner

from rdprune.cli import app
from rdprune.demo.network import ResNet
from rdprune.recipes.datasets import augment, open_source
from rdprune.recipes.networks import NETWORKS, library
from rdprune.recipes.recipe import find, load, recipes
from rdprune.recipes.run import network

NAMES = [
    "cifar10-densenet121",
    "cifar10-efficientnet-b0",
    "cifar10-resnet20",
    "cifar10-resnet32",
    "cifar10-resnet56",
    "cifar10-vgg16",
    "imagenet-deit-base",
    "imagenet-resnet50",
    "imagenet-vgg16-bn",
]
LARGE = {
    "cifar10-densenet121": ["--method", "uniform"],
    "imagenet-deit-base": ["--method", "uniform"],
    "imagenet-vgg16-bn": ["--method", "uniform"],
    # More than one value a channel, or BatchNorm drives the random network to inf.
    "imagenet-resnet50": ["--data", "fake:96", "--batch", "4"],
}


def run(*arguments):
    """Run the command, which must succeed, and return its JSON."""
    result = CliRunner().invoke(app, ["recipe", *arguments, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def _needs(network):
    """Skip where torchvision or timm is needed and cannot be imported."""
    if "resnet" in network and network != "resnet50":
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library("timm" if network == "deit-base" else "torchvision.models")
    except ImportError as error:
        pytest.skip(str(error))


def test_the_list():
    """Nine recipes, in order, each with all its settings."""
    found = run("--list")
    assert [entry["name"] for entry in found] == NAMES
    shown = CliRunner().invoke(app, ["recipe", "--list"]).stdout
    assert all(name in shown for name in NAMES)


def test_the_papers_settings():
    """Calibration, optimiser, steps and batch are those of the paper."""
    found = recipes()
    for name, recipe in found.items():
        assert recipe.calibration == (1024 if name.startswith("cifar10") else 256)
        assert recipe.amount == (0.6 if name == "imagenet-vgg16-bn" else 0.2)
        assert recipe.network in NETWORKS
    steps = {name: (r.optimizer, r.rate, r.batch, r.steps) for name, r in found.items()}
    assert steps["cifar10-resnet32"] == ("adamw", 3e-4, 100, 80_000)
    assert steps["cifar10-vgg16"] == ("adamw", 3e-4, 100, 40_000)
    assert steps["cifar10-densenet121"] == ("adamw", 3e-4, 100, 60_000)
    assert steps["cifar10-efficientnet-b0"] == ("adamw", 3e-4, 100, 40_000)
    assert steps["imagenet-resnet50"] == ("sgd", 0.01, 64, 40_000)
    assert steps["imagenet-vgg16-bn"] == ("sgd", 0.01, 32, 80_000)
    assert found["imagenet-resnet50"].weight_decay == 1e-4
    assert found["imagenet-resnet50"].schedule == "cosine"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    """Two rounds of two steps from random weights on made-up pictures: targets met, zeros exact."""
    _needs(find(name).network)
    found = run(
        name, "--data", "fake:32", "--rounds", "2", "--steps", "2", "--samples", "2",
        "--batch", "2", "--tested", "4", "--amount", "0.3", "--levels", "0,0.6",
        "--folder", str(tmp_path / "run"), *LARGE.get(name, ()),
    )  # fmt: skip
    assert [done["number"] for done in found["rounds"]] == [1, 2]
    for done in found["rounds"]:
        assert done["sparsity"] >= done["target"] - 1e-6
        assert np.isfinite(done["finetune"]["loss"])
        assert 0 <= done["tuned"]["top1"] <= 1
    last = tmp_path / "run" / "round-002"
    masks, weights = load_file(last / "masks.safetensors"), load_file(last / "weights.safetensors")
    assert sum(int(mask.sum()) for mask in masks.values()) == found["rounds"][1]["kept"]
    assert all(weights[name][~mask].eq(0).all() for name, mask in masks.items())


def test_made_up_pictures_are_as_many_as_asked_for():
    """Of all recipes: their calibration, and 64 at least."""
    for recipe in recipes().values():
        source = open_source(recipe, "fake:4")
        assert len(source.plain) == max(recipe.calibration, 64)


def test_another_fine_tune_in_the_folder(tmp_path):
    """More rounds may follow, but not with other steps or a smaller test."""
    folder = str(tmp_path / "run")
    options = ["--data", "fake:8", "--samples", "2", "--batch", "2", "--levels", "0,0.9"]
    options += ["--amount", "0.3", "--folder", folder, "--tested", "4"]
    name = "cifar10-resnet20"
    run(name, *options, "--rounds", "1", "--steps", "1")
    found = run(name, *options, "--rounds", "2", "--steps", "1")
    assert len(found["rounds"]) == 2
    for changed, said in (
        (["--steps", "2"], "steps 1, this one has 2"),
        (["--steps", "1", "--tested", "5"], "tested 4, this one has 5"),
    ):
        result = CliRunner().invoke(app, ["recipe", name, *options, "--rounds", "3", *changed])
        assert result.exit_code == 2
        assert f"holds a run with {said}" in result.stderr


@pytest.fixture
def folder(tmp_path):
    """Return a folder with both .npz files, of 8 pictures each, and weights of a ResNet-20."""
    files = []
    for i in range(8):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (30 * i, 0, 255 - 30 * i)).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    for part in ("train", "test"):
        np.savez(
            tmp_path / f"cifar10_jpeg_{part}.npz",
            jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
            offsets=np.cumsum([0, *map(len, files)]),
            labels=np.arange(8, dtype=np.uint8),
        )
    torch.manual_seed(3)
    save_model(ResNet(20), str(tmp_path / "dense.safetensors"))
    return tmp_path


def test_a_folder_of_pictures(folder):
    """The .npz layout and a file of weights are read, and a finished run is found again."""
    use = [
        "cifar10-resnet20", "--data", str(folder), "--weights", str(folder / "dense.safetensors"),
        "--folder", str(folder / "run"), "--rounds", "1", "--steps", "1", "--batch", "4",
        "--samples", "4", "--amount", "0.5", "--levels", "0,0.5,0.9",
    ]  # fmt: skip
    first = run(*use)
    assert first["rounds"][0]["sparsity"] >= 0.5
    assert run(*use) == first


def test_sources(folder):
    """Calibration is always the same, the stream depends on the seed, augmentation moves."""
    source = open_source(find("cifar10-resnet20"), str(folder))
    once, again = source.calibration(4), source.calibration(4)
    assert once[0][0].equal(again[0][0])
    assert source.plain[3][0].mean(dim=(1, 2)).shape == (3,)
    assert [source.test[i][1] for i in range(8)] == list(range(8))
    a, b, c = (next(source.stream(8, seed))[1].tolist() for seed in (0, 0, 1))
    assert a == b != c
    with pytest.raises(ValueError, match="has 8 training pictures, 9 asked for"):
        source.calibration(9)


def test_augment():
    """A picture is moved by at most four pixels, or mirrored, and nothing else."""
    torch.manual_seed(0)
    pictures = torch.zeros(300, 3, 32, 32)
    pictures[:, :, 10, 20] = torch.arange(1, 301)[:, None]
    changed = augment(pictures)
    assert changed.shape == pictures.shape
    for number, picture in enumerate(changed, start=1):
        assert picture.count_nonzero() == 3
        assert picture.max(-1)[0].max(-1)[0].tolist() == [number] * 3
    places = changed[:, 0].nonzero()[:, 1:].tolist()
    assert {y for y, _ in places} == set(range(6, 15))
    assert {x for _, x in places} == set(range(16, 25)) | {31 - x for x in range(16, 25)}
    assert len({tuple(place) for place in places}) > 9 * 12


def test_augment_is_the_plain_rule():
    """Each picture is what padding, cutting and flipping it alone gives, by the same draws."""
    pictures = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    changed = augment(pictures)
    torch.manual_seed(5)
    down, right, mirrored = (torch.randint(n, (20,)).tolist() for n in (9, 9, 2))
    for i, picture in enumerate(pictures):
        padded = torch.nn.functional.pad(picture, (4,) * 4)
        cut = padded[:, down[i] : down[i] + 32, right[i] : right[i] + 32]
        assert changed[i].equal(cut.flip(-1) if mirrored[i] else cut)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME and its --data, or --list"),
        (["cifar10-resnet32"], "NAME and its --data"),
        (["cifar10-resnet23", "--data", "fake"], "no recipe 'cifar10-resnet23'; close: cifar10-"),
        (["cifar10-resnet20", "--data", "/no/such"], "'/no/such' is not a folder"),
        (["cifar10-resnet20", "--data", "fake:x"], "must be fake:PIXELS"),
        (["cifar10-resnet20", "--data", "fake:-3"], "with at least 1 pixel"),
        (["cifar10-resnet20", "--data", "fake", "--tested", "0"], "tested is 0, must be from 1 to"),
        (["cifar10-resnet20", "--data", "fake", "--tested", "9999"], "to the 1024 test pictures"),
        (["cifar10-resnet20", "--data", "fake", "--weights", "pretrained"], "no public weights"),
        (["cifar10-resnet20", "--data", "fake", "--steps", "0"], "steps is 0, must be at least 1"),
        (["imagenet-resnet50", "--data", "."], "has no folder 'train' of classes"),
        (["cifar10-resnet20", "--data", "."], "has neither cifar10_jpeg_train.npz and"),
    ],
)
def test_refusals(tmp_path, monkeypatch, arguments, message):
    """Bad input is one line and exit code 2."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["recipe", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_of_ones_own(tmp_path):
    """A recipe may be a file; one with a setting too many or a wrong value is refused."""
    settings = dataclasses.asdict(find("cifar10-resnet20"))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**settings, "name": "mine", "steps": 7}))
    assert find(str(file)).steps == 7
    file.write_text(json.dumps({**settings, "network": "alexnet"}))
    with pytest.raises(ValueError, match="network is 'alexnet', must be one of"):
        network(load(file), 32, None)
    file.write_text(json.dumps({**settings, "speed": 1}))
    with pytest.raises(ValueError, match="not a recipe: settings missing or too many: speed"):
        load(file)
    file.write_text(json.dumps({**settings, "optimizer": "lion"}))
    with pytest.raises(ValueError, match="optimizer is 'lion', must be one of adamw, sgd"):
        load(Path(file))
