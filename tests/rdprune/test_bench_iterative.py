"""The iterative comparison: all methods, round by round, one table, resumed without work."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from rdprune.cli import app
from rdprune.recipes import run as recipes


def test_rounds_of_all_methods_and_resuming(tmp_path, monkeypatch):
    """Every method does every round on the same schedule; asked again nothing is trained."""
    use = [
        "bench", "iterative", "--folder", str(tmp_path / "run"), "--data", "fake:8", "--steps", "1",
        "--batch", "4", "--samples", "4", "--tested", "8", "--json", str(tmp_path / "rows.json"),
    ]  # fmt: skip
    done = CliRunner().invoke(app, [*use, "--rounds", "2"])
    assert done.exit_code == 0, done.stderr
    first = json.loads((tmp_path / "rows.json").read_text())
    assert [track["method"] for track in first["tracks"]] == ["rdprune", "lamp", "global_magnitude"]
    for track in first["tracks"]:
        assert [entry["number"] for entry in track["rounds"]] == [1, 2]
        assert all(entry["sparsity"] >= entry["target"] - 1e-4 for entry in track["rounds"])
        assert 0 <= track["final"] <= 1
    assert any(line.split()[:3] == ["2", "36.0", "%"] for line in done.stdout.splitlines())

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(recipes.Finetune, "__call__", refuse)
    other = CliRunner().invoke(app, [*use, "--rounds", "2", "--samples", "3"])
    assert other.exit_code == 2
    assert "holds a run with calibration 4, this one has 3" in other.stderr
    monkeypatch.undo()
    blended = CliRunner().invoke(app, [*use, "--rounds", "2", "--method", "blended"])
    assert blended.exit_code == 0, blended.stderr
    said = json.loads((tmp_path / "run" / "blended" / "history.json").read_text())["settings"]
    chosen = [said[name] for name in ("method", "recovery", "distortion", "blend")]
    assert chosen == ["rdprune", "batchnorm", "nmse", 0.5]
    monkeypatch.setattr(recipes.Finetune, "__call__", refuse)
    again = CliRunner().invoke(app, [*use, "--rounds", "2"])
    assert again.exit_code == 0, again.stderr
    assert json.loads((tmp_path / "rows.json").read_text()) == first
