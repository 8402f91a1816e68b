"""Measuring one layer after the other, from the store where it has been done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from rdprune.batches import Runner
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, signature
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.prefix import FEWEST, DivergedError, Prefix
from rdprune.progress import Meter
from rdprune.store import Shelf, Store, run_signature
from rdprune_core import __version__

MASK = "unstructured-magnitude"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a layer: its label, how many weights it keeps, and which.

    Options of a layer with the same `key` have the same mask.
    """

    label: str
    kept: int
    key: str


Masks = Callable[[Prunable, Tensor], Callable[[Option], Tensor]]
"""Takes a layer and its dense weight; the function returned makes an option's mask."""


def magnitude_masks(layer: Prunable, dense: Tensor) -> Callable[[Option], Tensor]:
    """Masks that keep the largest weights."""
    order = magnitude_order(dense, layer=layer.name)
    return lambda option: order_mask(order, option.kept, dense.shape)


def magnitude_key(kept: int) -> str:
    """Say what a stored measurement was made with; the weights are in the run's signature."""
    return f"{MASK} {kept}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """Measures layers; without `prefix` and `shelf`, the plain loop that all else is checked by.

    Attributes
    ----------
    runner : Runner
        The dense model and its batches; use within `preserved`.
    reference : Reference
    meter : Meter
        Told what is done.
    prefix : Prefix, optional
        Gives what runs before a layer; installed.
    shelf : Shelf, optional
        Has, and gets, what was measured.
    masks : callable
        Makes the masks that are measured.
    """

    runner: Runner
    reference: Reference
    meter: Meter
    prefix: Prefix | None = None
    shelf: Shelf | None = None
    masks: Masks = magnitude_masks

    def measure_layer(self, layer: Prunable, options: Sequence[Option]) -> list[Measurement]:
        """Measure every option of a layer, once for each mask."""
        weight = layer.parameter
        self.meter.advance(layer.name, 0)
        done: dict[str, Measurement] = {}
        labels: dict[str, list[str]] = {}
        for option in options:
            labels.setdefault(option.key, []).append(option.label)
        left = []
        for key, option in {option.key: option for option in options}.items():
            dense = option.kept == weight.numel()
            found = self.reference.unchanged() if dense else self._look_up(layer, option)
            if found is None:
                left.append(option)
            else:
                done[key] = found
                self._advance(layer, labels[key], found=True)
        with saved_weights([weight]) as (saved,):
            for option, measurement in self._measure(layer, saved, left):
                key = option.key
                if not math.isfinite(measurement.distortion):
                    raise ValueError(
                        f"layer {layer.name!r}, option {labels[key][0]!r}: the distortion is "
                        f"{measurement.distortion}, must be finite; leave out this level or the "
                        "layer"
                    )
                done[key] = measurement
                if self.shelf is not None:
                    self.shelf.put(layer.name, key, measurement)
                self._advance(layer, labels[key])
        return [done[option.key] for option in options]

    def _measure(
        self, layer: Prunable, dense: Tensor, options: list[Option]
    ) -> Iterator[tuple[Option, Measurement]]:
        """Measure options of a layer, each with a pass of its own."""
        made = self.masks(layer, dense)

        def run(runner: Runner, option: Option) -> Measurement:
            write_masked(layer.parameter, dense, made(option))
            return self.reference.measure(runner.outputs())

        runner = self.runner if self.prefix is None else self.prefix.plain
        if self.shelf is not None:
            # Another process that works on the same should not be measuring the same option.
            Random().shuffle(options)
        if self.prefix is not None and len(options) >= FEWEST and self.prefix.prepare(layer):
            # Not the strongest: all zeros could hide what else a weight changes.
            probe = sorted(options, key=lambda option: option.kept)[len(options) // 2]
            options.remove(probe)
            measurement = run(runner, probe)
            if self.prefix.agrees(layer, measurement):
                runner = self.prefix.reusing
            yield probe, measurement
        for option in options:
            measured = self._look_up(layer, option)
            if measured is None:
                try:
                    measured = run(runner, option)
                except DivergedError:
                    assert self.prefix is not None
                    self.prefix.forget(layer)
                    runner = self.prefix.plain
                    measured = run(runner, option)
            yield option, measured

    def _look_up(self, layer: Prunable, option: Option) -> Measurement | None:
        return None if self.shelf is None else self.shelf.get(layer.name, option.key)

    def _advance(self, layer: Prunable, labels: Sequence[str], *, found: bool = False) -> None:
        self.meter.advance(layer.name, len(labels), found=found)


def open_shelf(
    store: Store, runner: Runner, reference: Reference, *, distortion: str, recovery: str
) -> Shelf:
    """Find what the store has of this model, these batches and settings."""
    settings = {
        "distortion": distortion,
        "recovery": recovery,
        "responses": reference.projection,
        "seed": runner.seed,
    }
    # The same outputs a little smaller: what a callable makes of them tells it from others.
    probe = reference.measure(output * 0.875 for output in reference.outputs)
    found = [*reference.outputs, torch.from_numpy(probe.errors)]
    run = run_signature(runner.model, runner.batches, found, runner.forward, settings)
    about = {**settings, "model": signature(runner.model), "rdprune": __version__}
    return store.shelf(run, about, samples=reference.samples, size=reference.projection)


def costs(
    options: Mapping[str, Sequence[Option]], prefix: Prefix | None
) -> tuple[dict[str, int], dict[str, float]]:
    """Options of each layer, and which part of a pass one takes on average."""
    counts, costs = {}, {}
    for name, row in options.items():
        share = 1.0 if prefix is None else prefix.shares[name]
        counts[name] = len(row)
        costs[name] = share * len({option.key for option in row}) / len(row)
    return counts, costs
