"""Measuring one layer after the other, from the store where it has been done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from rdprune.adaptive import Wanted
from rdprune.batches import Runner
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, signature
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.prefix import FEWEST, DivergedError, Prefix
from rdprune.progress import Meter, progress_bar
from rdprune.store import Shelf, Store, run_signature
from rdprune.tabling import MASK, Findings, Option
from rdprune_core import __version__


@dataclass(frozen=True, slots=True)
class Sweep:
    """Measures layers; without `prefix` and `shelf`, the plain loop that all else is checked by.

    Attributes
    ----------
    runner : Runner
        The dense model and its batches; use within `preserved`.
    reference : Reference
    prefix : Prefix, optional
        Gives what runs before a layer; installed.
    shelf : Shelf, optional
        Has, and gets, what was measured.
    fewest : int
        Fewer options of a layer than this do not pay for recording and checking.
    """

    runner: Runner
    reference: Reference
    prefix: Prefix | None = None
    shelf: Shelf | None = None
    fewest: int = FEWEST

    def measure(self, findings: Findings, wanted: Wanted, progress: bool) -> None:
        """Measure options and add them to the findings; `progress` shows a bar."""
        options = {name: [findings.options[name][at] for at in row] for name, row in wanted.items()}
        counts = {name: len(row) for name, row in options.items()}
        order = findings.layers if self.prefix is None else self.prefix.order
        with progress_bar(counts, progress, self._costs(options)) as meter:
            for name in order:
                if name in wanted:
                    found = self._measure_layer(findings.layers[name], options[name], meter)
                    known = findings.measured.setdefault(name, {})
                    known.update(zip(wanted[name], found, strict=True))

    def _costs(self, options: Mapping[str, Sequence[Option]]) -> dict[str, float]:
        """Which part of a pass one option of each layer takes on average."""
        costs = {}
        for name, row in options.items():
            share = 1.0 if self.prefix is None else self.prefix.shares[name]
            costs[name] = share * len({option.kept for option in row}) / len(row)
        return costs

    def _measure_layer(
        self, layer: Prunable, options: Sequence[Option], meter: Meter
    ) -> list[Measurement]:
        """Measure options of a layer, once for each count of weights."""
        weight = layer.parameter
        meter.advance(layer.name, 0)
        done = {weight.numel(): self.reference.unchanged()}
        labels: dict[int, list[str]] = {}
        for option in options:
            labels.setdefault(option.kept, []).append(option.label)
        meter.advance(layer.name, len(labels.pop(weight.numel(), [])), found=True)
        for kept in list(labels):
            found = self._look_up(layer, kept)
            if found is not None:
                done[kept] = found
                meter.advance(layer.name, len(labels.pop(kept)), found=True)
        with saved_weights([weight]) as (saved,):
            for kept, measurement in self._measure(layer, saved, list(labels)):
                if not math.isfinite(measurement.distortion):
                    raise ValueError(
                        f"layer {layer.name!r}, option {labels[kept][0]!r}: the distortion is "
                        f"{measurement.distortion}, must be finite; leave out this level or the "
                        "layer"
                    )
                done[kept] = measurement
                if self.shelf is not None:
                    self.shelf.put(layer.name, _key(kept), measurement)
                meter.advance(layer.name, len(labels[kept]))
        return [done[option.kept] for option in options]

    def _measure(
        self, layer: Prunable, dense: Tensor, counts: list[int]
    ) -> Iterator[tuple[int, Measurement]]:
        """Measure a layer with so many weights kept, each from a pass of its own."""
        order = magnitude_order(dense, layer=layer.name)

        def run(runner: Runner, kept: int) -> Measurement:
            write_masked(layer.parameter, dense, order_mask(order, kept, dense.shape))
            return self.reference.measure(runner.outputs())

        runner = self.runner if self.prefix is None else self.prefix.plain
        if self.shelf is not None:
            # Another process that works on the same should not be measuring the same option.
            Random().shuffle(counts)
        if self.prefix is not None and counts and self.prefix.trusts(layer):
            if self.prefix.prepare(layer):
                runner = self.prefix.reusing
        elif self.prefix is not None and len(counts) >= self.fewest and self.prefix.prepare(layer):
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

    def _look_up(self, layer: Prunable, kept: int) -> Measurement | None:
        return None if self.shelf is None else self.shelf.get(layer.name, _key(kept))


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
