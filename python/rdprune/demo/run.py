"""What ``rdprune demo`` does: the whole way, from a trained network to checked masks."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from rich.console import Console

import rdprune
import rdprune_core
from rdprune import picture, report, truth
from rdprune.console import console, emit
from rdprune.demo import data
from rdprune.demo.network import trained
from rdprune.demo.train import accuracy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from rdprune_core import Allocation, RDTable

SPARSITIES: Final = (0.5, 0.7, 0.8, 0.9)
SHOWN: Final = 0.8
LEVELS: Final = (
    *(0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75),
    *(0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0),
)
RECOVERY: Final = "batchnorm"
CALIBRATION: Final = 64
HELDOUT: Final = 500

NEXT: Final = """[bold]The same with your own network.[/bold] In a file mine.py:

    def model(): return ...     # a torch.nn.Module with its trained weights
    def batches(): return ...   # a few hundred typical inputs, in batches

    rdprune measure  --model mine:model --data mine:batches --output table.npz
    rdprune allocate table.npz --sparsity 0.8 --output allocation.json
    rdprune verify   --model mine:model --data mine:batches --allocation allocation.json
    rdprune apply    --model mine:model --allocation allocation.json --output pruned.safetensors
"""


def run(output: Path, target: str | None = None) -> None:
    """Measure, allocate, verify and compare on the demo's network, and write every result.

    Parameters
    ----------
    output
        Folder for ``table.npz``, ``allocation-*.json``, ``masks-*.safetensors`` and
        ``picture.png``; made if absent.
    target
        File for the results as JSON; ``"-"`` puts them on standard output and nothing else.
    """
    output.mkdir(parents=True, exist_ok=True)
    out = Console(quiet=True) if target == "-" else console()
    started = time.perf_counter()
    model = trained()
    calibration = data.calibration(CALIBRATION)
    pictures, labels = data.split()[1]
    heldout = data.batches(pictures[:HELDOUT], labels[:HELDOUT], 250)
    with _step(out, "A ResNet-20 for MNIST digits"):
        top1 = accuracy(model, data.test())
        out.print(f"dense: {report.share(top1)} of 1,000 test digits right")
    table = _measure(out, model, calibration, output)
    allocations, seconds = _allocate(out, table, output)
    reports = _verify(out, model, calibration, allocations, output)
    with _step(out, f"Compare at the same number of weights, {HELDOUT} test digits held out"):
        rows = rdprune.compare(model, calibration, table, sparsities=SPARSITIES, heldout=heldout)
        out.print(truth.compare_table(rows))
    with _step(out, "Picture"):
        swept = rdprune_core.frontier(table)
        title = "ResNet-20 on MNIST digits: rate and distortion"
        picture.draw(output / "picture.png", table, swept, allocations, title=title)
        out.print(f"{len(swept)} exact frontier points")
    total = time.perf_counter() - started
    out.print(f"[bold]Done in {total:.0f} s.[/bold] Tables, masks and picture.png: {output}\n")
    payload = {
        "output": str(output),
        "seconds": total,
        "top1": top1,
        "allocations": [report.allocation_dict(a) for a in allocations],
        "solve_seconds": seconds,
        "verify": [report.finite(asdict(found)) for found in reports],
        "compare": [report.finite(asdict(row)) for row in rows],
    }
    emit(target, payload, lambda last: last.print(NEXT))


def _measure(out: Console, model: nn.Module, batches: data.Batches, output: Path) -> RDTable:
    """Measure and save the table."""
    samples = sum(len(labels) for _, labels in batches)
    with _step(out, f"Measure {len(LEVELS)} sparsities of every layer, {samples} training digits"):
        table = rdprune.measure(model, batches, levels=LEVELS, recovery=RECOVERY)
        table.save(output / "table.npz")
        options = sum(len(labels) for labels in table.options)
        out.print(f"{options} options of {len(table.names)} layers, recovery={RECOVERY!r}")
    return table


def _allocate(out: Console, table: RDTable, output: Path) -> tuple[list[Allocation], list[float]]:
    """Solve every sparsity, save and show; also return the seconds that each took."""
    allocations, seconds = [], []
    with _step(out, "Allocate, with a certificate"):
        for sparsity in SPARSITIES:
            began = time.perf_counter()
            allocation = rdprune_core.allocate(table, sparsity=sparsity)
            seconds.append(time.perf_counter() - began)
            allocation.save(output / f"allocation-{sparsity}.json")
            allocations.append(allocation)
        out.print(report.certificate_table(allocations, seconds))
        shown = allocations[SPARSITIES.index(SHOWN)]
        out.print(f"Layer by layer at sparsity {SHOWN}:")
        out.print(report.allocation_table(table, shown))
    return allocations, seconds


def _verify(
    out: Console,
    model: nn.Module,
    batches: data.Batches,
    allocations: Sequence[Allocation],
    output: Path,
) -> list[rdprune.VerifyReport]:
    """Save every allocation's masks, run the masked network and count its weights."""
    with _step(out, "Verify: run the pruned networks, count their weights"):
        reports = []
        for sparsity, allocation in zip(SPARSITIES, allocations, strict=True):
            made = rdprune.masks(model, allocation)
            rdprune.save_masks(output / f"masks-{sparsity}.safetensors", made)
            reports.append(rdprune.verify(model, batches, allocation))
        out.print(truth.verify_table(reports))
    return reports


@contextmanager
def _step(out: Console, title: str) -> Iterator[None]:
    """Print a headline, let the step print its results, then print how long it took."""
    out.print(f"[bold]{title}[/bold]")
    began = time.perf_counter()
    yield
    out.print(f"[dim]{time.perf_counter() - began:.1f} s[/dim]\n")
