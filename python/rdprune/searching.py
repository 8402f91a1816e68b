"""The least true distortion that a number of runs of the network can find."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final

import numpy as np
from torch import nn

from rdprune.allocators import as_allocation
from rdprune.baselines import erk, global_magnitude, lamp, uniform
from rdprune.batches import Forward, Runner, preserved, read
from rdprune.breeding import Counts, Space
from rdprune.checking import check_allocation, check_seed, check_whole
from rdprune.compared import features_of, in_question
from rdprune.criteria import SampleErrors, parse
from rdprune.descent import descend
from rdprune.grid import check_layers, layer_macs
from rdprune.judging import Judge, SpentError
from rdprune.layers import Prunable, named_layers, prunable, signature
from rdprune.looking import first_look
from rdprune.masking import expected_kept
from rdprune.memory import release
from rdprune.options import MASK
from rdprune.probing import backward_cost
from rdprune.progress import progress_bar
from rdprune.recovery import batchnorms, fits, recovered, spelled
from rdprune.searchspace import ends, first_optimum, fitting, space, start
from rdprune.trial import Trial, trial
from rdprune_core import Allocation, RDTable, __version__
from rdprune_core.budget import Amount, Budget

PARTS: Final = 8
PROJECTION: Final = 1024
PROBES: Final = 8  # of a first look
LOOK: Final = 1 + backward_cost(PROBES)  # its passes, with its multiply-accumulates
FAILED: Final = 2  # where the model cannot be differentiated
LOOK_FROM: Final = 50  # passes for which a first look pays
STARTS: Final = (uniform, erk, global_magnitude, lamp)
OUTSIDE: Final = 4  # most passes for multiply-accumulates and dense outputs, whole and in parts
LEAST: Final = OUTSIDE + len(STARTS) + 1
GIVEN, FIRST = "allocation", "first look"  # names of the other starts


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generation of a search found.

    Attributes
    ----------
    predicted : float
        Distortion of its best child on the part of the samples where it was looked at.
    distortion : float
        True distortion of the best allocation so far.
    passes : int
        Runs of the network over all samples so far.
    """

    predicted: float
    distortion: float
    passes: int


@dataclass(frozen=True, slots=True)
class Searched:
    """What `search` found.

    Attributes
    ----------
    allocation : Allocation
        The best one seen; its ``distortion`` is the true one, its ``objective`` ``"searched"``.
    starts : dict of str to float
        True distortion of every starting point; of those that are the same the first.
    generations : tuple of Generation
    passes : int
        Runs of the network over all batches in all, parts as parts, those that the store saved
        among them.
    found : int
        Measurements that the store had from earlier runs.
    """

    allocation: Allocation
    starts: dict[str, float]
    generations: tuple[Generation, ...]
    passes: int
    found: int = 0

    @property
    def start(self) -> float:
        """True distortion of the best starting point."""
        return min(self.starts.values())


def search(
    model: nn.Module,
    batches: Iterable[Any],
    allocation: Allocation | None = None,
    *,
    budget: Budget | None = None,
    sparsity: float | None = None,
    passes: int = 500,
    recovery: str | None = None,
    distortion: str | SampleErrors | None = None,
    floors: Mapping[str, Amount] | None = None,
    caps: Mapping[str, Amount] | None = None,
    ignore: str | Iterable[str] = (),
    layers: str | Iterable[str] | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    store: str | PathLike[str] | None = None,
    on_generation: Callable[[Searched], None] | None = None,
    progress: bool = True,
) -> Searched:
    """Search for the allocation of least true distortion, with any number of weights a layer.

    Needs no table. Every layer's steps are looked at on a part of the samples, or foretold by
    backward passes there (five and one forward one count as eleven; for 50 passes or more, where
    the distortion is a mean of squares), in the network as it is pruned by then, and the children
    that the solver makes of them are run; `rdprune.descent` says how. Never ends worse than it
    began. The model is left exactly as it was, also after an error or an interrupt. The same call
    gives the same allocation.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model.
    batches : iterable
        Calibration batches, as for `measure`. Looks are on parts of them: whole batches where there
        are eight or more, else pieces, which have the rows of every tensor that is as long as the
        batch has samples. Where the model does not take such pieces, the batches are the parts.
    allocation : Allocation, optional
        One more start, with its budget; the others are what uniform, ERK, global magnitude and
        LAMP keep and, of networks without BatchNorm that can be differentiated and for 50 passes
        or more, the optimum of a `first_look` of 8 probes, which counts as 18. Starts beyond the
        budget, floors or caps are left out.
    budget, sparsity : optional
        As for `rdprune_core.allocate`, of the costs ``params`` and ``macs``; without `allocation`,
        or for another budget than its own.
    passes : int
        Most runs of the network over all samples in all, at least 9. The search ends before where
        there is nothing left to change.
    recovery : str, optional
        ``"none"`` or ``"batchnorm"``, as for `measure`; by default the allocation's, or none.
    distortion : str or callable, optional
        As for `measure`; by default the allocation's, or ``"mse"``.
    floors, caps : mapping of str to amount, optional
        Fewest and most weights of layers, such as ``{"fc": "50%"}``.
    ignore, layers : str or iterable of str
        As for `measure`; without `allocation`.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model; by default the `features` that
        were measured for the allocation.
    seed : int
        Of whatever is random, below 2**32.
    store : path, optional
        Run folder that keeps every measurement: the same call goes on where one was stopped.
    on_generation : callable, optional
        Called with what was found so far, after every generation that found something better; the
        model is pruned then.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Searched

    Raises
    ------
    ValueError
        If an argument is wrong, or the allocation is of another model.
    InfeasibleBudgetError
        If no allocation keeps within the budget.
    """
    known = _known(model, allocation)
    state = spelled(known.get("recovery", "none") if recovery is None else recovery)
    if fits(state):
        raise ValueError(
            f"recovery is {state!r}: fitting weights or biases for every child would cost too "
            "much; use 'none' or 'batchnorm', or refine"
        )
    check_whole("passes", passes)
    check_seed(seed)
    if passes < LEAST:
        raise ValueError(
            f"passes is {passes}, must be at least {LEAST}: multiply-accumulates, the dense "
            f"outputs, whole and in parts, and {LEAST - OUTSIDE} starts"
        )
    forward = in_question(known, forward)
    kind = known.get("distortion", "mse") if distortion is None else distortion
    if allocation is None:
        found = prunable(model, ignore=ignore, layers=layers)
    elif ignore or layers is not None:
        raise ValueError("ignore and layers are for a search without an allocation")
    else:
        found = named_layers(model, allocation.names, "allocation")
    check_layers(found)
    data = read(batches)
    with recovered(model, state), preserved(model):
        macs = layer_macs(found, Runner(model, data, forward, seed))
    about = _about(model, found, parse(kind).name, state, seed, forward)
    starts = {} if allocation is None else {GIVEN: expected_kept(found, allocation)}
    corners, low, high = ends(found, macs, floors or {}, caps or {}, about)
    within = space(corners, low, high, allocation, budget, sparsity)
    starts |= {method.__name__: start(method, found, within) for method in STARTS}
    straight = not batchnorms(model)
    asked = passes >= LOOK_FROM and straight
    look = _looked(model, data, found, forward, seed) if asked else None
    if look is not None:
        starts |= first_optimum(FIRST, look, found, within)
    points = _points(starts, within)
    with (
        trial(
            model,
            found,
            data,
            kind,
            seed=seed,
            recovery=state,
            projection=PROJECTION,
            forward=forward,
            store=store,
            parts=PARTS,
        ) as network,
        progress_bar(passes, progress) as meter,
    ):
        network.spend(1)  # for the multiply-accumulates
        network.spend((FAILED if look is None else LOOK) if asked else 0)
        gradients = passes >= LOOK_FROM and network.differentiable()
        judge = Judge(list(found), network, passes, meter, gradients=gradients, straight=straight)
        searched = _Progress(found, corners, within, network, on_generation)
        return _run(judge, searched, points, within, seed)


class _Progress:
    """The best so far, generation after generation."""

    def __init__(
        self,
        layers: Mapping[str, Prunable],
        table: RDTable,
        within: Space,
        network: Trial,
        on_generation: Callable[[Searched], None] | None,
    ) -> None:
        self._layers = layers
        self._table = table
        self._within = within
        self._network = network
        self._tell = on_generation
        self._starts: dict[str, float] = {}
        self._generations: list[Generation] = []
        self._best: tuple[Counts, float] | None = None

    def begin(self, kept: Counts, starts: dict[str, float], distortion: float) -> None:
        """Note all starts, and the best one."""
        self._starts, self._best = starts, (kept, distortion)

    def note(self, kept: Counts, distortion: float, predicted: float) -> None:
        """Note a generation."""
        assert self._best is not None
        better = distortion < self._best[1]
        self._best = kept, distortion
        self._generations.append(Generation(predicted, distortion, self._network.passes))
        if better and self._tell is not None:
            self._tell(self.searched())

    def searched(self) -> Searched:
        """Return what was found."""
        assert self._best is not None
        kept, distortion = self._best
        counts = dict(zip(self._layers, kept.tolist(), strict=True))
        made = as_allocation(self._layers, counts, table=self._table, method="search")
        found = replace(
            made, distortion=distortion, budget=dict(self._within.budget), objective="searched"
        )
        generations = tuple(self._generations)
        return Searched(found, self._starts, generations, self._network.passes, self._network.found)


def _known(model: nn.Module, allocation: Allocation | None) -> Mapping[str, Any]:
    """Return what an allocation says of how it was measured."""
    if allocation is None:
        return {}
    check_allocation("allocation", allocation)
    known = allocation.metadata
    if known.get("mask", MASK) != MASK:
        raise ValueError(
            "the allocation has masks of another criterion or shape; search takes single weights "
            "by magnitude: refine, or give sparsity= or budget= alone"
        )
    digest = known.get("model", {}).get("digest")
    if digest is not None and digest != signature(model)["digest"]:
        raise ValueError(
            "the model does not have the weights that were measured for this allocation, or it is "
            "pruned already: give the dense model that was measured"
        )
    return known


def _looked(
    model: nn.Module,
    data: tuple[Any, ...],
    layers: Mapping[str, Prunable],
    forward: Forward | None,
    seed: int,
) -> RDTable | None:
    """Return a first look; None of a model that cannot be differentiated."""
    try:
        return first_look(
            model,
            data,
            probes=PROBES,
            layers=tuple(layers),
            forward=forward,
            seed=seed,
            progress=False,
        )
    except (ValueError, RuntimeError):
        return None


def _points(starts: Mapping[str, Mapping[str, int]], within: Space) -> dict[str, Counts]:
    """Return the different starts that are within all bounds."""
    found: dict[tuple[int, ...], str] = {}
    for name, counts in starts.items():
        found.setdefault(tuple(counts.values()), name)
    points = {name: np.array(row, np.int64) for row, name in found.items()}
    return {name: point for name, point in points.items() if fitting(point, within)}


def _run(
    judge: Judge, progress: _Progress, points: dict[str, Counts], within: Space, seed: int
) -> Searched:
    scores = {name: judge.score(point) for name, point in points.items()}
    best = min(scores, key=lambda name: scores[name])
    if not math.isfinite(scores[best]):
        raise ValueError("the output of the pruned network is not finite, at every start")
    progress.begin(points[best], scores, scores[best])
    try:
        for step in descend(points[best], scores[best], within, judge, seed=seed):
            progress.note(*step)
            release()
    except SpentError:
        pass
    return progress.searched()


def _about(
    model: nn.Module,
    layers: Mapping[str, Prunable],
    distortion: str,
    recovery: str,
    seed: int,
    forward: Forward | None,
) -> dict[str, Any]:
    features = features_of(forward)
    return {
        "model": signature(model),
        "distortion": distortion,
        "recovery": recovery,
        "seed": seed,
        "rdprune": __version__,
        "shapes": {name: list(layer.parameter.shape) for name, layer in layers.items()},
        "mask": MASK,
        **({"features": features} if features else {}),
    }
