"""Commands that prune a model whole: ``rdprune prune`` and ``rdprune iterate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdprune import report
from rdprune.commands.measure import parse_levels
from rdprune.commands.options import (
    Criterion,
    Device,
    Json,
    ModelSpec,
    Shapes,
    example,
    fraction,
)
from rdprune.console import check_folders, emit, load_batches, load_model, traced

if TYPE_CHECKING:
    from rdprune.runfolder import Round

app = typer.Typer()

DataOrNoise = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="MODULE:FUNCTION", help="Callable returning batches; or --noise."
    ),
]
Noise = Annotated[
    str | None,
    typer.Option(metavar="SHAPE", help="No data: N(0, 1) inputs of this shape, as 3,32,32."),
]
Samples = Annotated[int, typer.Option(help="Number of inputs for --noise.")]
Folder = Annotated[Path, typer.Option(help="Run folder; a run that was stopped goes on there.")]
FinetuneSpec = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="function(model, step) that trains the model, masked, and returns named figures or "
        "nothing; step has number, rounds, sparsity, folder and seed.",
    ),
]
EvaluateSpec = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="function(model) that returns named figures."),
]
Method = Annotated[
    str,
    typer.Option(
        help="rdprune, uniform, uniform_plus, erk, global_magnitude, lamp, owl or spdy (slow)."
    ),
]
Objective = Annotated[str, typer.Option(help="additive, or joint: of the responses' sum.")]
Levels = Annotated[
    str | None, typer.Option(help="As for measure; by default densities of 0.93^i and 0.")
]
Distortion = Annotated[
    str | None,
    typer.Option(
        help="As for measure: mse, nmse, kl, max, ... [by what ships: docs/predictors.md]."
    ),
]
Recovery = Annotated[
    str | None,
    typer.Option(
        help="State measured: none, batchnorm, bias, least-squares, or by + "
        "[by what ships: docs/predictors.md]."
    ),
]
Blend = Annotated[
    float | None,
    typer.Option(
        help="Share of the removed weights' energy, 0 to 1 [by what ships: docs/predictors.md]."
    ),
]
Repair = Annotated[
    str, typer.Option(help="Before fine-tuning: none, batchnorm, bias, least-squares, or by +.")
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="Layer to leave alone: name, glob or re:regex; repeatable."),
]
Seed = Annotated[int, typer.Option(help="Of measuring, and with the round of fine-tuning.")]


@app.command(
    epilog=example(
        "rdprune prune --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --sparsity 0.8 --folder one-shot",
    )
)
def prune(
    model: ModelSpec,
    sparsity: Annotated[
        float,
        typer.Option(parser=fraction, metavar="FRACTION", help="Weights to remove: 0.8, 80%."),
    ],
    folder: Folder,
    data: DataOrNoise = None,
    noise: Noise = None,
    samples: Samples = 256,
    finetune: FinetuneSpec = None,
    evaluate: EvaluateSpec = None,
    method: Method = "rdprune",
    objective: Objective = "additive",
    levels: Levels = None,
    shape: Shapes = None,
    criterion: Criterion = "magnitude",
    distortion: Distortion = None,
    recovery: Recovery = None,
    blend: Blend = None,
    repair: Repair = "none",
    ignore: Ignore = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Prune a model in one shot: measure, allocate, mask, fine-tune, write."""
    _run(
        model, device, _batches(data, noise, samples, seed), folder, finetune, evaluate, json,
        rounds=1, sparsity=sparsity, method=method, objective=objective,
        levels=None if levels is None else parse_levels(levels), distortion=distortion,
        recovery=recovery, blend=blend, repair=repair,
        ignore=tuple(ignore or ()), seed=seed, shapes=tuple(shape or ()), criterion=criterion,
    )  # fmt: skip


@app.command(
    epilog=example(
        "rdprune iterate --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --rounds 7 --amount 0.2 --folder run \\",
        "    --finetune mine:finetune",
    )
)
def iterate(
    model: ModelSpec,
    folder: Folder,
    data: DataOrNoise = None,
    noise: Noise = None,
    samples: Samples = 256,
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 20,
    amount: Annotated[
        float | None, typer.Option(help="Fraction of what is left that a round removes [0.2].")
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="FRACTION",
            help="In place of --amount: weights removed after the last round, 0.9 or 90%.",
        ),
    ] = None,
    finetune: FinetuneSpec = None,
    evaluate: EvaluateSpec = None,
    method: Method = "rdprune",
    cost: Annotated[str, typer.Option(help="What is counted: params or macs.")] = "params",
    objective: Objective = "additive",
    levels: Levels = None,
    shape: Shapes = None,
    criterion: Criterion = "magnitude",
    distortion: Distortion = None,
    recovery: Recovery = None,
    blend: Blend = None,
    repair: Repair = "none",
    rewind: Annotated[
        bool, typer.Option("--rewind", help="Start every fine-tune from the first weights.")
    ] = False,
    ignore: Ignore = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Prune in rounds, measuring anew and fine-tuning in each; a stopped run goes on."""
    _run(
        model, device, _batches(data, noise, samples, seed), folder, finetune, evaluate, json,
        rounds=rounds, amount=amount, sparsity=sparsity, method=method, cost=cost,
        objective=objective, levels=None if levels is None else parse_levels(levels),
        distortion=distortion, recovery=recovery, blend=blend, repair=repair, rewind=rewind,
        ignore=tuple(ignore or ()), seed=seed, shapes=tuple(shape or ()), criterion=criterion,
    )  # fmt: skip


def _batches(data: str | None, noise: str | None, samples: int, seed: int) -> Sequence[Any]:
    """Return the batches that --data names, or noise."""
    from rdprune.noise import gaussian

    if (data is None) == (noise is None):
        raise ValueError("give --data or --noise, one of them")
    if data is not None:
        return load_batches(data)
    try:
        shape = [int(size) for size in str(noise).split(",")]
    except ValueError:
        raise ValueError(f"--noise must be a shape like 3,32,32, got {noise!r}") from None
    return gaussian(shape, samples, seed=seed)


def _run(
    model: str,
    device: str,
    batches: Sequence[Any],
    folder: Path,
    finetune: str | None,
    evaluate: str | None,
    json: str | None,
    **options: Any,
) -> None:
    import rdprune

    check_folders(json)
    if finetune is not None:
        options["identity"] = {"finetune": finetune}
    history = rdprune.iterate(
        load_model(model, device), batches, folder=folder,
        finetune=None if finetune is None else traced("--finetune", finetune),
        evaluate=None if evaluate is None else traced("--evaluate", evaluate),
        **options,
    )  # fmt: skip
    show_run(json, folder, history)


def _stages(repair: str) -> str:
    """Say which network the columns are of."""
    if repair == "none":
        return "distortion and pruned figures: as masked, before any fine-tune"
    return f"distortion: as masked; pruned figures: repaired ({repair}), before any fine-tune"


def show_run(json: str | None, folder: Path, history: Sequence[Round], **more: Any) -> None:
    """Show the rounds of a run and where its weights are; `more` goes into the JSON, first."""
    from rdprune.runfolder import RunFolder

    run = RunFolder(folder)
    measured = {name: run.settings.get(name) for name in ("recovery", "distortion")}
    measured["blend"] = run.settings.get("blend", 0.0)
    repair = run.settings.get("repair", "none")
    weights = folder / f"round-{len(history):03d}" / "weights.safetensors"
    payload = {
        **more,
        "folder": str(folder),
        "weights": str(weights),
        "measured": measured,
        "dense": run.dense,
        "rounds": [asdict(done) for done in history],
    }
    said = (
        f"distortion: {measured['distortion']}, state {measured['recovery']}, blend "
        f"{measured['blend']:g}; {_stages(repair)}"
    )
    if repair == "none" and "identity" not in run.settings:  # which a fine-tune brings
        said += "\nnothing repaired or trained: a --repair, or rdprune search, may keep more"
    if len(run.rounds) > len(history):
        said += f"\n{folder} has {len(run.rounds)} rounds; asked for and shown: {len(history)}"
    lines = f"{said}\npruned weights written to {weights}"
    emit(json, payload, lambda out: out.print(report.history_table(history, run.dense), lines))
