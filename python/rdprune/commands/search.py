"""The ``rdprune search`` command."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from rdprune import report
from rdprune.commands.launching import alone
from rdprune.commands.options import (
    Budgets,
    DataSpec,
    Device,
    Json,
    ModelSpec,
    Sparsity,
    StoreFolder,
    example,
)
from rdprune.commands.solve import parse_budget
from rdprune.console import check_folders, emit, load_batches, load_model, pairs
from rdprune_core import Allocation

if TYPE_CHECKING:
    from rich.table import Table

    from rdprune.searching import Searched

app = typer.Typer()


@app.command(
    epilog=example(
        "rdprune search --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --sparsity 0.9 --recovery batchnorm \\",
        "    --output searched.json",
    )
)
def search(
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[
        Path, typer.Option(help="Allocation to write after every generation, .json.")
    ],
    sparsity: Sparsity = None,
    budget: Budgets = None,
    allocation: Annotated[
        Path | None,
        typer.Option(help="Allocation to start from too; its budget, recovery and distortion."),
    ] = None,
    passes: Annotated[
        int,
        typer.Option(help="Most runs of the network over all samples; at least 9."),
    ] = 500,
    recovery: Annotated[
        str | None,
        typer.Option(help="State measured: none or batchnorm; the allocation's, or none."),
    ] = None,
    distortion: Annotated[
        str | None, typer.Option(help="What is to be least, as for measure [mse].")
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER=AMOUNT",
            help="Fewest weights of a layer, named as in the output's table: 50%, 1000.",
        ),
    ] = None,
    cap: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER=AMOUNT", help="Most weights of a layer."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Layer to leave as it is; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of whatever is random; below 2**32.")] = 0,
    store: StoreFolder = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Search for the allocation that truly distorts least, without a table."""
    import rdprune
    from rdprune.store import go_on

    alone("search")
    check_folders(output, json)
    start = None if allocation is None else Allocation.load(allocation)
    network, batches = load_model(model, device), load_batches(data)
    written = False

    def keep(now: Searched) -> None:
        nonlocal written
        now.allocation.save(output)
        written = True

    try:
        found = rdprune.search(
            network,
            batches,
            start,
            sparsity=sparsity,
            budget=parse_budget(budget or []),
            passes=passes,
            recovery=recovery,
            distortion=distortion,
            floors=pairs("--floor", "LAYER=AMOUNT", floor),
            caps=pairs("--cap", "LAYER=AMOUNT", cap),
            ignore=ignore or (),
            seed=seed,
            store=store,
            on_generation=keep,
        )
    except KeyboardInterrupt:
        best = f"the best so far is in {output}" if written else f"{output} was not written"
        typer.echo(f"rdprune: {best}; {go_on(store)}", err=True)
        raise
    found.allocation.save(output)
    payload = {
        "output": str(output),
        "allocation": report.allocation_dict(found.allocation),
        "start": found.start,
        "starts": report.finite(found.starts),
        "generations": [report.finite(asdict(entry)) for entry in found.generations],
        "passes": found.passes,
        "found": found.found,
    }
    grids = _layers(found.allocation), _starts(found), _generations(found, passes)
    emit(json, payload, lambda out: out.print(*grids, report.gain(found, output), sep="\n"))


def _layers(allocation: Allocation) -> Table:
    """Return one row a layer of a searched allocation: its size, and what it keeps."""
    grid = report.new_grid("layer", report.NOUNS["params"], "kept", "sparsity")
    shapes = allocation.metadata["shapes"]
    for name, kept in zip(allocation.names, allocation.layer_costs["params"], strict=True):
        size = math.prod(shapes[name])
        grid.add_row(
            report.short_name(name),
            f"{size:,}",
            f"{kept:,}",
            report.share(1.0 - kept / max(1, size)),
        )
    return grid


def _starts(found: Searched) -> Table:
    """Return the starting points, the best first."""
    grid = report.new_grid("start", "true distortion")
    for name, distortion in sorted(found.starts.items(), key=lambda entry: entry[1]):
        grid.add_row(name, report.number(distortion))
    return grid


def _generations(found: Searched, asked: int) -> Table:
    """Return the generations that found something better, at most 20, evenly spread."""
    grid = report.new_grid("passes", "on a part", "true distortion")
    better, best = [], found.start
    for entry in found.generations:
        if entry.distortion < best:
            better.append(entry)
            best = entry.distortion
    count = len(better)
    picked = np.unique(np.linspace(0, count - 1, min(count, 20)).round().astype(int))
    for index in picked:
        entry = better[index]
        grid.add_row(
            f"{entry.passes}", report.number(entry.predicted), report.number(entry.distortion)
        )
    grid.caption = (
        f"{len(found.generations)} generations, {count} with gain; on a part: of the samples, "
        "where the best child was looked at"
    )
    if not found.generations:
        spent = found.passes >= asked
        grid.caption = "no generation was finished: " + (
            "give more passes" if spent else "there is nothing left to change"
        )
    return grid
