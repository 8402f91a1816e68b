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
    meter = Meter(30, clock=clock)
    meter.expect(60.0)
    assert meter.left is None
    clock.now = 20.0
    meter.advance("a", 5, 20.0)
    assert (meter.done, meter.total, meter.left) == (5, 30, 40.0)
    clock.now = 25.0
    assert meter.left == 35.0
    clock.now = 60.0
    meter.advance("a", 5, 20.0)
    meter.advance("b", 20, 20.0)
    assert meter.left == 0.0


def test_what_was_found_took_no_time():
    """Steps looked up shorten the rest and, with the time they took, say nothing on the speed."""
    clock = Clock()
    meter = Meter(10, clock=clock)
    clock.now = 50.0
    meter.found("a", 6)
    meter.expect(4.0)
    assert meter.left is None
    clock.now = 53.0
    meter.advance("a")
    assert (meter.done, meter.left, meter.elapsed) == (7, 9.0, 53.0)


def test_what_is_found_on_the_way_hides_no_work():
    """A step at 6 s, then steps looked up, and so on: what is left goes on at 6 s a step."""
    clock = Clock()
    meter = Meter(10, clock=clock)
    for step, left in ((1, 42.0), (2, 24.0), (3, 6.0)):
        clock.now = 6.0 * step
        meter.advance("a")
        meter.found("a", 2, 2.0)
        assert meter.left == left
    meter.expect(1.0)
    assert meter.left is None


def test_the_work_of_others_counts():
    """Two ranks that do 2 steps each in 4 s leave 6 s for the other 6."""
    clock = Clock()
    meter = Meter(10, clock=clock)
    clock.now = 4.0
    meter.elsewhere(2, 2.0)
    meter.advance("a", 2)
    assert (meter.done, meter.left) == (4, 6.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_duration(seconds, text):
    """Times are in the unit that a person would use."""
    assert duration(seconds) == text


def test_line():
    """A line names what is worked on, how much is done, and the rest once it is known."""
    clock = Clock()
    meter = Meter(4, clock=clock)
    meter.advance("conv", 0)
    assert line(meter) == "conv: 0 of 4"
    clock.now = 10.0
    meter.advance("conv")
    assert line(meter) == "conv: 1 of 4, 30 s left"
    meter.advance("conv", 3)
    assert line(meter) == "conv: 4 of 4 in 10 s"


def test_without_a_terminal_there_are_plain_lines(capsys):
    """To a file a quick run prints one line, without control codes."""
    with progress_bar(2, shown=True) as meter:
        meter.advance("a")
        meter.advance("a")
    assert capsys.readouterr().err == "a: 2 of 2 in 0 s\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    """On a terminal the bar shows the name and the count."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar(2, shown=True) as meter:
        meter.advance("conv", 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "conv" in shown.err
    assert "2/2" in shown.err
