"""What matters: numbers in a response, calibration samples, levels, and the radius of refining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table
from torch import nn

import rdprune
from rdprune import report
from rdprune.bench.recovery import load
from rdprune.bench.search import distortion_of
from rdprune_core import Allocation, allocate

#: What is tried of each setting, the others being as in `BASE`.
VALUES = {
    "m": (16, 64, 256, 1024),
    "images": (32, 128, 512, 1024),
    "levels": (12, 24, 51, 101),
    "radius": (1, 2, 3, 5),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is varied."""

    m: int = 256
    images: int = 128
    levels: int = 24
    radius: int = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One setting changed, at one sparsity.

    Attributes
    ----------
    network, setting : str
    value : int
    sparsity : float
    additive, joint, refined : float
        True distortion on the test samples of what the table's optima and refining chose.
    measuring, refining : int
        Passes.
    samples : int
        Samples that all passes ran on together.
    """

    network: str
    setting: str
    value: int
    sparsity: float
    additive: float
    joint: float
    refined: float
    measuring: int
    refining: int
    samples: int


def run(
    networks: Sequence[str],
    *,
    sparsities: Sequence[float],
    settings: Sequence[str],
    rounds: int,
    test: int,
    recovery: str,
) -> list[Row]:
    """Change one setting at a time; the unchanged one is run once for all."""
    unknown = [name for name in settings if name not in VALUES]
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}; there are {', '.join(VALUES)}")
    rows = []
    for network in networks:
        known: dict[Settings, list[Row]] = {}
        for setting in settings:
            for value in VALUES[setting]:
                chosen = replace(Settings(), **{setting: value})
                if chosen not in known:
                    known[chosen] = _rows(network, chosen, sparsities, rounds, test, recovery)
                rows += [replace(row, setting=setting, value=value) for row in known[chosen]]
    return rows


def _rows(
    network: str,
    chosen: Settings,
    sparsities: Sequence[float],
    rounds: int,
    test: int,
    recovery: str,
) -> list[Row]:
    model, calibration, heldout = load(network, chosen.images, test)
    table = rdprune.measure(
        model, calibration, levels=chosen.levels, responses=chosen.m, recovery=recovery
    )
    measuring = 1 + len(table.names) * (chosen.levels - 1)
    rows = []
    for sparsity in sparsities:
        joint = allocate(table, sparsity=sparsity, objective="joint")
        refined = rdprune.refine(
            model, calibration, table, sparsity=sparsity, rounds=rounds, radius=chosen.radius
        )
        additive = allocate(table, sparsity=sparsity)
        rows.append(
            Row(
                network,
                "",
                0,
                sparsity,
                _true(model, heldout, additive, recovery),
                _true(model, heldout, joint, recovery),
                _true(model, heldout, refined.allocation, recovery),
                measuring,
                refined.passes,
                chosen.images * (measuring + refined.passes),
            )
        )
    return rows


def _true(model: nn.Module, data: Any, found: Allocation, recovery: str) -> float:
    kept = dict(zip(found.names, found.layer_costs["params"].tolist(), strict=True))
    return distortion_of(model, data, kept, recovery)


def show(rows: Sequence[Row]) -> Table:
    """Return a row for each value of each setting."""
    grid = Table("network", "sparsity", "setting", "value")
    for name in ("additive", "joint", "refined", "measuring", "refining", "samples run"):
        grid.add_column(name, justify="right")
    before = None
    for row in sorted(rows, key=lambda r: (r.network, r.sparsity, list(VALUES).index(r.setting))):
        key = (row.network, row.sparsity, row.setting)
        if before not in (None, key):
            grid.add_section()
        before = key
        grid.add_row(
            row.network,
            f"{row.sparsity:g}",
            row.setting,
            f"{row.value:,}",
            *(report.number(x, 4) for x in (row.additive, row.joint, row.refined)),
            f"{row.measuring:,}",
            f"{row.refining:,}",
            f"{row.samples:,}",
        )
    base = Settings()
    grid.caption = (
        f"others are m {base.m}, {base.images} images, {base.levels} levels, radius {base.radius}; "
        "true distortion on the test samples; measuring and refining in passes"
    )
    return grid
