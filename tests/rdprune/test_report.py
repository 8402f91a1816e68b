"""Tables for the terminal, dicts for JSON, and the picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from rdprune import CompareRow, VerifyReport, picture, report, truth
from rdprune_core import RDTable, allocate, frontier

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table


def table_of(layers: int = 2) -> RDTable:
    """Return a table in which half of every layer costs its number, all of it ten times that."""
    costs = {"params": [[100, 50, 0]] * layers, "macs": [[900, 450, 0]] * layers}
    distortion = [[0.0, 1.0 + i, 10.0 + 10 * i] for i in range(layers)]
    names = [f"block.{i}.weight" for i in range(layers)]
    return RDTable.from_arrays(costs, distortion, names=names, options=["0.0", "0.5", "1.0"])


def text_of(grid: Table) -> list[list[str]]:
    """Return the words of every printed line."""
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(grid)
    return [line.split() for line in capture.get().splitlines()]


def row(method: str, sparsity: float, **values: Any) -> CompareRow:
    """Return a row of which only the given figures are known."""
    names = CompareRow.__dataclass_fields__
    empty = dict.fromkeys(names)
    return CompareRow(**{**empty, "method": method, "sparsity": sparsity, "kept": 7, **values})


def test_allocation_table_shows_every_layer_and_the_total() -> None:
    """Each layer has its row of counts, and the last row adds them up."""
    table = table_of()
    lines = text_of(report.allocation_table(table, allocate(table, sparsity=0.25)))
    assert ["block.0", "100", "50", "50.0", "%", "0.5", "1"] in lines
    assert ["block.1", "100", "100", "0.0", "%", "0.0", "0"] in lines
    assert ["total", "200", "150", "25.00", "%", "1"] in lines


def test_allocation_table_states_what_is_proved() -> None:
    """Below the layers stand the status and how full the budget is."""
    table = table_of()
    caption = report.allocation_table(table, allocate(table, sparsity=0.25)).caption
    assert caption == "additive objective 1: optimal, proved; params 150 of 150"


def test_allocation_table_tells_of_layers_that_keep_nothing() -> None:
    """Their number, and what helps, stand below."""
    table = table_of()
    caption = report.allocation_table(table, allocate(table, sparsity=0.5)).caption
    assert "keep nothing" not in str(caption)
    caption = report.allocation_table(table, allocate(table, sparsity=0.75)).caption
    assert str(caption).endswith(
        "; 1 of 2 layers keep nothing: a floor (--floor LAYER=1%) leaves some"
    )


def test_layers_that_keep_nothing_are_of_weights() -> None:
    """Other costs, whatever their place, do not count; without weights nothing is said."""
    costs = {"macs": [[0, 0], [20, 10]], "params": [[10, 5], [10, 0]]}
    table = RDTable.from_arrays(costs, [[0.0, 1.0]] * 2, options=["0.0", "0.5"])
    caption = report.certificate(allocate(table, budget={"params": 10}))
    assert "; 1 of 2 layers keep nothing" in caption
    assert "keep nothing" not in report.certificate(allocate(table, budget={"params": 20}))
    times = RDTable.from_arrays({"ns": [[9, 0]]}, [[0.0, 1.0]], options=["0.0", "1.0"])
    assert "keep nothing" not in report.certificate(allocate(times, budget={"ns": 0}))


def test_compare_table_stars_the_best_only() -> None:
    """In every column and sparsity the star stands at the best method, and nowhere else."""
    rows = [
        row("dense", 0.0, distortion=0.0, top1=0.99),
        row("ours", 0.5, distortion=1.0, top1=0.9),
        row("lamp", 0.5, distortion=2.0, top1=0.95),
        row("ours", 0.8, distortion=4.0, top1=0.5),
        row("lamp", 0.8, distortion=3.0, top1=0.4),
    ]
    lines = text_of(truth.compare_table(rows))
    words = [line for line in lines if line]
    first = words.index(["dense", "0", "99.0", "%"])
    assert words[first : first + 7] == [
        ["dense", "0", "99.0", "%"],
        ["sparsity", "50.0", "%", "7", "kept"],
        ["ours", "1*", "90.0", "%"],
        ["lamp", "2", "95.0", "%*"],
        ["sparsity", "80.0", "%", "7", "kept"],
        ["ours", "4", "50.0", "%*"],
        ["lamp", "3*", "40.0", "%"],
    ]


def test_compare_table_fits_a_terminal() -> None:
    """Eighty columns hold every figure whole."""
    figures = dict.fromkeys(CompareRow.__dataclass_fields__, 0.1234)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        given = {**figures, "kept": 123_456_789, "sparsity": 0.5}
        rows = [CompareRow(**{**given, "method": m}) for m in ("global_magnitude", "rdprune")]
        console.print(truth.compare_table(rows))
    lines = capture.get().splitlines()
    assert "…" not in capture.get()
    figures_shown = ["0.123", "0.123", "12.3", "%"]
    assert ["rdprune", *figures_shown, *figures_shown] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("values", "stars"),
    [
        ([2.0, 2.0, 3.0], [True, True, False]),
        ([2.0, 2.0, 2.0], [False, False, False]),
        ([2.0, None, None], [False, False, False]),
        ([2.0, float("inf"), None], [True, False, False]),
        ([float("nan"), 1.0, 2.0], [False, True, False]),
    ],
    ids=["tie", "all equal", "alone", "others infinite", "nan"],
)
def test_star_needs_something_to_beat(values: list[float | None], stars: list[bool]) -> None:
    """Equals share the star; where nothing is worse there is none; nan never wins."""
    rows = [row(f"m{i}", 0.5, distortion=value) for i, value in enumerate(values)]
    lines = text_of(truth.compare_table(rows))
    printed = [next(line for line in lines if f"m{i}" in line) for i in range(3)]
    assert [line[-1].endswith("*") for line in printed] == stars


def test_compare_table_leaves_out_what_nobody_has() -> None:
    """A column without a single figure is not shown."""
    grid = truth.compare_table([row("ours", 0.5, distortion=1.0)])
    assert [column.header for column in grid.columns] == ["method", "distortion"]


def test_predicted_table_leaves_out_what_is_not_predicted() -> None:
    """Both predictions and both truths of our methods stand in a row, baselines have none."""
    ours = row(
        "joint", 0.5, distortion=3.0, repaired_distortion=2.0, predicted=1.0, predicted_joint=1.5
    )
    lines = text_of(truth.predicted_table([ours, row("lamp", 0.5, distortion=1.0)]))
    assert ["joint", "50.0", "%", "1", "1.5", "3", "2"] in lines
    assert not any("lamp" in line for line in lines)


def test_verify_table_shows_counts_and_ratio() -> None:
    """Predictions, truth, their ratio, truth around the repair and both counts are in the row."""
    found = VerifyReport(
        2.0, 3.0, 1.5, {"a": 5}, 5, 5, 64, "additive", "batchnorm", 2.0, 2.5, 9.0, 3.5
    )
    lines = text_of(truth.verify_table([found]))
    row = ["5", "5", "2", "2", "2.5", "3", "1.5", "9", "3.5", "counts", "agree"]
    assert row in lines
    assert ["64", "samples;", "additive", "objective,", "state", "batchnorm"] in lines


@pytest.mark.parametrize(
    ("recovery", "after", "warned"),
    [("batchnorm", 9.5, True), ("batchnorm", 8.5, False), ("bias", 9.5, False), ("none", None, 0)],
)
def test_verify_table_warns_of_statistics_that_do_not_fit(recovery, after, warned) -> None:
    """Where re-estimated BatchNorm statistics make it worse, the dense network's do not fit."""
    found = VerifyReport(
        2.0, 3.0, 1.5, {"a": 5}, 5, 5, 64, "additive", recovery, None, None, 9.0, after
    )
    assert ("statistics do not fit" in str(truth.verify_table([found]).caption)) == warned


def test_frontier_table_thins_many_points_and_keeps_both_ends() -> None:
    """Of 101 points 21 rows are shown, from the least budget to the dense one."""
    table = table_of(4)
    grid = report.frontier_table(frontier(table, points=101))
    assert grid.row_count == 21
    lines = text_of(grid)
    assert any(line[:1] == ["0"] for line in lines)
    assert ["400", "100.0", "%", "0", "optimal"] in lines


def test_what_was_not_measured_is_marked() -> None:
    """Interpolated cells have a mark, and a certificate says how many were chosen."""
    plain = table_of()
    table = plain.with_distortion(
        plain.distortion, metadata={"interpolated": {"block.1.weight": ["0.5"]}}
    )
    lines = text_of(report.measured_table(table))
    assert ["block.0", "100", "900", "1", "10"] in lines
    assert ["block.1", "100", "900", "~2", "20"] in lines
    assert "1 of 2 chosen options are interpolated" in report.certificate(allocate(table, 100))
    assert "interpolated" not in report.certificate(allocate(plain, 100))
    grid = report.frontier_table(frontier(table, points=[100, 400]))
    assert [
        line[3].startswith("~") for line in text_of(grid) if line[:1] in (["100"], ["400"])
    ] == [
        True,
        False,
    ]
    assert "interpolated" in str(grid.caption)
    assert "interpolated" not in str(report.frontier_table(frontier(plain, points=2)).caption)
    estimated = plain.with_distortion(plain.distortion, metadata={"estimated": "to first order"})
    assert "of estimates" in report.certificate(allocate(estimated, 100))


def test_measured_table_shows_the_nearest_options() -> None:
    """A layer's row holds its costs, and its distortion at the marks that were measured nearby."""
    lines = text_of(report.measured_table(table_of()))
    assert ["layer", "weights", "MACs", "at", "50", "%", "at", "100", "%"] in lines
    assert ["block.0", "100", "900", "1", "10"] in lines


def test_measured_table_without_marks_shows_its_levels() -> None:
    """Where no level is near 50, 80, 90 or 100 %, the levels measured are shown."""
    table = RDTable.from_arrays([[100, 70, 30]], [[0.0, 3.0, 7.0]])
    lines = text_of(report.measured_table(table))
    assert ["layer", "weights", "at", "0", "%", "at", "30", "%", "at", "70", "%"] in lines
    assert ["layer0", "100", "0", "3", "7"] in lines


def test_finite_says_none_for_what_json_cannot_say() -> None:
    """Infinities and nan become None, at any depth, numpy's too."""
    value = {"a": [float("inf"), 1.0], "b": {"c": np.float64("nan")}, "d": np.array([1, 2])}
    assert report.finite(value) == {"a": [None, 1.0], "b": {"c": None}, "d": [1, 2]}


def test_dicts_survive_strict_json() -> None:
    """Allocations and frontiers come back from JSON without a non-standard number."""
    table = table_of()
    found = report.allocation_dict(allocate(table, sparsity=0.5))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    swept = report.frontier_dict(frontier(table, points=5))
    assert json.loads(json.dumps(swept, allow_nan=False)) == swept
    assert [point["budget"] for point in swept["points"]] == [0, 50, 100, 150, 200]


@pytest.mark.parametrize("layers", [1, 2, 200])
def test_draw_writes_a_png(tmp_path: Path, layers: int) -> None:
    """A picture of any number of layers is a PNG of the stated size."""
    table = table_of(layers)
    swept = frontier(table, points=11)
    path = tmp_path / "picture.png"
    picture.draw(path, table, swept, picture.landmarks(swept), title="A title")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(data[i : i + 4], "big") for i in (16, 20)] == [1690, 1170]


def test_draw_bears_distortions_that_no_logarithm_has(tmp_path: Path) -> None:
    """Zero and negative distortions are left out of the log scale without a warning."""
    table = RDTable.from_arrays([[10, 5, 0]] * 2, [[0.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    picture.draw(tmp_path / "a.png", table, frontier(table, points=3), [])
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_landmarks_are_the_nearest_points() -> None:
    """The allocations kept closest to 50, 30, 20 and 10 per cent are taken once each."""
    swept = frontier(table_of(), points=[20, 40, 60, 100, 200])
    assert [a.budget["params"] for a in picture.landmarks(swept)] == [100, 60, 40, 20]
    assert len(picture.landmarks(frontier(table_of(), points=2))) == 1
