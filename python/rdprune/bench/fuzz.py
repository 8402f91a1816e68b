"""Random calls of the compiled core, sound and malformed, against all allocations counted out.

Every call must answer as the list of all allocations does, in exact fractions, or raise
``ValueError`` or ``TypeError`` where an argument is wrong. Whatever else happens is a finding.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np

from rdprune.bench.fuzz_cases import (
    PLENTY,
    Call,
    Ranked,
    Rng,
    allocations,
    budgets_around,
    instance,
    limits_of,
    rounds,
    spoil,
    table,
    within,
)
from rdprune_core import _core

RESPONSES: Final = 3
SHOWN: Final = 20


@dataclass
class Report:
    """What a run of the fuzzer did.

    Attributes
    ----------
    cases : Counter of str
        Calls by kind.
    refused : int
        Those that raised, as they had to.
    findings : list of str
        Wrong answers, each with the case's seed.
    """

    cases: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    findings: list[str] = field(default_factory=list)


class WrongError(Exception):
    """An answer that is not right."""


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise WrongError(what)


def _check(solution: Any, best: Ranked, weak: bool) -> None:
    choices = {choice: value for value, _, choice in best}
    choice = tuple(solution.choice.tolist())
    _require(choice in choices, f"{choice} is not within the budget")
    if solution.optimal:
        _require(choices[choice] == best[0][0], f"{choice} is not optimal, {best[0][2]} is")
        _require(weak or choice == best[0][2], f"{choice} is taken instead of {best[0][2]}")
        return
    _require(weak, "not proved without a limit")
    if math.isfinite(solution.lower_bound):
        _require(Fraction(solution.lower_bound) <= best[0][0], "the lower bound is above")


def _answers(solve: Callable[[], Any], feasible: list[Ranked], weak: bool) -> Any:
    """Call, and expect an error exactly if a budget is out of reach."""
    try:
        found = solve()
    except _core.InfeasibleBudget:
        _require(not all(feasible), "called infeasible")
        return None
    except RuntimeError:
        _require(weak, "stopped without a limit")
        return None
    except ValueError as error:
        _require("no option left" in str(error) and not any(feasible), str(error))
        return None
    _require(all(feasible), "answered an infeasible budget")
    return found


def _rows(rng: Rng, dimensions: int, rows: int) -> bool:
    call = instance(rng, dimensions)
    ranked = _sound(call)
    budgets = budgets_around(rng, ranked, rows, dimensions)
    feasible = [within(ranked, row) for row in budgets.tolist()]
    limits, weak = limits_of(rng)
    weak = weak or rounds(call["distortions"])
    found = _answers(lambda: _core.solve(**call, budgets=budgets, **limits), feasible, weak)
    for solution, best in zip(found or [], feasible, strict=False):
        _check(solution, best, weak)
    return found is None


def _sound(call: Call) -> Ranked:
    """Untie layers that cannot be tied, and list the allocations."""
    sizes = np.diff(call["offsets"])
    if len(set(sizes.tolist())) > 1:
        call["groups"] = np.arange(len(sizes))
    return allocations(call, call["distortions"])


def _batch(rng: Rng) -> bool:
    dimensions = int(rng.integers(1, 3))
    call = instance(rng, dimensions)
    [budget] = budgets_around(rng, _sound(call), 1, dimensions)
    many = np.stack([call["distortions"], call["distortions"][::-1], -call["distortions"]])
    call["distortions"] = many
    feasible = [within(allocations(call, row), budget.tolist()) for row in many]
    limits, weak = limits_of(rng)
    weak = weak or rounds(many)
    threads = int(rng.integers(1, 4))
    found = _answers(
        lambda: _core.solve_batch(**call, budget=budget, threads=threads, **limits), feasible, weak
    )
    for solution, best in zip(found or [], feasible, strict=False):
        _check(solution, best, weak)
    return found is None


def _near(rng: Rng) -> bool:
    call = instance(rng, 1)
    ranked = _sound(call)
    [[budget]] = budgets_around(rng, ranked, 1, 1).tolist()
    feasible = within(ranked, [budget])
    limits, weak = limits_of(rng)
    weak = weak or rounds(call["distortions"])
    k = int(rng.integers(1, 20))
    call["costs"] = np.ascontiguousarray(call["costs"][:, 0])
    gaps = _gaps(rng, feasible)
    found = _answers(
        lambda: _core.solve_near(**call, budget=budget, k=k, **gaps, **limits), [feasible], weak
    )
    if found is None:
        return True
    listed = [tuple(row) for row in found.choices.tolist()]
    _require(len(set(listed)) == len(listed) <= k, f"{len(listed)} listed for k = {k}")
    _require(set(listed) <= {a[2] for a in feasible}, "one listed is not within the budget")
    others = [a[0] for a in feasible if a[2] not in listed]
    # Distortions are told as the nearest double, and so is the bound.
    _require(not others or found.lower_bound <= float(others[0]), "a bound above one not listed")
    if not found.optimal:
        _require(weak, "not proved without a limit")
        return False
    least, most = _reach(feasible, **gaps)
    _require(listed == [a[2] for a in feasible[: len(listed)]], "not the best in order")
    _require(min(least, k) <= len(listed) <= min(most, k), f"{len(listed)} listed within {gaps}")
    _require(not found.complete or len(listed) >= least, "called complete")
    return False


def _gaps(rng: Rng, feasible: Ranked) -> Call:
    """Draw none, or how much worse than the optimum those listed may be."""
    if rng.random() < 0.5 or not feasible:
        return {"relative": math.inf, "absolute": math.inf}
    best = feasible[0][0]
    apart = float(feasible[int(rng.integers(len(feasible)))][0] - best)
    drawn = {
        "relative": apart / abs(float(best)) if best else 0.5,
        "absolute": apart * float(rng.choice([0.0, 0.5, 1.0, 1.5])),
    }
    none = rng.choice([*drawn, ""])
    return {name: 0.0 if name == none else gap for name, gap in drawn.items()}


def _reach(feasible: Ranked, relative: float, absolute: float) -> tuple[int, int]:
    """Count the allocations within both gaps; fewest and most, as a gap is a rounded number."""
    best = feasible[0][0]
    if math.isinf(relative):
        return len(feasible), len(feasible)
    reach = max(Fraction(relative) * abs(best), Fraction(absolute))
    slack = Fraction(1, 1 << 48) * reach
    apart = [a[0] - best for a in feasible]
    return sum(d <= reach - slack for d in apart), sum(d <= reach + slack for d in apart)


def _joint(rng: Rng) -> bool:
    call = instance(rng, 1)
    call["distortions"] = np.zeros_like(call["distortions"])
    ranked = _sound(call)
    [budget] = budgets_around(rng, ranked, 1, 1)
    feasible = within(ranked, budget.tolist())
    offset = rng.standard_normal(RESPONSES)
    responses = rng.standard_normal((len(call["allowed"]), RESPONSES)).astype(np.float32)
    limits, weak = limits_of(rng)
    found = _answers(
        lambda: _core.solve_joint(
            **call, responses=responses, offset=offset, budget=budget, **limits
        ),
        [feasible],
        weak,
    )
    if found is None:
        return True

    def square(choice: tuple[int, ...]) -> float:
        return float(((offset + responses[call["offsets"][:-1] + choice].sum(axis=0)) ** 2).sum())

    choice = tuple(found.choice.tolist())
    _require(choice in {a[2] for a in feasible}, f"{choice} is not within the budget")
    least = min(square(a[2]) for a in feasible)
    _require(not found.optimal or square(choice) <= least * (1 + 1e-4) + 1e-6, "not optimal")
    return False


def _larger(rng: Rng) -> bool:
    """Allocations too many to list, by every road that gives the optimum."""
    call, budget, best = table(rng)
    flat = {**call, "costs": np.ascontiguousarray(call["costs"][:, 0])}
    plenty: Call = {"time_limit": math.inf, "memory_limit": PLENTY}
    near = _core.solve_near(
        **flat, budget=budget, k=20, relative=math.inf, absolute=math.inf, **plenty
    )
    rows = np.array([[budget], [budget + 1]])
    [one] = _core.solve(**call, budgets=rows[:1], **plenty)
    [again, _] = _core.solve(**call, budgets=rows, **plenty)
    many = {**call, "distortions": np.stack([call["distortions"]] * 2)}
    [_, other] = _core.solve_batch(**many, budget=rows[0], threads=2, **plenty)
    values = [_distortion(call, choice) for choice in near.choices]
    _require(near.optimal and values == best, f"{values} listed, {best} are the best")
    choices = [found.choice.tolist() for found in (one, again, other)]
    _require(all(found.optimal for found in (one, again, other)), "not proved without a limit")
    _require(choices == [near.choices[0].tolist()] * 3, f"{choices} and {near.choices[0].tolist()}")
    return False


def _distortion(call: Call, choice: Any) -> int:
    return int(call["distortions"][call["offsets"][:-1] + choice].sum())


def _malformed(rng: Rng) -> bool:
    call = instance(rng, 1)
    _sound(call)
    call |= {"budgets": np.array([[2**62]]), "time_limit": 1.0, "memory_limit": PLENTY}
    if rng.random() < 0.3:
        return _refused(_core.solve_near, *_near_misuse(rng, call))
    ways = list(spoil(rng, call))
    name, value = ways[int(rng.integers(len(ways)))]
    if name in ("distortions", "budgets") or rng.random() < 0.7:
        return _refused(_core.solve, {**call, name: value}, name)
    rows = call.pop("budgets")
    call |= {"distortions": np.stack([call["distortions"]] * 2), "budget": rows[0], "threads": 2}
    return _refused(_core.solve_batch, {**call, name: value}, name)


def _near_misuse(rng: Rng, call: Call) -> tuple[Call, str]:
    """Spoil what near-optimal sets alone take."""
    del call["budgets"]
    call["costs"] = np.ascontiguousarray(call["costs"][:, 0])
    call |= {"budget": 2**61, "k": 3, "relative": 0.5, "absolute": 0.5}
    wrong: list[tuple[str, Any]] = [
        ("budget", -1 - int(rng.integers(2**62))),
        ("k", int(rng.choice([0, -1, 2**40]))),
        ("relative", float(rng.choice([-1.0, np.nan]))),
        ("absolute", float(rng.choice([-np.inf, np.nan]))),
    ]
    name, value = wrong[int(rng.integers(len(wrong)))]
    return {**call, name: value}, name


def _refused(solve: Callable[..., Any], call: Call, name: str) -> bool:
    try:
        solve(**call)
    except (ValueError, TypeError):
        return True
    raise WrongError(f"{name} = {call[name]!r} is accepted")


KINDS: Final[dict[str, Callable[[Rng], bool]]] = {
    "one budget": lambda rng: _rows(rng, 1, 1),
    "several budgets": lambda rng: _rows(rng, int(rng.integers(2, 5)), 1),
    "frontier": lambda rng: _rows(rng, 1, int(rng.integers(2, 9))),
    "near-optimal": _near,
    "batch": _batch,
    "joint": _joint,
    "larger": _larger,
    "malformed": _malformed,
}


def run(seed: int, *, cases: int | None = None, seconds: float = math.inf) -> Report:
    """Run cases of all kinds in turn.

    Parameters
    ----------
    seed : int
        Case i is drawn from the generator of ``[seed, i]``.
    cases : int, optional
        How many; without a limit by default.
    seconds : float
        No case begins later.

    Returns
    -------
    Report
    """
    report = Report()
    end = time.monotonic() + seconds
    kinds = list(KINDS.items())
    for case in itertools.count() if cases is None else range(cases):
        if time.monotonic() > end:
            break
        name, kind = kinds[case % len(kinds)]
        report.cases[name] += 1
        try:
            report.refused += kind(np.random.default_rng([seed, case]))
        except WrongError as error:
            report.findings.append(f"{name}, case {case}: {error}")
        except Exception as error:  # whatever the core raises that it must not
            report.findings.append(f"{name}, case {case}: {type(error).__name__}: {error}")
    return report


def show(report: Report) -> str:
    """Return the cases by kind, and the first findings, as text."""
    lines = [f"{count:>10,}  {name}" for name, count in report.cases.items()]
    lines.append(
        f"{report.cases.total():>10,}  in all, {report.refused:,} of them refused as they must be; "
        f"findings: {len(report.findings)}"
    )
    more = len(report.findings) - SHOWN
    lines += report.findings[:SHOWN] + ([f"and {more:,} more"] if more > 0 else [])
    return "\n".join(lines)
