"""Comparing what a module gives in place of the network's output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import rdprune
from rdprune_core import allocate


class Small(nn.Module):
    """A body in blocks, a head, and a module that never runs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), nn.Conv2d(3, 4, 3), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 3)
        self.never = nn.Linear(1, 1)

    def forward(self, x):
        """Class scores."""
        return self.head(self.pool(self.body(x)).flatten(1))


def _model():
    torch.manual_seed(0)
    return Small(), [torch.randn(5, 1, 8, 8), torch.randn(3, 1, 8, 8)]


def test_output_and_input_of_a_module():
    """They are what the modules computed, and no hook is left behind."""
    model, batches = _model()
    pooled = model.pool(model.body(batches[0]))
    assert torch.equal(rdprune.features("pool")(model, batches[0]), pooled)
    assert torch.equal(rdprune.features("head:input")(model, batches[0]), pooled.flatten(1))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model(batches[0]).shape == (5, 3)


def test_measured_as_the_shortened_network_is():
    """The table, with prefix reuse, is that of the same network without its head."""
    model, batches = _model()
    short = nn.Sequential(model.body, model.pool, nn.Flatten())
    settings = {"levels": 5, "progress": False, "responses": 16}
    found = rdprune.measure(
        model,
        batches,
        ignore=["head", "never"],
        forward=rdprune.features("head:input"),
        **settings,
    )
    expected = rdprune.measure(short, batches, **settings)
    for a, b in zip(found.distortion, expected.distortion, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(found.responses, expected.responses, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_table_says_what_was_compared():
    """What checks, compares and refines by a table compares the same features; no top-1."""
    model, batches = _model()
    table = rdprune.measure(
        model,
        batches,
        levels=5,
        ignore=["head", "never"],
        forward=rdprune.features("head:input"),
        progress=False,
    )
    chosen = allocate(table, sparsity=0.5)
    short = nn.Sequential(model.body, model.pool, nn.Flatten())
    before = torch.cat([short(batch) for batch in batches])
    report = rdprune.verify(model, batches, chosen)
    rdprune.apply_(model, chosen)
    after = torch.cat([short(batch) for batch in batches])
    assert report.true == pytest.approx((after - before).square().mean().item())
    model, _ = _model()
    labelled = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in batches]
    (row,) = rdprune.compare(
        model, labelled, table, sparsities=[0.5], methods=["rdprune"], progress=False
    )
    assert row.distortion == pytest.approx(report.true)
    assert row.top1 is None
    refined = rdprune.refine(model, batches, table, chosen, rounds=0, progress=False)
    assert refined.start <= report.true


def test_a_layer_behind_is_refused():
    """A layer that has no part in the features is named, with the advice to ignore it."""
    model, batches = _model()
    with pytest.raises(ValueError, match=r"'head\.weight'.*ignore"):
        rdprune.measure(
            model, batches, ignore="never", forward=rdprune.features("pool"), progress=False
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [("tail", "has no module 'tail'"), ("never", "does not call its module 'never'")],
)
def test_modules_that_give_nothing(name, message):
    """A module that is absent or not called is refused."""
    model, batches = _model()
    with pytest.raises(ValueError, match=message):
        rdprune.features(name)(model, batches[0])
