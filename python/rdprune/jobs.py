"""What is wanted of each layer, what is known of it, and how ranks share what they know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rdprune.distortion import Measurement
from rdprune.layers import Prunable
from rdprune.options import Option
from rdprune.ranks import Ranks

PIECES = 8
"""Pieces of work for each rank, so that all end at about the same time."""
SMALLEST, LARGEST = 4, 25
"""Options in a piece: fewer do not pay for recording what runs before the layer."""


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

    @property
    def average(self) -> float:
        """Passes that an option needs on average."""
        return len(self.options) / sum(map(len, self.labels.values()))

    def left(self) -> list[Option]:
        """Return the options that are not measured yet."""
        return [option for key, option in self.options.items() if key not in self.done]


def cut(jobs: Sequence[Job], ranks: int) -> list[tuple[Job, list[Option]]]:
    """Cut what is left to do in pieces, layer after layer, for so many ranks."""
    if ranks == 1:
        return [(job, left) for job in jobs if (left := job.left())]
    total = sum(len(job.left()) for job in jobs)
    size = min(max(math.ceil(total / (PIECES * ranks)), SMALLEST), LARGEST)
    pieces = []
    for job in jobs:
        left = job.left()
        parts = math.ceil(len(left) / size)
        pieces += [(job, left[part::parts]) for part in range(parts)]
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
