"""Measuring one layer after the other, from the store where it has been done."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Protocol

import torch

from rdprune.adaptive import Wanted
from rdprune.batches import Runner
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, signature
from rdprune.magnitude import saved_weights, write_masked
from rdprune.options import Masks, Option, magnitude_masks
from rdprune.prefix import FEWEST, DivergedError, Prefix
from rdprune.progress import Meter, progress_bar
from rdprune.recovery import Write
from rdprune.store import Shelf, Store, run_signature
from rdprune.tabling import Findings
from rdprune_core import __version__


class LayerWriter(Protocol):
    """Prunes one layer at a time, such as `Writer`."""

    def layer(self, name: str) -> AbstractContextManager[Write]:
        """Yield what prunes a layer; at the end the layer is as before."""


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
    masks : callable
        Makes the masks that are measured.
    writer : LayerWriter, optional
        Prunes a layer and repairs it; by default it is masked.
    fewest : int
        Fewer options of a layer than this do not pay for recording and checking.
    dense : bool
        Whether the other layers are dense, so that a layer that keeps all changes nothing.
    """

    runner: Runner
    reference: Reference
    prefix: Prefix | None = None
    shelf: Shelf | None = None
    masks: Masks = magnitude_masks
    writer: LayerWriter | None = None
    fewest: int = FEWEST
    dense: bool = True

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
            costs[name] = share * len({option.key for option in row}) / len(row)
        return costs

    def _measure_layer(
        self, layer: Prunable, options: Sequence[Option], meter: Meter
    ) -> list[Measurement]:
        """Measure options of a layer, once for each mask."""
        meter.advance(layer.name, 0)
        done: dict[str, Measurement] = {}
        labels: dict[str, list[str]] = {}
        for option in options:
            labels.setdefault(option.key, []).append(option.label)
        distinct = list({option.key: option for option in options}.values())
        for option, measurement, found in self.options(layer, distinct):
            done[option.key] = measurement
            meter.advance(layer.name, len(labels[option.key]), found=found)
        return [done[option.key] for option in options]

    def options(
        self, layer: Prunable, options: Sequence[Option]
    ) -> Iterator[tuple[Option, Measurement, bool]]:
        """Measure options of a layer of different keys, or find them on the shelf.

        Yields
        ------
        tuple of Option, Measurement and bool
            In any order; whether it was known.
        """
        left = []
        for option in options:
            dense = self.dense and option.kept == layer.parameter.numel()
            found = self.reference.unchanged() if dense else self._look_up(layer, option)
            if found is None:
                left.append(option)
            else:
                yield option, found, True
        with self._writing(layer, left) as write:
            for option, measurement in self._measure(layer, write, left):
                if not math.isfinite(measurement.distortion):
                    raise ValueError(
                        f"layer {layer.name!r}, option {option.label!r}: the distortion is "
                        f"{measurement.distortion}, must be finite; leave out this level or the "
                        "layer"
                    )
                if self.shelf is not None:
                    self.shelf.put(layer.name, option.key, measurement)
                yield option, measurement, False

    def _measure(
        self, layer: Prunable, write: Write, options: list[Option]
    ) -> Iterator[tuple[Option, Measurement]]:
        """Measure options of a layer, each with a pass of its own."""
        made = self.masks(layer, layer.parameter.detach().clone())

        def run(runner: Runner, option: Option) -> Measurement:
            write(made(option))
            return self.reference.measure(runner.outputs())

        runner = self.runner if self.prefix is None else self.prefix.plain
        if self.shelf is not None:
            # Another process that works on the same should not be measuring the same option.
            Random().shuffle(options)
        if self.prefix is not None and options and self.prefix.trusts(layer):
            if self.prefix.prepare(layer):
                runner = self.prefix.reusing
        elif self.prefix and len(options) >= self.fewest and self.prefix.prepare(layer):
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

    @contextmanager
    def _writing(self, layer: Prunable, wanted: Collection[Option]) -> Iterator[Write]:
        """Yield what prunes the layer; it is dense again at the end."""
        if self.writer is not None and wanted:
            with self.writer.layer(layer.name) as write:
                yield write
            return
        weight = layer.parameter
        with saved_weights([weight]) as (dense,):
            yield lambda mask: write_masked(weight, dense, mask)

    def _look_up(self, layer: Prunable, option: Option) -> Measurement | None:
        return None if self.shelf is None else self.shelf.get(layer.name, option.key)


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
