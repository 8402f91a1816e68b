"""Random calls of the compiled core, sound and malformed, against all allocations counted out.

Every call must answer as the list of all allocations does, in exact fractions, or raise
``ValueError`` or ``TypeError`` where an argument is wrong. Whatever else happens is a finding.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np

from rdprune_core import _core

Rng = np.random.Generator
Call = dict[str, Any]
Ranked = list[tuple[Fraction, tuple[int, ...], tuple[int, ...]]]  # distortion, costs, choice

PLENTY: Final = 1 << 26  # bytes
RESPONSES: Final = 3
NAMES: Final = ("costs", "distortions", "offsets", "allowed", "groups")


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


def _instance(rng: Rng, dimensions: int) -> Call:
    """Make an instance of few allocations: ties, empty bans, groups, huge costs and values."""
    layers = int(rng.integers(1, 6))
    tied = rng.random() < 0.3
    sizes = np.full(layers, rng.integers(1, 5)) if tied else rng.integers(1, 5, layers)
    options = int(sizes.sum())
    draws: dict[str, Callable[[], Any]] = {
        "small": lambda: rng.integers(0, 8, (options, dimensions)),
        "even": lambda: 2 * rng.integers(0, 10**6, (options, dimensions)),
        "powers": lambda: 1 << rng.integers(0, 40, (options, dimensions)),
        "huge": lambda: rng.integers(0, 2**61 // layers, (options, dimensions)),
        "equal": lambda: np.full((options, dimensions), rng.integers(0, 9)),
    }
    costs = draws[str(rng.choice(["small", "even", "powers", "huge", "equal"]))]()
    draws = {
        "few": lambda: rng.integers(-3, 4, options) * 1.0,
        "noise": lambda: rng.standard_normal(options),
        "wide": lambda: rng.standard_normal(options) * 10.0 ** rng.integers(-8, 1, options),
        "extreme": lambda: rng.standard_normal(options) * 10.0 ** rng.integers(-300, 300, options),
        "like costs": lambda: -1.0 * costs[:, 0],
    }
    values = draws[str(rng.choice(["few", "noise", "wide", "extreme", "like costs"]))]()
    allowed = (rng.random(options) < 0.85).astype(np.uint8)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    allowed[offsets[:-1]] = 1
    groups = rng.integers(0, layers, layers) if tied else np.arange(layers)
    arrays = (costs.astype(np.int64), values, offsets, allowed, groups.astype(np.int64))
    return dict(zip(NAMES, arrays, strict=True))


def _allocations(call: Call, distortions: Any) -> Ranked:
    """List all allocations that the constraints allow, in the order the core prefers them."""
    offsets, groups = call["offsets"].tolist(), call["groups"].tolist()
    costs, allowed = call["costs"].tolist(), call["allowed"].tolist()
    exact = [Fraction(d) for d in distortions.tolist()]
    leaders = sorted(set(groups))
    widths = [offsets[groups.index(g) + 1] - offsets[groups.index(g)] for g in leaders]
    found = []
    for picks in itertools.product(*map(range, widths)):
        choice = tuple(picks[leaders.index(g)] for g in groups)
        flat = [offset + k for offset, k in zip(offsets, choice, strict=False)]
        if all(allowed[i] for i in flat):
            total = tuple(map(sum, zip(*(costs[i] for i in flat), strict=True)))
            found.append((sum((exact[i] for i in flat), Fraction(0)), total, choice))
    return sorted(found)


def _within(ranked: Ranked, budget: list[int]) -> Ranked:
    return [a for a in ranked if all(c <= b for c, b in zip(a[1], budget, strict=True))]


def _budgets(rng: Rng, ranked: Ranked, rows: int, dimensions: int) -> Any:
    """Draw around the totals of random allocations; some out of reach, some without effect."""
    if not ranked:
        return np.zeros((rows, dimensions), np.int64)
    drawn = np.array([ranked[i][1] for i in rng.integers(0, len(ranked), rows)], np.int64)
    return np.maximum(drawn + rng.integers(-2, 3, drawn.shape) * (rng.random() < 0.5), 0)


def _limits(rng: Rng) -> tuple[Call, bool]:
    """Draw limits, and whether they are so small that the search may stop early."""
    if rng.random() < 0.75:
        return {"time_limit": math.inf, "memory_limit": PLENTY}, False
    seconds = 0.0 if rng.random() < 0.5 else math.inf
    return {"time_limit": seconds, "memory_limit": int(rng.integers(0, 3000))}, True


def _rounds(distortions: Any) -> bool:
    """Whether doubles span so much that the core may round them."""
    sizes = np.abs(distortions[distortions != 0])
    return bool(sizes.size) and float(np.ptp(np.log10(sizes))) > 15


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
    call = _instance(rng, dimensions)
    ranked = _sound(call)
    budgets = _budgets(rng, ranked, rows, dimensions)
    feasible = [_within(ranked, row) for row in budgets.tolist()]
    limits, weak = _limits(rng)
    weak = weak or _rounds(call["distortions"])
    found = _answers(lambda: _core.solve(**call, budgets=budgets, **limits), feasible, weak)
    for solution, best in zip(found or [], feasible, strict=False):
        _check(solution, best, weak)
    return found is None


def _sound(call: Call) -> Ranked:
    """Untie layers that cannot be tied, and list the allocations."""
    sizes = np.diff(call["offsets"])
    if len(set(sizes.tolist())) > 1:
        call["groups"] = np.arange(len(sizes))
    return _allocations(call, call["distortions"])


def _batch(rng: Rng) -> bool:
    dimensions = int(rng.integers(1, 3))
    call = _instance(rng, dimensions)
    [budget] = _budgets(rng, _sound(call), 1, dimensions)
    many = np.stack([call["distortions"], call["distortions"][::-1], -call["distortions"]])
    call["distortions"] = many
    feasible = [_within(_allocations(call, row), budget.tolist()) for row in many]
    limits, weak = _limits(rng)
    weak = weak or _rounds(many)
    threads = int(rng.integers(1, 4))
    found = _answers(
        lambda: _core.solve_batch(**call, budget=budget, threads=threads, **limits), feasible, weak
    )
    for solution, best in zip(found or [], feasible, strict=False):
        _check(solution, best, weak)
    return found is None


def _near(rng: Rng) -> bool:
    call = _instance(rng, 1)
    ranked = _sound(call)
    [[budget]] = _budgets(rng, ranked, 1, 1).tolist()
    feasible = _within(ranked, [budget])
    limits, weak = _limits(rng)
    weak = weak or _rounds(call["distortions"])
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
    call = _instance(rng, 1)
    call["distortions"] = np.zeros_like(call["distortions"])
    ranked = _sound(call)
    [budget] = _budgets(rng, ranked, 1, 1)
    feasible = _within(ranked, budget.tolist())
    offset = rng.standard_normal(RESPONSES)
    responses = rng.standard_normal((len(call["allowed"]), RESPONSES)).astype(np.float32)
    limits, weak = _limits(rng)
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


def _spoil(rng: Rng, call: Call) -> Iterator[tuple[str, Any]]:
    """Ways to spoil an argument, each of which must be refused."""
    costs, distortions, offsets = call["costs"], call["distortions"], call["offsets"]
    at = int(rng.integers(len(distortions)))

    def put(array: Any, value: float) -> Any:
        spoiled = array.copy()
        spoiled.reshape(len(array), -1)[min(at, len(array) - 1), 0] = value
        return spoiled

    yield "costs", put(costs, -1 - int(rng.integers(2**62)))
    yield "costs", put(costs, int(rng.integers(2**61 + 1, 2**63 - 1)))
    yield "costs", costs[:-1]
    yield "costs", costs[:, 0]
    yield "costs", costs.astype(float)
    yield "distortions", put(distortions, float(rng.choice([np.nan, np.inf, -np.inf])))
    yield "distortions", distortions[:-1]
    yield "distortions", distortions[:, None]
    yield "offsets", offsets + 1
    yield "offsets", np.append(offsets, offsets[-1])
    yield "offsets", put(offsets[::-1], int(rng.integers(-(2**62), 2**62)))
    yield "offsets", offsets[:1]
    yield "offsets", offsets[:0]
    yield "allowed", np.zeros_like(call["allowed"])
    yield "allowed", call["allowed"][1:]
    yield "allowed", call["allowed"].astype(float)
    yield "groups", np.append(call["groups"], 0)
    yield "groups", None
    yield "budgets", -1 - call["budgets"]
    yield "budgets", np.append(call["budgets"], call["budgets"], axis=1)
    yield "budgets", call["budgets"][0]
    yield "time_limit", float(rng.choice([np.nan, -1.0, -np.inf]))
    yield "memory_limit", -1 - int(rng.integers(2**62))


def _malformed(rng: Rng) -> bool:
    call = _instance(rng, 1)
    _sound(call)
    call |= {"budgets": np.array([[2**62]]), "time_limit": 1.0, "memory_limit": PLENTY}
    ways = list(_spoil(rng, call))
    name, value = ways[int(rng.integers(len(ways)))]
    try:
        _core.solve(**{**call, name: value})
    except (ValueError, TypeError):
        return True
    raise WrongError(f"{name} = {value!r} is accepted")


KINDS: Final[dict[str, Callable[[Rng], bool]]] = {
    "one budget": lambda rng: _rows(rng, 1, 1),
    "several budgets": lambda rng: _rows(rng, int(rng.integers(2, 5)), 1),
    "frontier": lambda rng: _rows(rng, 1, int(rng.integers(2, 9))),
    "near-optimal": _near,
    "batch": _batch,
    "joint": _joint,
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
    """Return the cases by kind, and the findings, as text."""
    lines = [f"{count:>10,}  {name}" for name, count in report.cases.items()]
    lines.append(
        f"{report.cases.total():>10,}  in all, {report.refused:,} of them refused as they must be; "
        f"findings: {len(report.findings)}"
    )
    return "\n".join(lines + report.findings)
