"""Additive, joint and refined allocations, measured in several states of repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

import rdprune
from rdprune import report

if TYPE_CHECKING:
    from torch import nn

    from rdprune_core import RDTable

NETWORKS = ("mnist", "resnet20", "resnet32", "resnet56")
METHODS = ("uniform", "erk", "global_magnitude", "lamp", "rdprune", "joint", "refined")
BATCH = 250


@dataclass(frozen=True, slots=True)
class Entry:
    """One method at one sparsity, after a table measured in one state.

    Attributes
    ----------
    recovery : str
    seconds : float
        Measuring the table.
    row : CompareRow
    """

    recovery: str
    seconds: float
    row: rdprune.CompareRow


def load(network: str, images: int, test: int) -> tuple[nn.Module, Any, Any]:
    """Return a network, calibration batches in one piece, and test batches.

    Raises
    ------
    ValueError
        If the network is unknown, or its data are missing.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; there are {', '.join(NETWORKS)}")
    if network == "mnist":
        from rdprune.demo import data
        from rdprune.demo.network import trained

        pictures, labels = data.split()[1]
        heldout = data.batches(pictures[:test], labels[:test], BATCH)
        return trained(), data.calibration(images), heldout
    import torch

    from rdprune.demo.data import batches
    from rdprune.recipes import cifar10

    make: Callable[[], nn.Module] = getattr(cifar10, network)
    model = make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibration = batches(*cifar10.pictures("train", 0, images), images)
    return model, calibration, batches(*cifar10.pictures("test", 0, test), BATCH)


def run(
    network: str,
    *,
    images: int,
    test: int,
    levels: int,
    recoveries: Sequence[str],
    sparsities: Sequence[float],
    methods: Sequence[str],
) -> list[Entry]:
    """Measure once for every state, allocate by every method, prune, repair and test."""
    model, calibration, heldout = load(network, images, test)
    entries = []
    for recovery in recoveries:
        start = time.perf_counter()
        table: RDTable = rdprune.measure(model, calibration, levels=levels, recovery=recovery)
        seconds = time.perf_counter() - start
        rows = rdprune.compare(
            model,
            calibration,
            table,
            sparsities=sparsities,
            heldout=heldout,
            methods=["dense", *methods],
        )
        entries += [Entry(recovery, seconds, row) for row in rows]
    return entries


def show(entries: Sequence[Entry]) -> Table:
    """Return one row an entry."""
    grid = Table(
        *("measured in", "sparsity", "method", "additive", "joint", "true", "top-1"),
        *("repaired: true", "held out", "top-1"),
    )
    before = ""
    for entry in entries:
        row = entry.row
        if before not in ("", entry.recovery):
            grid.add_section()
        before = entry.recovery
        grid.add_row(
            entry.recovery,
            f"{row.sparsity:g}",
            row.method,
            report.number(row.predicted, 3),
            report.number(row.predicted_joint, 3),
            report.number(row.distortion, 3),
            report.share(row.top1),
            report.number(row.repaired_distortion, 3),
            report.number(row.repaired_distortion_heldout, 3),
            report.share(row.repaired_top1),
        )
    spent = {entry.recovery: entry.seconds for entry in entries}
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    grid.caption = (
        "additive, joint: predictions of the state measured; repaired: the repair measured, "
        f"else of BatchNorm statistics; measuring took {times}"
    )
    return grid
