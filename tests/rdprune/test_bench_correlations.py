"""``rdprune bench correlations`` and ``ablation``: their figures are those of the library."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import rdprune
from rdprune.bench import ablation, correlations
from rdprune.cli import app
from rdprune_core import RDTable, allocate


def test_cosines_by_hand():
    """Of the responses at the level asked for; a layer without a response has none."""
    table = RDTable.from_arrays(
        [[2, 1]] * 3,
        [[0.0, 1.0]] * 3,
        options=["0.0", "0.5"],
        responses=[[[0, 0], [3, 4]], [[0, 0], [4, -3]], [[0, 0], [0, 0]]],
    )
    found = correlations.cosines(table, 0.6)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0], [0, 0, 0]], atol=1e-7)


def test_correlations(network, batches, monkeypatch, tmp_path):
    """Both states are shown; true distortions are those that `verify` finds."""
    monkeypatch.setattr(correlations, "load", lambda *_: (network, batches, batches))
    picture = tmp_path / "picture.png"
    arguments = ["bench", "correlations", "--levels", "11", "--draws", "1"]
    result = CliRunner().invoke(app, [*arguments, "--picture", str(picture), "--json", "-"])
    assert result.exit_code == 0, result.stderr
    states = json.loads(result.stdout)["states"]
    assert [state["recovery"] for state in states] == ["none", "batchnorm"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = rdprune.measure(network, batches, levels=11, recovery="batchnorm", progress=False)
    joint = allocate(table, sparsity=0.5, objective="joint")
    report = rdprune.verify(network, batches, joint, table=table)
    (point,) = [
        p
        for p in states[1]["points"]
        if p["kind"] == "joint optimum" and p["sparsity"] == pytest.approx(joint.sparsity)
    ]
    assert point["true"] == pytest.approx(report.true, rel=1e-5)
    assert point["joint"] == pytest.approx(report.joint, rel=1e-5)
    assert point["additive"] == pytest.approx(report.additive, rel=1e-5)
    assert "joint / true" in CliRunner().invoke(app, arguments).stdout


def test_ablation(network, batches, monkeypatch, tmp_path):
    """One setting changes at a time, the unchanged one is run once, and a run goes on."""
    measured, really = [], rdprune.measure

    def measure(*arguments, **settings):
        measured.append((settings["levels"], settings["responses"]))
        return really(*arguments, **settings)

    monkeypatch.setattr(ablation, "load", lambda *_: (network, batches, batches))
    monkeypatch.setattr(ablation, "VALUES", {"levels": (5, 24), "radius": (1, 2)})
    monkeypatch.setattr(ablation.rdprune, "measure", measure)
    arguments = ["bench", "ablation", "--folder", str(tmp_path), "--sparsity", "0.5"]
    arguments += ["--rounds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [(r["setting"], r["value"]) for r in rows] == [
        ("levels", 5), ("levels", 24), ("radius", 1), ("radius", 2),
    ]  # fmt: skip
    same = [{k: v for k, v in rows[i].items() if k not in ("setting", "value")} for i in (1, 3)]
    assert same[0] == same[1]
    assert measured == [(5, 256), (24, 256), (24, 256)]  # radius 1 finds its rows in the store
    assert rows[0]["measuring"] == 1 + 3 * 4
    shown = CliRunner().invoke(app, [*arguments, "--setting", "radius"])
    assert "samples run" in shown.stdout
    assert len(measured) == 3
    with pytest.raises(ValueError, match="unknown setting 'depth'; there are levels, radius"):
        ablation.run(ablation.Plan(settings=("depth",)), tmp_path, print)
