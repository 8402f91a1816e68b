"""The callbacks of Lightning and Transformers, in those libraries' own loops where installed."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest
import torch
from torch import nn

from rdprune.hooks import lightning_callback, transformers_callback
from rdprune.keeping import MaskKeeper, SparsityLostError


def _library(attribute, *names):
    """Import the first of these that is there and whole, or skip with the reason."""
    reasons = []
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(name)
                getattr(module, attribute)
                return module
        except (ImportError, RuntimeError, AttributeError) as error:
            reasons.append(f"{name}: {error}")
    pytest.skip("; ".join(reasons))


def _pruned():
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    model.weight.data[:, ::2] = 0
    return model, MaskKeeper(model)


def _data():
    generator = torch.Generator().manual_seed(1)
    return [
        {"x": torch.randn(6, generator=generator), "labels": torch.tensor(i % 2)} for i in range(8)
    ]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_lightning(keep, tmp_path):
    """A fit with the callback keeps the zeros; without, momentum and decay fill them."""
    lightning = _library("Trainer", "lightning.pytorch", "pytorch_lightning")
    model, keeper = _pruned()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch["x"]), batch["labels"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning_callback(keeper)] if keep else [],
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(_data(), batch_size=4))
    assert trainer.global_step == 4
    if keep:
        assert keeper.verify() == {"weight": 6}
    else:
        with pytest.raises(SparsityLostError):
            keeper.verify()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_transformers(keep, tmp_path):
    """Training with the callback keeps the zeros; without, AdamW fills them."""
    transformers = _library("Trainer", "transformers")
    _library("Accelerator", "accelerate")
    model, keeper = _pruned()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(
        Network(), arguments, train_dataset=_data(),
        callbacks=[transformers_callback(keeper)] if keep else [],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4
    if keep:
        assert keeper.verify() == {"weight": 6}
    else:
        with pytest.raises(SparsityLostError):
            keeper.verify()


@pytest.mark.parametrize(
    ("make", "module", "message"),
    [
        (transformers_callback, ["transformers"], "transformers is missing: pip install"),
        (
            lightning_callback,
            ["lightning", "lightning.pytorch", "pytorch_lightning"],
            "pytorch_lightning is missing: pip install",
        ),
    ],
)
def test_missing_libraries(monkeypatch, make, module, message):
    """Without the library the message says what to install."""
    real = importlib.import_module

    def absent(name, *rest):
        if name in module:
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(sys.modules[make.__module__], "import_module", absent)
    with pytest.raises(ImportError, match=message):
        make(_pruned()[1])
