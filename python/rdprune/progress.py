"""What is being worked on, how much is done, and how long the rest will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PAUSE: Final = 20.0
"""Seconds between two lines where no terminal can redraw one."""


class Meter:
    """Counts what is done, and estimates the rest by what each step costs.

    Parameters
    ----------
    total : int
        Steps.
    changed : callable, optional
        Called with this meter when something was done.
    clock : callable
        Seconds.

    Attributes
    ----------
    name : str
        What is being worked on.
    done, total : int
        Steps.
    """

    def __init__(
        self,
        total: int,
        changed: Callable[[Meter], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = ""
        self.done = 0
        self.total = total
        self._remaining = float(total)
        self._spent = 0.0
        self._elsewhere = (0, 0.0)
        self._changed = changed
        self._clock = clock
        self._started = self._began = self._latest = clock()

    def expect(self, cost: float) -> None:
        """Note what the steps that are left will cost together, in any unit; the work begins."""
        self._remaining, self._spent = cost, 0.0
        self._began = self._latest = self._clock()

    def found(self, name: str, steps: int, cost: float = 0.0) -> None:
        """Note steps under `name` that took no work, and what they would have cost.

        Without a cost `expect` says what is left.
        """
        self._remaining -= cost
        self._note(name, steps)

    def advance(self, name: str, steps: int = 1, cost: float | None = None) -> None:
        """Note that `steps` more are done under `name`, and what they cost; 1 each unless told."""
        self._work(float(steps) if cost is None else cost)
        self._note(name, steps)

    def elsewhere(self, steps: int, cost: float) -> None:
        """Note how many steps others have done so far, and what these cost."""
        before, self._elsewhere = self._elsewhere, (steps, cost)
        if cost > before[1]:
            self._work(cost - before[1])
        if steps > before[0]:
            self._note(self.name, steps - before[0])

    def _work(self, cost: float) -> None:
        self._remaining -= cost
        self._spent += cost
        self._latest = self._clock()

    def _note(self, name: str, steps: int) -> None:
        self.name = name
        self.done += steps
        if self._changed is not None:
            self._changed(self)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take; None while nothing is known."""
        if self.done >= self.total:
            return 0.0
        if self._spent <= 0:
            return None
        worked, since = self._latest - self._began, self._clock() - self._latest
        return max(0.0, worked * self._remaining / self._spent - since)


@contextmanager
def progress_bar(
    total: int,
    shown: bool,
) -> Iterator[Meter]:
    """Show a meter on stderr, if it is to be shown: a bar on a terminal, else a line now and then.

    Parameters
    ----------
    total : int
        Steps.
    shown : bool
        Show it at all.
    """
    if not shown:
        yield Meter(total)
    elif sys.stderr.isatty():
        with _bar() as changed:
            yield Meter(total, changed)
    else:
        printed = [time.monotonic()]

        def changed(meter: Meter) -> None:
            last = meter.done == meter.total
            if last or time.monotonic() - printed[0] >= PAUSE:
                printed[0] = time.monotonic()
                sys.stderr.write(f"{line(meter)}\n")
                sys.stderr.flush()

        yield Meter(total, changed)


def line(meter: Meter) -> str:
    """Return a meter on one line."""
    text = f"{meter.name}: {meter.done} of {meter.total}"
    if meter.done >= meter.total:
        return f"{text} in {duration(meter.elapsed)}"
    return text if meter.left is None else f"{text}, {duration(meter.left)} left"


def duration(seconds: float) -> str:
    """Return seconds in words: ``"42 s"``, ``"12 min"``, ``"3 h 20 min"``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _bar() -> Iterator[Callable[[Meter], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, left="")

        def changed(meter: Meter) -> None:
            left = "" if meter.left is None else f"{duration(meter.left)} left"
            bar.update(
                task,
                description=meter.name,
                total=meter.total,
                completed=meter.done,
                left=left,
            )

        yield changed
