"""Batches: many perturbed instances of one table at once, beside a loop of single calls."""

from __future__ import annotations

import os
import statistics
from functools import partial
from typing import Any, Final

import numpy as np

from rdprune.bench.instances import MAIN_CURVE, SPARSITIES, find_shape, make_table
from rdprune.bench.solver import Step
from rdprune.bench.timing import timed
from rdprune_core import Allocation, Allocations, RDTable, allocate, allocate_many

SHAPE: Final = "ResNet-50"
NOISE: Final = 0.05


def batches(instances: int, step: Step) -> list[dict[str, Any]]:
    """Time `instances` draws of 5 % noise on ResNet-50 with 101 levels.

    Returns
    -------
    list of dict
        One a number of threads and sparsity: instances a second by the clock and by processor time,
        and the same of a loop over single calls, whose tables are made before.
    """
    table = make_table(find_shape(SHAPE), MAIN_CURVE, 0)
    rng = np.random.default_rng(0)
    rows = table.flat_distortion * (
        1 + NOISE * rng.standard_normal((instances, len(table.flat_distortion)))
    )
    tables = [RDTable.from_arrays(table.costs, np.split(row, table.offsets[1:-1])) for row in rows]
    cores = os.cpu_count() or 1
    found = []
    for sparsity in SPARSITIES:
        step(f"batches: sparsity {sparsity}")
        loop = timed(partial(_one_by_one, tables, sparsity))
        for threads in dict.fromkeys((1, min(cores, 2))):
            time, many = timed(
                partial(allocate_many, table, rows, sparsity=sparsity, threads=threads)
            )
            found.append(
                {
                    "sparsity": sparsity,
                    "threads": threads,
                    "instances": instances,
                    "seconds": time.wall,
                    "cpu": time.cpu,
                    "loop": loop[0].wall,
                    "loop_cpu": loop[0].cpu,
                    "proved": int(many.optimal.sum()),
                    "equal": _equal(many, loop[1]),
                }
            )
    return found


def solves_a_second(record: dict[str, Any]) -> float:
    """Return the rate of a batch whose threads have a core each to themselves."""
    return float(record["threads"] * record["instances"] / record["cpu"])


def slowest(records: list[dict[str, Any]]) -> float:
    """Return the median rate over the sparsities, with the most threads."""
    most = max(record["threads"] for record in records)
    return statistics.median(solves_a_second(r) for r in records if r["threads"] == most)


def _one_by_one(tables: list[RDTable], sparsity: float) -> list[Allocation]:
    return [allocate(table, sparsity=sparsity) for table in tables]


def _equal(many: Allocations, single: list[Allocation]) -> int:
    """Count the instances whose choice is that of the single call."""
    return sum(
        bool((choice == one.choice).all()) for choice, one in zip(many.choices, single, strict=True)
    )
