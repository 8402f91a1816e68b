"""Which sections ``rdprune bench solver`` runs, with what, and what it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.table import Table

from rdprune.bench import extras, limits, many, memory, show, targets
from rdprune.bench import solver as contest
from rdprune.bench.contenders import CONTENDERS
from rdprune.bench.instances import CURVES, SHAPES, SPARSITIES
from rdprune.bench.timing import machine
from rdprune.report import finite

Results = dict[str, Any]
SECTIONS: Final = ("contenders", "budgets", "frontier", "growth", "batch", "limits", "memory")
QUICK_SHAPES: Final = ("ResNet-32", "ResNet-50", "7B")
QUICK_CURVES: Final = ("noisy", "bits")
QUICK_CONTENDERS: Final = tuple(
    name for name in CONTENDERS if name not in ("nearest-100k", "dp-python")
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: the sections, the contest's settings, and sizes of the rest.

    Attributes
    ----------
    sections : tuple of str
    settings : Settings
        Of the contest between all contenders.
    budget_seeds, frontier_seeds, growth_seeds : int
    instances, trials : int
        Of batches and interrupts.
    budget_patience : float
        Seconds of HiGHS for each set of budgets.
    frontier_shapes, memory_shapes : tuple of str
    blocks : tuple of int
        Sizes for growth.
    """

    sections: tuple[str, ...]
    settings: contest.Settings
    budget_seeds: int
    budget_patience: float
    frontier_seeds: int
    growth_seeds: int
    instances: int
    trials: int
    frontier_shapes: tuple[str, ...]
    memory_shapes: tuple[str, ...]
    blocks: tuple[int, ...]


def make_plan(
    *,
    seeds: int | None = None,
    shapes: Sequence[str] | None = None,
    curves: Sequence[str] | None = None,
    contenders: Sequence[str] | None = None,
    sparsities: Sequence[float] | None = None,
    tables: Sequence[Path] | None = None,
    chosen: Sequence[str] | None = None,
    time_limit: float | None = None,
    quick: bool = False,
    full: bool = False,
) -> Plan:
    """Fill in what was not asked for; whoever filters instances wants the contest alone.

    Raises
    ------
    ValueError
        For a name that there is not, or a contender whose package is missing.
    """
    if quick and full:
        raise ValueError("--quick and --full exclude each other")
    filtered = bool(shapes or curves or contenders or sparsities or tables)
    settings = contest.Settings(
        shapes=_pick("--shape", shapes, SHAPES, QUICK_SHAPES if quick else SHAPES),
        curves=_pick(
            "--curve", curves, (*CURVES, contest.MEASURED), QUICK_CURVES if quick else CURVES
        ),
        contenders=_pick(
            "--contender",
            contenders,
            tuple(CONTENDERS),
            QUICK_CONTENDERS if quick else tuple(CONTENDERS),
        ),
        sparsities=tuple(sparsities or ((contest.MIDDLE,) if quick else SPARSITIES)),
        tables=tuple(tables or ()),
        seeds=seeds or (3 if quick else 30),
        time_limit=(2.0 if quick else 20.0) if time_limit is None else time_limit,
        patience=0.0 if quick else 1.0,
        full=full,
    )
    for name in contenders or ():
        if CONTENDERS[name].missing:
            raise ImportError(
                f"--contender {name} needs {CONTENDERS[name].needs}: "
                "pip install 'rdprune-core[bench]'"
            )
    default = SECTIONS[:1] if filtered else SECTIONS[:-2] if quick else SECTIONS
    return Plan(
        sections=_pick("--section", chosen, SECTIONS, default),
        settings=settings,
        budget_seeds=seeds or (200 if full else 3 if quick else 30),
        budget_patience=math.inf if full else 0.0 if quick else 10.0,
        frontier_seeds=min(settings.seeds, 1 if quick else 3),
        growth_seeds=min(settings.seeds, 1 if quick else 5),
        instances=200 if quick else 2000,
        trials=2 if quick else 20,
        frontier_shapes=("ResNet-50",) if quick else ("ResNet-32", "ResNet-50", "7B"),
        memory_shapes=SHAPES if full else ("ResNet-50",),
        blocks=extras.BLOCKS[:3] if quick else extras.BLOCKS,
    )


def _pick(
    option: str, asked: Sequence[str] | None, known: tuple[str, ...], default: tuple[str, ...]
) -> tuple[str, ...]:
    """Return what was asked for, each checked, or the default."""
    for name in asked or ():
        if name not in known:
            raise ValueError(f"{option} {name!r} is unknown; there are {', '.join(known)}")
    return tuple(asked or default)


def run(plan: Plan, out: Console | None) -> Results:
    """Run the sections, printing each as soon as it is done unless `out` is None.

    Returns
    -------
    dict
        From ``"machine"``, the sections and ``"targets"`` to what they found.
    """
    settings = plan.settings
    results: Results = {"machine": machine()}

    def say(what: RenderableType) -> None:
        if out is not None:
            out.print(what)

    say(show.machine_line(results["machine"]))
    absent = [c for c in CONTENDERS.values() if c.missing and c.name in settings.contenders]
    for contender in absent:
        say(f"left out: {contender.label} ({contender.needs} is missing)")
    makers: dict[str, tuple[Callable[[contest.Step], Any], Callable[[Any], list[Table]]]] = {
        "contenders": (lambda step: contest.run(settings, step), show.contender_tables),
        "budgets": (
            lambda step: extras.several_budgets(
                plan.budget_seeds, settings.time_limit, plan.budget_patience, step
            ),
            lambda found: [show.budgets_table(found)],
        ),
        "frontier": (
            lambda step: extras.frontiers(plan.frontier_shapes, plan.frontier_seeds, step),
            lambda found: [show.frontier_table(found)],
        ),
        "growth": (
            lambda step: extras.growth(plan.growth_seeds, step, blocks=plan.blocks),
            lambda found: [show.growth_table(found)],
        ),
        "batch": (
            lambda step: many.batches(plan.instances, step),
            lambda found: [show.batch_table(found)],
        ),
        "limits": (
            lambda step: limits.interrupts(plan.trials, step),
            lambda found: [show.limits_table(found)],
        ),
        "memory": (
            lambda step: memory.peaks(
                plan.memory_shapes,
                settings.contenders,
                settings.time_limit,
                step,
                full=settings.full,
            ),
            lambda found: [show.memory_table(found)],
        ),
    }
    for name in (name for name in SECTIONS if name in plan.sections):
        measure, tables = makers[name]
        with Console(stderr=True).status("") as status:
            results[name] = measure(status.update)
        for grid in tables(results[name]) if results[name] else ():
            say(grid)
    if results.get("contenders"):
        results["busy"] = contest.busyness(results["contenders"])
        say(show.busy_line(results["busy"]))
    results["targets"] = targets.judge(results)
    say(show.verdict_table(results["targets"]))
    return results


def payload(results: Results) -> Results:
    """Return the results as JSON takes them."""
    found = dict(results)
    if "contenders" in found:
        found["contenders"] = [row.to_dict() for row in found["contenders"]]
    found["targets"] = [asdict(verdict) for verdict in found["targets"]]
    return dict(finite(found))


def draw(path: Path, results: Results) -> None:
    """Write the picture of the contest."""
    show.picture(path, results["contenders"], show.machine_line(results["machine"]))
