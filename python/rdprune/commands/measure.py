"""The ``rdprune measure`` command."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rdprune import report
from rdprune.commands.launching import launched, who
from rdprune.commands.options import (
    Criterion,
    DataSpec,
    Device,
    Json,
    ModelSpec,
    Shapes,
    Sparsities,
    StoreFolder,
    example,
)
from rdprune.console import amount, check_folders, emit, load_batches, load_model, pairs
from rdprune.levels import FALLING
from rdprune.resampling import EXCESS_LIMIT, bootstrap
from rdprune_core import InfeasibleBudgetError, RDTable
from rdprune_core.budget import Budget

#: ``--levels`` for measuring only what the budgets need.
AUTO = "auto"
UNCHECKED = "note: whether the samples are too few is not known: that takes their kept errors"

#: Where the bootstrap asks whether the samples decide, and how often it draws.
CHECKED_SPARSITIES = (0.5, 0.7, 0.9)
RESAMPLES = 30

app = typer.Typer()


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
        str,
        typer.Option(
            help="How many evenly spaced sparsities, a list: 0,0.5,0.9, falling or falling:64: "
            "densities that fall by one ratio, for 0.9 and above, or auto: 101, of which those "
            "are measured that --budget or --sparsity needs."
        ),
    ] = "101",
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="[COST=]AMOUNT", help="With auto: 20%, or macs=35%; repeatable."),
    ] = None,
    sparsity: Sparsities = None,
    objective: Annotated[
        str, typer.Option(help="With auto: what is minimised at the budgets, additive or joint.")
    ] = "additive",
    shape: Shapes = None,
    criterion: Criterion = "magnitude",
    distortion: Annotated[
        str,
        typer.Option(
            help="mse, nmse, max, cvar:0.1, kl, kl:2, cosine, loss, loss:next; kl,max and "
            "mse@attention_mask (weights of the positions) and the like."
        ),
    ] = "mse",
    features: Annotated[
        str,
        typer.Option(
            metavar="MODULE", help="Compare what it gives, or takes: fc:input; not the output."
        ),
    ] = "",
    recovery: Annotated[
        str,
        typer.Option(
            help="State measured: none, batchnorm (batch statistics), bias, least-squares, or "
            "several joined by +."
        ),
    ] = "none",
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Layer to leave alone: name, glob or re:regex; repeatable."),
    ] = None,
    responses: Annotated[int, typer.Option(help="Numbers kept of every response.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the projection of the responses.")] = 0,
    reuse: Annotated[
        bool, typer.Option(help="Record what runs before the measured layer; same numbers.")
    ] = True,
    reuse_memory: Annotated[
        str, typer.Option(metavar="BYTES", help="Most memory for records: 500M, 4G.")
    ] = "1G",
    keep_errors: Annotated[
        bool | None,
        typer.Option(
            help="Keep every sample's error in the table, and say if samples are too few; by "
            "default, but not with levels auto."
        ),
    ] = None,
    store: StoreFolder = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Measure what every sparsity of every layer does to the model's output.

    Under torchrun (torchrun --nproc-per-node 2 -m rdprune measure ...) the ranks share the work.
    """
    import rdprune
    from rdprune.store import go_on

    check_folders(output, json)
    options: dict[str, Any] = {
        "levels": parse_levels(levels, auto=True),
        "budgets": parse_budgets(budget or [], sparsity or []),
        "objective": objective,
        "shapes": tuple(shape or ()),
        "criterion": criterion,
        "distortion": distortion,
        "forward": rdprune.features(features) if features else None,
        "recovery": recovery,
        "ignore": tuple(ignore or ()),
        "responses": responses,
        "seed": seed,
        "reuse": reuse,
        "reuse_memory": parse_bytes(reuse_memory),
        "store": store,
        "keep_errors": levels != AUTO if keep_errors is None else keep_errors,
    }
    with launched(device) as rank:
        network = load_model(model, device)
        batches = load_batches(data)
        start_time = time.perf_counter()
        try:
            table = rdprune.measure(network, batches, **options)
        except KeyboardInterrupt:
            typer.echo(f"rdprune: {who()}{go_on(store)}", err=True)
            raise
        seconds = time.perf_counter() - start_time
    if rank == 0:
        table.save(output)
        _tell(table, output, seconds, json)


def _tell(table: RDTable, output: Path, seconds: float, json: str | None) -> None:
    """Show what was measured, and whether the samples were enough."""
    drawn = noise(table) if table.errors is not None else None
    skipped = sum(map(len, table.metadata.get("interpolated", {}).values()))
    payload = {
        "output": str(output),
        "layers": list(table.names),
        "options": sum(len(options) for options in table.options),
        "interpolated": skipped,
        "seconds": seconds,
        "metadata": table.metadata,
        "noise": drawn,
    }
    counted = f"{payload['options']} options" + (f", {skipped} interpolated," if skipped else "")
    footer = f"{counted} in {seconds:.1f} s; table written to {output}"
    emit(json, payload, lambda out: out.print(report.measured_table(table), footer))
    warning = UNCHECKED if drawn is None else too_few_samples(drawn)
    if warning:
        typer.echo(warning, err=True)


def noise(table: RDTable) -> list[dict[str, float | None]]:
    """Return what the bootstrap says at each of a few sparsities that the options reach."""
    rows = []
    for sparsity in CHECKED_SPARSITIES:
        try:
            found = bootstrap(table, sparsity=sparsity, resamples=RESAMPLES)
        except InfeasibleBudgetError:
            continue
        rows.append(
            {
                "sparsity": sparsity,
                "distortion": found.allocation.distortion,
                "standard_error": found.standard_error,
                "moved": found.moved,
                "excess": found.excess if math.isfinite(found.excess) else None,
            }
        )
    return rows


def too_few_samples(rows: list[dict[str, float | None]]) -> str:
    """Return a warning if the samples do not decide the allocation, else nothing."""
    excesses = [math.inf if row["excess"] is None else row["excess"] for row in rows]
    worst = max(excesses, default=0.0)
    if worst <= EXCESS_LIMIT:
        return ""
    sparsity = rows[excesses.index(worst)]["sparsity"]
    return (
        f"warning: too few samples to decide: at sparsity {sparsity} another draw of as many "
        f"samples chooses a distortion {worst:.1%} above the least (bootstrap; limit "
        f"{EXCESS_LIMIT:.0%}); measure on more samples"
    )


@app.command(
    epilog=example(
        "rdprune look --model rdprune.demo.network:trained \\",
        "    --data rdprune.demo.data:calibration --recovery batchnorm --output look.npz",
    )
)
def look(
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option(help="Table of estimates to write, .npz.")],
    levels: Annotated[
        str,
        typer.Option(help="How many evenly spaced sparsities, a list: 0,0.5,0.9, or falling:64."),
    ] = "101",
    probes: Annotated[int, typer.Option(help="Backward passes; more are more exact.")] = 32,
    recovery: Annotated[str, typer.Option(help="State: none or batchnorm.")] = "none",
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Layer to leave alone: name, glob or re:regex; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the probes.")] = 0,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Estimate the whole table from a few backward passes: a first look, not a measurement."""
    import rdprune

    check_folders(output, json)
    network = load_model(model, device)
    batches = load_batches(data)
    table = rdprune.first_look(
        network,
        batches,
        levels=parse_levels(levels),
        probes=probes,
        recovery=recovery,
        ignore=tuple(ignore or ()),
        seed=seed,
    )
    table.save(output)
    payload = {"output": str(output), "layers": list(table.names), "metadata": table.metadata}
    footer = f"estimates, {table.metadata['estimated']}; table written to {output}"
    emit(json, payload, lambda out: out.print(report.measured_table(table), footer))


def parse_levels(text: str, *, auto: bool = False) -> int | str | list[float]:
    """Return a number of levels, a name of levels, or those of a comma-separated list.

    Where not all levels may be left to be found out, `auto` is false and ``"auto"`` is refused.
    """
    if text == AUTO and not auto:
        raise ValueError("--levels auto is for rdprune measure")
    if text == AUTO or text.startswith(FALLING):
        return text
    try:
        return int(text) if text.strip().isdecimal() else [float(x) for x in text.split(",")]
    except ValueError:
        message = (
            "--levels must be a whole number, auto, falling, falling:64 or sparsities like "
            f"0,0.5,0.9, got {text!r}"
        )
        raise ValueError(message) from None


def parse_budgets(entries: list[str], sparsities: list[float]) -> list[Budget] | None:
    """Return each ``[cost=]amount`` as a budget of its own, and each sparsity as one; or None."""
    found: list[Budget] = []
    for entry in entries:
        found.append(
            amount(entry) if "=" not in entry else pairs("--budget", "COST=AMOUNT", [entry]) or {}
        )
    for value in sparsities:
        if not 0 <= value <= 1:
            raise ValueError(f"--sparsity is {value}, must be between 0 and 1")
        found.append({"params": f"{round(100 * (1 - value), 10)}%"})
    return found or None


def parse_bytes(text: str) -> int:
    """Return a number of bytes, written plainly or in K, M or G of 1024."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number = text.rstrip("KMG")
    if not number.isdecimal() or text[len(number) :] not in units:
        raise ValueError(f"--reuse-memory must be bytes like 500M or 4G, got {text!r}")
    return int(number) * units[text[len(number) :]]
