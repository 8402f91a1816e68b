"""The benchmark's tables for the terminal and its picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from rdprune.bench.contenders import CONTENDERS, PREPARATION
from rdprune.bench.extras import VERDICTS, exponents
from rdprune.bench.instances import ABOUT, MAIN_CURVE
from rdprune.bench.many import NOISE, SHAPE, solves_a_second
from rdprune.bench.solver import MEASURED, Row
from rdprune.bench.targets import Verdict
from rdprune.picture import canvas, write
from rdprune.report import MISSING

Record = dict[str, Any]
CAPTION: Final = (
    "median, p90, max: by the clock. ratio: to ours on the same table and budget, median, of "
    "processor time (CP-SAT: by the clock).\nworse by: true objective against ours, median and "
    "largest, runs within the budget. over budget: excess over the true budget, so too.\n> : "
    "stopped at the time limit, the truth is larger"
)


def clock(seconds: float) -> str:
    """Return a time in the unit that suits it, to three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds * 1e6)} us"


def _three(value: float) -> str:
    """Return a number of at least 1 to three digits."""
    return f"{value:,.{max(0, 2 - int(np.log10(max(value, 1))))}f}"


def machine_line(found: dict[str, str | int]) -> str:
    """Return one line: processor, cores, Python, packages."""
    packages = ", ".join(
        f"{k} {v}" for k, v in found.items() if k not in ("cpu", "cores", "system")
    )
    return escape(f"{found['cpu']}, {found['cores']} cores, {found['system']}; {packages}")


def busy_line(busy: float) -> str:
    """Return one line: how much of the clock's time was this process's."""
    return f"By the clock, calls took {busy:.2f} x their processor time" + (
        ": other programs were running." if busy > 1.1 else "."
    )


def _grid(*titles: str, left: Iterable[str] = ()) -> Table:
    """Return an empty table; numbers to the right."""
    grid = Table(box=box.SIMPLE_HEAD, caption_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        grid.add_column(title, justify="left" if title in left else "right", no_wrap=True)
    return grid


def contender_tables(rows: list[Row]) -> list[Table]:
    """Return a table for each kind of curve; sparsities are pooled but in the main one."""
    found = []
    for curve in dict.fromkeys(row.curve for row in rows):
        grid = _grid(
            "contender", "runs", "median", "p90", "max", "ratio", "proved", "worse by", "at most",
            "over budget", "at most", "", left=("contender", ""),
        )  # fmt: skip
        grid.title = f"{curve}: {ABOUT[curve]}"
        grid.title_justify = "left"
        for head, members in _pooled([row for row in rows if row.curve == curve]).items():
            grid.add_section()
            grid.add_row(escape(head), style="bold")
            for row in members:
                grid.add_row(*_cells(row))
        grid.caption = CAPTION
        found.append(grid)
    return found


def _pooled(rows: list[Row]) -> dict[str, list[Row]]:
    """Group a curve's rows by instance, or by shape with the runs of all sparsities."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        alone = row.curve in (MAIN_CURVE, MEASURED)
        even, rest = divmod(row.options, row.layers)
        size = f"{row.options} options" if rest else f"{row.layers} x {even}"
        head = f"{row.shape}{f' at {row.sparsity}' if alone else ''} ({size})"
        group = found.setdefault(head, {})
        fresh = Row(row.shape, row.curve, row.sparsity, row.layers, row.options, row.contender, [])
        group.setdefault(row.contender, fresh).runs.extend(row.runs)
    return {head: list(group.values()) for head, group in found.items()}


def _cells(row: Row) -> list[str]:
    """Return the cells of one contender on one instance."""
    facts = row.to_dict()
    more = "> " if row.stopped else ""
    allocates = row.contender != PREPARATION.name
    over = [run.over for run in row.answered]
    remarks = []
    if row.stopped:
        remarks.append(f"{row.stopped} stopped")
    if allocates and len(row.answered) < len(row.runs):
        remarks.append(f"{len(row.runs) - len(row.answered)} without an answer")
    if row.wrong:
        remarks.append(f"[red]{row.wrong} wrongly proved[/]")
    if row.beats_us:
        remarks.append(f"[bold red]{row.beats_us} better than ours[/]")
    return [
        f"  {CONTENDERS[row.contender].label}",
        f"{len(row.runs)}",
        more + clock(row.median),
        clock(facts["p90"]),
        clock(facts["max"]),
        f"{more}{_ratio(row.ratio)}",
        MISSING if row.proved is None else f"{row.proved:.0%}",
        _worse(facts["worse_median"]),
        _worse(facts["worse_max"]),
        _count(facts["over_median"]) if over else MISSING,
        _count(facts["over_max"]) if any(over) else "",
        "; ".join(remarks),
    ]


def _ratio(value: float) -> str:
    """Return a ratio of times."""
    return f"{_three(value)} x" if value >= 1 else f"{value:.2f} x"


def _count(value: float) -> str:
    """Return a count: thousands whole, beyond that three digits and a letter."""
    for letter, size in (("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{_three(value / size)} {letter}"
    return f"{value:,.0f}"


def _worse(value: float | None) -> str:
    """Return a relative excess in per cent; anything but exactly nothing shows."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    return f"{value:.2%}" if abs(value) >= 1e-4 else f"{value * 100:.0e} %"


def growth_table(points: list[Record]) -> Table:
    """Return one row a size, and the fitted exponents below."""
    grid = _grid("layers", "levels", "options", "rdprune", "preparation", "per option")
    for point in points:
        options = point["layers"] * point["levels"]
        grid.add_row(
            f"{point['layers']}",
            f"{point['levels']}",
            f"{options:,}",
            clock(point["median"]),
            clock(point["preparation"]),
            clock(point["median"] / options),
        )
    fits = (
        f"{who}: " + ", ".join(f"{name} ^ {power:.2f}" for name, power in fit.items())
        for who, fit in (
            ("rdprune", exponents(points, "median")),
            ("preparation", exponents(points, "preparation")),
        )
    )
    grid.title, grid.title_justify = "Growth: networks like 7B", "left"
    grid.caption = f"time ~ {'; '.join(fits)}; {points[0]['seeds']} seeds, three sparsities"
    return grid


def budgets_table(records: list[Record]) -> Table:
    """Return one row for each set of budgets."""
    columns = ("budgets", "runs", "rdprune", "max", "HiGHS", "ratio", "proved", "all bind")
    grid = _grid(*columns, *VERDICTS, left=("budgets",))
    for record in records:
        more = "> " if record["stopped"] else ""
        grid.add_row(
            ", ".join(f"{name} {share:.0%}" for name, share in record["budgets"].items()),
            *(f"{record['runs']}", clock(record["ours"]), clock(record["ours_max"])),
            *(clock(record["highs"]), more + _ratio(record["ratio"]), f"{record['proved']}"),
            f"{record['all_binding']}",
            *(f"{record[word]}" for word in VERDICTS),
        )
    grid.title, grid.title_justify = "Several budgets: ResNet-50 x 101", "left"
    grid.caption = (
        "what HiGHS found: the same optimum, one over the budget by its tolerance, none before "
        "its time limit, a worse or a better one"
    )
    return grid


def frontier_table(records: list[Record]) -> Table:
    """Return one row a shape."""
    grid = _grid(
        "shape", "runs", "frontier", "one solve", "in solves", "points singly", "of those",
        "proved", "same choice", left=("shape",),
    )  # fmt: skip
    for record in records:
        total = record["points"] * record["runs"]
        grid.add_row(
            record["shape"],
            f"{record['runs']}",
            clock(record["frontier"]),
            clock(record["one"]),
            _ratio(record["in_solves"]),
            clock(record["single"]),
            _ratio(record["of_singles"]),
            f"{record['proved'] / total:.0%}",
            f"{record['equal'] / total:.0%}",
        )
    grid.title, grid.title_justify = f"Frontier of {records[0]['points']} points", "left"
    grid.caption = "one solve: median over the frontier's own budgets, each solved singly"
    return grid


def batch_table(records: list[Record]) -> Table:
    """Return one row a sparsity and number of threads."""
    grid = _grid(
        "sparsity", "threads", "instances", "a second", "undisturbed", "each", "a loop", "in loops",
        "proved", "same choice",
    )  # fmt: skip
    for record in records:
        count = record["instances"]
        grid.add_row(
            f"{record['sparsity']}",
            f"{record['threads']}",
            f"{count:,}",
            f"{count / record['seconds']:,.0f}",
            f"{solves_a_second(record):,.0f}",
            clock(record["cpu"] / count),
            clock(record["loop_cpu"] / count),
            _ratio(record["loop"] / record["seconds"]),
            f"{record['proved'] / count:.0%}",
            f"{record['equal'] / count:.0%}",
        )
    grid.title, grid.title_justify = f"allocate_many: {SHAPE} x 101, {NOISE:.0%} noise", "left"
    grid.caption = (
        "a second: by the clock. undisturbed: by processor time, with a core for every thread.\n"
        "each, a loop: processor time of an instance, and of one call of allocate on a table made"
    )
    return grid


def limits_table(records: list[Record]) -> Table:
    """Return one row a kind of call."""
    grid = _grid("interrupted call", "trials", "median", "max", left=("interrupted call",))
    for record in records:
        waits = (clock(record[key]) for key in ("median", "max"))
        grid.add_row(record["call"], f"{record['trials']}", *waits)
    grid.title, grid.title_justify = "Ctrl-C on subset sums, at random moments", "left"
    grid.caption = "from the signal to the exception in Python, by the clock"
    return grid


def memory_table(records: list[Record]) -> Table:
    """Return one row a contender, one column a shape."""
    shapes = list(dict.fromkeys(record["shape"] for record in records))
    peaks = {(record["shape"], record["contender"]): record["bytes"] for record in records}
    grid = _grid("contender", *shapes, left=("contender",))
    for name in dict.fromkeys(record["contender"] for record in records):
        found = [peaks.get((shape, name)) for shape in shapes]
        cells = [MISSING if peak is None else f"{peak / 1e6:,.1f} MB" for peak in found]
        grid.add_row(CONTENDERS[name].label, *cells)
    grid.title, grid.title_justify = f"Memory at the peak: {MAIN_CURVE}, sparsity 0.8", "left"
    grid.caption = "resident memory above what table and imports take, each in its own process"
    return grid


def verdict_table(verdicts: list[Verdict], *, opened: str = "a time limit") -> Table:
    """Return one row a target; `opened` says what left it open."""
    words = {True: "[green]hit[/]", False: "[bold red]missed[/]", None: f"open: {opened}"}
    grid = _grid("target", "this run", "", left=("target", "this run", ""))
    for verdict in verdicts:
        grid.add_row(verdict.target, verdict.figure, words[verdict.hit])
    grid.title, grid.title_justify = "Targets", "left"
    return grid


def picture(path: Path, rows: list[Row], caption: str) -> None:
    """Write a PNG: time against the number of options, one line a contender.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    figure = canvas(9, 6.5, "bench")
    main = [row for row in rows if row.curve == MAIN_CURVE] or rows
    axes = figure.subplots()
    shapes: dict[int, str] = {}
    for index, name in enumerate(dict.fromkeys(row.contender for row in main)):
        sizes: dict[int, list[float]] = {}
        for row in (row for row in main if row.contender == name):
            sizes.setdefault(row.options, []).extend(row.seconds)
            shapes[row.options] = row.shape
        xs = sorted(sizes)
        style: Record = {"color": f"C{index}", "linewidth": 3 if index == 0 else 1.4}
        label = CONTENDERS[name].label
        axes.plot(xs, [statistics.median(sizes[x]) for x in xs], "o-", label=label, **style)
        axes.plot(xs, [max(sizes[x]) for x in xs], ":", **{**style, "linewidth": 1})
    axes.set(xscale="log", yscale="log", ylabel="seconds a call: median, dotted: slowest")
    stopped = any(row.stopped for row in main)
    axes.set_xlabel(
        "options: layers x levels" + ("; calls cut at the time limit are drawn there" * stopped)
    )
    axes.minorticks_off()
    axes.set_xticks(sorted(shapes), [f"{shapes[x]}\n{x:,}" for x in sorted(shapes)], fontsize=7)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"One allocation\n{caption}", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    write(figure, path)
