"""One door to all the allocators to compare with: a method's name in, an `Allocation` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
from torch import nn

from rdprune.baselines import BASELINES
from rdprune.batches import Forward, Runner, preserved
from rdprune.distortion import Reference
from rdprune.inputs import input_squares
from rdprune.layers import Prunable, named_layers, prunable
from rdprune.magnitude import (
    kept_count,
    level_label,
    magnitude_order,
    order_mask,
    saved_weights,
    write_masked,
)
from rdprune.owl import owl
from rdprune.recovery import recovered
from rdprune.shapes import parse_shape
from rdprune.spdy import Score, spdy
from rdprune_core import Allocation, RDTable


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What an allocator is asked.

    Attributes
    ----------
    model : torch.nn.Module
        The dense model.
    layers : dict of str to Prunable
        The layers that share the weights.
    kept_total : int
        Weights to keep in all.
    batches : tuple
        Calibration batches; empty for methods that need none.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model.
    recovery : str
        State in which the network runs, as for `measure`.
    seed : int
        Of whatever is random.
    """

    model: nn.Module
    layers: dict[str, Prunable]
    kept_total: int
    batches: tuple[Any, ...] = ()
    forward: Forward | None = None
    recovery: str = "none"
    seed: int = 0


def _owl(problem: Problem) -> dict[str, int]:
    squares = input_squares(
        problem.model, problem.layers, problem.batches,
        forward=problem.forward, recovery=problem.recovery, seed=problem.seed,
    )  # fmt: skip
    return owl(problem.layers, problem.kept_total, squares)


def _spdy(problem: Problem) -> dict[str, int]:
    with saved_weights(layer.parameter for layer in problem.layers.values()) as dense:
        orders = {
            name: magnitude_order(weight, layer=name)
            for name, weight in zip(problem.layers, dense, strict=True)
        }
        with recovered(problem.model, problem.recovery), preserved(problem.model):
            runner = Runner(problem.model, problem.batches, problem.forward, problem.seed)
            reference = Reference(runner.outputs(), cause=runner.cause)

            def score(kept: Mapping[str, int]) -> float:
                for (name, layer), weight in zip(problem.layers.items(), dense, strict=True):
                    mask = order_mask(orders[name], kept[name], weight.shape)
                    write_masked(layer.parameter, weight, mask)
                return reference.measure(runner.outputs()).distortion

            search: Score = score
            return spdy(problem.layers, problem.kept_total, search, seed=problem.seed)


def _plain(
    method: Callable[[Mapping[str, Prunable], int], dict[str, int]],
) -> Callable[[Problem], dict[str, int]]:
    return lambda problem: method(problem.layers, problem.kept_total)


NEED_BATCHES = ("owl", "spdy")
"""Methods that run the network on calibration batches; SPDY does so hundreds of times."""

ALLOCATORS: Mapping[str, Callable[[Problem], dict[str, int]]] = {
    **{name: _plain(method) for name, method in BASELINES.items()},
    "owl": _owl,
    "spdy": _spdy,
}
"""By name: takes a `Problem` and returns the weights to keep in each layer."""


def counts(method: str, problem: Problem) -> dict[str, int]:
    """Weights that a method keeps in each layer: exactly ``problem.kept_total`` together.

    Raises
    ------
    ValueError
        If the method is unknown, or needs batches and there are none.
    """
    if method not in ALLOCATORS:
        raise ValueError(f"method is {method!r}, must be one of {', '.join(ALLOCATORS)}")
    if method in NEED_BATCHES and not problem.batches:
        raise ValueError(f"method {method!r} runs the network: give batches")
    return ALLOCATORS[method](problem)


def allocate_by(
    method: str,
    model: nn.Module,
    *,
    sparsity: float | None = None,
    kept_total: int | None = None,
    batches: Iterable[Any] = (),
    table: RDTable | None = None,
    ignore: str | Iterable[str] = (),
    forward: Forward | None = None,
    recovery: str = "none",
    seed: int = 0,
) -> Allocation:
    """Allocate by a method of the literature, at exactly a number of weights.

    Parameters
    ----------
    method : str
        One of ``ALLOCATORS``: ``"uniform"``, ``"uniform_plus"``, ``"erk"``,
        ``"global_magnitude"``, ``"lamp"``, ``"owl"``, ``"spdy"``.
    model : torch.nn.Module
        The dense model.
    sparsity : float, optional
        Fraction of the weights to remove; or
    kept_total : int, optional
        the weights to keep.
    batches : iterable
        Calibration batches, for OWL and SPDY.
    table : RDTable, optional
        What `measure` returned; the layers are then the table's, and the distortion the sum of
        its curves between the measured counts. Without it the distortion is inf: unknown.
    ignore : str or iterable of str
        Layers to leave out; see `prunable`. Not with `table`.
    forward, recovery, seed
        As for `measure`.

    Returns
    -------
    Allocation
        With one option for each layer, labelled by its sparsity. Status ``"feasible"``.

    Raises
    ------
    ValueError
        If an argument is out of range or missing.
    """
    if table is None:
        layers = prunable(model, ignore=ignore)
    else:
        layers = named_layers(model, table.names, "table")
    if kept_total is not None and not isinstance(kept_total, Integral):
        raise ValueError(f"kept_total is {kept_total!r}, must be an integer")
    if (sparsity is None) == (kept_total is None):
        raise ValueError("give sparsity or kept_total, one of them")
    if sparsity is not None:
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity is {sparsity}, must be between 0 and 1")
        size = sum(layer.parameter.numel() for layer in layers.values())
        kept_total = int((1 - Fraction(repr(float(sparsity)))) * size)
    problem = Problem(model, layers, kept_total or 0, tuple(batches), forward, recovery, seed)
    return as_allocation(layers, counts(method, problem), table=table, method=method)


def as_allocation(
    layers: Mapping[str, Prunable],
    kept: Mapping[str, int],
    *,
    table: RDTable | None = None,
    method: str,
) -> Allocation:
    """Make the allocation that keeps these numbers of weights.

    Parameters
    ----------
    layers : mapping of str to Prunable
        The layers.
    kept : mapping of str to int
        Weights to keep in each of them.
    table : RDTable, optional
        A table of the same layers, for costs, metadata and a distortion interpolated linearly.
    method : str
        Written into the metadata.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    numel = {name: layer.parameter.numel() for name, layer in layers.items()}
    for name, size in numel.items():
        if not 0 <= kept[name] <= size:
            raise ValueError(f"layer {name!r}: {kept[name]} of {size} weights cannot be kept")
    labels = {n: level_label((size - kept[n]) / size) for n, size in numel.items()}
    for name, size in numel.items():
        assert kept_count(size, float(labels[name])) == kept[name]
    costs = {"params": [[kept[name]] for name in layers]}
    dense = {"params": list(numel.values())}
    metadata: dict[str, Any] = {
        "mask": "unstructured-magnitude",
        "shapes": {name: list(layer.parameter.shape) for name, layer in layers.items()},
    }
    distortion = [math.inf]
    if table is not None:
        metadata = dict(table.metadata)
        distortion = [_between(table, i, kept[name]) for i, name in enumerate(table.names)]
        if "macs" in table.costs:
            dense["macs"] = table.dense["macs"].tolist()
            costs["macs"] = [
                [-(-total * kept[name] // numel[name])]
                for name, total in zip(layers, dense["macs"], strict=True)
            ]
    single = RDTable.from_arrays(
        {name: [np.array(row, np.int64) for row in rows] for name, rows in costs.items()},
        [[0.0]] * len(layers),
        names=list(layers),
        options=[[labels[name]] for name in layers],
        dense={name: np.array(values, np.int64) for name, values in dense.items()},
        metadata={**metadata, "method": method},
    )
    return Allocation.from_choice(
        single, np.zeros(len(layers), np.int64), distortion=math.fsum(distortion)
    )


def _between(table: RDTable, layer: int, kept: int) -> float:
    """Distortion of a layer at a count, on the line between the two measured next to it.

    Of single weights, as the baselines' masks are; inf where none were measured.
    """
    labels = table.options[layer]
    single = [k for k, label in enumerate(labels) if parse_shape(label).kind == "weights"]
    if not single:
        return math.inf
    costs, distortion = table.costs["params"][layer][single], table.distortion[layer][single]
    order = np.argsort(costs, kind="stable")
    return float(np.interp(kept, costs[order], distortion[order]))
