"""What is timed beside single allocations: growth, several budgets, frontiers.

Each function is one section of ``rdprune bench solver`` and returns plain dicts for JSON. A new
section is a function here and a line in ``commands.py``.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any, Final

import numpy as np

from rdprune.bench.contenders import OURS, PREPARATION, Answer, Floats
from rdprune.bench.instances import (
    MAIN_CURVE,
    SPARSITIES,
    Instance,
    Shape,
    find_shape,
    llama_like,
    make_table,
)
from rdprune.bench.solver import SAME, Step
from rdprune.bench.timing import Time, timed
from rdprune_core import Allocation, RDTable, allocate, frontier

Record = dict[str, Any]

BLOCKS: Final = (4, 8, 16, 32, 64, 128)
LEVELS: Final = (26, 51, 101, 201, 401)
#: Shares of the dense cost at which most or all budgets bind.
BUDGETS: Final = (
    {"params": 0.2, "macs": 0.25},
    {"params": 0.2, "macs": 0.3},
    {"params": 0.2, "macs": 0.25, "ns": 0.24},
    {"params": 0.2, "macs": 0.3, "ns": 0.28},
)
VERDICTS: Final = ("same", "over", "stopped", "worse", "better")


def growth(seeds: int, step: Step, *, blocks: tuple[int, ...] = BLOCKS) -> list[Record]:
    """Time ours on networks like 7B that grow in layers, then in levels.

    Returns
    -------
    list of dict
        Layers, levels, median processor time of ours and of its table preparation.
    """
    shapes = [llama_like(count, 101) for count in blocks]
    shapes += [llama_like(32, count) for count in LEVELS if count != 101]
    found = []
    for shape in shapes:
        step(f"growth: {shape.name}, {shape.levels} levels")
        ours, preparation = [], []
        for seed in range(seeds):
            table = make_table(shape, MAIN_CURVE, seed)
            preparation.append(timed(partial(PREPARATION.run, table, 0, 0.0))[0].cpu)
            for sparsity in SPARSITIES:
                budget = Instance(shape.name, MAIN_CURVE, sparsity, table).budget
                ours.append(timed(partial(OURS.run, table, budget, 0.0))[0].cpu)
        found.append(
            {
                "layers": len(shape.layers),
                "levels": shape.levels,
                "seeds": seeds,
                "median": statistics.median(ours),
                "preparation": statistics.median(preparation),
            }
        )
    return found


def exponents(points: list[Record], key: str) -> dict[str, float]:
    """Fit seconds = a x^b by least squares in logarithms, x the layers, the levels, all options.

    Returns
    -------
    dict of str to float
        b for ``"layers"`` (at 101 levels), ``"levels"`` (at 224 layers) and ``"options"``.
    """
    subsets = {
        "layers": [(p["layers"], p[key]) for p in points if p["levels"] == 101],
        "levels": [(p["levels"], p[key]) for p in points if p["layers"] == 224],
        "options": [(p["layers"] * p["levels"], p[key]) for p in points],
    }
    return {
        name: float(np.polyfit(*_logarithms(pairs), 1)[0])
        for name, pairs in subsets.items()
        if len({x for x, _ in pairs}) > 1
    }


def _logarithms(pairs: list[tuple[int, float]]) -> tuple[Floats, Floats]:
    """Return the logarithms of first and second members."""
    return np.log([float(x) for x, _ in pairs]), np.log([y for _, y in pairs])


def budget_table(shape: Shape, seed: int) -> RDTable:
    """Make a table with MACs and nanoseconds: launch, then memory or arithmetic, 3 % noise."""
    table = make_table(shape, MAIN_CURVE, seed)
    rng = np.random.default_rng([seed, 3])
    params = np.stack(table.costs["params"])
    layers = len(params)
    macs = params * (shape.macs // shape.sizes)[:, None]
    memory, arithmetic = rng.uniform(0.02, 0.1, layers), rng.uniform(2e-4, 1e-3, layers)
    busy = np.maximum(params * memory[:, None], macs * arithmetic[:, None])
    noise = 1 + 0.03 * rng.standard_normal(params.shape)
    nanoseconds = np.ceil(2000 + busy * noise).astype(np.int64)
    costs = {"params": params, "macs": macs, "ns": nanoseconds}
    return RDTable.from_arrays(costs, np.stack(table.distortion))


def several_budgets(seeds: int, limit: float, patience: float, step: Step) -> list[Record]:
    """Solve for two and for three budgets at ResNet-50 x 101 beside HiGHS.

    Parameters
    ----------
    seeds : int
        Most tables.
    limit : float
        Seconds for a call, ours too.
    patience : float
        Seconds of HiGHS after which no further seed is begun.
    step : callable
        Told what is next.

    Returns
    -------
    list of dict
        For each of `BUDGETS`: medians, paired ratio, and how often the two agree. ``"same"``:
        equal objectives to a relative 1e-9; ``"over"``: HiGHS is over a budget by its tolerance;
        ``"stopped"``: HiGHS reached the time limit; ``"worse"``, ``"better"``: HiGHS, within
        the budgets, than ours.
    """
    return [_one_budget(shares, seeds, limit, patience, step) for shares in BUDGETS]


def _one_budget(
    shares: dict[str, float], seeds: int, limit: float, patience: float, step: Step
) -> Record:
    """Solve for one set of budgets, seed after seed."""
    from rdprune.bench.programs import highs

    ours: list[Time] = []
    peers: list[Time] = []
    verdicts: list[str] = []
    binding = proved = 0
    for seed in range(seeds):
        step(f"{len(shares)} budgets, seed {seed}")
        table = budget_table(find_shape("ResNet-50"), seed)
        budgets = {name: int(table.dense[name].sum() * share) for name, share in shares.items()}
        time, best = timed(partial(allocate, table, budgets, time_limit=limit))
        ours.append(time)
        binding += all(value > 0 for value in best.multipliers.values())
        proved += best.status == "optimal"
        time, answer = timed(partial(highs, table, budgets, limit))
        peers.append(time)
        verdicts.append(_verdict(table, budgets, best.distortion, answer, time.wall >= limit))
        if sum(time.wall for time in peers) >= patience:
            break
    return {
        "budgets": shares,
        "runs": len(ours),
        "ours": statistics.median(time.wall for time in ours),
        "ours_max": max(time.wall for time in ours),
        "highs": statistics.median(time.wall for time in peers),
        "ratio": statistics.median(b.cpu / a.cpu for a, b in zip(ours, peers, strict=True)),
        "proved": proved,
        "all_binding": binding,
        **{word: verdicts.count(word) for word in VERDICTS},
    }


def _verdict(
    table: RDTable, budgets: dict[str, int], ours: float, answer: Answer, stopped: bool
) -> str:
    """Compare what HiGHS found with our optimum; `VERDICTS` has the words."""
    if answer.choice is None:
        return "stopped"
    its = Allocation.from_choice(table, answer.choice)
    if any(its.cost[name] > most for name, most in budgets.items()):
        return "over"
    if abs(its.distortion - ours) <= SAME * abs(ours):
        return "same"
    if stopped and its.distortion > ours:
        return "stopped"
    return "worse" if its.distortion > ours else "better"


def frontiers(names: tuple[str, ...], seeds: int, step: Step, *, points: int = 101) -> list[Record]:
    """Time whole frontiers in units of one solve, and check them against single solves.

    Returns
    -------
    list of dict
        For each shape: median processor time of a frontier, of all its points solved singly and
        of one of those; paired ratios; how many points are proved, and how many equal the
        single solve.
    """
    found = []
    for name in names:
        whole, single, one, proved, equal = [], [], [], 0, 0
        for seed in range(seeds):
            step(f"frontier of {name}, seed {seed}")
            table = make_table(find_shape(name), MAIN_CURVE, seed)
            time, line = timed(partial(frontier, table, points=points))
            whole.append(time.cpu)
            pairs = [timed(partial(allocate, table, budget)) for budget in line.budgets.tolist()]
            single.append(sum(time.cpu for time, _ in pairs))
            one.append(statistics.median(time.cpu for time, _ in pairs))
            proved += sum(point.status == "optimal" for point in line)
            both = zip(line, (allocation for _, allocation in pairs), strict=True)
            equal += sum(np.array_equal(a.choice, b.choice) for a, b in both)
        found.append(
            {
                "shape": name,
                "points": points,
                "runs": seeds,
                "frontier": statistics.median(whole),
                "single": statistics.median(single),
                "one": statistics.median(one),
                "in_solves": statistics.median(a / b for a, b in zip(whole, one, strict=True)),
                "of_singles": statistics.median(a / b for a, b in zip(whole, single, strict=True)),
                "proved": proved,
                "equal": equal,
            }
        )
    return found
