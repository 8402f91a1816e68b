"""Commands on tables: ``rdprune allocate`` and ``rdprune frontier``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import rdprune_core
from rdprune import picture as drawing
from rdprune import report
from rdprune.alternatives import alternatives_dict, alternatives_tables
from rdprune.commands.options import (
    Budgets,
    Caps,
    Floors,
    Json,
    Sparsity,
    TablePath,
    example,
)
from rdprune.console import amount, check_folders, emit, pairs
from rdprune.resampling import reduce
from rdprune_core import Allocation, RDTable

app = typer.Typer()


@app.command(
    epilog=example(
        "rdprune allocate table.npz --sparsity 0.8 --output allocation.json",
        "rdprune allocate table.npz --budget params=20% --budget macs=35%",
        "rdprune allocate table.npz --sparsity 0.8 --alternatives 10",
    )
)
def allocate(
    table: TablePath,
    sparsity: Sparsity = None,
    budget: Budgets = None,
    objective: Annotated[
        str, typer.Option(help="additive, or joint: of the responses' sum (needs responses).")
    ] = "additive",
    reduction: Annotated[
        str | None,
        typer.Option(help="Reduce the samples' errors anew: mean, max or cvar:0.1."),
    ] = None,
    floor: Floors = None,
    cap: Caps = None,
    forbid: Annotated[
        list[str] | None, typer.Option(metavar="LAYER=OPTION", help="Option not to choose.")
    ] = None,
    tie: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER,LAYER", help="Layers that must choose the same option."),
    ] = None,
    previous: Annotated[
        Path | None, typer.Option(help="Allocation that no layer may keep more than.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds until the best so far is taken, with its gap.")
    ] = None,
    alternatives: Annotated[
        int | None,
        typer.Option(metavar="K", help="List the K best; which layers are undecided among them."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Allocation to write, .json.")] = None,
    json: Json = None,
) -> None:
    """Choose one option for every layer: the least distortion within the budget, with proof."""
    check_folders(output, json)
    measured = RDTable.load(table)
    if reduction is not None:
        measured = reduce(measured, reduction)
    if alternatives is not None and objective != "additive":
        raise ValueError("--alternatives are of the additive objective")
    asked: dict[str, Any] = {
        "budget": parse_budget(budget or []),
        "sparsity": sparsity,
        "floors": pairs("--floor", "LAYER=COST", floor),
        "caps": pairs("--cap", "LAYER=COST", cap),
        "forbidden": parse_forbidden(forbid or []),
        "tied": [tuple(entry.split(",")) for entry in tie or ()],
        "previous": None if previous is None else Allocation.load(previous),
        "time_limit": time_limit,
    }
    near = None
    if alternatives is None:
        allocation = rdprune_core.allocate(measured, objective=objective, **asked)
    else:
        near = rdprune_core.near_optimal(measured, k=alternatives, **asked)
        allocation = near[0]
    if output is not None:
        allocation.save(output)
    grids = [report.allocation_table(measured, allocation)]
    found = report.allocation_dict(allocation)
    if near is not None:
        grids += alternatives_tables(near)
        found["alternatives"] = alternatives_dict(near)
    emit(json, found, lambda out: out.print(*grids, sep="\n"))


def parse_budget(entries: list[str]) -> int | str | dict[str, int | str] | None:
    """Return a lone amount as itself, several entries as a dict: without a name it is params."""
    if len(entries) == 1 and "=" not in entries[0]:
        return amount(entries[0])
    named = [entry if "=" in entry else f"params={entry}" for entry in entries]
    return pairs("--budget", "COST=AMOUNT", named)


def parse_forbidden(entries: list[str]) -> dict[str, list[str]]:
    """Return ``layer=option`` entries as the options of every layer."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, equals, label = entry.rpartition("=")
        if not (name and equals and label):
            raise ValueError(f"--forbid must be LAYER=OPTION, got {entry!r}")
        found.setdefault(name, []).append(label)
    return found


@app.command(
    epilog=example(
        "rdprune frontier table.npz --points 101 --picture frontier.png",
    )
)
def frontier(
    table: TablePath,
    cost: Annotated[str | None, typer.Option(help="Cost to sweep; the table's first.")] = None,
    points: Annotated[int, typer.Option(help="Number of budgets.")] = 101,
    picture: Annotated[Path | None, typer.Option(help="Picture to write, .png.")] = None,
    json: Json = None,
) -> None:
    """Find the least distortion for every budget, exactly."""
    check_folders(picture, json)
    measured = RDTable.load(table)
    found = rdprune_core.frontier(measured, cost, points=points)
    if picture is not None:
        drawing.draw(picture, measured, found, drawing.landmarks(found))
    emit(json, report.frontier_dict(found), lambda out: out.print(report.frontier_table(found)))
