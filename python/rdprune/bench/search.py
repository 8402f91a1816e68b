"""Who finds the least true distortion with how many passes: searching, refining and others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import nn

import rdprune
from rdprune import report
from rdprune.bench.evolution import Counts, evolve
from rdprune.bench.recovery import load
from rdprune.layers import Prunable, prunable
from rdprune.picture import canvas, write
from rdprune.searching import OUTSIDE, STARTS
from rdprune.spdy import spdy
from rdprune.trial import Trial, trial
from rdprune_core import Allocation, RDTable

STATES = ("none", "batchnorm")
PROBES = 32
LOOK = 1 + 2 * PROBES  # a backward pass takes about two forward ones
FINE = 101  # levels of the first look, which costs the same for any
SHARE = 8  # evolution's first look at a child is on one eighth of the samples
METHODS = ("search", "refine after measuring", "refine after a first look", "evolution", "SPDY")
REFINED = METHODS[1:3]
SEEDED = ("search", "evolution")


@dataclass(slots=True)
class Curve:
    """The least true distortion so far, over the passes, of one search.

    Attributes
    ----------
    network, method : str
    sparsity : float
    seed : int
    passes : list of float
        Runs of the network over all calibration samples.
    distortion : list of float
        On the calibration samples.
    heldout : float
        Of the last allocation, on the test samples, in the same state.
    """

    network: str
    method: str
    sparsity: float
    seed: int
    passes: list[float] = field(default_factory=list)
    distortion: list[float] = field(default_factory=list)
    heldout: float = 0.0

    def note(self, passes: float, distortion: float) -> None:
        """Add a point; a value that is no better repeats the best."""
        self.passes.append(passes)
        self.distortion.append(min([distortion, *self.distortion[-1:]]))

    def at(self, passes: float) -> float | None:
        """Return the least distortion found within so many passes."""
        known = [d for p, d in zip(self.passes, self.distortion, strict=True) if p <= passes]
        return known[-1] if known else None


class _SpentError(Exception):
    """All passes are spent."""


class _Judge:
    """Runs allocations by their weights kept, on all samples or a few, and counts."""

    def __init__(self, layers: Mapping[str, Prunable], whole: Trial, few: Trial, most: int) -> None:
        self.names = list(layers)
        self.passes = 0.0
        self._whole = whole
        self._few = few
        self._most = most

    def score(self, kept: Counts | Mapping[str, int]) -> float:
        """Run on all samples: one pass."""
        return self._run(self._whole, kept, 1.0)

    def look(self, kept: Counts) -> float:
        """Run on some: a part of a pass."""
        return self._run(self._few, kept, 1 / SHARE)

    def _run(self, network: Trial, kept: Counts | Mapping[str, int], cost: float) -> float:
        if self.passes + cost > self._most:
            raise _SpentError
        self.passes += cost
        if not isinstance(kept, Mapping):
            kept = dict(zip(self.names, kept.tolist(), strict=True))
        self._whole.prune(kept)
        self._whole.settle()  # both run the same model
        return network.measure().distortion


def run(
    networks: Sequence[str],
    *,
    sparsities: Sequence[float],
    images: int,
    test: int,
    levels: int,
    passes: int,
    seeds: int,
    recovery: str,
) -> list[Curve]:
    """Search on every network at every sparsity; what is random once for each seed."""
    if recovery not in STATES:
        raise ValueError(f"recovery is {recovery!r}, must be one of {', '.join(STATES)}")
    curves = []
    for name in networks:
        model, calibration, heldout = load(name, images, test)
        tables = {
            REFINED[0]: rdprune.measure(model, calibration, levels=levels, recovery=recovery),
            REFINED[1]: rdprune.first_look(
                model, calibration, levels=FINE, probes=PROBES, recovery=recovery
            ),
        }
        for sparsity in sparsities:
            for method in METHODS:
                for seed in range(seeds if method in SEEDED else 1):
                    curve = Curve(name, method, sparsity, seed)
                    if method in REFINED:
                        table = tables[method]
                        options = 1 + len(table.names) * (levels - 1)
                        spent = LOOK if method == REFINED[1] else options
                        kept = _refine(curve, model, calibration, table, spent, passes)
                    elif method == "search":
                        kept = _searched(curve, model, calibration, passes, recovery)
                    else:
                        kept = _search(curve, model, calibration, passes, recovery)
                    curve.heldout = distortion_of(model, heldout, kept, recovery)
                    curves.append(curve)
    return curves


def _refine(
    curve: Curve, model: nn.Module, calibration: Any, table: RDTable, spent: int, most: int
) -> dict[str, int]:
    """Refine with what a table has left of the passes."""
    if spent >= most:
        raise ValueError(f"passes is {most}, the table alone takes {spent}")
    found = rdprune.refine(
        model,
        calibration,
        table,
        sparsity=curve.sparsity,
        rounds=most,
        passes=most - spent,
    )
    before = found.passes - sum(entry.passes for entry in found.rounds)
    curve.note(spent + before, found.start)
    for entry in found.rounds:
        before += entry.passes
        curve.note(spent + before, entry.distortion)
    return _kept(found.allocation)


def _searched(
    curve: Curve, model: nn.Module, calibration: Any, most: int, recovery: str
) -> dict[str, int]:
    found = rdprune.search(
        model,
        calibration,
        sparsity=curve.sparsity,
        passes=most,
        recovery=recovery,
        seed=curve.seed,
        progress=False,
    )
    curve.note(OUTSIDE + len(STARTS), found.start)
    for entry in found.generations:
        curve.note(entry.passes, entry.distortion)
    return _kept(found.allocation)


def _kept(allocation: Allocation) -> dict[str, int]:
    return dict(zip(allocation.names, allocation.layer_costs["params"].tolist(), strict=True))


def _search(
    curve: Curve, model: nn.Module, calibration: Any, most: int, recovery: str
) -> dict[str, int]:
    """Let evolution or SPDY spend the passes."""
    layers = prunable(model)
    total = sum(layer.parameter.numel() for layer in layers.values())
    total -= round(curve.sparsity * total)
    best: dict[str, int] = {}
    few = [tuple(part[: max(len(part) // SHARE, 1)] for part in batch) for batch in calibration]
    with (
        _network(model, layers, calibration, recovery) as whole,
        _network(model, layers, few, "none") as some,  # in the state that `whole` set
    ):
        judge = _Judge(layers, whole, some, most)
        try:
            if curve.method == "SPDY":

                def score(kept: Mapping[str, int]) -> float:
                    nonlocal best
                    value = judge.score(kept)
                    if not curve.distortion or value < curve.distortion[-1]:
                        best = dict(kept)
                    curve.note(judge.passes, value)
                    return value

                spdy(layers, total, score, seed=curve.seed)
            else:
                for kept, value in _evolution(judge, layers, total, curve.seed):
                    best = dict(zip(layers, kept.tolist(), strict=True))
                    curve.note(judge.passes, value)
        except _SpentError:
            pass
    return best


def _evolution(
    judge: _Judge, layers: Mapping[str, Prunable], total: int, seed: int
) -> Iterator[tuple[Counts, float]]:
    """Evolve from the best of four magnitude allocations, as searching does."""
    starts = [method(layers, total) for method in STARTS]
    start = min(starts, key=judge.score)
    sizes = np.array([layer.parameter.numel() for layer in layers.values()])
    first = np.array(list(start.values()))
    return evolve(first, sizes, judge.look, judge.score, seed=seed)


@contextmanager
def _network(
    model: nn.Module, layers: Mapping[str, Prunable], data: Any, recovery: str
) -> Iterator[Trial]:
    with trial(
        model,
        layers,
        tuple(data),
        "mse",
        seed=0,
        recovery=recovery,
        projection=0,
        forward=None,
    ) as network:
        yield network


def distortion_of(model: nn.Module, data: Any, kept: Mapping[str, int], recovery: str) -> float:
    """Return the true distortion on some batches of a network that keeps so many weights."""
    with ExitStack() as stack:
        network = stack.enter_context(_network(model, prunable(model), data, recovery))
        network.prune(kept)
        return network.measure().distortion


def _marks(curves: Sequence[Curve]) -> list[int]:
    """Numbers of passes that the table shows: quarters of the most."""
    most = max(curve.passes[-1] for curve in curves)
    return [math.ceil(most * part / 40) * 10 for part in (1, 2, 3, 4)]


def show(curves: Sequence[Curve]) -> Table:
    """Return a row for each search: least true distortion within some passes, and held out."""
    marks = _marks(curves)
    grid = Table("network", "sparsity", "method", "seed")
    for mark in marks:
        grid.add_column(f"{mark:,.0f} passes", justify="right")
    grid.add_column("held out", justify="right")
    before = None
    for curve in curves:
        key = (curve.network, curve.sparsity)
        if before not in (None, key):
            grid.add_section()
        before = key
        cells = [report.number(curve.at(mark), 4) for mark in marks]
        grid.add_row(
            curve.network,
            f"{curve.sparsity:g}",
            curve.method,
            str(curve.seed),
            *cells,
            report.number(curve.heldout, 4),
        )
    grid.caption = (
        "least true distortion found on the calibration samples; passes count measuring the "
        f"table, {LOOK} for a first look"
    )
    return grid


def draw(path: str | Path, curves: Sequence[Curve]) -> None:
    """Write a PNG: distortion over passes, a panel for each network and sparsity."""
    keys = list(dict.fromkeys((curve.network, curve.sparsity) for curve in curves))
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure = canvas(5.2 * columns, 3.6 * rows)
    for place, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, columns, place)
        for color, method in enumerate(METHODS):
            for curve in curves:
                if (curve.network, curve.sparsity, curve.method) == (*key, method):
                    label = method if curve.seed == 0 else None
                    axes.step(
                        curve.passes,
                        curve.distortion,
                        where="post",
                        color=f"C{color}",
                        label=label,
                        linewidth=1.2,
                        alpha=1.0 if curve.seed == 0 else 0.5,
                    )
        axes.set(
            title=f"{key[0]}, sparsity {key[1]:g}",
            xlabel="passes over the calibration samples",
            ylabel="true distortion",
        )
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    write(figure, path)
