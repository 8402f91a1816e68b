"""What is wanted of each layer, what is known of it, and how ranks share what they know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rdprune.distortion import Measurement
from rdprune.layers import Prunable
from rdprune.options import Option
from rdprune.prefix import Prefix
from rdprune.ranks import Ranks
from rdprune.refitting import FitCost

PIECES = 8
"""Pieces of work for each rank, so that all end at about the same time."""
SMALLEST, LARGEST = 4, 25
"""Options in a piece: fewer do not pay for recording what runs before the layer."""

OVERHEAD = 0.015
"""Part of a pass that an option takes besides its own: masking, comparing, keeping."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Options of a layer that one rank measures in one go.

    Attributes
    ----------
    job : Job
    options : list of Option
    start, each : float
        Passes that the first option takes more than others do, and that every option takes.
    fit : callable, optional
        Passes that fitting the layer takes beside, by the weights kept.
    """

    job: Job
    options: list[Option]
    start: float
    each: float
    fit: Callable[[int], float] | None = None

    def passes(self, option: Option) -> float:
        """Return the passes that an option takes, but for the start."""
        return self.each + (0.0 if self.fit is None else self.fit(option.kept))

    @property
    def cost(self) -> float:
        """Passes that the piece takes."""
        return self.start + sum(map(self.passes, self.options))


@dataclass(frozen=True, slots=True)
class Fit:
    """What fitting a layer's weights takes.

    Attributes
    ----------
    start : float
        Passes before the first option.
    passes : callable
        Passes of an option, by the weights kept.
    """

    start: float
    passes: Callable[[int], float]

    @staticmethod
    def of(cost: FitCost, numel: int, pass_seconds: float) -> Fit:
        """Judge by timed fits and passes: the inputs are seen in one; all weights are no fit."""

        def passes(kept: int) -> float:
            return 0.0 if kept == numel else cost.seconds(kept) / pass_seconds

        return Fit(1.0 + cost.start / pass_seconds, passes)


@dataclass(frozen=True, slots=True)
class Job:
    """Options of a layer that are wanted, by the key of their mask; made by `Job.of`.

    Attributes
    ----------
    layer : Prunable
    options : dict of str to Option
        One for each mask.
    labels : dict of str to list of str
        All labels that stand for it.
    done : dict of str to Measurement
    """

    layer: Prunable
    options: dict[str, Option]
    labels: dict[str, list[str]]
    done: dict[str, Measurement]

    @staticmethod
    def of(layer: Prunable, options: Sequence[Option]) -> Job:
        """Group options by their mask."""
        labels: dict[str, list[str]] = {}
        for option in options:
            labels.setdefault(option.key, []).append(option.label)
        return Job(layer, {option.key: option for option in options}, labels, {})

    def left(self) -> list[Option]:
        """Return the options that are not measured yet."""
        return [option for key, option in self.options.items() if key not in self.done]


def cut(
    jobs: Sequence[Job],
    ranks: int,
    prefix: Prefix | None = None,
    fewest: int = 0,
    fits: Mapping[str, Fit] | None = None,
) -> list[Piece]:
    """Cut what is left to do in pieces, layer after layer, for so many ranks.

    With `prefix`, whoever begins a layer with at least `fewest` options runs what the layer before
    leaves to run, to record it, and one pass of the whole model, to check the records. Whoever
    begins a piece of a layer that is fitted runs the model to see its inputs.
    """
    total = sum(len(job.left()) for job in jobs)
    size = total if ranks == 1 else math.ceil(total / (PIECES * ranks))
    size = size if ranks == 1 else min(max(size, SMALLEST), LARGEST)
    pieces, before = [], 1.0
    for job in jobs:
        left = job.left()
        most = max(1, len(left) // SMALLEST)
        parts = min(math.ceil(len(left) / size), most) if left else 0
        for part in range(parts):
            options = left[part::parts]
            start, each = 0.0, 1.0
            share = 1.0 if prefix is None else prefix.shares[job.layer.name]
            if prefix is not None and share < 1 and prefix.trusts(job.layer):
                start, each = max(0.0, before - share), share
            elif share < 1 and len(options) >= fewest:
                start, each = before + 1.0, share
            if part:
                start = 0.0  # whoever measured the first part has the records
            before = share if each < 1 else before
            fit = None if fits is None else fits[job.layer.name]
            start += 0.0 if fit is None else fit.start
            passes = None if fit is None else fit.passes
            pieces.append(Piece(job, options, start, each + OVERHEAD, passes))
    return pieces


def trade(ranks: Ranks, jobs: Mapping[str, Job]) -> list[tuple[str, str]]:
    """Give every rank what any has measured; return what this one had not, by layer and key.

    Of what several ranks have, the first one's is sent, and only if another lacks it.
    """
    places = [(name, key) for name, job in jobs.items() for key in job.options]
    own = torch.tensor([key in jobs[name].done for name, key in places], dtype=torch.uint8)
    have = torch.stack(ranks.gathered(own)).bool()
    first, missing = have.int().argmax(dim=0), have.any(dim=0) & ~have.all(dim=0)
    sent = [(missing & (first == rank)).nonzero().flatten().tolist() for rank in range(ranks.size)]
    rows = [jobs[name].done[key].packed() for name, key in (places[at] for at in sent[ranks.rank])]
    table = np.stack(rows) if rows else np.zeros((0, 0))
    new = []
    for found, at in zip(ranks.exchanged(torch.from_numpy(table)), sent, strict=True):
        for row, (name, key) in zip(found.numpy(), (places[index] for index in at), strict=True):
            if key not in jobs[name].done:
                jobs[name].done[key] = Measurement.unpacked(row)
                new.append((name, key))
    return new
