"""The ``rdprune refine`` command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdprune import report
from rdprune.commands.options import (
    Budgets,
    Caps,
    DataSpec,
    Device,
    Floors,
    Json,
    ModelSpec,
    Sparsity,
    StoreFolder,
    TablePath,
    example,
    fraction,
)
from rdprune.commands.solve import parse_budget
from rdprune.console import (
    check_folders,
    emit,
    load_batches,
    load_model,
    pairs,
    warn_of_other_weights,
)
from rdprune_core import Allocation, RDTable

if TYPE_CHECKING:
    from rich.table import Table

    from rdprune.trust_region import Refined

app = typer.Typer()


@app.command(
    epilog=example(
        "rdprune refine --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration table.npz --sparsity 0.9 --output refined.json",
    )
)
def refine(
    model: ModelSpec,
    data: DataSpec,
    table: TablePath,
    output: Annotated[
        Path, typer.Option(help="Allocation to write after every round, .json; go on from it.")
    ],
    sparsity: Sparsity = None,
    budget: Budgets = None,
    allocation: Annotated[
        Path | None,
        typer.Option(help="Allocation to start from, with its budget; not its floors and caps."),
    ] = None,
    floor: Floors = None,
    cap: Caps = None,
    rounds: Annotated[int, typer.Option(min=0, help="At most so many at each sparsity.")] = 3,
    radius: Annotated[int, typer.Option(help="Neighbours measured on each side.")] = 2,
    spacing: Annotated[
        float, typer.Option(help="Between them, as a fraction of the layer's weights.")
    ] = 0.04,
    passes: Annotated[
        int | None, typer.Option(min=0, help="Most runs of the network in all; one start is run.")
    ] = None,
    path: Annotated[
        str, typer.Option(help="Sparsities to refine at on the way, such as 0.3,0.5,0.7.")
    ] = "",
    recovery: Annotated[
        str | None, typer.Option(help="State measured, if not the table's.")
    ] = None,
    store: StoreFolder = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Improve an allocation in rounds of measuring around the network that it makes."""
    import rdprune

    check_folders(output, json)
    measured = RDTable.load(table)
    start = None if allocation is None else Allocation.load(allocation)
    network = load_model(model, device)
    warn_of_other_weights(network, measured.metadata, str(table))
    found = rdprune.refine(
        network,
        load_batches(data),
        measured,
        start,
        sparsity=sparsity,
        budget=parse_budget(budget or []),
        rounds=rounds,
        radius=radius,
        spacing=spacing,
        passes=passes,
        path=_path(path),
        recovery=recovery,
        floors=pairs("--floor", "LAYER=COST", floor),
        caps=pairs("--cap", "LAYER=COST", cap),
        store=store,
        on_round=lambda now: now.allocation.save(output),
    )
    found.allocation.save(output)
    payload = {
        "output": str(output),
        "allocation": report.allocation_dict(found.allocation),
        "start": found.start,
        "rounds": [report.finite(asdict(entry)) for entry in found.rounds],
        "passes": found.passes,
        "found": found.found,
    }
    emit(json, payload, lambda out: out.print(_rounds(found), report.gain(found, output)))


def _path(text: str) -> list[float]:
    try:
        return [fraction(part) for part in text.split(",")] if text.strip() else []
    except typer.BadParameter:
        raise ValueError(f"--path must be sparsities like 0.3,0.5, got {text!r}") from None


def _rounds(found: Refined) -> Table:
    """Return one row a round of `refine`: prediction, truth, layers moved and passes."""
    grid = report.new_grid("round", "sparsity", "predicted", "true", "layers moved", "passes")
    for index, entry in enumerate(found.rounds):
        grid.add_row(
            f"{index + 1}",
            report.share(entry.sparsity),
            report.number(entry.predicted),
            report.number(entry.distortion),
            f"{entry.moved}",
            f"{entry.passes}",
        )
    grid.caption = f"{found.passes} passes over the batches, starting points included"
    if found.ended:
        grid.caption += f"\nended: {found.ended}"
    return grid
