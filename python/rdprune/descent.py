"""A search for the least true distortion, with any number of weights a layer.

A round looks, on a part of the samples, at layers keeping somewhat less and somewhat more than
now: what that does to the output in the network as it is pruned. Or gradients are asked, where
there are any, which tell it of all layers for the price of a few looks, though to first order only.
Whichever gained more a pass when it was last tried is next; in a network where gradients can be
trusted looks are first tried after six rounds, or where gradients gain nothing. Children are joint
or additive optima within the budget when a random few of these layers are free to take such a step,
with a random price on the squares of the changes; a few are swaps between random layers. They are
looked at on another part of the samples, the best are run on all, and one that truly distorts less
is the next parent: the same steps are tried again from there, or those of fresh gradients. When
looks gain no more, swaps alone go on, which cost none. The next round begins about the new point,
with nearer steps if the last did not help.

Random subsets of layers and another part for every look keep the noise of one part from being
followed. The judge, cheap looks at many children and whole runs of few, is that of Sieberling et
al. 2024, *EvoPress*; its children are all blind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rdprune.breeding import Counts, Space, Steps, children

CHILDREN, FEWEST = 16, 4  # looked at: all for eight parts or more, whose looks take two passes
SURVIVORS = 2
PATIENCE = 2  # generations in a row without gain by the same looks
RENEWED = 4  # gains by gradients until it is asked whether looks gain more
TRUSTED = 6  # rounds by gradients after which looks are tried once, also in a straight network
ENOUGH = 2  # generations by which a rate of gain is known
WAIT = 3  # generations in a row without gain by swaps alone
ROUND = 10  # passes that a round's looks take, about
STEPS = (0.1, 0.3)  # of what a layer keeps, to both sides
FARTHEST_STEP, FINE = 1.0, 6  # where steps cost nothing: the largest, and how many to a side
JITTER = 0.5
SHRINK, GROW, LEAST, MOST = 0.85, 1.1, 0.05, 2.0
SEEDS = 20  # bits for the turns, each of which has a seed of its own for its probes
FARTHEST = 1e18  # a response whose square is still a float32


class Judge(Protocol):
    """Runs the network pruned to numbers of weights kept, and stops it all by an exception.

    `parts` are those of the samples; in a `straight` network gradients can be trusted.
    """

    parts: int
    straight: bool

    @property
    def passes(self) -> int:
        """Runs over all samples so far."""

    def score(self, kept: Counts) -> float:
        """Return the true distortion on all samples."""

    def look(self, kept: Counts, part: int) -> tuple[float, NDArray[np.float64]]:
        """Return the distortion on a part of the samples, and the response there, (m,)."""

    def around(
        self, kept: Counts, options: list[Counts], part: int, seed: int
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]] | None:
        """Estimate a response on a part of the samples, (m,), and its changes by options, (K_l, m).

        None where there are no gradients to do so.
        """


def descend(
    start: Counts, distortion: float, space: Space, judge: Judge, *, seed: int
) -> Iterator[tuple[Counts, float, float]]:
    """Search until nothing is left to change; whoever counts the passes stops it before.

    Parameters
    ----------
    start : int64 array (L,)
        Weights that each layer keeps at first, within the budget.
    distortion : float
        What the judge scores it.
    space : Space
    judge : Judge
    seed : int

    Yields
    ------
    tuple of array, float and float
        The best allocation so far, its distortion, and what the best child had on the part of the
        samples where it was looked at; after each generation.
    """
    return _Descent(start, distortion, space, judge, seed).rounds()


@dataclass(slots=True)
class _Way:
    """How far the steps of one way to find them go, and what it gained a pass in its last round."""

    scale: float = 1.0
    rate: float = math.inf

    def rescale(self, gained: bool) -> None:
        """Go farther next time, or less far."""
        self.scale = min(max(LEAST, self.scale * (GROW if gained else SHRINK)), MOST)


class _Descent:
    """Where a search is, and how it goes on."""

    def __init__(
        self, start: Counts, distortion: float, space: Space, judge: Judge, seed: int
    ) -> None:
        self._point, self._best = start, distortion
        self._space, self._judge = space, judge
        self._seed = seed << SEEDS
        self._random = np.random.default_rng(seed)
        self._turn = 0
        self._born = True
        self._gradients, self._looks = _Way(), _Way(rate=0.0 if judge.straight else math.inf)

    def rounds(self) -> Iterator[tuple[Counts, float, float]]:
        """Yield as `descend` does."""
        way, asked = self._looks, 0
        while self._born and self._best != 0:
            before, spent, self._born = self._best, self._judge.passes, False
            way = self._next(way)
            steps = self._foresee() if way is self._gradients else None
            if steps is not None:
                yield from self._by_gradients(steps)
                self._born = True  # if not by these steps, then maybe by looks
            else:
                if way is self._gradients:  # there are none here
                    way.rate, way, spent = 0.0, self._looks, self._judge.passes
                yield from self._by_looks()
            way.rate = self._rate(before, spent)
            asked += way is self._gradients
            if asked == TRUSTED and way is self._gradients and self._judge.straight:
                self._looks.rate = math.inf
            self._turn += 1

    def _next(self, last: _Way) -> _Way:
        """Return the way that gained more a pass when it was last gone."""
        other = self._looks if last is self._gradients else self._gradients
        return last if last.rate > other.rate else other

    def _rate(self, before: float, spent: int) -> float:
        """Return what was gained a pass since then, relative to what was left."""
        best = self._best
        if best > 0:
            gain = math.log(before / best)
        else:  # a loss may fall below that of the dense network
            gain = (before - best) / max(abs(before), abs(best), math.ulp(0.0))
        return gain / max(self._judge.passes - spent, 1)

    def _by_gradients(self, steps: Steps) -> Iterator[tuple[Counts, float, float]]:
        """Breed a few generations with gain, each but the first with fresh gradients."""
        start, gains, failed = self._best, 0, 0
        while failed < PATIENCE and gains < RENEWED:
            before = self._best
            yield from self._generation(steps)
            failed += 1
            if self._best < before:
                gains, failed = gains + 1, 0
                again = self._foresee() if gains < RENEWED else None
                steps = steps if again is None else again
        self._gradients.rescale(self._best < start)

    def _by_looks(self) -> Iterator[tuple[Counts, float, float]]:
        """Breed while the same looks gain, then by swaps while these gain more than gradients."""
        before = self._best
        looks = self._look_around()
        yield from self._generations(looks, PATIENCE, 0.0)
        if looks is not None:
            self._looks.rescale(self._best < before)
        yield from self._generations(None, WAIT, self._gradients.rate)

    def _generations(
        self, looks: Steps | None, patience: int, rate: float
    ) -> Iterator[tuple[Counts, float, float]]:
        """Breed until so many generations in a row did not gain, or the rate of gain is below."""
        start, spent, failed, born = self._best, self._judge.passes, 0, 0
        while failed < patience and (born < ENOUGH or self._rate(start, spent) >= rate):
            before = self._best
            yield from self._generation(looks)
            failed = 0 if self._best < before else failed + 1
            born += 1

    def _generation(self, looks: Steps | None) -> Iterator[tuple[Counts, float, float]]:
        """Try children, and move to the best; yield where it is, unless there were no children."""
        self._turn += 1
        count = min(max(2 * self._judge.parts, FEWEST), CHILDREN)
        found = children(self._point, looks, self._space, count, self._random)
        marks = [self._judge.look(child, self._turn % self._judge.parts)[0] for child in found]
        order = np.argsort(marks, kind="stable")[:SURVIVORS].tolist()
        for child in order:
            distortion = self._judge.score(found[child])
            if distortion < self._best:
                self._point, self._best = found[child], distortion
        if order:
            self._born = True
            yield self._point, self._best, marks[order[0]]

    def _foresee(self) -> Steps | None:
        part = self._turn % self._judge.parts
        seed = self._seed + self._turn
        scale = self._gradients.scale
        return _foresee(self._point, self._space, self._judge, scale, part, seed)

    def _look_around(self) -> Steps | None:
        part = self._turn % self._judge.parts
        scale = self._looks.scale
        return _look_around(self._point, self._space, self._judge, scale, part, self._random)


def _look_around(
    point: Counts,
    space: Space,
    judge: Judge,
    scale: float,
    part: int,
    random: np.random.Generator,
) -> Steps | None:
    """Look at layers keeping other numbers of weights: all, or as many random ones as is fair.

    What makes the output overflow is left out; None if the point itself does, on this part.
    """
    distortion, error = judge.look(point, part)
    if not _usable(distortion, error):
        return None
    fair = max(ROUND * judge.parts // (2 * len(STEPS)), 1)
    layers = np.sort(random.permutation(len(point))[:fair])
    found = Steps(layers, error, [], [], [])
    for layer in layers.tolist():
        here = int(point[layer])
        steps = [
            sign * step * scale * random.uniform(1 - JITTER, 1 + JITTER)
            for step in STEPS
            for sign in (-1, 1)
        ]
        most, least = int(space.high[layer]), int(space.low[layer])
        wanted = {min(max(round(max(here, 1) * np.exp(step)), least), most) for step in steps}
        options, changes, rises = [here], [np.zeros_like(error)], [0.0]
        for count in sorted(wanted - {here}):
            other = point.copy()
            other[layer] = count
            there, response = judge.look(other, part)
            if _usable(there, response):
                options.append(count)
                changes.append(response - error)
                rises.append(there - distortion)
        order = np.argsort(options)
        found.options.append(np.array(options, np.int64)[order])
        found.changes.append(np.array(changes)[order])
        found.rises.append(np.array(rises)[order])
    return found


def _foresee(
    point: Counts,
    space: Space,
    judge: Judge,
    scale: float,
    part: int,
    seed: int,
) -> Steps | None:
    """Estimate what steps of all layers do, where gradients tell."""
    steps = scale * np.linspace(-FARTHEST_STEP, FARTHEST_STEP, 2 * FINE + 1)
    options = []
    for here, least, most in zip(point, space.low, space.high, strict=True):
        wanted = np.round(max(int(here), 1) * np.exp(steps)).astype(np.int64)
        options.append(np.union1d(wanted.clip(least, most), [here]))
    found = judge.around(point, options, part, seed)
    if found is None:
        return None
    error, changes = found
    if not all((np.abs(row) < FARTHEST).all() for row in (error, *changes)):
        return None
    before = np.mean(error**2)
    rises = [np.mean((error + rows) ** 2, axis=1) - before for rows in changes]
    return Steps(np.arange(len(point)), error, options, changes, rises)


def _usable(distortion: float, response: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(distortion) and (np.abs(response) < FARTHEST).all())
