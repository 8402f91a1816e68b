"""The joint objective: time, gap, and distance to a search many times as long."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from rdprune_core import Allocation, RDTable, _core, allocate

#: Layers, options, and numbers in a response.
SHAPES = {"34 x 101": (34, 101, 256), "224 x 33": (224, 33, 512)}
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
CLOSE = 0.005  # to the long search's value, as a share of it


@dataclass(slots=True)
class Row:
    """What happened on all tables of one kind at one sparsity.

    Attributes
    ----------
    table : str
    sparsity : float
    seconds : list of float
        CPU time of the whole Python call, one thread.
    additive : list of float
        Joint value of the additive optimum over ours.
    gap : list of float
        (value - lower bound) / value.
    worse : list of float
        Our value over the best of ours and the long search's, minus one.
    """

    table: str
    sparsity: float
    seconds: list[float] = field(default_factory=list)
    additive: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    worse: list[float] = field(default_factory=list)


def make_table(seed: int, layers: int, options: int, width: int) -> RDTable:
    """Make responses that grow and turn with the sparsity, in directions shared by all layers."""
    rng = np.random.default_rng(seed)
    sizes = np.round(10 ** rng.uniform(3, 5.5, layers)).astype(np.int64)
    levels = np.linspace(0, 1, options)
    costs = sizes[:, None] - np.round(sizes[:, None] * levels).astype(np.int64)
    rank = int(rng.integers(4, 40))
    spectrum = 1 / np.sqrt(1 + np.arange(rank))
    basis = rng.standard_normal((rank, width)) / np.sqrt((spectrum**2).sum())
    size = 10 ** rng.uniform(-1.5, 0, layers)
    power = rng.uniform(1, 2.5, layers)
    t = levels[:, None]
    responses = []
    for layer in range(layers):
        low, high, middle = rng.standard_normal((3, rank)) * spectrum
        own = rng.standard_normal((2, width)) * rng.uniform(0.1, 0.7, (2, 1))
        turn = (low * (1 - t) + high * t + middle * np.sin(np.pi * t)) @ basis
        rows = size[layer] * t ** power[layer] * (turn + own[0] * (1 - t) + own[1] * t)
        rows += 0.03 * np.sqrt((rows**2).mean(1, keepdims=True)) * rng.standard_normal(rows.shape)
        responses.append(rows.astype(np.float32))
    distortion = [(rows.astype(np.float64) ** 2).mean(1) for rows in responses]
    return RDTable.from_arrays(costs, distortion, responses=responses)


def joint_value(table: RDTable, allocation: Allocation) -> float:
    """Return the mean square of the summed responses of an allocation."""
    assert table.responses is not None
    pairs = zip(table.responses, allocation.choice, strict=True)
    total = np.sum([rows[k].astype(np.float64) for rows, k in pairs], axis=0)
    return float(np.mean(total**2))


def long_search(table: RDTable, budget: int, effort: int) -> float:
    """Return the value of a search with `effort` times the trials, on more options."""
    assert table.responses is not None
    found = _core.search_joint(
        table.flat_cost("params")[:, None],
        table.flat_distortion,
        np.concatenate(table.responses),
        np.zeros(table.responses[0].shape[1]),
        table.offsets,
        np.ones(len(table.flat_distortion), np.uint8),
        np.arange(len(table.names)),
        np.array([budget]),
        time_limit=float("inf"),
        memory_limit=1 << 30,
        effort=effort,
    )
    return float(found.distortion)


def measure(seeds: int, effort: int, shapes: Sequence[str], tables: Sequence[Path]) -> list[Row]:
    """Run everything; `effort` zero leaves the long search out."""
    unknown = [shape for shape in shapes if shape not in SHAPES]
    if unknown:
        raise ValueError(f"unknown shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
    cases = {name: [make_table(seed, *SHAPES[name]) for seed in range(seeds)] for name in shapes}
    cases |= {path.name: [RDTable.load(path)] for path in tables}
    rows = []
    for name, entries in cases.items():
        for sparsity in SPARSITIES:
            row = Row(name, sparsity)
            for entry in entries:
                start = time.process_time()
                found = allocate(entry, sparsity=sparsity, objective="joint")
                row.seconds.append(time.process_time() - start)
                additive = joint_value(entry, allocate(entry, sparsity=sparsity))
                row.additive.append(additive / found.distortion)
                row.gap.append(found.gap)
                best = found.distortion
                if effort:
                    best = min(best, long_search(entry, found.budget["params"], effort))
                row.worse.append(found.distortion / best - 1.0)
            rows.append(row)
    return rows


def show(rows: Sequence[Row]) -> Table:
    """Return the rows as a table: medians, and the largest."""
    grid = Table(
        "table",
        "sparsity",
        "CPU time",
        "additive / ours",
        "gap",
        "worse than long search",
        f"by {CLOSE:.1%} at most",
    )
    forms = ("{:.2f} s", "{:.2f}", "{:.1%}", "{:.2%}")
    for row in rows:
        columns = (row.seconds, row.additive, row.gap, row.worse)
        cells = [
            f"{form.format(statistics.median(column))} ({form.format(max(column))})"
            for form, column in zip(forms, columns, strict=True)
        ]
        close = sum(share <= CLOSE for share in row.worse)
        grid.add_row(row.table, f"{row.sparsity}", *cells, f"{close} of {len(row.worse)}")
    return grid
