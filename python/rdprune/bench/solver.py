"""Every contender on every instance: what it took, and how good its answer was."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rdprune.bench.contenders import CONTENDERS, OURS, PREPARATION, Answer, Contender
from rdprune.bench.instances import CURVES, MAIN_CURVE, Instance, applies, find_shape, make_table
from rdprune.bench.timing import Time, timed
from rdprune_core import RDTable

Step = Callable[[str], None]
MEASURED: Final = "measured"
SAME: Final = 1e-9  # relative; HiGHS proves no closer than its tolerances
MIDDLE: Final = 0.8


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run.

    Attributes
    ----------
    shapes, curves, contenders : tuple of str
        Names; ours always runs, as everybody is compared with it.
    sparsities : tuple of float
    tables : tuple of Path
        Measured tables beside the made ones.
    seeds : int
        Tables for each shape on the main curve; a third as many on the others.
    time_limit : float
        Seconds for a call, of those contenders that can be stopped.
    patience : float
        Seconds after which a contender gets no further seed of an instance on the main curve; a
        fifth as many on the others. Not for ours.
    full : bool
        No reach, no patience, no thirds: everybody, everywhere, on every seed.
    """

    shapes: tuple[str, ...]
    curves: tuple[str, ...]
    contenders: tuple[str, ...]
    sparsities: tuple[float, ...]
    tables: tuple[Path, ...] = ()
    seeds: int = 30
    time_limit: float = 20.0
    patience: float = 1.0
    full: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One contender on one table and budget.

    Attributes
    ----------
    seconds, cpu : float
        By the clock, and of processor time.
    ratio : float
        To ours on the same table and budget: of processor time, or by the clock if it uses
        several threads.
    worse : float or None
        (objective - ours) / |ours|, of the exact sums; None without an allocation.
    over : int
        Cost above the budget, 0 for none.
    proved, stopped : bool
        Says that it is the optimum; used up its time limit.
    """

    seconds: float
    cpu: float
    ratio: float
    worse: float | None
    over: int
    proved: bool
    stopped: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on the tables of all seeds of one instance."""

    shape: str
    curve: str
    sparsity: float
    layers: int
    options: int
    contender: str
    runs: list[Run] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Of every run, in the order of the seeds."""
        return [run.seconds for run in self.runs]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def cpu(self) -> float:
        """Median seconds of processor time."""
        return statistics.median(run.cpu for run in self.runs)

    @property
    def ratio(self) -> float:
        """Median over the runs of its time by ours on the same table and budget."""
        return statistics.median(run.ratio for run in self.runs)

    @property
    def answered(self) -> list[Run]:
        """The runs that gave an allocation."""
        return [run for run in self.runs if run.worse is not None]

    @property
    def proved(self) -> float | None:
        """Share of all runs that it says are optimal; None if it never says so."""
        if not CONTENDERS[self.contender].proves:
            return None
        return sum(run.proved for run in self.runs) / len(self.runs)

    @property
    def stopped(self) -> int:
        """Runs that used up the time limit: the true times, and ratios, are larger."""
        return sum(run.stopped for run in self.runs)

    @property
    def worse(self) -> list[float]:
        """How much worse than ours the runs are that keep within the budget."""
        return [run.worse for run in self.runs if run.worse is not None and run.over == 0]

    @property
    def beats_us(self) -> int:
        """Runs within the budget with a lower objective than ours. Must be none."""
        return sum(worse < 0 for worse in self.worse)

    @property
    def wrong(self) -> int:
        """Runs said to be optimal that are over the budget or worse than ours."""
        return sum(run.proved and (run.over > 0 or (run.worse or 0.0) > SAME) for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Give the row for JSON; worse by and over budget both as median and largest."""
        over = [run.over for run in self.answered]
        return {
            "shape": self.shape,
            "curve": self.curve,
            "sparsity": self.sparsity,
            "layers": self.layers,
            "options": self.options,
            "contender": self.contender,
            "runs": len(self.runs),
            "seconds": self.seconds,
            "median": self.median,
            "p90": float(np.quantile(self.seconds, 0.9)),
            "max": max(self.seconds),
            "cpu": self.cpu,
            "ratio": self.ratio,
            "stopped": self.stopped,
            "allocations": len(self.answered),
            "proved": self.proved,
            "worse_median": statistics.median(self.worse) if self.worse else None,
            "worse_max": max(self.worse, default=None),
            "over_median": statistics.median(over) if over else None,
            "over_max": max(over, default=None),
            "beats_us": self.beats_us,
            "wrong": self.wrong,
        }


def run(settings: Settings, step: Step) -> list[Row]:
    """Run everybody on everything.

    Parameters
    ----------
    settings : Settings
    step : callable
        Told what is next before each table.

    Returns
    -------
    list of Row
        Instance after instance, ours first in each.
    """
    rows: dict[tuple[str, str, float, str], Row] = {}
    warm = Instance("", "", MIDDLE, make_table(find_shape("ResNet-32"), MAIN_CURVE, 0))
    OURS.run(warm.table, warm.budget, settings.time_limit)
    for name, curve, table in _tables(settings, step):
        for sparsity in settings.sparsities:
            _run_instance(settings, Instance(name, curve, sparsity, table), rows)
    return list(rows.values())


def busyness(rows: list[Row]) -> float:
    """Return the clock's time by processor time of all that ran in one thread."""
    runs = [run for row in rows if CONTENDERS[row.contender].threads == 1 for run in row.runs]
    return sum(run.seconds for run in runs) / sum(run.cpu for run in runs)


def _tables(settings: Settings, step: Step) -> Iterator[tuple[str, str, RDTable]]:
    """Yield shape, curve and table: made ones, then those of files."""
    for curve in (curve for curve in CURVES if curve in settings.curves):
        for name in (name for name in settings.shapes if applies(name, curve)):
            main = curve == MAIN_CURVE or settings.full
            for seed in range(settings.seeds if main else -(-settings.seeds // 3)):
                step(f"{name}, {curve}, seed {seed}")
                yield name, curve, make_table(find_shape(name), curve, seed)
    for path in settings.tables:
        step(str(path))
        yield path.stem, MEASURED, RDTable.load(path)


def _run_instance(
    settings: Settings, instance: Instance, rows: dict[tuple[str, str, float, str], Row]
) -> None:
    """Run ours, then everybody else who reaches this far and has patience left."""
    table, budget = instance.table, instance.budget
    size = len(table.flat_distortion)
    base: tuple[Time, Answer] | None = None
    for contender in _invited(settings, instance, size):
        key = (instance.shape, instance.curve, instance.sparsity, contender.name)
        if key not in rows:
            rows[key] = Row(*key[:3], len(table.names), size, contender.name)
        runs = rows[key].runs
        patience = settings.patience * (1.0 if _main(instance) else 0.2)
        always = settings.full or contender in (OURS, PREPARATION) or not runs
        if not always and sum(run.seconds for run in runs) >= patience:
            continue
        time, answer = timed(partial(contender.run, table, budget, settings.time_limit))
        base = base or (time, answer)
        one = contender.threads == 1
        ratio = time.cpu / base[0].cpu if one else time.wall / base[0].wall
        worse, over = _judge(instance, answer.choice, base[1].choice)
        stopped = contender.proves and not answer.proved and time.wall >= settings.time_limit
        runs.append(Run(time.wall, time.cpu, ratio, worse, over, answer.proved, stopped))


def _invited(settings: Settings, instance: Instance, size: int) -> list[Contender]:
    """Return the contenders to run on an instance, ours first."""
    middle = instance.sparsity == MIDDLE or len(settings.sparsities) == 1
    place = 2 if not _main(instance) else 0 if middle else 1
    return [
        contender
        for contender in CONTENDERS.values()
        if contender is OURS
        or (
            contender.name in settings.contenders
            and not contender.missing
            and (settings.full or size <= contender.reach[place])
        )
    ]


def _main(instance: Instance) -> bool:
    """Whether this is where everybody is to be seen."""
    return instance.curve in (MAIN_CURVE, MEASURED)


def _judge(
    instance: Instance, choice: NDArray[np.int64] | None, best: NDArray[np.int64] | None
) -> tuple[float | None, int]:
    """Return how much worse a choice is than ours, and its excess over the true budget."""
    if best is None:
        raise RuntimeError("ours gave no allocation")
    if choice is None:
        return None, 0
    table = instance.table
    ours, its = (table.flat_distortion[table.offsets[:-1] + c].tolist() for c in (best, choice))
    cost = table.flat_cost(next(iter(table.costs)))
    total = int(cost[table.offsets[:-1] + choice].sum())
    return _relative(its, ours), max(total - instance.budget, 0)


def _relative(its: list[float], ours: list[float]) -> float:
    """Return (its - ours) / |ours| of two sums; the difference is exact, then rounded once."""
    difference, scale = math.fsum([*its, *(-value for value in ours)]), abs(math.fsum(ours))
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.copysign(math.inf, difference)
