"""Which measured quantity foretells top-1 after repair, and after a short fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table
from torch import Tensor, nn

import rdprune
from rdprune import report
from rdprune.bench.accuracy import FITTED
from rdprune.bench.candidates import Kept, candidates
from rdprune.bench.ledger import Ledger, grouped
from rdprune.bench.quantities import Probe, of_weights
from rdprune.bench.subject import (
    Protocol,
    Subject,
    figures,
    labels_of,
    one_thread,
    open_subject,
    run,
)
from rdprune.levels import falling_levels
from rdprune_core import Allocation, RDTable, predictions

STATES: Final = {"none": "none", "batchnorm": "batchnorm", "fitted": FITTED}
SPARSITIES: Final = (0.8, 0.9, 0.95)
TARGETS: Final = {
    "one-shot": "top1 none",
    "batchnorm": "top1 batchnorm",
    "fitted": "top1 fitted",
    "tuned": "top1 tuned",
    "fitted, tuned": "top1 fitted tuned",
}


@dataclass(frozen=True, slots=True)
class Study:
    """What is run.

    Attributes
    ----------
    networks : tuple of str
    sparsities : tuple of float
    count : int
        Allocations for each network and sparsity.
    images, test : int
        Calibration pictures, and test pictures for every top-1.
    levels : int
        Of the measured tables; densities fall by a constant ratio.
    probe : int
        Steps of the short fine-tune, with other pictures, after which quantities are taken too.
    protocol : Protocol
        Of the fine-tune that is foretold.
    """

    networks: tuple[str, ...]
    sparsities: tuple[float, ...] = SPARSITIES
    count: int = 20
    images: int = 256
    test: int = 2000
    levels: int = 32
    probe: int = 10
    protocol: Protocol = field(default_factory=lambda: Protocol(steps=60, rate=0.03))


def collect(
    study: Study, folder: Path, say: Callable[[str], None], *, fresh: bool = True
) -> list[dict[str, Any]]:
    """Measure every allocation that the folder does not hold yet, and return all rows.

    Parameters
    ----------
    study : Study
    folder : pathlib.Path
        Run folder: a run that was stopped goes on, and several processes may share it.
    say : callable
        Told what is being done.
    fresh : bool
        Whether to run anything; else what is there is read.
    """
    rows = []
    with Ledger(folder) as ledger, one_thread():
        for network in study.networks:
            subject = open_subject(network, study.images, study.test)
            tools = _Tools(subject, study, folder, say)
            key = {**subject.key("predictors"), "levels": study.levels}
            counted = {**key, "sparsities": study.sparsities, "count": study.count}
            plans = ledger.once(counted, tools.plans) if fresh else ledger.find(counted)
            key |= {"probe": study.probe, "protocol": asdict(study.protocol)}
            for name, sparsity, counts in _in_turn(plans or {}):
                own = {**key, "sparsity": sparsity, "kept": counts}
                found = ledger.find(own)
                if found is None and fresh:
                    say(f"{network}, sparsity {sparsity:g}: {name}")
                    found = ledger.once(own, partial(tools.measure, counts))
                if found is not None:
                    about = {"network": network, "sparsity": sparsity, "allocation": name}
                    rows.append({**about, **found})
    return rows


class _Tools:
    """What all allocations of a network need, made when it is first asked for."""

    def __init__(
        self, subject: Subject, study: Study, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._subject, self._study, self._folder, self._say = subject, study, folder, say

    def plans(self) -> dict[str, dict[str, list[int]]]:
        """Return the weights kept in each layer, by sparsity and by the allocation's name."""
        subject, study = self._subject, self._study
        found = {s: candidates(subject, self._tables, s, study.count) for s in study.sparsities}
        return {
            str(sparsity): {name: list(kept.values()) for name, kept in plan.items()}
            for sparsity, plan in found.items()
        }

    @cached_property
    def _tables(self) -> dict[str, RDTable]:
        """Measured in every state, from the run folder's store where that was done."""
        levels = falling_levels(self._study.levels)
        tables = {}
        for name, recovery in STATES.items():
            self._say(f"{self._subject.name}: table measured in the state {name}")
            tables[name] = rdprune.measure(
                self._subject.model, self._subject.calibration, levels=levels,
                recovery=recovery, store=self._folder,
            )  # fmt: skip
        return tables

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self._subject)

    @cached_property
    def _dense(self) -> Tensor:
        return run(self._subject.model, self._subject.test)

    def measure(self, counts: Sequence[int]) -> dict[str, float]:
        """Take all quantities and every top-1 of an allocation."""
        subject, study = self._subject, self._study
        kept = dict(zip(subject.layers, counts, strict=True))
        row = of_weights(subject.layers, kept)
        row.update(_predicted(self._tables, kept))
        pruned = subject.pruned(kept)
        states = {name: subject.repaired(pruned, part) for name, part in STATES.items()}
        for name, model in states.items():
            row.update(self._outcome(model, name))
            row[f"top1 {name}"] = self._top1(model)
        row.update(self._probe.flow(states["batchnorm"]))
        for name, start in (("", "batchnorm"), ("fitted ", "fitted")):
            brief = replace(study.protocol, steps=study.probe)
            model = subject.tuned(states[start], brief, seed=1)
            row.update(self._outcome(model, f"{name}probe"))
            model = subject.tuned(states[start], study.protocol, seed=0)
            row[f"top1 {name}tuned"] = self._top1(model)
        return row

    def _outcome(self, model: nn.Module, state: str) -> dict[str, float]:
        return {f"{name} {state}": v for name, v in self._probe.outcome(model).items()}

    def _top1(self, model: nn.Module) -> float:
        subject = self._subject
        found = figures(self._dense, run(model, subject.test), labels_of(subject.test))
        return float(found["top1"])


def _in_turn(
    plans: Mapping[str, Mapping[str, list[int]]],
) -> Iterator[tuple[str, float, list[int]]]:
    """Yield allocations so that the first of them have all sparsities alike."""
    columns = [
        [(name, float(sparsity), kept) for name, kept in plan.items()]
        for sparsity, plan in plans.items()
    ]
    for row in zip_longest(*columns):
        yield from (cell for cell in row if cell is not None)


def _predicted(tables: Mapping[str, RDTable], kept: Kept) -> dict[str, float]:
    """Return what the tables' nearest options add up to, additively and jointly."""
    found = {}
    for state, table in tables.items():
        choice = [
            int(np.abs(costs - kept[name]).argmin())
            for name, costs in zip(table.names, table.costs["params"], strict=True)
        ]
        allocation = Allocation.from_choice(table, np.array(choice, np.int64))
        additive, joint = predictions(table, allocation)
        found[f"additive {state}"] = float(additive)
        if joint is not None:
            found[f"joint {state}"] = float(joint)
    return found


def correlations(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return Spearman's rank correlation of every quantity with every top-1, less its sign.

    The mean over networks and sparsities; 1 where less of the quantity is always a better top-1.

    Returns
    -------
    dict of str to dict of str to float
        By quantity, then by target.
    """
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    names = [
        name for row in rows[:1] for name in row
        if name not in ("network", "sparsity", "allocation") and not name.startswith("top1")
    ]  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for name in names:
        found[name] = {}
        for target, column in TARGETS.items():
            each = []
            for group in grouped(rows).values():
                values = [[row[key] for row in group] for key in (name, column)]
                if min(len(set(v)) for v in values) > 1:
                    each.append(-float(spearmanr(*values).statistic))
            found[name][target] = float(np.mean(each)) if each else float("nan")
    return found


def shown(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return the named allocations' table and the quantities'."""
    return [show_allocations(rows), show(rows)]


def show(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the quantities, best first for the fine-tuned network."""
    found = correlations(rows)
    order = sorted(found, key=lambda name: -np.nan_to_num(found[name]["tuned"], nan=-1))
    grid = report.new_grid("quantity", *TARGETS)
    for name in order:
        grid.add_row(name, *(f"{found[name][target]:.2f}" for target in TARGETS))
    grid.caption = (
        f"mean rank correlation of less of it with a better top-1, over {len(rows)} allocations"
    )
    return grid


def show_allocations(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the named allocations' top-1 in every state."""
    grid = report.new_grid("network", "sparsity", "allocation", *TARGETS)
    for row in rows:
        if not row["allocation"].startswith("random"):
            grid.add_row(
                row["network"], f"{row['sparsity']:g}", row["allocation"],
                *(report.share(row[column]) for column in TARGETS.values()),
            )  # fmt: skip
    return grid
