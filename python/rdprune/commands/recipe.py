"""The ``rdprune recipe`` command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rdprune import report
from rdprune.commands.iterate import Method, Objective, Repair, show_run
from rdprune.commands.measure import parse_levels
from rdprune.commands.options import Criterion, Device, Json, Shapes, example
from rdprune.console import check_folders, emit

app = typer.Typer()


@app.command(
    epilog=example(
        "rdprune recipe --list",
        "rdprune recipe cifar10-resnet32 --data ~/data \\",
        "    --weights ~/data/resnet32_cifar10_jpeg.safetensors --folder run",
        "rdprune recipe cifar10-resnet20 --data fake --samples 4 --rounds 2 --steps 2 \\",
        "    --folder trial",
    )
)
def recipe(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A recipe, or a .json file of one.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
    data: Annotated[
        str | None, typer.Option(help="Folder of the pictures; or fake, or fake:PIXELS.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Dense weights, .safetensors, or pretrained; else random ones."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Run folder; by default the recipe's name. Resumes.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    amount: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="A round's, instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Calibration pictures, instead of the recipe's.")
    ] = None,
    recovery: Annotated[
        str | None, typer.Option(help="State measured, instead of the recipe's.")
    ] = None,
    tested: Annotated[int | None, typer.Option(help="Test pictures; all by default.")] = None,
    method: Method = "rdprune",
    objective: Objective = "additive",
    repair: Repair = "none",
    levels: Annotated[str | None, typer.Option(help="Sparsities measured, as measure's.")] = None,
    shape: Shapes = None,
    criterion: Criterion = "magnitude",
    seed: Annotated[int, typer.Option(help="Of the run.")] = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Run one of the paper's experiments: prune in rounds, fine-tune, test."""
    from rdprune.recipes.recipe import find, recipes

    if listed:
        known = recipes()
        emit(
            json,
            [asdict(entry) for entry in known.values()],
            lambda out: out.print(report.recipes_table(known.values())),
        )
        return
    if name is None or data is None:
        raise ValueError("give a recipe's NAME and its --data, or --list")
    from rdprune.recipes.run import changed, run

    chosen = changed(
        find(name), rounds=rounds, amount=amount, steps=steps, batch=batch,
        calibration=samples, recovery=recovery,
    )  # fmt: skip
    target = Path(chosen.name) if folder is None else folder
    check_folders(json)
    history = run(
        chosen, data, target, weights=weights, method=method, objective=objective, repair=repair,
        levels=None if levels is None else parse_levels(levels), tested=tested, seed=seed,
        device=device, shapes=tuple(shape or ()), criterion=criterion,
    )  # fmt: skip
    show_run(json, target, history, recipe=asdict(chosen))
