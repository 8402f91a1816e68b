"""The ``rdprune bench`` commands of long experiments: what allocators lose, what foretells it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rdprune.commands.options import Json
from rdprune.console import check_folders, emit

Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        help="mnist; with RDPRUNE_DATA resnet20, resnet32, resnet56; repeatable [mnist].",
    ),
]
Folder = Annotated[
    Path, typer.Option(help="Run folder: a run that was stopped goes on with what is in it.")
]
Sparsities = Annotated[
    list[float] | None,
    typer.Option("--sparsity", min=0, max=1, help="Fraction to remove; repeatable."),
]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the fine-tune.")]
Rate = Annotated[float, typer.Option(min=0, help="Its learning rate.")]
State = Annotated[str, typer.Option("--recovery", help="State of the network: none or batchnorm.")]
Images = Annotated[int, typer.Option(min=1, help="Calibration pictures.")]
Tested = Annotated[int, typer.Option(min=1, help="Test pictures.")]
Reading = Annotated[bool, typer.Option("--show", help="Run nothing: show what the folder holds.")]


def _say(text: str) -> None:
    typer.echo(text, err=True)


def accuracy(
    folder: Folder,
    network: Networks = None,
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable [all].")] = None,
    sparsity: Sparsities = None,
    state: Annotated[
        list[str] | None, typer.Option(help="one-shot, batchnorm or fitted; repeatable [all].")
    ] = None,
    tuned: Annotated[
        list[str] | None,
        typer.Option(help="State to fine-tune from, batchnorm or fitted; repeatable [both]."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Fine-tunes of each; 0 for none.")] = 3,
    steps: Steps = 100,
    rate: Rate = 0.03,
    images: Images = 256,
    test: Tested = 10_000,
    levels: Annotated[int, typer.Option(min=3, help="Sparsities of every layer.")] = 64,
    passes: Annotated[int, typer.Option(min=9, help="Passes of a search.")] = 300,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="For N processes on one folder: part I of the work.")
    ] = "1/1",
    show: Reading = False,
    picture: Annotated[
        Path | None, typer.Option(help="Picture to write, .png: who keeps which layers.")
    ] = None,
    json: Json = None,
) -> None:
    """Prune by every allocator: distortion and top-1 one-shot, repaired, and fine-tuned."""
    from rdprune import report
    from rdprune.bench import accuracy as bench
    from rdprune.bench import accuracy_view as view
    from rdprune.bench.subject import Protocol

    check_folders(picture, json)
    plan = bench.Plan(
        networks=tuple(network or ["mnist"]),
        methods=tuple(method or bench.METHODS),
        sparsities=tuple(sparsity or bench.SPARSITIES),
        states=tuple(state or bench.STATES),
        tuned=tuple(tuned or bench.TUNED),
        seeds=seeds,
        images=images,
        test=test,
        levels=levels,
        passes=passes,
        protocol=Protocol(steps=steps, rate=rate),
    )
    rows = bench.collect(plan, folder, _say, part=_part(part), fresh=not show)
    _check_found(rows, folder)
    if picture is not None:
        view.draw(picture, rows)
    emit(json, report.finite({"rows": rows}), lambda out: out.print(*view.show(plan, rows)))


def predictors(
    folder: Folder,
    network: Networks = None,
    sparsity: Sparsities = None,
    allocations: Annotated[
        int, typer.Option(min=3, help="Allocations for each network and sparsity.")
    ] = 20,
    steps: Steps = 60,
    rate: Rate = 0.03,
    images: Images = 256,
    test: Tested = 2000,
    show: Reading = False,
    json: Json = None,
) -> None:
    """Find which measured quantity foretells top-1 after repair and after a short fine-tune."""
    from rdprune import report
    from rdprune.bench import predictors as bench
    from rdprune.bench.subject import Protocol

    check_folders(json)
    study = bench.Study(
        networks=tuple(network or ["mnist"]),
        sparsities=tuple(sparsity or bench.SPARSITIES),
        count=allocations,
        images=images,
        test=test,
        protocol=Protocol(steps=steps, rate=rate),
    )
    rows = bench.collect(study, folder, _say, fresh=not show)
    _check_found(rows, folder)
    payload = {"rows": rows, "correlations": bench.correlations(rows)}
    emit(json, report.finite(payload), lambda out: out.print(*bench.shown(rows)))


def sentences(
    folder: Folder,
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable [all].")] = None,
    sparsity: Sparsities = None,
    texts: Annotated[int, typer.Option(min=1, help="Calibration texts.")] = 32,
    levels: Annotated[int, typer.Option(min=3, help="Sparsities of every layer.")] = 24,
    passes: Annotated[int, typer.Option(min=9, help="Passes of a search.")] = 300,
    json: Json = None,
) -> None:
    """Prune MiniLM by every allocator: distortion, and agreement with people on likeness."""
    from rdprune import report
    from rdprune.bench import sentences as bench

    check_folders(json)
    plan = bench.Plan(
        methods=tuple(method or bench.METHODS),
        sparsities=tuple(sparsity or bench.SPARSITIES),
        texts=texts,
        levels=levels,
        passes=passes,
    )
    rows = bench.collect(plan, folder, _say)
    emit(json, report.finite({"rows": rows}), lambda out: out.print(*bench.show(rows)))


def ablation(
    folder: Folder,
    network: Networks = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Fraction to remove; repeatable [0.9].")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="m, images, levels or radius; repeatable [all]."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Of refining.")] = 3,
    test: Tested = 1000,
    state: State = "batchnorm",
    json: Json = None,
) -> None:
    """Vary responses, calibration pictures, levels and radius, one at a time."""
    from dataclasses import asdict

    from rdprune.bench import ablation as bench

    check_folders(json)
    plan = bench.Plan(
        networks=tuple(network or ["mnist"]),
        sparsities=tuple(sparsity or [0.9]),
        settings=tuple(setting or bench.VALUES),
        rounds=rounds,
        test=test,
        recovery=state,
    )
    rows = bench.run(plan, folder, _say)
    emit(json, {"rows": [asdict(row) for row in rows]}, lambda out: out.print(bench.show(rows)))


def _check_found(rows: list[dict[str, Any]], folder: Path) -> None:
    if not rows:
        raise ValueError(
            f"--folder {folder} has no results of these settings: run the same without --show"
        )


def _part(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise ValueError(f"--part is {text!r}, must be I/N such as 1/2")
    return int(first) - 1, int(second)
