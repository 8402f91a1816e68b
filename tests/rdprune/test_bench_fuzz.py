"""The fuzzer: finds nothing in the core, and everything in a core that is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rdprune.bench import fuzz
from rdprune.bench.commands import app
from rdprune_core import _core


class First:
    """A solution that takes the first option everywhere and calls it optimal."""

    optimal = True
    lower_bound = 0.0

    def __init__(self, layers: int) -> None:
        self.choice = np.zeros(layers, np.int64)


def first(groups: Any, budgets: Any, **_: Any) -> list[First]:
    return [First(len(groups)) for _ in budgets]


def test_finds_nothing() -> None:
    """Thirty cases of every kind: right answers, and errors where there must be errors."""
    report = fuzz.run(3, cases=30 * len(fuzz.KINDS))
    assert report.findings == []
    assert report.cases == dict.fromkeys(fuzz.KINDS, 30)
    assert 30 < report.refused < report.cases.total()


def test_finds_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that takes first options is found out, and does not refuse what it must."""
    monkeypatch.setattr(_core, "solve", first)
    findings = " ".join(fuzz.run(3, cases=10 * len(fuzz.KINDS)).findings)
    for wrong in ("not within the budget", "is not optimal", "infeasible budget", "is accepted"):
        assert wrong in findings


def test_finds_gaps_that_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that lists too few or too many for the gap is found out."""
    solve_near = _core.solve_near
    for wrong in (0.0, math.inf):

        def near(relative: float, absolute: float, wrong: float = wrong, **call: Any) -> Any:
            return solve_near(**call, relative=wrong, absolute=wrong)

        monkeypatch.setattr(_core, "solve_near", near)
        assert "listed within" in " ".join(fuzz.run(3, cases=30 * len(fuzz.KINDS)).findings)


def test_finds_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of another kind than the allowed ones is a finding, and the command fails."""

    def fail(**_: Any) -> None:
        raise MemoryError("no")

    monkeypatch.setattr(_core, "solve_near", fail)
    result = CliRunner().invoke(app, ["fuzz", "--seconds", "0.5"])
    assert result.exit_code == 1
    assert "near-optimal, case 3: MemoryError: no" in result.output


def test_the_same_seed_gives_the_same_cases() -> None:
    """What a finding names can be run again."""
    one, other = (fuzz.run(5, cases=35) for _ in range(2))
    assert one == other
