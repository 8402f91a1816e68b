"""Measuring one layer after the other, from the store where it has been done."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import torch

from rdprune.batches import Runner
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, signature
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.prefix import FEWEST, DivergedError, Prefix
from rdprune.progress import Meter
from rdprune.recovery import Write, Writer
from rdprune.store import Shelf, Store, run_signature
from rdprune_core import __version__

MASK = "unstructured-magnitude"


@dataclass(frozen=True, slots=True)
class Option:
    """A level of a layer: its label, and how many weights it keeps."""

    label: str
    kept: int


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
    writer : Writer, optional
        Prunes a layer and repairs it; by default it is masked.
    """

    runner: Runner
    reference: Reference
    meter: Meter
    prefix: Prefix | None = None
    shelf: Shelf | None = None
    writer: Writer | None = None

    def measure_layer(self, layer: Prunable, options: Sequence[Option]) -> list[Measurement]:
        """Measure every option of a layer, once for each count of weights."""
        weight = layer.parameter
        self.meter.advance(layer.name, 0)
        done = {weight.numel(): self.reference.unchanged()}
        labels: dict[int, list[str]] = {}
        for option in options:
            labels.setdefault(option.kept, []).append(option.label)
        self._advance(layer, labels.pop(weight.numel(), []), found=True)
        for kept in list(labels):
            found = self._look_up(layer, kept)
            if found is not None:
                done[kept] = found
                self._advance(layer, labels.pop(kept), found=True)
        with self._writing(layer, labels) as write:
            for kept, measurement in self._measure(layer, write, list(labels)):
                if not math.isfinite(measurement.distortion):
                    raise ValueError(
                        f"layer {layer.name!r}, option {labels[kept][0]!r}: the distortion is "
                        f"{measurement.distortion}, must be finite; leave out this level or the "
                        "layer"
                    )
                done[kept] = measurement
                if self.shelf is not None:
                    self.shelf.put(layer.name, _key(kept), measurement)
                self._advance(layer, labels[kept])
        return [done[option.kept] for option in options]

    def _measure(
        self, layer: Prunable, write: Write, counts: list[int]
    ) -> Iterator[tuple[int, Measurement]]:
        """Measure a layer with so many weights kept, each from a pass of its own."""
        shape = layer.parameter.shape
        order = magnitude_order(layer.parameter, layer=layer.name)

        def run(runner: Runner, kept: int) -> Measurement:
            write(order_mask(order, kept, shape))
            return self.reference.measure(runner.outputs())

        runner = self.runner if self.prefix is None else self.prefix.plain
        if self.shelf is not None:
            # Another process that works on the same should not be measuring the same option.
            Random().shuffle(counts)
        if self.prefix is not None and len(counts) >= FEWEST and self.prefix.prepare(layer):
            # Not the strongest: all zeros could hide what else a weight changes.
            probe = sorted(counts)[len(counts) // 2]
            counts.remove(probe)
            measurement = run(runner, probe)
            if self.prefix.agrees(layer, measurement):
                runner = self.prefix.reusing
            yield probe, measurement
        for kept in counts:
            measured = self._look_up(layer, kept)
            if measured is None:
                try:
                    measured = run(runner, kept)
                except DivergedError:
                    assert self.prefix is not None
                    self.prefix.forget(layer)
                    runner = self.prefix.plain
                    measured = run(runner, kept)
            yield kept, measured

    @contextmanager
    def _writing(self, layer: Prunable, wanted: Collection[int]) -> Iterator[Write]:
        """Yield what prunes the layer; it is dense again at the end."""
        if self.writer is not None and wanted:
            with self.writer.layer(layer.name) as write:
                yield write
            return
        weight = layer.parameter
        with saved_weights([weight]) as (dense,):
            yield lambda mask: write_masked(weight, dense, mask)

    def _look_up(self, layer: Prunable, kept: int) -> Measurement | None:
        return None if self.shelf is None else self.shelf.get(layer.name, _key(kept))

    def _advance(self, layer: Prunable, labels: Sequence[str], *, found: bool = False) -> None:
        self.meter.advance(layer.name, len(labels), found=found)


def _key(kept: int) -> str:
    """Say what a stored measurement was made with; the weights are in the run's signature."""
    return f"{MASK} {kept}"


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
        costs[name] = share * len({option.kept for option in row}) / len(row)
    return counts, costs
