"""Batches, outputs, and leaving a model as it was."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from rdprune.aside import labels, loss_labels
from rdprune.batches import (
    Runner,
    output_tensor,
    preserved,
    read,
    to_device,
)

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1])


class Doubling(nn.Module):
    """Gives back twice its input, by position or as the keyword `x`."""

    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    "batch",
    [X, (X, Y), [X], {"x": X}, {"x": X, "labels": Y}, {"x": X, "label": Y}, ({"x": X}, Y)],
    ids=["tensor", "tuple", "list", "dict", "labels", "label", "nested"],
)
def test_batch_forms(batch):
    """A batch is the input, a tuple or list of which it is the first, or keyword arguments."""
    (output,) = Runner(Doubling(), (batch,)).outputs()
    assert torch.equal(output, 2 * X)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ((X, Y), True),
        ({"x": X, "labels": Y}, True),
        ({"x": X, "label": Y}, True),
        (({"x": X}, Y), True),
        (X, False),
        ((X,), False),
        ((X, Y[:3]), False),
        ((X, X), False),
        ((X, Y.float()), False),
        ((X, Y > 0), False),
        ({"x": X}, False),
    ],
)
def test_labels(batch, found):
    """Labels are a 1-D integer tensor as long as the inputs, and otherwise there are none."""
    assert labels(batch) is (Y if found else None)


@pytest.mark.parametrize(
    "output",
    [
        X,
        (X, Y),
        [Y, X],
        {"loss": torch.tensor(0.0), "logits": X},
        {"ids": Y, "hidden": X},
    ],
)
def test_output_tensor(output):
    """The output is a tensor, the logits of a dict, or the first floating-point tensor."""
    assert output_tensor(output) is X


def test_forward_replaces_the_call():
    """A forward function gets the model and the whole batch."""
    runner = Runner(Doubling(), ((X, Y),), lambda model, batch: (batch[1], model(batch[0]) + 1))
    assert torch.equal(next(runner.outputs()), 2 * X + 1)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Y, "holds no floating-point tensor"),
        ("text", "a str, holds no floating-point tensor"),
        ({"ids": Y}, "a dict, holds no floating-point tensor"),
        (torch.tensor(1.0), "shape (), must have one row for each of the 4 samples"),
        (X[:3], "output on batch 0 has shape (3, 3), must have one row for each of the 4"),
        (X[:, :0], "shape (4, 0)"),
    ],
)
def test_bad_outputs(output, message):
    """An output without a floating-point tensor or without a row a sample is refused."""
    model = nn.Module()
    model.forward = lambda _x: output
    with pytest.raises(ValueError, match=r".") as caught:
        list(Runner(model, (X,)).outputs())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        (iter(()), "batches is empty"),
        (X, "batches is a Tensor, must be an iterable of batches"),
        ({"x": X}, "batches is a dict"),
        ((X, torch.zeros(3)), r"is it one batch\? Then \[batch\]"),
        ("ab", "batches is a str"),
        (None, "batches is a NoneType"),
        (7, "batches is a int"),
    ],
)
def test_bad_batches(batches, message):
    """No batch at all, or a single batch instead of an iterable, is refused."""
    with pytest.raises(ValueError, match=message):
        read(batches)


def test_iterator_is_read_once():
    """A generator is read to the end, once, and can then be run on many times."""
    data = read(x for x in (X, X + 1))
    runner = Runner(Doubling(), data)
    assert len(list(runner.outputs())) == len(list(runner.outputs())) == 2


def test_shuffling_loader_gives_one_order_and_keeps_the_generator():
    """A shuffling loader is read in one order, and reading does not move torch's generator."""
    dataset = torch.utils.data.TensorDataset(X, Y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = read(loader), read(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0][0], second[0][0])


def test_to_device_keeps_the_containers():
    """Moving keeps dicts, lists, named tuples and what is no tensor."""
    pair = namedtuple("pair", "x y")
    moved = to_device({"a": [X, 3], "b": pair(X, "text")}, torch.device("cpu"))
    assert moved["a"][1] == 3
    assert type(moved["a"]) is list
    assert moved["b"].y == "text"
    assert torch.equal(moved["b"].x, X)


class Untidy(nn.Module):
    """Writes to its buffers and attributes, and draws random numbers, whenever it runs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("nothing", None)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.cache = x
        self.count += torch.rand(2)
        self.count = self.count.clone()
        self.register_buffer("late", x)
        return x


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_preserved(network, fingerprint, error):
    """Buffers, attributes, modes and generators are as before, whatever happens inside."""
    model = nn.Sequential(Untidy(), network)
    before = fingerprint(model)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    try:
        with preserved(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            model(x)
            network.bn1.train()
            model(x)
            torch.manual_seed(7)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert fingerprint(model) == before


def test_every_pass_draws_the_same():
    """A model that draws random numbers draws the same ones in every pass of a seed."""
    model = nn.Module()
    model.forward = lambda x: x + torch.rand_like(x)
    with preserved(model):
        first, second = (next(Runner(model, (X,), seed=5).outputs()) for _ in range(2))
        other = next(Runner(model, (X,), seed=6).outputs())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_outputs_are_float32():
    """A half-precision output comes as float32."""
    (output,) = Runner(Doubling(), (X.half(),)).outputs()
    assert output.dtype == torch.float32


def test_inputs_survive_a_model_that_writes_to_them():
    """A model that changes its input in place sees the same batch in every pass."""
    x = X.clone()
    model = nn.Module()
    model.forward = lambda x: x.mul_(2)
    runner = Runner(model, (x,))
    assert torch.equal(next(runner.outputs()), next(runner.outputs()))
    assert torch.equal(x, X)


def test_labels_for_the_loss():
    """Labels of any shape; moved back by one for the next token; the inputs are refused."""
    ids = torch.tensor([[3, 1, 2], [2, 0, 1]])
    truth = torch.tensor([[9, 1, -100], [2, 5, 1]])
    batch = {"input_ids": ids, "labels": truth}
    assert torch.equal(loss_labels(batch, following=False), truth)
    assert loss_labels(batch, following=True).tolist() == [[1, -100, -100], [5, 1, -100]]
    assert torch.equal(loss_labels((ids, truth.int()), following=False), truth)
    assert loss_labels({"input_ids": ids}, following=False) is None
    assert loss_labels((ids, torch.rand(2)), following=False) is None
    same = {"input_ids": ids, "labels": ids.masked_fill(ids == 0, -100)}
    with pytest.raises(ValueError, match="say distortion='loss:next'"):
        loss_labels(same, following=False)
    assert loss_labels(same, following=False, checked=False) is not None
    assert loss_labels(same, following=True).tolist() == [[1, 2, -100], [-100, 1, -100]]
    with pytest.raises(ValueError, match=r"needs labels of shape \(n, tokens\)"):
        loss_labels((ids, torch.tensor([0, 1])), following=True)


@dataclass
class Output:
    """An output as a dataclass."""

    hidden: torch.Tensor
    logits: torch.Tensor | None = None


class Pair(NamedTuple):
    """An output as a named tuple."""

    aux: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        X,
        (Y, X),
        [None, (Y, [X, X + 1])],
        {"loss": X + 1, "logits": X},
        {"count": Y, "nested": {"last": X}},
        Output(X),
        Output(X + 1, X),
        Pair(X + 1, X),
        (Output(X + 1, X), X + 2),
        (3, "text", {"mask": Y}, X),
    ],
)
def test_every_shape_of_output(output):
    """The logits of what has fields, else the first floating-point tensor, however nested."""
    assert output_tensor(output) is X


@pytest.mark.parametrize("output", [Y, None, (), {"mask": Y}, [Y, (None, "x")], 3.0, Output])
def test_outputs_without_a_tensor(output):
    """What holds no floating-point tensor is refused, and says what to do."""
    with pytest.raises(ValueError, match=r"holds no floating-point tensor: give forward="):
        output_tensor(output)
