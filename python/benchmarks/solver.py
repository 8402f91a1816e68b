"""Our solver beside others, on the same instances in one process.

Run it with ``python python/benchmarks/solver.py``; needs the extra ``[bench]``.

Every method gets the same table and budget. "worse by" is the true distortion of its choice over
the optimum's, minus one; "over budget" counts the weights by which it exceeds the true budget.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from rdprune_core import RDTable, allocate
from rdprune_core.reference import allocate_reference

Choice = NDArray[np.int64]
Method = Callable[[RDTable, int], Choice]


def shape(name: str) -> list[int]:
    """Weights of each prunable layer of a known network."""
    if name == "ResNet-32":
        stages = [(16, 16), (16, 32), (32, 64)]
        sizes = [3 * 16 * 9]
        for inner, (before, width) in enumerate(stages):
            del inner
            sizes += [before * width * 9] + [width * width * 9] * 9
        return [*sizes, 640]
    if name == "ResNet-50":
        sizes = [64 * 3 * 49]
        width_in = 64
        for width, blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]:
            for block in range(blocks):
                sizes += [width_in * width, width * width * 9, width * 4 * width]
                if block == 0:
                    sizes.append(width_in * width * 4)
                width_in = width * 4
        return [*sizes, 2048 * 1000]
    if name == "7B":
        return [4096 * 4096] * 4 * 32 + [4096 * 11008] * 3 * 32
    raise ValueError(f"unknown network {name!r}")


def make_table(name: str, seed: int) -> RDTable:
    """Rising curves with 5 % noise on a network's shape, 101 sparsities a layer."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0.0, 1.0, 101)
    costs, distortions = [], []
    for size in shape(name):
        costs.append([size - round(float(level) * size) for level in levels])
        curve = 10 ** rng.uniform(-4, 0) * levels ** rng.uniform(2, 5)
        distortions.append(curve * (1 + 0.05 * rng.standard_normal(len(levels))))
    return RDTable.from_arrays(costs, distortions)


def ours(table: RDTable, budget: int) -> Choice:
    """Allocate, as a user calls it."""
    found = allocate(table, budget)
    if found.status != "optimal":
        raise RuntimeError("the solver stopped at a limit")
    return found.choice


def pure_python(table: RDTable, budget: int) -> Choice:
    """Run the reference dynamic program with 1,000 buckets."""
    return allocate_reference(table, budget, buckets=1000).choice


def highs(table: RDTable, budget: int) -> Choice:
    """Solve the integer program with HiGHS at gap zero, distortions scaled to about 1e5."""
    distortion = np.stack(table.distortion)
    cost = np.stack(table.costs["params"])
    layers, options = distortion.shape
    size = layers * options
    rows = np.repeat(np.arange(layers), options)
    choose = csr_array((np.ones(size), (rows, np.arange(size))), shape=(layers, size))
    scale = np.abs(distortion).max() / 1e5
    result = milp(
        distortion.ravel() / scale,
        constraints=[
            LinearConstraint(choose, 1, 1),
            LinearConstraint(csr_array(cost.reshape(1, size).astype(float)), -np.inf, budget),
        ],
        integrality=np.ones(size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": 120.0},
    )
    if result.x is None:
        raise RuntimeError(f"HiGHS: {result.message}")
    choice: Choice = result.x.reshape(layers, options).argmax(axis=1)
    return choice


METHODS: dict[str, Method] = {
    "rdprune": ours,
    "HiGHS, gap 0": highs,
    "pure Python DP, 1,000 buckets": pure_python,
}


@dataclass
class Score:
    """What one method did on all seeds of one instance."""

    seconds: list[float]
    worse: list[float]
    over: list[int]


def score(name: str, sparsity: float, seeds: int, method: Method) -> Score:
    """Run one method on every seed."""
    result = Score([], [], [])
    for seed in range(seeds):
        table = make_table(name, seed)
        budget = int(table.dense["params"].sum() * (1 - sparsity))
        best = allocate(table, budget).distortion
        start = time.perf_counter()
        choice = method(table, budget)
        result.seconds.append(time.perf_counter() - start)
        flat = table.offsets[:-1] + choice
        result.worse.append(float(table.flat_distortion[flat].sum()) / best - 1.0)
        result.over.append(max(int(table.flat_cost("params")[flat].sum()) - budget, 0))
    return result


def main(
    seeds: Annotated[int, typer.Option(help="Tables for each instance.")] = 5,
    networks: Annotated[str, typer.Option(help="Comma-separated.")] = "ResNet-32,ResNet-50,7B",
) -> None:
    """Print one row for each instance and method."""
    console = Console(width=120)
    console.print(
        f"{platform.machine()}, Python {platform.python_version()}, one thread of ours; "
        f"median and largest of {seeds} seeds"
    )
    grid = Table("instance", "method", "median", "largest", "ratio", "worse by", "over budget")
    for name in networks.split(","):
        for sparsity in (0.5, 0.8, 0.95):
            fastest = 0.0
            for label, method in METHODS.items():
                result = score(name, sparsity, seeds, method)
                median = statistics.median(result.seconds)
                fastest = fastest or median
                grid.add_row(
                    f"{name} {sparsity}",
                    label,
                    f"{median * 1e3:,.2f} ms",
                    f"{max(result.seconds) * 1e3:,.2f} ms",
                    f"{median / fastest:,.0f} x",
                    f"{statistics.median(result.worse):.2%}",
                    f"{max(result.over):,}",
                )
            grid.add_section()
    console.print(grid)


if __name__ == "__main__":
    typer.run(main)
