"""The near-optimal set at the command line: the tables, the JSON, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdprune.cli import app
from rdprune_core import RDTable


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "table.npz"
    RDTable.from_arrays(
        {"params": [[10, 5, 0], [20, 10, 0]], "macs": [[1, 1, 1], [1, 1, 1]]},
        [[0, 1, 9], [0, 2, 8]],
        names=["first.weight", "second.weight"],
    ).save(path)
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["allocate", *arguments])


def test_prints_the_set_and_the_undecided_layers(table: str) -> None:
    """`--alternatives` adds the ranking with what differs, and every layer's options."""
    # (1, 1) 3, (0, 2) 8, (1, 2) 9, (2, 1) 11 within 15, see tests/core/test_near.py.
    shown = run(table, "--budget", "15", "--alternatives", "4")
    assert shown.exit_code == 0
    for words in (
        "4 allocations, proved to be the best; no other has less than 11",
        "2 of 2 layers are undecided",
        "first 0, second 2",
        "1 (2), 0 (1), 2 (1)",
        "167 %",
    ):
        assert words in shown.stdout
    every = run(table, "--budget", "15", "--alternatives", "99")
    assert "5 allocations, proved to be the best; there are no others" in every.stdout


def test_json_has_every_choice(table: str, tmp_path: Path) -> None:
    """The first is the allocation itself, saved as without the option."""
    out = tmp_path / "a.json"
    shown = run(table, "--budget", "15", "--alternatives", "2", "--json", "-", "--output", str(out))
    found = json.loads(shown.stdout)
    assert found["choice"] == [1, 1]
    near = found["alternatives"]
    assert [a["choice"] for a in near["allocations"]] == [[1, 1], [0, 2]]
    assert (near["status"], near["complete"], near["lower_bound"]) == ("optimal", False, 8.0)
    assert near["undecided"] == {
        "first.weight": {"1": 1, "0": 1}, "second.weight": {"1": 1, "2": 1}
    }  # fmt: skip
    plain = tmp_path / "b.json"
    run(table, "--budget", "15", "--output", str(plain))
    assert json.loads(out.read_text()) == json.loads(plain.read_text())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "15", "--alternatives", "0"), "k is 0"),
        (("--budget", "15", "--alternatives", "3", "--objective", "joint"), "additive objective"),
        (("--budget", "params=15", "--budget", "macs=2", "--alternatives", "3"), "one budget"),
    ],
)
def test_mistakes_are_one_line(table: str, arguments: tuple[str, ...], words: str) -> None:
    """A mistake is one line on standard error and exit code 2."""
    found = run(table, *arguments)
    assert found.exit_code == 2
    assert words in found.stderr
    assert found.stderr.count("\n") == 1
