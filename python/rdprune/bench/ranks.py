"""Whether ranks measure the table that one rank measures, and how much sooner."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from rdprune.bench.process import command, finished
from rdprune.commands.options import Json
from rdprune.console import check_folders, emit

if TYPE_CHECKING:
    from rdprune.bench.targets import Verdict

TARGET: Final = 1.7
"""Least speed-up of `RANKS` ranks on as many cores with nothing else running."""
RANKS: Final = 2
LEVELS: Final = 101
QUIET: Final = 0.95
"""Part of the clock's time that one rank must have had a core for; less is a disturbed machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """A number of ranks on one network.

    Attributes
    ----------
    network : str
    ranks : int
    wall_s : float
        Seconds from when all ranks have their model and data until the last has the table; Python
        and torch are started before. The shortest of the repeats.
    cpu_s : float
        Processor time of the rank that took most of it, meanwhile.
    speedup, cpu_speedup : float
        One rank's `wall_s` and `cpu_s` over this row's.
    same_table : bool
        Whether every rank's table, in every repeat, is that of one rank, bit for bit.
    """

    network: str
    ranks: int
    wall_s: float
    cpu_s: float
    speedup: float
    cpu_speedup: float
    same_table: bool


def run(
    names: Sequence[str],
    ranks: int,
    levels: int,
    samples: int | None,
    repeats: int,
    tell: Callable[[str], None],
) -> list[Row]:
    """Measure each network with one rank and with several, in turns.

    Raises
    ------
    ValueError
        If a network is unknown, or its files are missing.
    RuntimeError
        If a rank fails.
    """
    from rdprune.bench.networks import NETWORKS

    for name in names:
        if name not in NETWORKS:
            raise ValueError(f"--network is {name!r}, must be one of {', '.join(NETWORKS)}")
    rows = []
    for name in names:
        size = samples or NETWORKS[name].samples
        times: dict[int, list[dict[str, float]]] = {1: [], ranks: []}
        tables: dict[int, set[bytes]] = {1: set(), ranks: set()}
        for repeat in range(repeats):
            for count in times:
                tell(f"{name}: {count} rank{'s'[: count > 1]}, repeat {repeat + 1} of {repeats}")
                found, made = _measured(name, count, levels, size)
                times[count].append(found)
                tables[count] |= made
        rows += _rows(name, times, tables)
    return rows


def _rows(
    name: str, times: dict[int, list[dict[str, float]]], tables: dict[int, set[bytes]]
) -> list[Row]:
    """Compare the shortest repeats, and all tables."""
    best = {
        count: {key: min(one[key] for one in found) for key in ("wall_s", "cpu_s")}
        for count, found in times.items()
    }
    return [
        Row(
            name,
            count,
            **best[count],
            speedup=best[1]["wall_s"] / best[count]["wall_s"],
            cpu_speedup=best[1]["cpu_s"] / best[count]["cpu_s"],
            same_table=len(tables[1] | tables[count]) == 1,
        )
        for count in times
    ]


def _measured(
    network: str, ranks: int, levels: int, samples: int
) -> tuple[dict[str, float], set[bytes]]:
    """Start ranks that measure; return the longest times and the tables' bytes."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "rank")
        rank = command("rdprune.bench.rank", network, str(levels), str(samples), prefix)
        launcher = command(
            "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--no-python"
        )
        finished(
            [*launcher, *rank],
            f"measuring {network} with --ranks {ranks}",
            {"OMP_NUM_THREADS": "1"},
        )
        found = [
            json.loads(Path(f"{prefix}-{index}.json").read_text(encoding="utf-8"))
            for index in range(ranks)
        ]
        tables = {Path(f"{prefix}-{index}.npz").read_bytes() for index in range(ranks)}
    return {key: max(one[key] for one in found) for key in ("wall_s", "cpu_s")}, tables


def show(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    from rdprune.bench.show import clock

    grid = Table(title="Ranks", box=None, title_justify="left")
    grid.add_column("network")
    for title in ("ranks", "time", "faster", "processor time", "faster", "same table"):
        grid.add_column(title, justify="right")
    for row in rows:
        grid.add_row(
            row.network,
            str(row.ranks),
            clock(row.wall_s),
            f"{row.speedup:.2f} x",
            clock(row.cpu_s),
            f"{row.cpu_speedup:.2f} x",
            "yes" if row.same_table else "[bold red]no[/]",
        )
    grid.caption_justify = "left"
    grid.caption = (
        "time: of measuring itself, by the clock, after Python, torch, model and data are there; "
        "the shortest repeat.\nprocessor time: of the busiest rank; on a quiet machine about the "
        "clock's. One torch thread a rank."
    )
    return grid


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Judge the tables, and the speed-up of two ranks; open where other programs were running."""
    from rdprune.bench.targets import Verdict
    from rdprune.bench.timing import cores

    same = sum(row.same_table for row in rows)
    found = [
        Verdict("every rank's table that of one rank", f"{same} of {len(rows)}", same == len(rows))
    ]
    alone = {row.network: row.cpu_s / row.wall_s for row in rows if row.ranks == 1}
    for row in rows:
        if row.ranks != RANKS:
            continue
        quiet = alone[row.network] >= QUIET and cores() >= RANKS
        found.append(
            Verdict(
                f"{RANKS} ranks >= {TARGET} x as fast as one on {row.network}",
                f"{row.speedup:.2f} x; one rank had a core {alone[row.network]:.0%} of its time",
                row.speedup >= TARGET if quiet else None,
            )
        )
    return found


def ranks(
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="demo; with the data folder resnet32, resnet56; with transformers minilm, and of "
            "random weights resnet50, deit-s; repeatable [demo]."
        ),
    ] = None,
    ranks: Annotated[int, typer.Option(min=2, help="Beside one rank.")] = RANKS,
    levels: Annotated[int, typer.Option(min=2, help="Sparsities a layer.")] = LEVELS,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Calibration pictures or texts [2 to 64].")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each; the shortest counts.")] = 1,
    json: Json = None,
) -> None:
    """Measure with one process and with several under torchrun: the same table, how much sooner."""
    from dataclasses import asdict

    from rdprune.bench.show import verdict_table

    check_folders(json)
    rows = run(
        network or ["demo"], ranks, levels, samples, repeats,
        lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    verdicts = judge(rows)
    payload = {
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(verdict) for verdict in verdicts],
    }
    emit(
        json,
        payload,
        lambda out: out.print(show(rows), verdict_table(verdicts, opened="the machine is busy")),
    )
    if not all(row.same_table for row in rows):
        raise typer.Exit(1)
