"""The solver's benchmark: its instances, its contenders, its judgements. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rdprune.bench import extras, sections, show, targets
from rdprune.bench.contenders import CONTENDERS
from rdprune.bench.instances import (
    CURVES,
    SHAPES,
    SPARSITIES,
    Instance,
    applies,
    find_shape,
    make_table,
)
from rdprune.bench.solver import Row, Run, Settings, run
from rdprune.cli import app
from rdprune_core import Allocation, RDTable, allocate

#: Total parameters as torchvision and the papers count them, less what is not pruned.
TOTALS = {
    "ResNet-32": (464_154 - 2 * 1_136 - 10, 32),  # BatchNorm: 16 x 11 + 32 x 10 + 64 x 10 channels
    "ResNet-50": (25_557_032 - 53_120 - 1_000, 54),  # BatchNorm, bias of fc
    "VGG-16": (138_357_544 - 4_224 - 9_192, 16),  # biases of convolutions and linear layers
    # Norms, class token, positions; biases of blocks, patches and head.
    "DeiT-B": (86_567_656 - 25 * 1_536 - 198 * 768 - 12 * 9 * 768 - 768 - 1_000, 50),
    "7B": (6_738_415_616 - 2 * 32_000 * 4_096 - 65 * 4_096, 224),  # embeddings, norms
    "70B": (68_976_648_192 - 2 * 32_000 * 8_192 - 161 * 8_192, 560),
    "405B": (405_853_388_800 - 2 * 128_256 * 16_384 - 253 * 16_384, 882),
}
EXACT = ("rdprune", "dp-python", "highs", "cp-sat")


def tiny(seed: int, layers: int = 4, options: int = 4) -> RDTable:
    """Return a table small enough to enumerate; costs a few units, so that buckets are exact."""
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.integers(0, 20, (layers, options)))[:, ::-1]
    return RDTable.from_arrays(cost, np.sort(rng.uniform(0, 1, (layers, options))))


def enumerate_all(table: RDTable, budget: int) -> float:
    """Return the least distortion within the budget, by trying every choice."""
    every = (
        Allocation.from_choice(table, choice)
        for choice in product(*(range(len(row)) for row in table.distortion))
    )
    return min(a.distortion for a in every if a.cost["params"] <= budget)


def bench(*arguments: str) -> Result:
    """Run ``rdprune bench solver`` in this process."""
    return CliRunner().invoke(app, ["bench", "solver", *arguments])


def skip_if_missing(name: str) -> None:
    """Skip where a contender's package is not installed."""
    if CONTENDERS[name].missing:
        pytest.skip(f"{CONTENDERS[name].needs} is not installed")


# ---------------------------------------------------------------------------------- instances


@pytest.mark.parametrize("name", TOTALS)
def test_shapes_have_the_weights_of_the_real_networks(name: str) -> None:
    """Layers and weights are those of the published networks."""
    shape = find_shape(name)
    assert (int(shape.sizes.sum()), len(shape.layers)) == TOTALS[name]


def test_resnet50_has_the_multiply_accumulates_of_torchvision() -> None:
    """4.09 billion at 224 x 224 pixels, with the stride in the 3 x 3 convolutions."""
    assert int(find_shape("ResNet-50").macs.sum()) == 4_089_184_256


def test_finer_levels_are_the_same_network() -> None:
    """ResNet-50 at 1,001 levels has the layers of ResNet-50."""
    assert find_shape("ResNet-50/1001").layers == find_shape("ResNet-50").layers
    assert find_shape("ResNet-50/1001").levels == 1001


@pytest.mark.parametrize("curve", CURVES)
def test_every_curve_makes_the_same_table_twice(curve: str) -> None:
    """Seeds decide a table whole, and every budget of it can be met."""
    first, again = (make_table(find_shape("ResNet-32"), curve, 1) for _ in range(2))
    other = make_table(find_shape("ResNet-32"), curve, 2)
    assert np.array_equal(first.flat_distortion, again.flat_distortion)
    assert not np.array_equal(first.flat_distortion, other.flat_distortion)
    for sparsity in SPARSITIES:
        budget = Instance("ResNet-32", curve, sparsity, first).budget
        assert allocate(first, budget).cost["params"] <= budget


def test_curves_are_what_they_are_called() -> None:
    """Smooth is convex, staircases have ten steps, flat ones begin with nothing."""
    shape = find_shape("ResNet-32")
    made = {curve: make_table(shape, curve, 0) for curve in CURVES}
    assert all((np.diff(row, 2) > -1e-12).all() for row in made["smooth"].distortion)
    assert all(len(np.unique(row)) == 11 for row in made["staircase"].distortion)
    assert all((row[:5] == 0).all() for row in made["flat"].distortion)
    assert all((np.diff(row) < 0).any() for row in made["non-monotone"].distortion)
    assert len(set(made["equal"].dense["params"].tolist())) == 1
    assert {len(row) for row in made["2:4"].distortion} == {3}
    dense = int(shape.sizes.sum())
    assert int(made["bits"].dense["params"].sum()) == 16 * dense
    assert int(made["2:4"].dense["params"].sum()) == dense


def test_the_budget_without_floors_is_the_share_kept() -> None:
    """Where nothing must stay, the budget is 1 - sparsity of the dense cost, rounded down."""
    table = make_table(find_shape("ResNet-50"), "noisy", 0)
    assert Instance("", "", 0.8, table).budget == 25_502_912 // 5


# --------------------------------------------------------------------------------- contenders


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("seed", range(3))
def test_exact_contenders_find_the_optimum(name: str, seed: int) -> None:
    """Where a bucket is a unit or less, every exact method is right."""
    skip_if_missing(name)
    table = tiny(seed)
    budget = Instance("", "", 0.5, table).budget
    answer = CONTENDERS[name].run(table, budget, 10.0)
    assert answer.choice is not None
    found = Allocation.from_choice(table, answer.choice)
    assert found.cost["params"] <= budget
    assert found.distortion == pytest.approx(enumerate_all(table, budget), rel=1e-9)
    assert answer.proved == CONTENDERS[name].proves


@pytest.mark.parametrize("name", ["greedy", "dp-numpy"])
@pytest.mark.parametrize("curve", CURVES)
def test_careful_contenders_keep_the_budget(name: str, curve: str) -> None:
    """Rounding up and walking hulls never overspend, and are never better than the optimum."""
    table = make_table(find_shape("ResNet-32"), curve, 0)
    for sparsity in SPARSITIES:
        budget = Instance("", "", sparsity, table).budget
        answer = CONTENDERS[name].run(table, budget, 10.0)
        assert answer.choice is not None
        found = Allocation.from_choice(table, answer.choice)
        assert found.cost["params"] <= budget
        assert found.distortion >= allocate(table, budget).distortion


def test_both_bucket_programs_agree() -> None:
    """The numpy program and the reference in pure Python round alike, so they find the same."""
    table = make_table(find_shape("VGG-16"), "bits", 0)
    budget = Instance("", "", 0.8, table).budget
    found = [CONTENDERS[name].run(table, budget, 0.0).choice for name in ("dp-numpy", "dp-python")]
    totals = [Allocation.from_choice(table, choice).distortion for choice in found]  # type: ignore[arg-type]
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


def test_the_greedy_hull_of_convex_curves_is_the_relaxation() -> None:
    """By hand: of the four segments all but the last fit, in the order of their slopes."""
    table = RDTable.from_arrays([[4, 2, 0], [6, 3, 2]], [[0, 4, 12], [0, 6, 9]])
    # From cost 0 + 2 with 5 to spend: slope -4 (0 -> 2), -3 (2 -> 3), -2 (2 -> 4); (3 -> 6) not.
    answer = CONTENDERS["greedy"].run(table, 7, 0.0)
    assert answer.choice is not None
    assert answer.choice.tolist() == [0, 1]


def test_the_greedy_hull_says_when_nothing_fits() -> None:
    """A budget below the cheapest options gets no answer."""
    table = RDTable.from_arrays([[4, 2], [6, 3]], [[0, 1], [0, 1]])
    assert CONTENDERS["greedy"].run(table, 4, 0.0).choice is None


def test_preparation_allocates_nothing() -> None:
    """It is there for its time."""
    assert CONTENDERS["preparation"].run(tiny(0), 1, 0.0).choice is None


# -------------------------------------------------------------------------------- judgements


def test_nearest_buckets_overspend_and_the_row_says_so() -> None:
    """The excess over the true budget is counted, and its lower objective not called better."""
    settings = Settings(("ResNet-50",), ("noisy",), ("nearest-10k",), (0.8,), seeds=1)
    rows = {row.contender: row for row in run(settings, lambda _: None)}
    row = rows["nearest-10k"]
    assert row.runs[0].over > 0
    assert row.worse == []
    assert row.beats_us == 0
    assert rows["rdprune"].runs[0].over == 0
    assert row.to_dict()["over_max"] == row.runs[0].over


def made_row(name: str, *runs: Run) -> Row:
    """Return a row of ResNet-50 on the main curve."""
    return Row("ResNet-50", "noisy", 0.8, 54, 5454, name, list(runs))


def test_wrong_answers_are_flagged() -> None:
    """Over budget or worse though "proved" is wrong; better than ours within the budget is news."""
    over = Run(1.0, 1.0, 300.0, -0.1, 5, proved=True, stopped=False)
    worse = Run(1.0, 1.0, 300.0, 0.1, 0, proved=True, stopped=False)
    better = Run(1.0, 1.0, 300.0, -0.1, 0, proved=True, stopped=False)
    row = made_row("highs", over, worse, better)
    assert (row.wrong, row.beats_us) == (2, 1)
    verdicts = targets.judge({"contenders": [made_row("rdprune", worse), row]})
    assert [v.hit for v in verdicts if "better than ours" in v.target] == [False]


def test_a_stopped_peer_leaves_its_target_open() -> None:
    """The ratio to a call that was cut short is a lower bound: too little of it is open."""

    def judged(ratio: float, stopped: bool) -> bool | None:
        rows = [made_row("highs", Run(1.0, 1.0, ratio, 0.0, 0, not stopped, stopped))]
        return targets.judge({"contenders": rows})[0].hit

    assert judged(300.0, stopped=False) is True
    assert judged(299.0, stopped=False) is False
    assert judged(300.0, stopped=True) is True
    assert judged(299.0, stopped=True) is None


def test_exponents_are_those_of_a_power() -> None:
    """Points made of layers times levels squared give 1 and 2."""
    points = [
        {"layers": layers, "levels": levels, "median": 1e-6 * layers * levels**2}
        for layers, levels in [(28, 101), (56, 101), (224, 101), (224, 26), (224, 401)]
    ]
    found = extras.exponents(points, "median")
    assert found["layers"] == pytest.approx(1.0)
    assert found["levels"] == pytest.approx(2.0)


def test_times_and_ratios_can_be_read() -> None:
    """Three digits and the unit that suits."""
    times = {12.3456: "12.3 s", 0.0123456: "12.3 ms", 1.5: "1.50 s", 3.2e-5: "32.0 us"}
    assert {seconds: show.clock(seconds) for seconds in times} == times


# ------------------------------------------------------------------------------- the command


def test_one_run_from_end_to_end(tmp_path: Path) -> None:
    """A tiny contest with a measured table: JSON alone on stdout, a picture, whole rows."""
    path = tmp_path / "mine.npz"
    tiny(0).save(path)
    names = [n for n in ("greedy", "dp-numpy", "highs", "cp-sat") if not CONTENDERS[n].missing]
    asked = [part for name in names for part in ("--contender", name)]
    result = bench(
        *("--shape", "VGG-16", "--curve", "bits", "--sparsity", "0.8", "--seeds", "2", "--full"),
        *("--table", str(path), *asked, "--picture", str(tmp_path / "p.png"), "--json", "-"),
    )
    assert result.exit_code == 0, (result.stderr, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["machine"]["cpu"]
    places = {(row["shape"], row["curve"]): row["runs"] for row in found["contenders"]}
    assert places == {("VGG-16", "bits"): 2, ("mine", "measured"): 1}
    assert {row["contender"] for row in found["contenders"]} == {"rdprune", *names}
    for row in found["contenders"]:
        assert row["beats_us"] == 0
        assert len(row["seconds"]) == row["runs"] == row["allocations"]
        if row["contender"] in EXACT:
            assert (row["proved"], row["wrong"], row["over_max"]) == (1.0, 0, 0)
            assert row["worse_max"] <= 1e-9
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_tables_are_printed_and_targets_judged() -> None:
    """Without JSON there is a table for the curve, and one for the targets."""
    result = bench("--shape", "VGG-16", "--curve", "2:4", "--seeds", "1", "--contender", "greedy")
    assert result.exit_code == 0, (result.stderr, result.exception)
    for words in ("three options", "VGG-16", "greedy hull", "Targets", "ours proved optimal"):
        assert words in result.stdout


def test_a_frontier_is_proved_point_by_point() -> None:
    """Every point of the timed frontier is the single solve's choice."""
    [found] = extras.frontiers(("ResNet-32",), 1, lambda _: None, points=5)
    assert found["proved"] == found["equal"] == 5


def test_the_table_of_three_costs_counts_them() -> None:
    """Multiply-accumulates are those of the network; nanoseconds come third."""
    table = extras.budget_table(find_shape("ResNet-50"), 0)
    assert list(table.costs) == ["params", "macs", "ns"]
    assert int(table.dense["macs"].sum()) == 4_089_184_256


def test_several_budgets_agree_with_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small network both prove the same, or HiGHS exceeds a budget by its tolerance."""
    skip_if_missing("highs")
    monkeypatch.setattr(extras, "find_shape", lambda _: find_shape("VGG-16"))
    for record in extras.several_budgets(1, 30.0, 0.0, lambda _: None):
        assert record["proved"] == record["runs"] == 1
        assert record["same"] + record["over"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shape", "ResNet-5"), "--shape 'ResNet-5' is unknown"),
        (("--curve", "wild"), "--curve 'wild' is unknown"),
        (("--contender", "spdy"), "--contender 'spdy' is unknown"),
        (("--section", "all"), "--section 'all' is unknown"),
        (("--quick", "--full"), "exclude each other"),
        (("--picture", "p.png", "--section", "growth", "--quick"), "is not run"),
        (("--table", "nowhere.npz", "--curve", "measured"), "nowhere.npz"),
        (("--json", "nowhere/x.json"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], words: str) -> None:
    """A wrong name is refused before anything runs, with exit code 2."""
    result = bench(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_everything_can_be_asked_for() -> None:
    """The default plan has every section, shape, curve and contender; filters leave the contest."""
    plan = sections.make_plan()
    assert plan.sections == sections.SECTIONS
    assert (plan.settings.shapes, plan.settings.curves) == (SHAPES, CURVES)
    assert plan.settings.contenders == tuple(CONTENDERS)
    assert sections.make_plan(shapes=["7B"]).sections == ("contenders",)
    assert not applies("ResNet-50/1001", "bits")


def test_the_command_line_stays_light(tmp_path: Path) -> None:
    """Neither help nor other commands import what only the bench needs."""
    code = (
        "import sys, rdprune.cli; "
        "print([m for m in ('scipy', 'ortools', 'matplotlib', 'torch', 'rdprune.bench.solver') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
