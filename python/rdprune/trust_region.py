"""Rounds of measuring about a point, solving the joint objective there, and a true check."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdprune.distortion import Measurement
from rdprune.layers import Prunable
from rdprune.masking import expected_kept
from rdprune.progress import Meter
from rdprune.recovery import NotFiniteError
from rdprune.trial import Trial
from rdprune_core import Allocation, RDTable, allocate
from rdprune_core.constraints import Constraints
from rdprune_core.joint import joint_distortion

DAMPING = (1.0, 4.0)  # prices on the squares of the changes, where the nearest neighbours fail
STEP = "refining"  # what the progress bar calls a pass
CLOSER = "the table has no closer options"
LEAST_GAIN = 1e-6  # of the true distortion


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did.

    Attributes
    ----------
    sparsity : float
        Of the first cost.
    predicted : float
        Joint prediction of the last step tried.
    distortion : float
        True distortion at the end of the round.
    moved : int
        Layers that changed; 0 if no step was taken.
    passes : int
        Runs of the network in this round.
    """

    sparsity: float
    predicted: float
    distortion: float
    moved: int
    passes: int


@dataclass(frozen=True, slots=True)
class Refined:
    """What `refine` found.

    Attributes
    ----------
    allocation : Allocation
        The best one seen; its ``distortion`` is the true one, its ``objective`` ``"refined"``.
    start : float
        True distortion of the best starting point at the final budget.
    rounds : tuple of Round
    passes : int
        Runs of the network over all batches in all, those that the store saved among them.
    found : int
        Measurements that the store had.
    ended : str
        Why the last budget had no further round; empty if all rounds were done.
    """

    allocation: Allocation
    start: float
    rounds: tuple[Round, ...]
    passes: int
    found: int = 0
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """What `refine` was given; see there."""

    rounds: int
    radius: int
    spacing: float
    passes: int | None


@dataclass(frozen=True, slots=True)
class _Point:
    """An allocation as it truly is."""

    choice: NDArray[np.int64]
    distortion: float
    error: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """Options around a point, a layer each, and what they change."""

    options: list[list[int]]
    changes: list[NDArray[np.float64]]


class Search:
    """Rounds at one budget after the other."""

    def __init__(
        self,
        table: RDTable,
        network: Trial,
        layers: Mapping[str, Prunable],
        metadata: Mapping[str, Any],
        constraints: Constraints,
        tied: tuple[tuple[str, ...], ...],
        limit: Limit,
        meter: Meter,
    ) -> None:
        self._table = table
        self._network = network
        self._layers = layers
        self._metadata = metadata
        self._constraints = constraints
        self._tied = tied
        self._limit = limit
        self._meter = meter
        self._rounds: list[Round] = []
        self._left = network.repair + 1  # passes for a start at the last budget
        self._offset = network.offset()

    def run(
        self,
        starts: Sequence[Allocation],
        budget: dict[str, int],
        on_round: Callable[[Refined], None] | None,
        *,
        last: bool = True,
    ) -> Refined:
        """Refine the truly best of some allocations within a budget.

        Until the last budget, passes for a start there are left.
        """
        if last:
            self._left = 0
        point = self._best(starts)
        start, ended = point.distortion, ""
        spacing = self._limit.spacing
        for _ in range(self._limit.rounds):
            options = self._window(point.choice, spacing)
            needed = sum(len(row) - 1 for row in options)
            spent = self._network.passes
            if needed == 0:
                ended = f"{CLOSER} at all"
                break
            # Back to the point, its neighbours, and one step.
            more = needed + 3 * self._network.repair + 1
            if self._too_many(more):
                ended = f"another round may take {more:,} passes, more than are left"
                break
            self._network.prune(self._kept(point.choice))
            neighbours = self._measure(point, options)
            found, predicted, whole = self._step(point, neighbours, budget)
            moved = int((found.choice != point.choice).sum())
            sparsity = self._allocation(found, budget).sparsity
            passes = self._network.passes - spent
            self._rounds.append(Round(sparsity, predicted, found.distortion, moved, passes))
            point = found
            if on_round is not None:
                on_round(self._refined(point, start, budget))
            if not whole:
                spacing /= 2
            if not moved and self._window(point.choice, spacing) == options:
                ended = f"no step gained, and {CLOSER} to try (a table of more levels has some)"
                break
        return replace(self._refined(point, start, budget), ended=ended)

    def spent(self) -> bool:
        """Whether too few passes are left for a start before the last budget."""
        return self._too_many(self._network.repair + 1)

    def _best(self, starts: Sequence[Allocation]) -> _Point:
        """Visit starts, the first in any case, others as passes allow; the truly best of them."""
        points: list[_Point] = []
        for start in _different(starts):
            if points and self._too_many(self._network.repair + 1):
                break
            points.append(self._visit(start.choice))
        best = min(points, key=lambda p: p.distortion)
        if not math.isfinite(best.distortion):
            raise ValueError(
                "the distortion of every start is infinite or NaN: nothing to refine; give a "
                "larger budget, or an allocation= that the network bears"
            )
        return best

    def _too_many(self, passes: int) -> bool:
        allowed = self._limit.passes
        return allowed is not None and self._network.passes + passes + self._left > allowed

    def _visit(self, choice: NDArray[np.int64]) -> _Point:
        before = self._network.passes
        self._network.prune(self._kept(choice))
        try:
            measured = self._network.measure()
        except NotFiniteError:  # there is nothing to repair it by
            return _Point(choice, math.inf, np.zeros(1))
        finally:
            self._meter.advance(STEP, self._network.passes - before)
        assert measured.response is not None
        distortion = measured.distortion if _is_finite(measured) else math.inf
        return _Point(choice, distortion, measured.response.astype(np.float64))

    def _measure(self, point: _Point, options: list[list[int]]) -> _Neighbours:
        """Measure the neighbours of a point, where the network is."""
        names = self._table.names
        found: list[dict[int, NDArray[np.float64]]] = []
        for layer, (name, row) in enumerate(zip(names, options, strict=True)):
            counts = self._table.costs["params"][layer]
            asked = [int(counts[option]) for option in row if option != point.choice[layer]]
            changes = {int(counts[point.choice[layer]]): np.zeros_like(point.error)}
            for count, measured in self._network.alternatives(name, asked):
                assert measured.response is not None
                if _is_finite(measured):
                    changes[count] = measured.response - point.error
                self._meter.advance(STEP)
            found.append({k: changes[int(counts[k])] for k in row if int(counts[k]) in changes})
        groups = self._constraints.groups.tolist()
        finite = {group: set(found[layer]) for layer, group in enumerate(groups)}
        for layer, group in enumerate(groups):  # tied layers keep the same options
            finite[group] &= set(found[layer])
        kept = [[k for k in row if k in finite[g]] for row, g in zip(options, groups, strict=True)]
        return _Neighbours(
            kept, [np.stack([one[k] for k in row]) for one, row in zip(found, kept, strict=True)]
        )

    def _step(
        self, point: _Point, around: _Neighbours, budget: dict[str, int]
    ) -> tuple[_Point, float, bool]:
        """Try steps, shorter and shorter, until one truly gains.

        Returns
        -------
        point : _Point
            The new point, or the old one.
        predicted : float
            Of the last step tried.
        whole : bool
            Whether the first, unrestricted step was taken.
        """
        tries = [(self._limit.radius, 0.0)]
        if self._limit.radius > 1:
            tries.append(((self._limit.radius + 1) // 2, 0.0))
        tries += [(1, damping) for damping in DAMPING]
        seen: list[list[int]] = [point.choice.tolist()]
        predicted = joint_distortion(self._offset, point.error)
        for attempt, (radius, damping) in enumerate(tries):
            choice, value = self._solve(point, around, radius, damping, budget)
            if choice.tolist() in seen:
                continue
            if attempt and self._too_many(self._network.repair + 1):
                break
            seen.append(choice.tolist())
            predicted = value
            found = self._visit(choice)
            if found.distortion < point.distortion - LEAST_GAIN * abs(point.distortion):
                return found, predicted, attempt == 0
        return point, predicted, False

    def _solve(
        self,
        point: _Point,
        around: _Neighbours,
        radius: int,
        damping: float,
        budget: dict[str, int],
    ) -> tuple[NDArray[np.int64], float]:
        """Solve the joint objective about a point; the choice and its predicted distortion.

        A price on a layer's squared change is one more number in its responses, which no other
        layer's have.
        """
        table, count = self._table, len(self._table.names)
        rows, responses = [], []
        for layer, (options, changes) in enumerate(
            zip(around.options, around.changes, strict=True)
        ):
            here = options.index(int(point.choice[layer]))
            near = slice(max(here - radius, 0), here + radius + 1)
            rows.append(options[near])
            price = np.zeros((len(options[near]), count))
            price[:, layer] = np.sqrt(damping) * np.linalg.norm(changes[near], axis=1)
            responses.append(np.concatenate([changes[near], price], axis=1).astype(np.float32))
        before = point.error if self._offset is None else self._offset + point.error
        part = RDTable.from_arrays(
            {
                key: [values[i][row] for i, row in enumerate(rows)]
                for key, values in table.costs.items()
            },
            [np.mean((before + r[:, : -count or None]) ** 2, axis=1) for r in responses],
            names=table.names,
            options=[
                [labels[k] for k in row] for labels, row in zip(table.options, rows, strict=True)
            ],
            responses=responses,
            dense=table.dense,
        )
        offset = np.concatenate([before, np.zeros(count)])
        solved = allocate(part, budget, objective="joint", offset=offset, tied=self._tied)
        choice = np.array([row[k] for row, k in zip(rows, solved.choice, strict=True)], np.int64)
        chosen = [
            changes[options.index(int(k))]
            for options, changes, k in zip(around.options, around.changes, choice, strict=True)
        ]
        return choice, joint_distortion(self._offset, point.error + np.sum(chosen, axis=0))

    def _window(self, choice: NDArray[np.int64], spacing: float) -> list[list[int]]:
        """Options near the present ones, `spacing` of a layer's weights apart, fewest kept first.

        Tied layers have the same ones.
        """
        rows: dict[int, list[int]] = {}
        allowed = self._constraints.allowed.astype(bool)
        found = []
        for layer, group in enumerate(self._constraints.groups.tolist()):
            if group not in rows:
                span = slice(*self._table.offsets[layer : layer + 2])
                kept = self._table.costs["params"][layer]
                step = spacing * max(int(self._table.dense["params"][layer]), 1)
                here = int(choice[layer])
                below = _spaced(kept, here, allowed[span], step, self._limit.radius, -1)
                above = _spaced(kept, here, allowed[span], step, self._limit.radius, 1)
                rows[group] = [*reversed(below), here, *above]
            found.append(rows[group])
        return found

    def _kept(self, choice: NDArray[np.int64]) -> dict[str, int]:
        return expected_kept(self._layers, Allocation.from_choice(self._table, choice))

    def _allocation(self, point: _Point, budget: dict[str, int]) -> Allocation:
        found = Allocation.from_choice(
            self._table,
            point.choice,
            budget=budget,
            objective="refined",
            distortion=point.distortion,
        )
        return replace(found, metadata={**found.metadata, **self._metadata})

    def _refined(self, point: _Point, start: float, budget: dict[str, int]) -> Refined:
        found = self._allocation(point, budget)
        rounds = tuple(self._rounds)
        return Refined(found, start, rounds, self._network.passes, self._network.found)


def _is_finite(measured: Measurement) -> bool:
    """Whether the distortion is, and the response, of which a callable may see nothing."""
    response = measured.response
    return math.isfinite(measured.distortion) and (
        response is None or bool(np.isfinite(response).all())
    )


def _spaced(
    kept: NDArray[np.int64],
    here: int,
    allowed: NDArray[np.bool_],
    step: float,
    count: int,
    sign: int,
) -> list[int]:
    """Options on one side of the present one, nearest first, each a step from the one before."""
    order = sorted(range(len(kept)), key=lambda k: (sign * int(kept[k]), k))
    found: list[int] = []
    last = int(kept[here])
    for option in order:
        distance = sign * (int(kept[option]) - last)
        if distance > 0 and distance >= step * (1 - 1e-9) and allowed[option]:
            found.append(option)
            last = int(kept[option])
        if len(found) == count:
            break
    return found


def _different(allocations: Iterable[Allocation]) -> Iterator[Allocation]:
    seen = set()
    for allocation in allocations:
        key = tuple(allocation.choice.tolist())
        if key not in seen:
            seen.add(key)
            yield allocation
