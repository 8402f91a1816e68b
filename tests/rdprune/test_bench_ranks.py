"""The benchmark of ranks: what it compares and when it fails. Nothing here is timed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rdprune.bench import ranks
from rdprune.bench.ranks import Row, judge
from rdprune.cli import app


def test_two_ranks_measure_what_one_does(tmp_path):
    """Both numbers of ranks are run by the launcher, have the fields promised and one table."""
    pytest.importorskip("mlxtend")
    target = tmp_path / "rows.json"
    arguments = ["--levels", "2", "--samples", "20", "--json", str(target)]
    result = CliRunner().invoke(app, ["bench", "ranks", *arguments])
    assert result.exit_code == 0, result.output
    rows = json.loads(target.read_text())["rows"]
    assert [(row["network"], row["ranks"], row["same_table"]) for row in rows] == [
        ("demo", 1, True),
        ("demo", 2, True),
    ]
    assert rows[0]["speedup"] == rows[0]["cpu_speedup"] == 1.0
    for row in rows:
        assert row["wall_s"] >= 0.99 * row["cpu_s"] > 0  # two clocks
        assert row["speedup"] == rows[0]["wall_s"] / row["wall_s"]


def test_other_tables_are_a_failure(monkeypatch, tmp_path):
    """One rank whose table differs in one repeat is told and makes the exit code 1."""
    made = iter([{b"a"}, {b"a"}, {b"a"}, {b"a", b"b"}])

    def measured(_network, count, _levels, _samples):
        return {"wall_s": 8.0 / count, "cpu_s": 8.0 / count}, next(made)

    monkeypatch.setattr(ranks, "_measured", measured)
    target = tmp_path / "rows.json"
    arguments = ["bench", "ranks", "--repeats", "2", "--json", str(target)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    found = json.loads(target.read_text())
    assert [row["same_table"] for row in found["rows"]] == [True, False]
    assert found["rows"][1]["speedup"] == 2.0
    assert found["targets"][0]["hit"] is False


@pytest.mark.parametrize(
    ("cpu", "wall", "hit"),
    [(10.0, 5.0, True), (10.0, 8.0, False), (7.0, 8.0, None), (7.0, 5.0, None)],
)
def test_a_busy_machine_leaves_the_target_open(monkeypatch, cpu, wall, hit):
    """1.7 x is judged where one rank had a core to itself, and two ranks could have two."""
    monkeypatch.setattr("rdprune.bench.timing.cores", lambda: 2)
    rows = [
        Row("demo", 1, 10.0, cpu, 1.0, 1.0, same_table=True),
        Row("demo", 2, wall, 5.0, 10.0 / wall, 2.0, same_table=True),
    ]
    tables, speed = judge(rows)
    assert tables.hit is True
    assert speed.hit is hit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "vgg"], "--network is 'vgg', must be one of demo"),
        (["--ranks", "1"], "'--ranks'"),
    ],
)
def test_bad_arguments(arguments, message):
    """What is unknown or compares nothing is refused."""
    result = CliRunner().invoke(app, ["bench", "ranks", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
