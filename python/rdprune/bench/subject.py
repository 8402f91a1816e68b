"""A network with its pictures: pruned, repaired, tested and fine-tuned, always the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.bench.recovery import load
from rdprune.criteria import parse
from rdprune.demo.data import Batches
from rdprune.keeping import MaskKeeper
from rdprune.layers import Prunable, prunable, signature
from rdprune.magnitude import magnitude_order, order_mask, write_masked
from rdprune.recipes.datasets import augment
from rdprune.repairing import repair_

TRAINING: Final = 50_000
AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Protocol:
    """A fine-tune that is the same for everybody: SGD with momentum and a cosine.

    Attributes
    ----------
    steps, batch : int
    rate, momentum, weight_decay : float
    """

    steps: int = 100
    batch: int = 64
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4


@dataclass(slots=True, eq=False)
class Subject:
    """A dense network and its pictures; made by `open_subject`.

    Attributes
    ----------
    name : str
    model : torch.nn.Module
        Dense, in evaluation mode; never changed.
    calibration, test : list of (pictures, labels)
    layers : dict of str to Prunable
        Of the dense model.
    mirrored : bool
        Whether a mirrored picture is of the same class.
    """

    name: str
    model: nn.Module
    calibration: Batches
    test: Batches
    layers: dict[str, Prunable]
    mirrored: bool
    _orders: dict[str, Tensor] = field(default_factory=dict)
    _training: tuple[Tensor, Tensor] | None = None

    @property
    def size(self) -> int:
        """Number of prunable weights."""
        return sum(layer.parameter.numel() for layer in self.layers.values())

    def key(self, kind: str) -> dict[str, Any]:
        """Return what every result of an experiment of this kind depends on."""
        return {
            "kind": kind,
            "network": self.name,
            "weights": signature(self.model),
            "images": len(labels_of(self.calibration)),
            "test": len(labels_of(self.test)),
            "torch": torch.__version__,
        }

    def pruned(self, kept: Mapping[str, int]) -> nn.Module:
        """Return a copy whose layers keep so many weights, the largest."""
        model = deepcopy(self.model)
        for name, layer in prunable(model, layers=list(self.layers)).items():
            order = self._order(name)
            dense = self.layers[name].parameter
            mask = order_mask(order, kept[name], dense.shape)
            write_masked(layer.parameter, dense.detach(), mask)
        return model

    def repaired(self, model: nn.Module, recovery: str) -> nn.Module:
        """Return a repaired copy of a pruned model."""
        model = deepcopy(model)
        if recovery != "none":
            repair_(model, self.calibration, recovery=recovery, dense=self.model)
        return model

    def tuned(
        self,
        model: nn.Module,
        protocol: Protocol,
        seed: int,
        *,
        dense: bool = False,
        each: Callable[[], None] = lambda: None,
    ) -> nn.Module:
        """Return a fine-tuned copy: of a pruned model with the same zeros, or of a dense one.

        `each` is called after every step.
        """
        model = deepcopy(model)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=protocol.rate, momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
        )  # fmt: skip
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(protocol.steps, 1))
        stream = self.stream(protocol.batch, seed)
        model.train()
        with nullcontext() if dense else MaskKeeper(model).attached(optimizer):
            for _ in range(protocol.steps):
                pictures, labels = next(stream)
                loss = functional.cross_entropy(model(pictures), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rates.step()
                each()
        return model.eval()

    def stream(self, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches without end, moved by up to four pixels and mirrored at random."""
        pictures, labels = self._train()
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(labels), generator=generator)
            for start in range(0, len(labels) - batch + 1, batch):
                rows = order[start : start + batch]
                moved = augment(pictures[rows], mirrored=self.mirrored, generator=generator)
                yield moved, labels[rows]

    def _order(self, name: str) -> Tensor:
        if name not in self._orders:
            self._orders[name] = magnitude_order(self.layers[name].parameter, layer=name)
        return self._orders[name]

    def _train(self) -> tuple[Tensor, Tensor]:
        if self._training is None:
            self._training = _training_pictures(self.name)
        return self._training


def open_subject(network: str, images: int, test: int) -> Subject:
    """Load a network: ``mnist``, or with the data folder ``resnet20``, ``resnet32``, ``resnet56``.

    Parameters
    ----------
    network : str
    images, test : int
        Calibration pictures, the first of the training pictures, in one batch; and test pictures.

    Raises
    ------
    ValueError
        If the network is unknown, or its data are missing.
    """
    model, calibration, heldout = load(network, images, test)
    return Subject(network, model, calibration, heldout, prunable(model), network != "mnist")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that two runs side by side do not hinder each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(model: nn.Module, batches: Batches) -> Tensor:
    """Return the logits on all batches, float32, shape (n, classes).

    A few pictures at a time with their channels last, which fits the cache better: a quarter
    faster for ResNet-20.
    """
    model = deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = []
    with torch.no_grad():
        for pictures, _ in batches:
            for few in torch.split(pictures.to(memory_format=torch.channels_last), AT_ONCE):
                logits.append(model(few))
    return torch.cat(logits)


def labels_of(batches: Batches) -> Tensor:
    """Return all labels, int64, shape (n,)."""
    return torch.cat([labels for _, labels in batches])


def figures(dense: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return mean square distortion, KL to the dense network's softmax, and top-1."""
    found = {kind: float(parse(kind).errors(dense, logits).mean()) for kind in ("mse", "kl")}
    return {
        **found,
        "top1": float((logits.argmax(1) == labels).double().mean()),
    }


def _training_pictures(network: str) -> tuple[Tensor, Tensor]:
    if network == "mnist":
        from rdprune.demo import data

        return data.split()[0]
    from rdprune.recipes import cifar10

    return cifar10.pictures("train", 0, TRAINING)
