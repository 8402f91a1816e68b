"""Progress: what is counted, and how long the rest is said to take."""

from __future__ import annotations

import pytest

from rdprune.progress import Meter, duration, line, progress_bar


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_rest_is_weighed_by_its_costs():
    """Of 10 steps at 4 and 20 at 1, five dear ones in 20 s leave 5 * 4 + 20 * 1 = 40 s."""
    clock = Clock()
    meter = Meter({"a": 10, "b": 20}, {"a": 4.0, "b": 1.0}, clock=clock)
    assert meter.left is None
    clock.now = 20.0
    meter.advance("a", 5)
    assert (meter.done, meter.total, meter.left) == (5, 30, 40.0)
    clock.now = 60.0
    meter.advance("a", 5)
    meter.advance("b", 20)
    assert meter.left == 0.0


def test_what_was_found_took_no_time():
    """Steps looked up shorten the rest and say nothing about the speed."""
    clock = Clock()
    meter = Meter({"a": 10}, clock=clock)
    meter.advance("a", 6, found=True)
    assert meter.left is None
    clock.now = 3.0
    meter.advance("a")
    assert meter.left == 9.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_duration(seconds, text):
    """Times are in the unit that a person would use."""
    assert duration(seconds) == text


def test_line():
    """A line names what is worked on, how much is done, and the rest once it is known."""
    clock = Clock()
    meter = Meter({"conv": 4}, clock=clock)
    meter.advance("conv", 0)
    assert line(meter) == "conv: 0 of 4"
    clock.now = 10.0
    meter.advance("conv")
    assert line(meter) == "conv: 1 of 4, 30 s left"
    meter.advance("conv", 3)
    assert line(meter) == "conv: 4 of 4 in 10 s"


def test_without_a_terminal_there_are_plain_lines(capsys):
    """To a file a quick run prints one line, without control codes."""
    with progress_bar({"a": 2}, shown=True) as meter:
        meter.advance("a")
        meter.advance("a")
    assert capsys.readouterr().err == "a: 2 of 2 in 0 s\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    """On a terminal the bar shows the name and the count."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar({"conv": 2}, shown=True) as meter:
        meter.advance("conv", 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "conv" in shown.err
    assert "2/2" in shown.err
