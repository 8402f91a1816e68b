"""Tables of the truth: what `verify` and `compare` found, beside what was predicted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from rdprune.report import new_grid, number, share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rdprune.comparing import CompareRow
    from rdprune.verifying import VerifyReport

VERIFY_COLUMNS: Final = (
    ("predicted", "predicted"),
    ("additive", "additive"),
    ("joint", "joint"),
    ("true", "true"),
    ("ratio", "true / predicted"),
    ("before", "as it is"),
    ("after", "repaired"),
)


def verify_table(reports: Iterable[VerifyReport]) -> Table:
    """Return one row a report: predicted against true distortion, and the counted weights.

    The network before and after its repair is shown where the table was measured with one.
    """
    rows = list(reports)
    repaired = any(report.recovery != "none" for report in rows)
    shown = [
        (name, title)
        for name, title in VERIFY_COLUMNS
        if any(getattr(r, name) is not None for r in rows) and (name != "before" or repaired)
    ]
    grid = new_grid("kept, counted", "kept, expected", *(title for _, title in shown), "")
    for report in rows:
        agrees = report.kept_total == report.expected_total
        finite_ratio = report.predicted > 0
        grid.add_row(
            f"{report.kept_total:,}",
            f"{report.expected_total:,}",
            *(
                number(None if name == "ratio" and not finite_ratio else getattr(report, name))
                for name, _ in shown
            ),
            "counts agree" if agrees else "[bold red]counts differ",
        )
    counts = ", ".join(f"{n:,}" for n in sorted({report.samples for report in rows}))
    states = sorted({f"{r.objective} objective, {_state(r.recovery)}" for r in rows})
    grid.caption = f"{counts} samples; {'; '.join(states)}"
    if repaired:
        grid.caption += (
            "\ntrue: both networks in the state measured; as it is: the pruned network as given, "
            "against\nthe dense one as it is; repaired: as `apply` with the repair writes it"
        )
    if any(_worsens(report) for report in rows):
        grid.caption += (
            "\n[yellow]the repair makes it worse: the dense network's own BatchNorm statistics "
            "do not fit these batches"
        )
    return grid


def _state(recovery: str) -> str:
    return "network as it is" if recovery == "none" else f"state {recovery}"


def _worsens(found: VerifyReport) -> bool:
    """Whether re-estimated statistics take the pruned network further from the dense one."""
    if found.after is None or "batchnorm" not in found.recovery:
        return False
    return found.after > found.before


COMPARE_COLUMNS: Final = (
    ("distortion", "distortion", min),
    ("distortion_heldout", "held out", min),
    ("top1", "top-1", max),
    ("repaired_distortion", "repair:\ndistortion", min),
    ("repaired_distortion_heldout", "repair:\nheld out", min),
    ("repaired_top1", "repair:\ntop-1", max),
)


def compare_table(rows: Sequence[CompareRow]) -> Table:
    """Return the methods at each sparsity, the best of every column marked by a star.

    A star needs something to be better than: where all methods of a sparsity share one value,
    or only one method has any, nothing is marked. Methods that share the best value share the
    star. The dense network takes no part.
    """
    shown = [c for c in COMPARE_COLUMNS if any(getattr(row, c[0]) is not None for row in rows)]
    grid = new_grid("method", *(title for _, title, _ in shown))
    for index, row in enumerate(rows):
        if index == 0 or row.sparsity != rows[index - 1].sparsity:
            grid.add_section()
            if row.method != "dense":
                head = (f"sparsity {share(row.sparsity)}", f"{row.kept:,}", "kept")
                grid.add_row(*head[: 1 + len(shown)], style="bold")
        rivals = [r for r in rows if r.sparsity == row.sparsity and r.method != "dense"]
        cells = [_compare_cell(row, rivals, name, best) for name, _, best in shown]
        grid.add_row(row.method, *cells)
    grid.caption = "* best of its sparsity; repair: the one measured, else of BatchNorm statistics"
    return grid


def predicted_table(rows: Sequence[CompareRow]) -> Table:
    """Return both predictions beside the truth, for the methods that the table predicts."""
    grid = new_grid("method", "sparsity", "additive", "joint", "true, no repair", "true, repaired")
    for row in rows:
        if row.predicted is not None:
            grid.add_row(
                row.method,
                share(row.sparsity),
                number(row.predicted, 3),
                number(row.predicted_joint, 3),
                number(row.distortion, 3),
                number(row.repaired_distortion, 3),
            )
    grid.caption = "additive, joint: what the table predicts of the state in which it was measured"
    return grid


def _compare_cell(row: CompareRow, rivals: Sequence[CompareRow], name: str, best: Any) -> str:
    """Return a value of one method, starred if no rival's is better and some rival's is worse."""
    value: float | None = getattr(row, name)
    text = share(value) if "top1" in name else number(value, 3)
    values = [v for v in (getattr(r, name) for r in rivals) if v is not None and not math.isnan(v)]
    wins = row.method != "dense" and value is not None and len(set(values)) > 1
    return f"[bold green]{text}*" if wins and value == best(values) else f"{text} "
