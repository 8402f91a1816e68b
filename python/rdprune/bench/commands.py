"""The ``rdprune bench`` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdprune.bench import experiments
from rdprune.bench.adapting import adapt
from rdprune.bench.experiments import Networks, State, Tested
from rdprune.bench.iterative import iterative
from rdprune.bench.ranks import ranks
from rdprune.bench.shaped import shapes
from rdprune.commands.options import Json
from rdprune.console import check_folders, console, emit

Network = Annotated[
    str, typer.Option(help="mnist; or, with RDPRUNE_DATA, resnet20, resnet32, resnet56.")
]
Picture = Annotated[Path | None, typer.Option(help="Picture to write, .png.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command(
    epilog="\b\nExample:\n  rdprune bench iterative --folder run "
    "--weights resnet20_cifar10_jpeg.safetensors"
)(iterative)
app.command(epilog="\b\nExample:\n  rdprune bench shapes --network mnist")(shapes)
app.command(
    epilog="\b\nExample:\n  rdprune bench ranks\n"
    "  rdprune bench ranks --network resnet32 --levels 21 --repeats 3 --json ranks.json"
)(ranks)


app.command(
    epilog="\b\nExample:\n  rdprune bench accuracy --folder run --network resnet20 --sparsity 0.9"
)(experiments.accuracy)
app.command(epilog="\b\nExample:\n  rdprune bench predictors --folder run --network mnist")(
    experiments.predictors
)
app.command(
    epilog="\b\nExample:\n  rdprune bench adapt --network resnet56 "
    "--output data/resnet56_cifar10_jpeg.safetensors"
)(adapt)

app.command(
    epilog="\b\nExample:\n  rdprune bench ablation --folder run --network mnist --sparsity 0.9\n"
    "  rdprune bench ablation --folder run --network resnet20 --setting radius --setting levels"
)(experiments.ablation)
app.command(epilog="\b\nExample:\n  rdprune bench sentences --folder run --sparsity 0.5")(
    experiments.sentences
)


@app.callback()
def start() -> None:
    """Time the solver beside others, and measuring beside its plain loop."""


@app.command(
    epilog="\b\nExample:\n  rdprune bench solver --quick\n"
    "  rdprune bench solver --shape ResNet-50 --contender highs --seeds 100 --full"
)
def solver(
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tables for each network [30]; a third on other curves than noisy."
        ),
    ] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Network; repeatable.")] = None,
    curve: Annotated[list[str] | None, typer.Option(help="Kind of curves; repeatable.")] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="Who runs beside ours; repeatable.")
    ] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="Fraction to remove; repeatable.")
    ] = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="Measured table to run too; repeatable.")
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(
            help="contenders, budgets, frontier, growth, batch, limits or memory; repeatable."
        ),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="Seconds a call of those that can be stopped [20].")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A taste, in under a minute.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Everybody on everything: hours.")] = False,
    picture: Picture = None,
    json: Json = None,
) -> None:
    """Run everybody who allocates on the same instances: time, optimality, budget, memory."""
    from rdprune.bench import sections

    check_folders(picture, json)
    plan = sections.make_plan(
        seeds=seeds,
        shapes=shape,
        curves=curve,
        contenders=contender,
        sparsities=sparsity,
        tables=table,
        chosen=section,
        time_limit=time_limit,
        quick=quick,
        full=full,
    )
    if picture is not None and "contenders" not in plan.sections:
        raise ValueError("--picture shows the section contenders, which is not run")
    results = sections.run(plan, None if json == "-" else console())
    if picture is not None:
        sections.draw(picture, results)
    emit(json, sections.payload(results), lambda _: None)


@app.command(epilog="\b\nExample:\n  rdprune bench fuzz --seconds 600 --seed 1")
def fuzz(
    seconds: Annotated[float, typer.Option(min=0, help="No case begins later.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of all cases.")] = 0,
    json: Json = None,
) -> None:
    """Call the compiled core with random arrays, sound and malformed; fail on a wrong answer."""
    from rdprune.bench import fuzz as bench

    check_folders(json)
    report = bench.run(seed, seconds=seconds)
    emit(
        json,
        {
            "cases": dict(report.cases),
            "refused": report.refused,
            "findings": report.findings,
        },
        lambda out: out.print(bench.show(report), soft_wrap=True),
    )
    if report.findings:
        raise typer.Exit(1)


@app.command(
    epilog="\b\nExample:\n  rdprune bench joint --seeds 20\n"
    "  rdprune bench joint --no-shape --table table.npz"
)
def joint(
    seeds: Annotated[int, typer.Option(min=1, help="Tables for each shape.")] = 3,
    effort: Annotated[
        int, typer.Option(min=0, help="Of the long search beside ours; 0 for none.")
    ] = 10,
    shape: Annotated[list[str] | None, typer.Option(help="'34 x 101', '224 x 33'.")] = None,
    no_shape: Annotated[bool, typer.Option("--no-shape", help="Measured tables only.")] = False,
    table: Annotated[list[Path] | None, typer.Option(help="Measured table; repeatable.")] = None,
    json: Json = None,
) -> None:
    """Time the joint objective; its gap, and how much a longer search would gain."""
    from dataclasses import asdict

    from rdprune.bench import joint as bench

    check_folders(json)
    shapes = [] if no_shape else shape or list(bench.SHAPES)
    rows = bench.measure(seeds, effort, shapes, table or [])
    emit(json, {"rows": [asdict(row) for row in rows]}, lambda out: out.print(bench.show(rows)))


@app.command(
    epilog="\b\nExample:\n  rdprune bench measure --quick\n"
    "  rdprune bench measure --network resnet32 --json measure.json"
)
def measure(
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="demo; with the data folder resnet32, resnet56; with transformers minilm, and of "
            "random weights resnet50, deit-s; repeatable [all]."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="plain, prefix, adaptive, 'adaptive, prefix', 'adaptive, prefix, one table', or "
            "all, which searches without a table; repeatable [all of them]."
        ),
    ] = None,
    levels: Annotated[int | None, typer.Option(min=5, help="Sparsities a layer [101].")] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Calibration pictures or texts [2 to 64].")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The demo's network alone, on fewer digits and, unless --method says so, without "
            "the methods with a comma: in under two minutes.",
        ),
    ] = False,
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the rows as JSON; '-' for stdout."),
    ] = None,
) -> None:
    """Measure networks plainly and with each saving: work, time, memory, what is lost."""
    from rdprune.bench import measuring as bench
    from rdprune.bench.networks import NETWORKS

    check_folders(json)
    if quick and (network or levels or samples):
        raise ValueError("--quick chooses the network, the levels and the samples itself")
    rows = bench.run(
        [bench.QUICK] if quick else network or list(NETWORKS),
        method or list(bench.QUICK_METHODS if quick else bench.METHODS),
        levels or bench.LEVELS,
        lambda text: typer.echo(text, err=True),
        bench.QUICK_SAMPLES if quick else samples,
    )
    emit(json, [row.told() for row in rows], lambda out: out.print(bench.show(rows)))


@app.command(
    epilog="\b\nExample:\n  rdprune bench recovery --network mnist --sparsity 0.9\n"
    "  rdprune bench recovery --network resnet32 --recovery none --recovery batchnorm"
)
def recovery(
    network: Network = "mnist",
    images: Annotated[int, typer.Option(min=1, help="Calibration pictures.")] = 192,
    test: Tested = 1000,
    levels: Annotated[int, typer.Option(min=2, help="Sparsities of every layer.")] = 24,
    state: Annotated[
        list[str] | None,
        typer.Option("--recovery", help="State to measure in; repeatable [none, batchnorm]."),
    ] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Fraction to remove; repeatable [0.5 to 0.9].")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method; repeatable [all, refined too].")
    ] = None,
    json: Json = None,
) -> None:
    """Prune a real network by all methods, measured in several states of repair."""
    from dataclasses import asdict

    from rdprune import report
    from rdprune.bench import recovery as bench

    check_folders(json)
    entries = bench.run(
        network,
        images=images,
        test=test,
        levels=levels,
        recoveries=state or ["none", "batchnorm"],
        sparsities=sparsity or [0.5, 0.7, 0.8, 0.9],
        methods=method or list(bench.METHODS),
    )
    rows = [report.finite(asdict(entry)) for entry in entries]
    emit(json, {"rows": rows}, lambda out: out.print(bench.show(entries)))


@app.command(
    epilog="\b\nExample:\n  rdprune bench search --network mnist --picture search.png\n"
    "  rdprune bench search --network resnet20 --sparsity 0.9 --seeds 5"
)
def search(
    network: Networks = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Fraction to remove; repeatable [0.8, 0.9].")
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="Runs over the calibration pictures.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Of searching and evolution.")] = 3,
    images: Annotated[int, typer.Option(min=8, help="Calibration pictures.")] = 64,
    test: Tested = 1000,
    levels: Annotated[int, typer.Option(min=2, help="Sparsities of every layer.")] = 12,
    state: State = "batchnorm",
    picture: Picture = None,
    json: Json = None,
) -> None:
    """Search, refine, evolve and run SPDY with equal numbers of passes."""
    from dataclasses import asdict

    from rdprune.bench import search as bench

    check_folders(picture, json)
    curves = bench.run(
        network or ["mnist"],
        sparsities=sparsity or [0.8, 0.9],
        images=images,
        test=test,
        levels=levels,
        passes=passes,
        seeds=seeds,
        recovery=state,
    )
    if picture is not None:
        bench.draw(picture, curves)
    rows = [asdict(curve) for curve in curves]
    emit(json, {"curves": rows}, lambda out: out.print(bench.show(curves)))


@app.command(
    epilog="\b\nExample:\n  rdprune bench correlations --network mnist --picture mnist.png\n"
    "  rdprune bench correlations --network resnet20 --level 0.9"
)
def correlations(
    network: Network = "mnist",
    images: Annotated[int, typer.Option(min=1, help="Calibration pictures.")] = 96,
    levels: Annotated[int, typer.Option(min=2, help="Sparsities of every layer.")] = 21,
    level: Annotated[float, typer.Option(min=0, max=1, help="Where the cosines are of.")] = 0.8,
    draws: Annotated[int, typer.Option(min=1, help="Random allocations at each sparsity.")] = 8,
    picture: Picture = None,
    json: Json = None,
) -> None:
    """Look whether layers' responses add up, with and without BatchNorm on batch statistics."""
    from dataclasses import asdict

    from rdprune.bench import correlations as bench

    check_folders(picture, json)
    states = bench.run(network, images=images, levels=levels, level=level, draws=draws)
    if picture is not None:
        bench.draw(picture, states, level)
    rows = [
        {
            "network": state.network,
            "recovery": state.recovery,
            "cosines": state.cosines.tolist(),
            "points": [asdict(point) for point in state.points],
        }
        for state in states
    ]
    emit(json, {"states": rows}, lambda out: out.print(bench.show(states)))
