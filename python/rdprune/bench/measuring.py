"""What measuring costs: work, time and memory of the plain loop and of each saving.

Every method measures in a process of its own, which tells its peak of memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.table import Table
from torch import nn

import rdprune
from rdprune.batches import Runner, preserved
from rdprune.bench.counting import MacCounter
from rdprune.bench.networks import NETWORKS, Network
from rdprune.bench.process import apart
from rdprune.bench.show import clock
from rdprune.bench.solver import Step
from rdprune.searching import LEAST
from rdprune_core import Allocation, RDTable, allocate

SPARSITIES: Final = (0.5, 0.7, 0.8)
QUICK: Final = "demo"
QUICK_SAMPLES: Final = 20
LEVELS: Final = 101
PLAIN: Final = "plain"
WHOLE: Final = (PLAIN, "prefix")  # the methods that measure the full table, the same one


@dataclass(frozen=True, slots=True)
class Method:
    """How a method measures: with records or not, and which levels.

    ``targets`` are groups of sparsities; for each group one table is measured, of the options that
    its budgets need. Without any, all levels are measured. A search measures no table: it has a
    part of the passes of the plain loop for each sparsity.
    """

    reuse: bool
    targets: tuple[tuple[float, ...], ...] = ()
    searches: bool = False


ONE_BY_ONE: Final = tuple((sparsity,) for sparsity in SPARSITIES)
METHODS: Final = {
    PLAIN: Method(reuse=False),
    "prefix": Method(reuse=True),
    "adaptive": Method(reuse=False, targets=ONE_BY_ONE),
    "adaptive, prefix": Method(reuse=True, targets=ONE_BY_ONE),
    "adaptive, prefix, one table": Method(reuse=True, targets=(SPARSITIES,)),
    "all": Method(reuse=False, targets=ONE_BY_ONE, searches=True),
}
"""Plain first. Of several runs the dearest one's work, time and memory are told.

The last is `rdprune.search`: a first look or magnitudes to begin with, gradients or looks at parts
of the samples, and the solver, for one allocation and no table.
"""
QUICK_METHODS: Final = (*WHOLE, "adaptive", "all")  # each saving alone, and a search
FEWER: Final = 15
"""Passes of the plain loop over those of a search, which has `LEAST` at least."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one network.

    Attributes
    ----------
    network, method : str
    macs_ratio : float
        Multiply-accumulates done, over those of one dense pass over the calibration set.
    wall_s : float
        Seconds of the whole call.
    peak_bytes : int
        Largest resident memory of the process, torch and the batches among it.
    excesses : tuple of float
        True distortion of the resulting allocation over that from the full table, minus one; at
        sparsities 0.5, 0.7 and 0.8.
    """

    network: str
    method: str
    macs_ratio: float
    wall_s: float
    peak_bytes: int
    excesses: tuple[float, ...]

    def told(self) -> dict[str, Any]:
        """Return what JSON tells; of the excesses the worst, as ``excess_distortion``."""
        found = asdict(self)
        return found | {"excess_distortion": max(found.pop("excesses"))}


def run(
    names: Sequence[str],
    methods: Sequence[str],
    levels: int,
    step: Step,
    samples: int | None = None,
) -> list[Row]:
    """Measure each network by each method; the full table comes first.

    It is made by the plain loop, or with prefix reuse, which gives the same one, if that is asked
    for and the plain loop is not.

    Raises
    ------
    ValueError
        If a network or a method is unknown, or a network's files are missing.
    RuntimeError
        If a process fails.
    """
    for kind, asked, known in (("network", names, NETWORKS), ("method", methods, METHODS)):
        for name in asked:
            if name not in known:
                raise ValueError(f"--{kind} is {name!r}, must be one of {', '.join(known)}")
    rows = []
    for name in names:
        network = NETWORKS[name]
        size = samples or network.samples
        model, batches = network.model(), network.batches(size)
        first = next((method for method in WHOLE if method in methods), PLAIN)
        with tempfile.TemporaryDirectory() as folder:
            full: list[float] = []
            for method in dict.fromkeys((first, *methods)):
                step(f"{name}: {method}")
                path = str(Path(folder) / method.replace(" ", "-"))
                found, files = apart(_measure, name, method, levels, size, path)
                true = [
                    _true_distortion(network, model, batches, file, sparsity)
                    for sparsity, file in zip(SPARSITIES, files, strict=True)
                ]
                full = full or true
                excesses = tuple(a / b - 1 for a, b in zip(true, full, strict=True))
                if method in methods:
                    rows.append(Row(name, method, excesses=excesses, **found))
    return rows


def _true_distortion(
    network: Network, model: nn.Module, batches: list[Any], file: str, sparsity: float
) -> float:
    """Distortion, with all layers pruned, of the allocation in a file or of a table's optimum."""
    if file.endswith(".json"):
        found = Allocation.load(file)
    else:
        found = allocate(RDTable.load(file), sparsity=sparsity)
    return rdprune.verify(model, batches, found, forward=network.forward).true


def _measure(
    name: str, asked: str, levels: int, samples: int, path: str
) -> tuple[dict[str, Any], list[str]]:
    """Measure by a method; return what a row tells, and the file for each sparsity."""
    network, method = NETWORKS[name], METHODS[asked]
    model, batches = network.model(), network.batches(samples)
    runner = Runner(model, tuple(batches), network.forward)
    with torch.no_grad(), preserved(model), MacCounter() as once:
        for _ in runner.outputs():
            pass
    seconds, flops, files = [], [], {}
    for group in method.targets or (SPARSITIES,):
        start = time.perf_counter()
        with MacCounter() as counter:
            found = _measured(network, model, batches, method, group, levels)
        seconds.append(time.perf_counter() - start)
        flops.append(counter.flops)
        file = f"{path}-{group[0]}.{'npz' if isinstance(found, RDTable) else 'json'}"
        found.save(file)
        files.update(dict.fromkeys(group, file))
    unit = 1 if sys.platform == "darwin" else 1024
    told = {
        "macs_ratio": max(flops) / once.flops,
        "wall_s": max(seconds),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }
    return told, [files[sparsity] for sparsity in SPARSITIES]


def _measured(
    network: Network,
    model: nn.Module,
    batches: list[Any],
    method: Method,
    group: Sequence[float],
    levels: int,
) -> RDTable | Allocation:
    """Measure a table for some sparsities, or search at one."""
    if method.searches:
        layers = rdprune.prunable(model, **network.arguments)
        plain = 2 + len(layers) * (levels - 1)
        (sparsity,) = group
        return network.search(model, batches, sparsity=sparsity, passes=max(plain // FEWER, LEAST))
    chosen: dict[str, Any] = {"levels": levels}
    if method.targets:
        budgets = [f"{round(100 * (1 - sparsity), 9)}%" for sparsity in group]
        chosen = {"levels": "auto", "budgets": budgets}
    return network.measure(model, batches, reuse=method.reuse, **chosen)


def show(rows: Sequence[Row]) -> Table:
    """Return the rows as a table, each beside the plain loop on its network."""
    plain = {row.network: row for row in rows if row.method == PLAIN}
    table = Table(title="Measuring", box=None, title_justify="left")
    for title in ("network", "method"):
        table.add_column(title)
    for title in ("dense passes", "fewer", "time", "faster", "peak memory"):
        table.add_column(title, justify="right")
    for sparsity in SPARSITIES:
        table.add_column(f"excess at {sparsity}", justify="right")
    for row in rows:
        base = plain.get(row.network)
        table.add_row(
            row.network,
            row.method,
            f"{row.macs_ratio:,.0f}",
            f"{base.macs_ratio / row.macs_ratio:.2f} x" if base else "",
            clock(row.wall_s),
            f"{base.wall_s / row.wall_s:.2f} x" if base else "",
            f"{row.peak_bytes / 2**20:,.0f} MiB",
            *(f"{excess:+.1%}" for excess in row.excesses),
        )
    return table
