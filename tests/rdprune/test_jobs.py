"""Pieces of work: how options are cut among ranks, and what a piece is said to cost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rdprune.jobs import OVERHEAD, SMALLEST, cut


def _job(name, count):
    """Return what `cut` needs of a job."""
    return SimpleNamespace(layer=SimpleNamespace(name=name), left=lambda: list(range(count)))


def _prefix(shares, trusted=()):
    return SimpleNamespace(shares=shares, trusts=lambda layer: layer.name in trusted)


@pytest.mark.parametrize("count", [4, 5, 7, 8, 20, 25, 26, 100])
def test_no_piece_is_too_small_to_record_for(count):
    """Five options are one piece of five, not 3 and 2, each of which runs the whole model."""
    pieces = cut([_job("a", count), _job("b", count)], 2)
    assert min(len(piece.options) for piece in pieces) >= SMALLEST
    for name in ("a", "b"):
        found = [at for p in pieces if p.job.layer.name == name for at in p.options]
        assert sorted(found) == list(range(count))


def test_one_rank_has_one_piece_a_layer():
    """What is left of a layer is measured in one go; a layer of which nothing is left is none."""
    pieces = cut([_job("a", 100), _job("b", 0), _job("c", 1)], 1)
    assert [(p.job.layer.name, len(p.options)) for p in pieces] == [("a", 100), ("c", 1)]


def test_beginning_a_layer_costs_a_pass_and_its_records():
    """Layer b runs what a leaves, to record it, and the whole model, to check; a reuses nothing."""
    shares = {"a": 1.0, "b": 0.5, "c": 0.25, "d": 0.1}
    jobs = [_job("a", 10), _job("b", 10), _job("c", 10), _job("d", 3)]
    a, b, c, d = cut(jobs, 1, _prefix(shares), fewest=4)
    assert a.cost == pytest.approx(10 * (1 + OVERHEAD))
    assert b.cost == pytest.approx(1 + 1 + 10 * (0.5 + OVERHEAD))
    assert c.cost == pytest.approx(0.5 + 1 + 10 * (0.25 + OVERHEAD))
    assert d.cost == pytest.approx(3 * (1 + OVERHEAD))  # too few to record for


def test_a_trusted_layer_is_only_recorded():
    """Passes that record end where layer b begins: half a pass, for any number of options."""
    (piece,) = cut([_job("b", 2)], 1, _prefix({"b": 0.5}, {"b"}), fewest=4)
    assert piece.cost == pytest.approx(0.5 + 2 * (0.5 + OVERHEAD))


def test_a_layer_is_begun_once():
    """Of a layer in several pieces the first one bears the cost of beginning."""
    shares = {"a": 1.0, "b": 0.5}
    pieces = cut([_job("a", 40), _job("b", 40)], 2, _prefix(shares), fewest=4)
    starts = [piece.start for piece in pieces if piece.job.layer.name == "b"]
    assert starts == [2.0] + [0.0] * (len(starts) - 1)
    assert len(starts) > 1
