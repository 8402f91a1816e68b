"""The time left of a measurement, by a clock that only the network's modules move."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rdprune import measure, refitting
from rdprune.progress import Meter


class Clock:
    """Seconds that modules spend; while measuring each takes so many times what it did before."""

    def __init__(self, factors):
        self.now, self.factors, self.measuring = 0.0, factors, False

    def __call__(self):
        return self.now

    def spend(self, place, seconds):
        self.now += seconds * (self.factors[place] if self.measuring else 1.0)


def _timed(kind, clock, place, seconds, *sizes):
    """Return a module of a class whose forward takes its time."""

    class Timed(kind):
        def forward(self, inputs):
            clock.spend(place, seconds)
            return super().forward(inputs)

    return Timed(*sizes)


def _network(clock, costs, embedding, width):
    """Return layers in a row whose passes take so long, together 1 s."""
    seconds = np.array(costs) / sum(costs)
    layers = []
    for place, part in enumerate(seconds):
        first = place == 0 and embedding
        sizes = (50, width) if first else (width, width)
        layers.append(_timed(nn.Embedding if first else nn.Linear, clock, place, part, *sizes))
    return nn.Sequential(*layers)


def _shown(monkeypatch, costs, factors, *, levels, option, embedding, row=0.0, power=3, bent=False):
    """Measure; return when something was shown, and what was said to be left.

    `option` is the part of a pass that comparing takes, beside the pass; `row` what fitting all
    weights of an output takes, if anything is fitted, by a power of how many they are; `bent`
    if fewer than half of them take as long as half.
    """
    clock = Clock(factors)
    shown = []

    @contextmanager
    def bar(total, _shown):
        clock.measuring = True
        start = clock.now
        yield Meter(total, lambda meter: shown.append((clock.now - start, meter.left)), clock)

    def errors(dense, output):
        clock.now += option
        return (dense - output).square().mean(1)

    fit = refitting._row
    width = 32 if row else 6

    def fitted(square, targets, chosen, ridge):
        share = len(chosen) / width
        clock.now += row * (0.02 + (max(share, 0.5) if bent else share) ** power)
        return fit(square, targets, chosen, ridge)

    torch.manual_seed(0)
    model = _network(clock, costs, embedding, width)
    inputs = torch.randint(50, (20,)) if embedding else torch.randn(20, width)
    with monkeypatch.context() as patch:
        patch.setattr("rdprune.sweeping.progress_bar", bar)
        patch.setattr("rdprune.tracing.time", SimpleNamespace(perf_counter=clock))
        patch.setattr("rdprune.sweeping.time", SimpleNamespace(perf_counter=clock))
        patch.setattr("rdprune.refitting.time", SimpleNamespace(perf_counter=clock))
        patch.setattr("rdprune.refitting._row", fitted)
        measure(
            model, [inputs], levels=levels, distortion=errors,
            recovery="least-squares" if row else "none",
            layers=[f"{place}.weight" for place in range(len(costs))],
        )  # fmt: skip
    return shown


def _worst(shown, last_part=0.0):
    """Return the largest error of the time left, as a factor, from a tenth to the last part."""
    end = shown[-1][0]
    last = dict(shown)  # the last word before the clock moves on
    assert len(last) > 20
    return max(
        max(left / (end - at), (end - at) / max(left, 1e-12))
        for at, left in last.items()
        if end / 10 <= at < end * (1 - last_part) - 1e-9
    )


# Multiply-accumulates of a picture, in millions; of a text, for a token, in thousands.
RESNET32 = [0.44, *[2.36] * 10, 1.18, *[2.36] * 9, 1.18, *[2.36] * 9, 0.0006]
MINILM = [*[147, 147, 147, 147, 590, 590] * 6]
LATE = [1, *[20, 20, 20, 20, 80, 80] * 2, 4000]  # a decoder over the vocabulary
EARLY = [4000, *[20, 20, 20, 20, 80, 80] * 2, 1]

PROFILES = {"resnet32": RESNET32, "minilm": MINILM, "late": LATE, "early": EARLY}


def _factors(how, count):
    if how == "as traced":
        return np.ones(count)
    if how == "rising":
        return np.linspace(0.7, 1.3, count)
    if how == "falling":
        return np.linspace(1.3, 0.7, count)
    return np.where(np.arange(count) % 2, 0.7, 1.3)


@pytest.mark.parametrize(("levels", "option"), [(5, 0.02), (17, 0.01)])
@pytest.mark.parametrize("how", ["as traced", "rising", "falling", "alternating"])
@pytest.mark.parametrize("profile", PROFILES)
def test_time_left_is_right_within_a_factor_of_two(monkeypatch, profile, how, levels, option):
    """After a tenth of the time, whatever is dear, and though passes take 30 % more or less."""
    costs = PROFILES[profile]
    shown = _shown(
        monkeypatch,
        costs,
        _factors(how, len(costs)),
        levels=levels,
        option=option,
        embedding=profile != "resnet32",
    )
    assert _worst(shown) < 2


@pytest.mark.parametrize("row", [0.02, 0.3, 10.0])
@pytest.mark.parametrize(
    ("how", "power", "bent"),
    [
        *(("as traced", 3, False), ("alternating", 3, False)),
        *(("alternating", 0, False), ("alternating", 3, True)),
    ],
)
@pytest.mark.parametrize("profile", ["resnet32", "late"])
def test_fits_are_weighed(monkeypatch, profile, how, row, power, bent):
    """Also where fits take as long as passes or nearly all the time, by any power of weights."""
    costs = PROFILES[profile]
    shown = _shown(
        monkeypatch,
        costs,
        _factors(how, len(costs)),
        levels=17,
        option=0.01,
        embedding=False,
        row=row,
        power=power,
        bent=bent,
    )
    assert _worst(shown, last_part=0.005) < 2
