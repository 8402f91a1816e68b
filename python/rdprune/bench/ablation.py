"""What matters: numbers in a response, calibration samples, levels, and the radius of refining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

import rdprune
from rdprune import report
from rdprune.bench.ledger import Ledger
from rdprune.bench.recovery import load
from rdprune.bench.search import distortion_of
from rdprune.layers import prunable, signature
from rdprune_core import Allocation, RDTable, allocate

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


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes
    ----------
    networks, settings : tuple of str
    sparsities : tuple of float
    rounds : int
        Of refining.
    test : int
        Test pictures.
    recovery : str
        "none" or "batchnorm".
    """

    networks: tuple[str, ...] = ("mnist",)
    settings: tuple[str, ...] = tuple(VALUES)
    sparsities: tuple[float, ...] = (0.9,)
    rounds: int = 3
    test: int = 1000
    recovery: str = "batchnorm"


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """Change one setting at a time; the unchanged one is run once for all.

    Parameters
    ----------
    plan : Plan
    folder : pathlib.Path
        Run folder: a run that was stopped goes on.
    say : callable
        Told what is being done.

    Raises
    ------
    ValueError
        If a network or setting is unknown.
    """
    unknown = [name for name in plan.settings if name not in VALUES]
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}; there are {', '.join(VALUES)}")
    rows = []
    with Ledger(folder) as ledger:
        for network in plan.networks:
            cases: dict[Settings, _Case] = {}
            for setting in plan.settings:
                for value in VALUES[setting]:
                    say(f"{network}: {setting} {value}")
                    chosen = replace(Settings(), **{setting: value})
                    if chosen not in cases:
                        cases[chosen] = _Case(plan, network, chosen, folder)
                    case = cases[chosen]
                    for sparsity in plan.sparsities:
                        row = ledger.once(case.key(sparsity), partial(case.row, sparsity))
                        rows.append(Row(network, setting, value, sparsity, **row))
    return rows


class _Case:
    """One network and its table, measured once a row is asked of it."""

    def __init__(self, plan: Plan, network: str, chosen: Settings, folder: Path) -> None:
        self._plan, self._network, self._chosen, self._folder = plan, network, chosen, folder
        self._model, self._calibration, self._heldout = load(network, chosen.images, plan.test)
        self._table: RDTable | None = None

    def key(self, sparsity: float) -> dict[str, Any]:
        """Return what a row depends on."""
        return {
            "kind": "ablation",
            "network": self._network,
            "weights": signature(self._model),
            **asdict(self._chosen),
            "sparsity": sparsity,
            "rounds": self._plan.rounds,
            "test": self._plan.test,
            "recovery": self._plan.recovery,
        }

    def row(self, sparsity: float) -> dict[str, Any]:
        """Return distortions and passes of a row, by their names."""
        model, data, recovery = self._model, self._calibration, self._plan.recovery
        chosen = self._chosen
        if self._table is None:
            self._table = rdprune.measure(
                model,
                data,
                levels=chosen.levels,
                responses=chosen.m,
                recovery=recovery,
                store=self._folder,
            )
        refined = rdprune.refine(
            model,
            data,
            self._table,
            sparsity=sparsity,
            rounds=self._plan.rounds,
            radius=chosen.radius,
            store=self._folder,
        )
        found = {
            "additive": allocate(self._table, sparsity=sparsity),
            "joint": allocate(self._table, sparsity=sparsity, objective="joint"),
            "refined": refined.allocation,
        }
        measuring = 1 + len(prunable(model)) * (chosen.levels - 1)
        return {
            **{name: _true(model, self._heldout, one, recovery) for name, one in found.items()},
            "measuring": measuring,
            "refining": refined.passes,
            "samples": chosen.images * (measuring + refined.passes),
        }


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
