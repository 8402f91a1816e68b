"""Commands on models: ``rdprune apply``, ``rdprune verify`` and ``rdprune compare``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdprune import report, truth
from rdprune.commands.options import (
    AllocationPath,
    DataSpec,
    Device,
    Json,
    ModelSpec,
    Sparsities,
    TablePath,
    example,
)
from rdprune.console import check_folders, emit, load_batches, load_model, warn_of_other_weights
from rdprune.reductions import split
from rdprune_core import Allocation, RDTable

if TYPE_CHECKING:
    from torch import Tensor, nn

app = typer.Typer()


@app.command(
    epilog=example(
        "rdprune apply --model rdprune.demo.network:trained --allocation allocation.json \\",
        "    --output pruned.safetensors --repair-data rdprune.demo.data:calibration",
    )
)
def apply(
    model: ModelSpec,
    allocation: AllocationPath,
    output: Annotated[Path, typer.Option(help="Pruned weights to write, .safetensors.")],
    masks: Annotated[Path | None, typer.Option(help="Masks to write, .safetensors.")] = None,
    repair_data: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Batches to repair on."),
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option(help="Repair: batchnorm, bias, least-squares, or several joined by +."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="The batches that were measured, for masks by wanda or taylor.",
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Prune a model by an allocation, repair it if there are batches, and write its weights.

    The repair is the one that was measured, else of the BatchNorm statistics.
    """
    import rdprune
    from rdprune.tensorfiles import save_weights

    check_folders(output, masks, json)
    chosen = Allocation.load(allocation)
    network = load_model(model)
    warn_of_other_weights(network, chosen.metadata, f"--allocation {allocation}")
    made = rdprune.masks(network, chosen, scores=_scores(network, chosen, data))
    rdprune.apply_(network, made)
    if recovery is not None and repair_data is None:
        raise ValueError("--recovery needs --repair-data, batches to repair on")
    measured = chosen.metadata.get("recovery", "none")
    state = "none"
    if repair_data is not None:
        state = recovery or ("batchnorm" if measured == "none" else measured)
        if not rdprune.repair_(network, load_batches(repair_data, "--repair-data"), recovery=state):
            raise ValueError("--repair-data: the model has no BatchNorm statistics to re-estimate")
    elif measured != "none":
        typer.echo(
            f"rdprune: warning: {allocation} was measured in the state {measured}, and nothing is "
            "repaired: give --repair-data, batches to repair on",
            err=True,
        )
    rdprune.strip_(network)
    save_weights(output, network)
    if masks is not None:
        rdprune.save_masks(masks, made)
    kept = {name: int(mask.sum()) for name, mask in made.items()}
    total = sum(mask.numel() for mask in made.values())
    payload = {
        "output": str(output),
        "kept": kept,
        "kept_total": sum(kept.values()),
        "dense": total,
        "repair": state,
    }
    done = "not repaired" if state == "none" else f"repaired: {state}"
    line = f"{sum(kept.values()):,} of {total:,} weights kept, {done}; written to {output}"
    emit(json, payload, lambda out: out.print(line))


@app.command(
    epilog=example(
        "rdprune verify --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --allocation allocation.json",
    )
)
def verify(
    model: ModelSpec,
    data: DataSpec,
    allocation: AllocationPath,
    weights: Annotated[
        Path | None, typer.Option(help="Pruned weights that apply wrote; else masks are made.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Table of the allocation, for both predictions.")
    ] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Run the pruned model: predicted against true distortion, and the weights counted."""
    import rdprune
    from rdprune.tensorfiles import load_weights_

    check_folders(json)
    chosen = Allocation.load(allocation)
    dense = load_model(model, device)
    batches = load_batches(data)
    measured = None if table is None else _table_of(chosen, table)
    if weights is None:
        weighed = _scores(dense, chosen, data, batches)
        found = rdprune.verify(dense, batches, chosen, table=measured, scores=weighed)
    else:
        network = load_weights_(weights, copy.deepcopy(dense))
        found = rdprune.verify(network, batches, chosen, dense=dense, table=measured)
    grid = truth.verify_table([found])
    emit(json, report.finite(asdict(found)), lambda out: out.print(grid))


def _table_of(chosen: Allocation, path: Path) -> RDTable:
    """Load an allocation's table; refuse one that was measured in another way."""
    table = RDTable.load(path)
    compared = ["distortion", "mask"]
    if chosen.objective not in ("refined", "searched"):  # these go on in a state of their own
        compared.append("recovery")
    for name in compared:
        own, found = (str(kept.metadata.get(name, "")) for kept in (chosen, table))
        if name == "distortion":  # `--reduction` changes how samples are reduced
            own, found = split(own)[0], split(found)[0]
        if own and found and own != found:
            raise ValueError(
                f"--table {path} was measured with {name} {found!r}, the allocation's with "
                f"{own!r}: give the table that it was made from"
            )
    return table


def _scores(
    network: nn.Module, chosen: Allocation, data: str | None, batches: Sequence[Any] | None = None
) -> dict[str, Tensor] | None:
    """Score the weights as they were for the allocation's table; None for magnitudes."""
    from rdprune.layers import named_layers
    from rdprune.scoring import CRITERIA, scores

    criterion = chosen.metadata.get("criterion", "magnitude")
    if criterion == "magnitude":
        return None
    if criterion not in CRITERIA:
        raise ValueError(
            f"the allocation is by the criterion {criterion!r}, which the command line does not "
            "know: make its masks with rdprune.masks(…, scores=)"
        )
    if data is None:
        raise ValueError(
            f"the allocation is by {criterion}: give --data, the batches that were measured"
        )
    return scores(
        criterion, network, named_layers(network, chosen.names, "allocation"),
        load_batches(data) if batches is None else batches,
        recovery=chosen.metadata.get("recovery", "none"), seed=chosen.metadata.get("seed", 0),
    )  # fmt: skip


@app.command(
    epilog=example(
        "rdprune compare --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --heldout rdprune.demo.data:test \\",
        "    table.npz --sparsity 0.8 --sparsity 0.9",
    )
)
def compare(
    model: ModelSpec,
    data: DataSpec,
    table: TablePath,
    sparsity: Sparsities = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="dense, rdprune, joint, uniform, uniform_plus, erk, global_magnitude, lamp; and, "
            "slower and not by default, refined, searched, owl, spdy. Repeatable."
        ),
    ] = None,
    heldout: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Callable returning batches never measured on."
        ),
    ] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Compare with uniform, ERK, global magnitude, LAMP, … at the same number of weights."""
    import rdprune

    check_folders(json)
    measured = RDTable.load(table)
    network = load_model(model, device)
    warn_of_other_weights(network, measured.metadata, str(table))
    rows = rdprune.compare(
        network,
        load_batches(data),
        measured,
        sparsities=tuple(sparsity or (0.5, 0.7, 0.8, 0.9)),
        heldout=None if heldout is None else load_batches(heldout, "--heldout"),
        methods=method,
    )
    payload = [report.finite(asdict(row)) for row in rows]
    grids = (truth.compare_table(rows), truth.predicted_table(rows))
    emit(json, payload, lambda out: out.print(*grids))
