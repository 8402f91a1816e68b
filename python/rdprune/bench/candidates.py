"""Allocations of all kinds at one number of weights, to see what their quality depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from rdprune.baselines import BASELINES
from rdprune.bench.subject import Subject
from rdprune.masking import expected_kept
from rdprune.sharing import scaled
from rdprune_core import RDTable, allocate

Kept = Mapping[str, int]

MIXED: Final = (0.25, 0.5, 0.75)
LEAST: Final = 4  # weights of a layer
UNIT: Final = 1 << 40
SPREAD: Final = 0.6


def candidates(
    subject: Subject, tables: Mapping[str, RDTable], sparsity: float, count: int
) -> dict[str, Kept]:
    """Return allocations by name: the methods', those between them, and random ones.

    Parameters
    ----------
    subject : Subject
    tables : mapping of str to RDTable
        By the state measured; of each the additive and the joint optimum stand in the list.
    sparsity : float
    count : int
        In all, less those that are the same as another. The random ones lie between, or a
        little beyond, two of the methods', in the logarithms of the densities, with noise of up
        to `SPREAD` in those.
    """
    total = round((1 - sparsity) * subject.size)
    found: dict[str, Kept] = {
        name: method(subject.layers, total) for name, method in BASELINES.items()
    }
    for state, table in tables.items():
        for objective in ("additive", "joint"):
            chosen = allocate(table, sparsity=sparsity, objective=objective)
            found[f"{objective} {state}"] = filled(
                subject, expected_kept(subject.layers, chosen), total
            )
    first = f"additive {list(tables)[-1]}"
    for share in MIXED:
        mixed = between(subject, found["global_magnitude"], found[first], share, total)
        found[f"{share:g} of {first}, rest global"] = mixed
    methods = list(found)
    generator = np.random.default_rng(int(1000 * sparsity))
    found = dict(list(found.items())[:count])
    for number in range(count - len(found)):
        a, b = generator.choice(len(methods), 2, replace=False)
        share, spread = generator.uniform(-0.25, 1.25), generator.uniform(0, SPREAD)
        noise = spread * generator.standard_normal(len(subject.layers))
        one, other = found[methods[a]], found[methods[b]]
        found[f"random {number}"] = between(subject, one, other, share, total, noise)
    different = {tuple(kept.values()): name for name, kept in reversed(found.items())}
    return {name: kept for name, kept in found.items() if name in different.values()}


def between(
    subject: Subject,
    one: Kept,
    other: Kept,
    share: float,
    total: int,
    noise: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None,
) -> Kept:
    """Return densities between two allocations' in the logarithm, scaled to a number of weights."""
    weights = []
    for position, name in enumerate(subject.layers):
        a, b = (math.log(max(kept[name], 1)) for kept in (one, other))
        shift = 0.0 if noise is None else float(noise[position])
        weights.append(max(1, round(UNIT * math.exp((1 - share) * a + share * b + shift))))
    return _shared(subject, weights, total)


def filled(subject: Subject, kept: Kept, total: int) -> Kept:
    """Return an allocation scaled up to a number of weights that it does not quite use."""
    return _shared(subject, [kept[name] * UNIT for name in subject.layers], total)


def _shared(subject: Subject, weights: list[int], total: int) -> Kept:
    sizes = [layer.parameter.numel() for layer in subject.layers.values()]
    floors = [min(LEAST, size) for size in sizes]
    return dict(zip(subject.layers, scaled(weights, floors, sizes, total), strict=True))
