"""The benchmark's batches and interrupts: what they report, not how fast."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from rdprune.bench import limits, many, sections, show, targets
from rdprune.console import console


def test_batches_give_the_choices_of_the_loop() -> None:
    """Every instance is proved, for every sparsity and number of threads, as in single calls."""
    found = many.batches(4, lambda _: None)
    assert {record["sparsity"] for record in found} == {0.5, 0.8, 0.95}
    for record in found:
        assert record["instances"] == record["proved"] == record["equal"] == 4
        assert min(record["seconds"], record["cpu"], record["loop"], record["loop_cpu"]) > 0


def batch(threads: int, cpu: float, equal: int = 600) -> dict[str, Any]:
    return {
        "sparsity": 0.8, "threads": threads, "instances": 600, "seconds": 1.0, "cpu": cpu,
        "loop": 2.0, "loop_cpu": 2.0, "proved": 600, "equal": equal,
    }  # fmt: skip


def test_batches_are_judged_by_processor_time() -> None:
    """Two threads that take 0.4 s together for 600 instances do 3,000 in a second."""
    assert many.solves_a_second(batch(2, 0.4)) == 3000
    for cpu, hit in ((0.4, True), (0.41, False)):
        rate, same = targets.judge({"batch": [batch(1, 9.0), batch(2, cpu)]})
        assert (rate.hit, same.hit) == (hit, True)
    rate, same = targets.judge({"batch": [batch(1, 0.2, equal=599)]})
    assert (rate.hit, same.hit) == (None, False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_is_timed_from_outside() -> None:
    """A call in a process of its own ends by SIGINT, and that process solves on afterwards."""
    for name in ("allocate_many", "near_optimal"):
        assert limits.interrupt(name, 0.1) > 0


def test_a_call_that_fails_is_no_interrupt() -> None:
    """An unknown call raises instead of being timed."""
    with pytest.raises(RuntimeError, match="nothing of the sort"):
        limits.interrupt("nothing of the sort", 0.0)


def test_interrupts_are_judged_by_the_slowest() -> None:
    """One call above 100 ms misses the target, and is named."""
    records = [
        {"call": "allocate", "trials": 3, "median": 0.01, "max": 0.09},
        {"call": "frontier", "trials": 3, "median": 0.01, "max": 0.12},
    ]
    [verdict] = targets.judge({"limits": records})
    assert (verdict.hit, "120 ms at most (frontier), 6 trials") == (False, verdict.figure)
    [verdict] = targets.judge({"limits": records[:1]})
    assert verdict.hit


def test_tables_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Rates, ratios and times are in the tables."""
    out = console()
    out.print(show.batch_table([batch(2, 0.4)]))
    out.print(show.limits_table([{"call": "x", "trials": 3, "median": 0.01, "max": 0.09}]))
    shown = capsys.readouterr().out
    for words in ("3,000", "2.00 x", "100%", "90.0 ms"):
        assert words in shown


def test_quick_leaves_out_what_takes_long() -> None:
    """Interrupts and memory are for the whole run."""
    assert sections.make_plan(quick=True).sections == sections.SECTIONS[:-2]
    assert "batch" in sections.make_plan(quick=True).sections
