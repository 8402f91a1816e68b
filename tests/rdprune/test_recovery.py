"""BatchNorm statistics: on the batch, and re-estimated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rdprune
from rdprune.recovery import batchnorms, recovered
from rdprune.repairing import repair_


def test_recovered_uses_each_batch_and_keeps_the_buffers(network, batches, fingerprint):
    """Within the context BatchNorm normalises by the batch; afterwards all is as before."""
    network.eval()
    before = fingerprint(network)
    x = batches[0][0]
    with recovered(network, "batchnorm"), torch.no_grad():
        normal = network.bn1(network.conv1(x))
    assert fingerprint(network) == before
    expected = network.conv1(x)
    expected = expected - expected.mean(dim=(0, 2, 3), keepdim=True)
    expected /= (expected.square().mean(dim=(0, 2, 3), keepdim=True) + network.bn1.eps).sqrt()
    scale, shift = (p.reshape(1, -1, 1, 1) for p in (network.bn1.weight, network.bn1.bias))
    torch.testing.assert_close(normal, expected * scale + shift)


def test_recovered_none_changes_nothing(network, fingerprint):
    """Recovery "none" leaves the statistics in place."""
    before = fingerprint(network)
    with recovered(network, "none"):
        assert fingerprint(network) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_recovered_restores_after_an_error(network, fingerprint, error):
    """Statistics are back after an exception or an interrupt."""
    before = fingerprint(network)
    with pytest.raises(error), recovered(network, "batchnorm"):
        raise error
    assert fingerprint(network) == before


def test_repair_averages_over_the_batches(network, batches, fingerprint):
    """New statistics are the mean of the batches' means and unbiased variances; no more changes."""
    before = fingerprint(network)
    assert repair_(network, batches) == 2
    with torch.no_grad():
        found = [network.conv1(x) for x, _ in batches]
    mean = torch.stack([y.mean(dim=(0, 2, 3)) for y in found]).mean(dim=0)
    variance = torch.stack([y.var(dim=(0, 2, 3)) for y in found]).mean(dim=0)
    torch.testing.assert_close(network.bn1.running_mean, mean)
    torch.testing.assert_close(network.bn1.running_var, variance)
    after = fingerprint(network)
    assert before.pop("buffers") != after.pop("buffers")
    assert before == after


def test_repair_is_idempotent(network, batches):
    """Repairing twice gives the same statistics as repairing once."""
    repair_(network, batches)
    first = [buffer.clone() for buffer in network.buffers()]
    repair_(network, iter(batches))
    assert all(torch.equal(a, b) for a, b in zip(first, network.buffers(), strict=True))


def test_repair_without_batchnorm():
    """A model without BatchNorm has nothing to repair, and 0 says so."""
    assert repair_(nn.Linear(3, 2), [torch.ones(2, 3)]) == 0


def test_idle_batchnorm_keeps_its_statistics():
    """A BatchNorm that does not run on the batches keeps what it had."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].running_mean.fill_(5)
    model.forward = lambda x: model[0](x)
    assert repair_(model, [torch.arange(12.0).reshape(4, 3)]) == 1
    assert model[1].running_mean.tolist() == [5.0] * 3
    assert model[0].running_mean.tolist() == [4.5, 5.5, 6.5]


@pytest.mark.parametrize("recovery", ["batchnorm", "none"])
def test_batches_too_small_for_statistics_are_named(network, batches, recovery):
    """Repairing and measuring warn of a batch of three, and only where it gives statistics."""
    data = [*batches, tuple(part[:3] for part in batches[0])]
    few = f"batch {len(batches)} of {len(data)} has 3 samples, too few for BatchNorm statistics"

    def measure():
        rdprune.measure(network, data, levels=3, recovery=recovery, progress=False)

    if recovery == "none":
        measure()
        return
    with pytest.warns(UserWarning, match=few):
        measure()
    with pytest.warns(UserWarning, match=few):
        repair_(network, data)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")], ids=repr)
def test_failing_repair_changes_nothing(network, batches, fingerprint, interrupting, error):
    """Statistics are the old ones when a batch fails or the user interrupts."""
    before = fingerprint(network)
    with pytest.raises(type(error)):
        repair_(network, batches, forward=interrupting(1, error))
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "batches is empty"),
        (
            [torch.ones(2, 1, 8, 8)],
            {"recovery": "none"},
            "recovery is 'none', must be one that repairs",
        ),
        ([torch.ones(2, 1, 8, 8)], {"recovery": "bias"}, "'bias' needs the dense model"),
        ([torch.full((4, 1, 8, 8), float("nan"))], {}, "statistics of 'bn1' .* are not finite"),
    ],
)
def test_bad_repair(network, fingerprint, batches, options, message):
    """Bad input is refused and changes nothing."""
    before = fingerprint(network)
    with pytest.raises(ValueError, match=message):
        repair_(network, batches, **options)
    assert fingerprint(network) == before


@pytest.mark.parametrize(
    ("recovery", "message"),
    [
        ("biases", "recovery is 'biases', must be one of none, least-squares, bias, batchnorm"),
        ("bias+bias", r"recovery is 'bias\+bias'"),
        ("none+bias", r"recovery is 'none\+bias'"),
        ("batchnorm", "model has no BatchNorm statistics"),
    ],
)
def test_bad_recovery(recovery, message):
    """An unknown recovery, or BatchNorm where there is none, is refused."""
    with pytest.raises(ValueError, match=message), recovered(nn.Linear(2, 2), recovery):
        pass


def test_batchnorms_without_statistics_are_left_out():
    """A BatchNorm that keeps no statistics has none to recover."""
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    assert batchnorms(model) == [model[1]]
