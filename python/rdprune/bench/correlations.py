"""Do responses of different layers add up: their cosines, and both predictions beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import rdprune
from rdprune import report
from rdprune.bench.recovery import load
from rdprune.layers import prunable
from rdprune.magnitude import label_level
from rdprune.picture import canvas, write
from rdprune.trial import trial
from rdprune_core import Allocation, RDTable, allocate, predictions

STATES = ("none", "batchnorm")
SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9)
WHOLE = 1 << 24  # numbers in a response, no more than there are outputs: no projection
SPREAD = 0.12  # standard deviation of a random allocation's levels


@dataclass(frozen=True, slots=True)
class Point:
    """Both predictions of an allocation, and its true distortion."""

    sparsity: float
    kind: str
    additive: float
    joint: float
    true: float


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One network in one state.

    Attributes
    ----------
    network, recovery : str
    cosines : float64 array (L, L)
        Of the layers' responses, each at the level nearest to the one asked for.
    points : tuple of Point
    """

    network: str
    recovery: str
    cosines: NDArray[np.float64]
    points: tuple[Point, ...]


def run(network: str, *, images: int, levels: int, level: float, draws: int) -> list[State]:
    """Measure a network in both states, and run random and optimal allocations."""
    model, calibration, _ = load(network, images, 1)
    layers = prunable(model)
    found = []
    for recovery in STATES:
        table = rdprune.measure(
            model, calibration, levels=levels, responses=WHOLE, recovery=recovery
        )
        points = []
        with trial(
            model,
            layers,
            tuple(calibration),
            "mse",
            seed=0,
            recovery=recovery,
            projection=0,
            forward=None,
        ) as run_pruned:
            for kind, allocation in _allocations(table, draws):
                kept = allocation.layer_costs["params"].tolist()
                run_pruned.prune(dict(zip(table.names, kept, strict=True)))
                additive, joint = predictions(table, allocation)
                assert joint is not None
                true = run_pruned.measure().distortion
                points.append(Point(allocation.sparsity, kind, additive, joint, true))
        found.append(State(network, recovery, cosines(table, level), tuple(points)))
    return found


def cosines(table: RDTable, level: float) -> NDArray[np.float64]:
    """Cosines between the responses of all layers, each at its level nearest to the one given."""
    assert table.responses is not None
    rows = []
    for labels, responses in zip(table.options, table.responses, strict=True):
        distance = [abs(label_level(label) - level) for label in labels]
        rows.append(responses[int(np.argmin(distance))].astype(np.float64))
    matrix = np.stack(rows)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    product: NDArray[np.float64] = unit @ unit.T
    return product


def _allocations(table: RDTable, draws: int) -> list[tuple[str, Allocation]]:
    """Random allocations about each sparsity, and the optima of both objectives there."""
    random = np.random.default_rng(0)
    rows = [np.array([label_level(label) for label in labels]) for labels in table.options]
    found = []
    for sparsity in SPARSITIES:
        for _ in range(draws):
            wanted = np.clip(random.normal(sparsity, SPREAD, len(rows)), 0, 1)
            choice = [int(np.abs(row - x).argmin()) for row, x in zip(rows, wanted, strict=True)]
            found.append(("random", Allocation.from_choice(table, choice)))
        found.append(("additive optimum", allocate(table, sparsity=sparsity)))
        found.append(("joint optimum", allocate(table, sparsity=sparsity, objective="joint")))
    return found


def show(states: Sequence[State]) -> Table:
    """Return a row for each state and range of sparsities: how far the predictions are off."""
    grid = Table("network", "state", "mean |cosine|", "sparsity", "allocations")
    grid.add_column("additive / true", justify="right")
    grid.add_column("joint / true", justify="right")
    for state in states:
        off = ~np.eye(len(state.cosines), dtype=bool)
        mean = f"{np.abs(state.cosines[off]).mean():.2f}"
        for place, sparsity in enumerate(SPARSITIES):
            near = [p for p in state.points if _nearest(p.sparsity) == place]
            if not near:
                continue
            ratios = [
                np.median([getattr(p, name) / p.true for p in near if p.true > 0])
                for name in ("additive", "joint")
            ]
            first = (state.network, state.recovery, mean) if place == 0 else ("", "", "")
            cells = [report.number(float(ratio), 3) for ratio in ratios]
            grid.add_row(*first, f"{sparsity:g}", str(len(near)), *cells)
        grid.add_section()
    grid.caption = "medians over the allocations nearest to a sparsity"
    return grid


def _nearest(sparsity: float) -> int:
    return int(np.abs(np.array(SPARSITIES) - sparsity).argmin())


def draw(path: str | Path, states: Sequence[State], level: float) -> None:
    """Write a PNG: the cosines as heat maps, and below the truth against both predictions."""
    figure = canvas(5.4 * len(states), 9.2)
    for place, state in enumerate(states, 1):
        axes = figure.add_subplot(2, len(states), place)
        image = axes.imshow(state.cosines, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set(
            title=f"{state.network}, {state.recovery}: cosines at sparsity {level:g}",
            xlabel="layer",
            ylabel="layer",
        )
        figure.colorbar(image, ax=axes, shrink=0.8)
        axes = figure.add_subplot(2, len(states), len(states) + place)
        true = [p.true for p in state.points]
        for marker, name in (("o", "additive"), ("x", "joint")):
            values = [getattr(p, name) for p in state.points]
            axes.plot(values, true, marker, label=f"{name} prediction", alpha=0.7, markersize=5)
        ends = [min(true), max(true)]
        axes.plot(ends, ends, color="0.5", linewidth=1)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="predicted distortion",
            ylabel="true distortion",
            title=f"{state.network}, {state.recovery}",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    write(figure, path)
