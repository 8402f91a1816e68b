"""Re-measured rounds: an allocation improved around the network that it makes.

Responses were measured with one layer pruned and the others dense. Far from the dense network they
change, so predictions go wrong. A round measures, for every layer, some neighbouring options in
the network *as it is pruned now*, in its recovered state. With e the output's difference from the
dense network's and v_l(k) the change by the neighbour k of layer l, the joint objective
``|e + sum_l v_l(k_l)|²`` about this point is solved under the same budget. The step is taken only
if the true distortion of the network falls; else the trust region shrinks, to nearer neighbours
first, then by a price on the squares of the changes (Levenberg 1944; Conn, Gould, Toint 2000,
*Trust-region methods*).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import nn

from rdprune.baselines import global_magnitude, lamp
from rdprune.batches import Forward, read
from rdprune.checking import check_allocation, check_whole
from rdprune.compared import in_question
from rdprune.criteria import SampleErrors, parse
from rdprune.layers import Prunable, signature
from rdprune.progress import progress_bar
from rdprune.recovery import fits, spelled
from rdprune.trial import table_layers, trial
from rdprune.trust_region import Limit, Refined, Search
from rdprune_core import Allocation, RDTable, allocate, predictions
from rdprune_core.budget import Budget, read_budgets
from rdprune_core.constraints import Bounds, Constraints, read_constraints

PROJECTION = 256


def refine(
    model: nn.Module,
    batches: Iterable[Any],
    table: RDTable,
    allocation: Allocation | None = None,
    *,
    budget: Budget | None = None,
    sparsity: float | None = None,
    rounds: int = 3,
    radius: int = 2,
    spacing: float = 0.04,
    passes: int | None = None,
    path: Sequence[float] = (),
    recovery: str | None = None,
    distortion: str | SampleErrors | None = None,
    floors: Bounds | None = None,
    caps: Bounds | None = None,
    forbidden: Mapping[str, Iterable[str | int]] | None = None,
    tied: Iterable[Iterable[str]] = (),
    forward: Forward | None = None,
    reuse: bool = True,
    store: str | PathLike[str] | None = None,
    on_round: Callable[[Refined], None] | None = None,
    progress: bool = True,
) -> Refined:
    """Improve an allocation by measuring again around the network that it makes.

    Never ends worse than it began. The model is left exactly as it was, also after an error or an
    interrupt.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model that was measured.
    batches : iterable
        Calibration batches, as for `measure`.
    table : RDTable
        What `measure` returned; its options are those to choose from.
    allocation : Allocation, optional
        One more start, the first, with its budget: an earlier round's to go on from. The truly best
        of it, the table's additive and joint optima within the budget, and the options nearest to
        what global magnitude and LAMP keep, is taken.
    budget, sparsity : optional
        As for `rdprune_core.allocate`, without `allocation`.
    rounds : int
        At most so many at each budget.
    radius : int
        Neighbouring options measured on each side of the present one.
    spacing : float
        Least distance between them, as a fraction of the layer's weights; halved by every round
        that fails, and the search ends where the table's options are no closer.
    passes : int, optional
        Most runs of the network in all, but that the first start at the budget asked for is run
        in any case: no other start is tried, and no round begins, that would take more.
    path : sequence of float
        Sparsities on the way, ascending to the one asked for: each is refined, and the next also
        starts from there.
    recovery : str, optional
        State in which the network is measured; by default the table's.
    distortion : str or callable, optional
        By default that of the table; needed again where that is a callable.
    floors, caps, forbidden, tied
        As for `rdprune_core.allocate`.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model; by default the `features` that
        were measured.
    reuse : bool
        What runs before a layer gives its recorded output instead of running again, as in
        `measure`; the same numbers.
    store : path, optional
        Run folder that keeps every measurement, as for `measure`: the same call goes on where one
        was stopped.
    on_round : callable, optional
        Called with what was found so far, after every round at the final budget.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Refined

    Raises
    ------
    ValueError
        If an argument is wrong, the table or allocation is of other layers, `allocation` breaks
        the constraints, or no start has a finite distortion.
    InfeasibleBudgetError
        If no allocation keeps within a budget.
    """
    path = tuple(path)
    _check(rounds, radius, spacing, passes, path)
    bounds = _Bounds(floors, caps, forbidden, tuple(tuple(group) for group in tied))
    targets = _targets(table, allocation, budget, sparsity, path)
    constraints = bounds.read(table)
    if allocation is not None:
        _check_keeps(allocation, table, constraints)
    layers = table_layers(model, table)
    state = spelled(table.metadata.get("recovery", "none") if recovery is None else recovery)
    kind = table.metadata.get("distortion", "mse") if distortion is None else distortion
    projection = int(table.metadata.get("projection") or PROJECTION)
    data = read(batches)
    limit = Limit(rounds, radius, spacing, passes)
    # What the allocation found was measured in, and on.
    metadata = {"recovery": state, "distortion": parse(kind).name, "model": signature(model)}
    repair = 2 * len(layers) if fits(state) else 0
    most = 2 * radius * len(layers) + 4 * (repair + 1)
    total = (rounds * most + 7 * (repair + 1)) * len(targets) if passes is None else passes
    with (
        trial(
            model,
            layers,
            data,
            kind,
            seed=int(table.metadata.get("seed", 0)),
            recovery=state,
            projection=projection,
            forward=in_question(table.metadata, forward),
            reuse=reuse,
            store=store,
        ) as network,
        progress_bar(total, progress) as meter,
    ):
        search = Search(table, network, layers, metadata, constraints, bounds.tied, limit, meter)
        found: Refined | None = None
        for place, target in enumerate(targets):
            last = place == len(targets) - 1
            if not last and search.spent():
                continue
            before = None if found is None else found.allocation
            starts = [
                *_starts(table, target, bounds, before),
                *_magnitude_starts(table, target, bounds, layers),
            ]
            if allocation is not None and last:
                starts.insert(0, allocation)
            found = search.run(starts, target, on_round if last else None, last=last)
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class _Bounds:
    floors: Bounds | None
    caps: Bounds | None
    forbidden: Mapping[str, Iterable[str | int]] | None
    tied: tuple[tuple[str, ...], ...]

    def read(self, table: RDTable) -> Constraints:
        return read_constraints(
            table, floors=self.floors, caps=self.caps, forbidden=self.forbidden, tied=self.tied
        )


def _starts(
    table: RDTable, budget: dict[str, int], bounds: _Bounds, before: Allocation | None
) -> list[Allocation]:
    """Optima of the table within a budget, also with no layer keeping more than before."""
    objectives = ["additive"] if table.responses is None else ["additive", "joint"]
    return [
        allocate(
            table,
            budget,
            objective=objective,
            floors=bounds.floors,
            caps=bounds.caps,
            forbidden=bounds.forbidden,
            tied=bounds.tied,
            previous=previous,
        )
        for previous in ([None] if before is None else [before, None])
        for objective in objectives
    ]


def _magnitude_starts(
    table: RDTable, budget: dict[str, int], bounds: _Bounds, layers: Mapping[str, Prunable]
) -> list[Allocation]:
    """Options nearest to what global magnitude and LAMP keep, by the square over the size."""
    if "params" not in budget:
        return []
    sizes = [layer.parameter.numel() for layer in layers.values()]
    starts = []
    for method in (global_magnitude, lamp):
        kept = method(layers, min(budget["params"], sum(sizes)))
        rows = [
            (options - kept[name]) ** 2 / size
            for name, options, size in zip(table.names, table.costs["params"], sizes, strict=True)
        ]
        near = RDTable.from_arrays(
            dict(table.costs), rows, names=table.names, options=table.options, dense=table.dense
        )
        starts.append(
            allocate(
                near,
                budget,
                floors=bounds.floors,
                caps=bounds.caps,
                forbidden=bounds.forbidden,
                tied=bounds.tied,
            )
        )
    return starts


def _targets(
    table: RDTable,
    allocation: Allocation | None,
    budget: Budget | None,
    sparsity: float | None,
    path: Sequence[float],
) -> list[dict[str, int]]:
    """Budgets to be refined at, in turn; the last is the one asked for."""
    if "params" not in table.costs:
        raise ValueError("table has no cost 'params', the weights kept in each layer")
    if allocation is None:
        last = read_budgets(table, budget, sparsity)
    else:
        if budget is not None or sparsity is not None:
            raise ValueError("allocation has its own budget: give it, or budget= or sparsity=")
        check_allocation("allocation", allocation)
        predictions(table, allocation)
        last = allocation.budget or {"params": allocation.cost["params"]}
    targets = [*(read_budgets(table, None, value) for value in path), last]
    if path and targets[-2]["params"] < last.get("params", 0):
        raise ValueError(
            f"path is {list(path)}, but ends beyond the budget of {last['params']:,} weights"
        )
    return targets


def _check_keeps(allocation: Allocation, table: RDTable, constraints: Constraints) -> None:
    """Refuse an allocation that floors, caps, forbidden options or ties rule out."""
    where = table.offsets[:-1] + allocation.choice
    for at, name in enumerate(table.names):
        group = constraints.groups[at]
        first = int((constraints.groups == group).argmax())
        if not constraints.allowed[where[at]]:
            given = constraints.reasons.items()  # by the names that were given
            reasons = [why for key, row in given if table.layer(key) == at for why in row]
            raise ValueError(
                f"allocation has option {allocation.options[at]!r} in layer {name!r}, against "
                f"{' and '.join(reasons)}: give another start, or the budget in place of it"
            )
        if allocation.choice[at] != allocation.choice[first]:
            raise ValueError(
                f"allocation has option {allocation.options[at]!r} in layer {name!r} and "
                f"{allocation.options[first]!r} in {table.names[first]!r}, which are tied"
            )


def _check(
    rounds: int, radius: int, spacing: float, passes: int | None, path: Sequence[float]
) -> None:
    check_whole("rounds", rounds)
    check_whole("radius", radius, 1)
    if not 0 < spacing <= 1:
        raise ValueError(f"spacing is {spacing}, must be above 0 and at most 1")
    if passes is not None:
        check_whole("passes", passes)
    if sorted(path) != list(path):
        raise ValueError(f"path is {list(path)}, must be sparsities in ascending order")
