"""Tiny models and batches, and what "exactly as it was" means."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdprune_core import Allocation, RDTable

Batches = list[tuple[Tensor, Tensor]]


MINE = """
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
    ).eval()

def batches():
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(16, 8, generator=generator), torch.arange(16) % 4) for _ in range(2)]
"""


class Network(nn.Module):
    """Two convolutions with BatchNorm, one of them grouped, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2)
        self.bn2 = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.linear(self.dropout(x.mean(dim=(2, 3))))


class Tied(nn.Module):
    """An embedding and a linear layer that share a weight, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(tokens))))


@pytest.fixture
def network() -> Network:
    """Return a trained-looking network, in training mode with a mix of flags."""
    torch.manual_seed(1)
    model = Network()
    for bn in (model.bn1, model.bn2):
        nn.init.uniform_(bn.running_mean, -0.2, 0.2)
        nn.init.uniform_(bn.running_var, 0.5, 1.5)
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model.linear.weight.grad = torch.ones_like(model.linear.weight)
    return model


@pytest.fixture
def tied() -> Tied:
    """Return a model with a shared weight."""
    torch.manual_seed(2)
    return Tied()


@pytest.fixture
def batches() -> Batches:
    """Return two batches of unequal length, with labels."""
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(n, 1, 8, 8, generator=generator),
            torch.randint(5, (n,), generator=generator),
        )
        for n in (6, 4)
    ]


@pytest.fixture
def tokens() -> list[Tensor]:
    """Return batches for the tied model."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(12, (3, 5), generator=generator) for _ in range(2)]


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _fingerprint(model: nn.Module) -> dict[str, Any]:
    modules = dict(model.named_modules())
    return {
        "order": [list(module._parameters) for module in modules.values()],
        "identity": [id(parameter) for parameter in model.parameters()],
        "weights": {name: _raw(p) for name, p in model.named_parameters()},
        "versions": [p._version for p in model.parameters()],
        "grads": {n: None if p.grad is None else _raw(p.grad) for n, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "buffers": {
            name: (id(b), _raw(b), b.requires_grad, b.grad_fn is None)
            for name, b in model.named_buffers()
        },
        "training": {name: module.training for name, module in modules.items()},
        "attributes": {
            name: {k: id(v) for k, v in vars(module).items()} for name, module in modules.items()
        },
        "hooks": {
            name: (dict(m._forward_hooks), dict(m._forward_pre_hooks))
            for name, m in modules.items()
        },
        "random": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


@pytest.fixture
def fingerprint() -> Callable[[nn.Module], dict[str, Any]]:
    """Return a function that tells everything a model must keep, weights bit for bit."""
    return _fingerprint


def _interrupting(after: int, error: BaseException) -> Callable[[nn.Module, Any], Any]:
    calls = 0

    def forward(model: nn.Module, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        torch.rand(1)
        if calls > after:
            raise error
        return model(batch[0])

    return forward


@pytest.fixture
def interrupting() -> Callable[[int, BaseException], Callable[[nn.Module, Any], Any]]:
    """Return a maker of forward functions that raise `error` after a number of calls."""
    return _interrupting


def _allocation(table: RDTable, choice: Mapping[str, str]) -> Allocation:
    indices = [
        options.index(choice.get(name, "0.0"))
        for name, options in zip(table.names, table.options, strict=True)
    ]
    return Allocation.from_choice(table, indices)


@pytest.fixture
def allocation_of() -> Callable[[RDTable, Mapping[str, str]], Allocation]:
    """Return a maker of allocations from option labels, dense where none is given."""
    return _allocation


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Work in a folder with a module mine.py; return the options that name its functions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(MINE)
    return ["--model", "mine:model", "--data", "mine:batches"]
