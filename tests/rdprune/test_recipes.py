"""The CIFAR-10 recipe, on made-up files and, where they are at hand, on the real ones."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from rdprune.cli import app
from rdprune.demo.network import ResNet
from rdprune.recipes import cifar10

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with three pictures of one colour each."""
    files = []
    for colour in COLOURS:
        file = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    np.savez(
        tmp_path / "cifar10_jpeg_train.npz",
        jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.array([3, 1, 2], dtype=np.uint8),
    )
    monkeypatch.setenv("RDPRUNE_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_pictures_are_decoded_in_order_and_normalised() -> None:
    """Undoing the normalisation gives the colours back, channel by channel."""
    [(pictures, labels)] = cifar10.calibration(3)
    assert pictures.shape == (3, 3, 32, 32)
    assert labels.tolist() == [3, 1, 2]
    mean, std = torch.from_numpy(cifar10.MEAN), torch.from_numpy(cifar10.STD)
    colours = 255 * (pictures.mean(dim=(2, 3)) * std + mean)
    assert torch.allclose(colours, torch.tensor(COLOURS, dtype=torch.float32), atol=4)


@pytest.mark.usefixtures("folder")
def test_more_pictures_than_there_are_is_an_error() -> None:
    """The message says how many there are and which were asked for."""
    with pytest.raises(ValueError, match="has 3 pictures, 0 to 256 asked for"):
        cifar10.calibration()


@pytest.mark.usefixtures("folder")
def test_missing_files_are_named() -> None:
    """A missing part and missing weights are named in the message."""
    with pytest.raises(ValueError, match=r"has no cifar10_jpeg_test\.npz"):
        cifar10.test()
    with pytest.raises(ValueError, match=r"neither resnet56_cifar10_jpeg\.safetensors nor"):
        cifar10.resnet56()


@pytest.mark.parametrize(
    ("value", "message"), [(None, "RDPRUNE_DATA is not set"), ("/no/such/folder", "not a folder")]
)
def test_folder_must_be_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    """Without a folder every function says what the variable must be."""
    monkeypatch.delenv("RDPRUNE_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("RDPRUNE_DATA", value)
    for function in (cifar10.resnet32, cifar10.heldout):
        with pytest.raises(ValueError, match=message):
            function()


def test_adapted_weights_come_first(folder: Path) -> None:
    """Where both are there, the weights adapted to JPEG are loaded, counters missing or not."""
    for name, value in (("resnet20_cifar10", 1.0), ("resnet20_cifar10_jpeg", 2.0)):
        state = ResNet(20).state_dict()
        state["linear.bias"].fill_(value)
        kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        save_file(kept, folder / f"{name}.safetensors")
    model = cifar10.resnet20()
    assert model.linear.bias.eq(2).all()
    assert not model.training


def real_folder() -> Path:
    """Return the folder of the real files: named, or beside the repository."""
    named = os.environ.get("RDPRUNE_DATA")
    return Path(named) if named else Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(
    not (real_folder() / "resnet32_cifar10_jpeg.safetensors").is_file(),
    reason="needs the CIFAR-10 files: set RDPRUNE_DATA to their folder",
)
def test_resnet32_goes_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measure, allocate, apply and verify a real ResNet-32: counts agree, the file verifies."""
    monkeypatch.setenv("RDPRUNE_DATA", str(real_folder()))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("few_pictures.py").write_text(
        "from rdprune.recipes import cifar10\n\ndef few():\n    return cifar10.calibration(16)\n"
    )
    use = ["--model", "rdprune.recipes.cifar10:resnet32", "--data", "few_pictures:few"]
    run("measure", *use, "--levels", "0,0.5,0.8", "--output", "table.npz")
    found = run("allocate", "table.npz", "--sparsity", "0.6", "--output", "a.json")
    assert found["status"] == "optimal"
    assert found["cost"]["params"] <= found["budget"]["params"]
    pruned = ["--allocation", "a.json", "--output", "pruned.safetensors"]
    applied = run("apply", *use[:2], *pruned, "--masks", "masks.safetensors")
    assert applied["kept_total"] == found["cost"]["params"]
    verified = run("verify", *use, "--allocation", "a.json")
    assert verified["kept_total"] == found["cost"]["params"]
    assert verified["predicted"] == found["distortion"]
    stored = run("verify", *use, "--allocation", "a.json", "--weights", "pruned.safetensors")
    assert stored["true"] == pytest.approx(verified["true"], rel=1e-6)


def run(*arguments: str) -> dict[str, object]:
    """Run a command that must succeed and return its JSON."""
    result = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found
