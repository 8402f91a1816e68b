"""Which measured quantity foretells top-1 after repair, and after a short fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.table import Table

import rdprune
from rdprune import report
from rdprune.bench.accuracy import FITTED
from rdprune.bench.candidates import Kept, candidates, falling
from rdprune.bench.ledger import Ledger
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
from rdprune.layers import signature
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
    study: Study, folder: Path, say: Callable[[str], None], limit: int | None = None
) -> list[dict[str, Any]]:
    """Measure every allocation that the folder does not hold yet, and return all rows.

    Parameters
    ----------
    study : Study
    folder : pathlib.Path
        Run folder: a run that was stopped goes on, and several processes may share it.
    say : callable
        Told what is being done.
    limit : int, optional
        Measure so many new rows at most; 0 only reads.
    """
    ledger, rows, made = Ledger(folder), [], 0
    try:
        with one_thread():
            for network in study.networks:
                subject = open_subject(network, study.images, study.test)
                tables = _tables(subject, study, folder, say)
                key = _key(subject, study)
                plans = {s: candidates(subject, tables, s, study.count) for s in study.sparsities}
                tools = None
                for name, sparsity in _in_turn(plans):
                    kept = plans[sparsity][name]
                    own = {**key, "sparsity": sparsity, "kept": list(kept.values())}
                    found = ledger.find(own)
                    if found is None:
                        if limit is not None and made >= limit:
                            continue
                        say(f"{network}, sparsity {sparsity:g}: {name}")
                        tools = tools or _Tools(subject, study, tables)
                        measure = tools.measure
                        found = ledger.once(own, lambda kept=kept, do=measure: do(kept))  # type: ignore[misc]
                        made += 1
                    rows.append(
                        {"network": network, "sparsity": sparsity, "allocation": name, **found}
                    )
    finally:
        ledger.close()
    return rows


class _Tools:
    """What all allocations of a network need."""

    def __init__(self, subject: Subject, study: Study, tables: Mapping[str, RDTable]) -> None:
        self._subject, self._study, self._tables = subject, study, tables
        self._probe = Probe(subject)
        self._labels = labels_of(subject.test)
        self._dense = run(subject.model, subject.test)

    def measure(self, kept: Kept) -> dict[str, float]:
        subject, study = self._subject, self._study
        row = of_weights(subject.layers, kept)
        row.update(_predicted(self._tables, kept))
        pruned = subject.pruned(kept)
        states = {name: subject.repaired(pruned, part) for name, part in STATES.items()}
        for name, model in states.items():
            row.update(self._outcome(model, name))
            row[f"top1 {name}"] = self._top1(model)
        row.update(self._probe.flow(states["batchnorm"]))
        for name, start in (("", "batchnorm"), ("fitted ", "fitted")):
            brief = Protocol(**{**asdict(study.protocol), "steps": study.probe})
            model = subject.tuned(states[start], brief, seed=1)
            row.update(self._outcome(model, f"{name}probe"))
            model = subject.tuned(states[start], study.protocol, seed=0)
            row[f"top1 {name}tuned"] = self._top1(model)
        return row

    def _outcome(self, model: Any, state: str) -> dict[str, float]:
        return {f"{name} {state}": v for name, v in self._probe.outcome(model).items()}

    def _top1(self, model: Any) -> float:
        return float(figures(self._dense, run(model, self._subject.test), self._labels)["top1"])


def _tables(
    subject: Subject, study: Study, folder: Path, say: Callable[[str], None]
) -> dict[str, RDTable]:
    """Measure the network in every state, from the run folder's store where that was done."""
    levels = falling(study.levels)
    tables = {}
    for name, recovery in STATES.items():
        say(f"{subject.name}: table measured in the state {name}")
        tables[name] = rdprune.measure(
            subject.model, subject.calibration, levels=levels, recovery=recovery, store=folder
        )
    return tables


def _key(subject: Subject, study: Study) -> dict[str, Any]:
    return {
        "kind": "predictors",
        "network": subject.name,
        "weights": signature(subject.model),
        "images": study.images,
        "test": study.test,
        "probe": study.probe,
        "protocol": asdict(study.protocol),
        "torch": torch.__version__,
    }


def _in_turn(plans: Mapping[float, Mapping[str, Kept]]) -> list[tuple[str, float]]:
    """Return allocations and sparsities so that a part of them has all sparsities alike."""
    longest = max(len(plan) for plan in plans.values())
    return [
        (list(plan)[position], sparsity)
        for position in range(longest)
        for sparsity, plan in plans.items()
        if position < len(plan)
    ]


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

    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["sparsity"]), []).append(row)
    names = [
        name for name in rows[0]
        if name not in ("network", "sparsity", "allocation") and not name.startswith("top1")
    ]  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for name in names:
        found[name] = {}
        for target, column in TARGETS.items():
            each = []
            for group in groups.values():
                values = [[row[key] for row in group] for key in (name, column)]
                if min(len(set(v)) for v in values) > 1:
                    each.append(-float(spearmanr(*values).statistic))
            found[name][target] = float(np.mean(each)) if each else float("nan")
    return found


def shown(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return the named allocations' table and the quantities'."""
    return [show_allocations(rows), show(rows)] if rows else []


def show(rows: Sequence[Mapping[str, Any]], most: int = 100) -> Table:
    """Return the quantities, best first for the fine-tuned network."""
    found = correlations(rows)
    order = sorted(found, key=lambda name: -np.nan_to_num(found[name]["tuned"], nan=-1))
    grid = report.new_grid("quantity", *TARGETS)
    for name in order[:most]:
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
