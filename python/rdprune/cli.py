"""The ``rdprune`` command."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ModuleNotFoundError as error:
    # Said here because the entry point imports this before it can call anything.
    message = f"rdprune: error: {error.name} is missing: pip install 'rdprune-core[torch]'\n"
    sys.stderr.write(message)
    raise SystemExit(2) from None

import rdprune_core
from rdprune import picture as drawing
from rdprune import report
from rdprune.bench.commands import app as bench
from rdprune.console import Commands, amount, check_folders, emit, load_batches, load_model, pairs
from rdprune_core import Allocation, RDTable
from rdprune_core.files import atomic_write

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")


def example(*lines: str) -> str:
    """Return the end of a command's help; the backspace keeps its lines as they are."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in lines)))


# ------------------------------------------------------------------------- shared options

TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="Table that measure wrote.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; '-' for stdout, alone."),
]
ModelSpec = Annotated[
    str, typer.Option("--model", metavar="MODULE:FUNCTION", help="Callable returning the model.")
]
DataSpec = Annotated[
    str, typer.Option("--data", metavar="MODULE:FUNCTION", help="Callable returning batches.")
]
Device = Annotated[str, typer.Option(help="Where the model runs, as torch names it.")]
AllocationPath = Annotated[Path, typer.Option(help="Allocation that allocate wrote.")]


Sparsities = Annotated[
    list[float] | None,
    typer.Option("--sparsity", metavar="FRACTION", help="Fraction to remove; repeatable."),
]


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Give every layer of a network the compression it can bear.

    Start with: rdprune demo
    """
    if version:
        typer.echo(f"rdprune {rdprune_core.__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command(
    epilog=example(
        "rdprune demo --output rdprune-demo",
    )
)
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("rdprune-demo"),
    json: Json = None,
) -> None:
    """Prune a ResNet-20 trained on MNIST digits, in under a minute on one core."""
    from rdprune.demo.run import run

    run(output, json)


@app.command(
    epilog=example(
        "rdprune measure --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --levels 21 --output table.npz",
    )
)
def measure(
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option(help="Table to write, .npz.")],
    levels: Annotated[
        str, typer.Option(help="How many evenly spaced sparsities, or a list: 0,0.5,0.9.")
    ] = "101",
    distortion: Annotated[str, typer.Option(help="mse or max, over the samples.")] = "mse",
    recovery: Annotated[
        str, typer.Option(help="State measured: none, or batchnorm (batch statistics).")
    ] = "none",
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Layer to leave alone: name, glob or re:regex; repeatable."),
    ] = None,
    responses: Annotated[int, typer.Option(help="Numbers kept of every response.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the projection of the responses.")] = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Measure what every sparsity of every layer does to the model's output."""
    import rdprune

    check_folders(output, json)
    network = load_model(model, device)
    batches = load_batches(data)
    start_time = time.perf_counter()
    table = rdprune.measure(
        network,
        batches,
        levels=parse_levels(levels),
        distortion=distortion,
        recovery=recovery,
        ignore=tuple(ignore or ()),
        responses=responses,
        seed=seed,
    )
    seconds = time.perf_counter() - start_time
    table.save(output)
    payload = {
        "output": str(output),
        "layers": list(table.names),
        "options": sum(len(options) for options in table.options),
        "seconds": seconds,
        "metadata": table.metadata,
    }
    footer = f"{payload['options']} options in {seconds:.1f} s; table written to {output}"
    emit(json, payload, lambda out: out.print(report.measured_table(table), footer))


def parse_levels(text: str) -> int | list[float]:
    """Return a number of levels, or the levels of a comma-separated list."""
    try:
        return int(text) if text.strip().isdecimal() else [float(x) for x in text.split(",")]
    except ValueError:
        message = f"--levels must be a whole number or sparsities like 0,0.5,0.9, got {text!r}"
        raise ValueError(message) from None


@app.command(
    epilog=example(
        "rdprune allocate table.npz --sparsity 0.8 --output allocation.json",
        "rdprune allocate table.npz --budget params=20% --budget macs=35%",
    )
)
def allocate(
    table: TablePath,
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of the weights to remove.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="[COST=]AMOUNT", help="Most of a cost: 20%, macs=35%, macs=90000."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="additive, or joint: of the responses' sum (needs responses).")
    ] = "additive",
    floor: Annotated[
        list[str] | None, typer.Option(metavar="LAYER=COST", help="Least cost of a layer.")
    ] = None,
    cap: Annotated[
        list[str] | None, typer.Option(metavar="LAYER=COST", help="Most cost of a layer.")
    ] = None,
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
    output: Annotated[Path | None, typer.Option(help="Allocation to write, .json.")] = None,
    json: Json = None,
) -> None:
    """Choose one option for every layer: the least distortion within the budget, with proof."""
    check_folders(output, json)
    measured = RDTable.load(table)
    allocation = rdprune_core.allocate(
        measured,
        parse_budget(budget or []),
        sparsity=sparsity,
        objective=objective,
        floors=pairs("--floor", "LAYER=COST", floor),
        caps=pairs("--cap", "LAYER=COST", cap),
        forbidden=parse_forbidden(forbid or []),
        tied=[tuple(entry.split(",")) for entry in tie or ()],
        previous=None if previous is None else Allocation.load(previous),
        time_limit=time_limit,
    )
    if output is not None:
        allocation.save(output)
    grid = report.allocation_table(measured, allocation)
    emit(json, report.allocation_dict(allocation), lambda out: out.print(grid))


def parse_budget(entries: list[str]) -> int | str | dict[str, int | str] | None:
    """Return a lone amount as itself, ``cost=amount`` entries as a dict."""
    if len(entries) == 1 and "=" not in entries[0]:
        return amount(entries[0])
    return pairs("--budget", "COST=AMOUNT", entries)


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
        typer.Option(metavar="MODULE:FUNCTION", help="Batches to re-estimate BatchNorm on."),
    ] = None,
    json: Json = None,
) -> None:
    """Prune a model by an allocation and write its weights."""
    from safetensors.torch import save_model

    import rdprune

    check_folders(output, masks, json)
    chosen = Allocation.load(allocation)
    network = load_model(model)
    made = rdprune.masks(network, chosen)
    rdprune.apply_(network, made)
    if repair_data is not None and not rdprune.repair_(
        network, load_batches(repair_data, "--repair-data")
    ):
        raise ValueError("--repair-data: the model has no BatchNorm statistics to re-estimate")
    rdprune.strip_(network)
    with atomic_write(output) as temporary:
        save_model(network, str(temporary))
    if masks is not None:
        rdprune.save_masks(masks, made)
    kept = {name: int(mask.sum()) for name, mask in made.items()}
    total = sum(mask.numel() for mask in made.values())
    payload = {
        "output": str(output),
        "kept": kept,
        "kept_total": sum(kept.values()),
        "dense": total,
    }
    line = f"{sum(kept.values()):,} of {total:,} weights kept; written to {output}"
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
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Run the pruned model: predicted against true distortion, and the weights counted."""
    import rdprune

    check_folders(json)
    chosen = Allocation.load(allocation)
    dense = load_model(model, device)
    batches = load_batches(data)
    if weights is None:
        found = rdprune.verify(dense, batches, chosen)
    else:
        found = rdprune.verify(pruned(dense, weights), batches, chosen, dense=dense)
    grid = report.verify_table([found])
    emit(json, report.finite(asdict(found)), lambda out: out.print(grid))


def pruned(dense: Any, weights: Path) -> Any:
    """Return a copy of the dense model with the weights of a file."""
    from copy import deepcopy

    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_weights

    copy = deepcopy(dense)
    try:
        load_weights(copy, weights)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"--weights {weights} does not fit the model: {error}") from error
    return copy


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
    heldout: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Callable returning batches never measured on."
        ),
    ] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Compare with uniform, ERK, global magnitude and LAMP at the same number of weights."""
    import rdprune

    check_folders(json)
    measured = RDTable.load(table)
    rows = rdprune.compare(
        load_model(model, device),
        load_batches(data),
        measured,
        sparsities=tuple(sparsity or (0.5, 0.7, 0.8, 0.9)),
        heldout=None if heldout is None else load_batches(heldout, "--heldout"),
    )
    payload = [report.finite(asdict(row)) for row in rows]
    emit(json, payload, lambda out: out.print(report.compare_table(rows)))


def main() -> None:
    """Run the command; the entry point of the ``rdprune`` script."""
    app(prog_name="rdprune")


if __name__ == "__main__":
    main()
