"""Measuring one layer after the other, from the store where it has been done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

import torch

from rdprune.adaptive import Wanted
from rdprune.batches import Runner, preserved
from rdprune.distortion import Measurement, Reference
from rdprune.jobs import Fit, Job, Piece, cut, trade
from rdprune.layers import Prunable, signature
from rdprune.magnitude import saved_weights, write_masked
from rdprune.memory import release
from rdprune.options import Masks, Option, magnitude_masks
from rdprune.prefix import FEWEST, DivergedError, Prefix
from rdprune.progress import Meter, progress_bar
from rdprune.ranks import Ranks
from rdprune.recovery import fits
from rdprune.refitting import FITS, FitCost
from rdprune.repairing import Write
from rdprune.stacking import Stacker
from rdprune.store import Shelf, Store, run_signature
from rdprune.tabling import Findings
from rdprune_core import __version__

PROBES = (0.01, 0.3, 3.0)
"""Noise by which callables are told apart, as a part of the outputs' spread."""


class LayerWriter(Protocol):
    """Prunes one layer at a time, such as `Writer`."""

    def layer(self, name: str) -> AbstractContextManager[Write]:
        """Yield what prunes a layer; at the end the layer is as before."""

    def fit_cost(self, name: str, positions: int) -> FitCost | None:
        """Time a fit of a layer that runs at so many positions; None where nothing is fitted."""


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
        Whether the other layers are dense, so that a layer that keeps all changes nothing, and
        every option has to have a finite distortion.
    ranks : Ranks, optional
        Share the work.
    stacker : Stacker, optional
        Measures several options in one pass where that is sooner; only where nothing is repaired.
    """

    runner: Runner
    reference: Reference
    prefix: Prefix | None = None
    shelf: Shelf | None = None
    masks: Masks = magnitude_masks
    writer: LayerWriter | None = None
    fewest: int = FEWEST
    dense: bool = True
    ranks: Ranks | None = None
    stacker: Stacker | None = None

    def measure(self, findings: Findings, wanted: Wanted, progress: bool) -> None:
        """Measure options and add them to the findings; `progress` shows a bar."""
        jobs = {
            name: Job.of(findings.layers[name], [findings.options[name][at] for at in row])
            for name, row in wanted.items()
        }
        total = sum(map(len, wanted.values()))
        shown = progress and (self.ranks is None or self.ranks.rank == 0)
        with progress_bar(total, shown) as meter:
            self._recall(jobs, meter)
            for piece in self._pieces(jobs, meter, findings.macs):
                self._measure_piece(piece, meter)
                release()
            self._trade(jobs)
        for name, job in jobs.items():
            assert not job.left()
            findings.note(name, job.done)

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
            found = self._known(layer, option)
            if found is None:
                left.append(option)
            else:
                yield option, found, True
        for option, measurement in self._measured(layer, left):
            yield option, measurement, False

    def _known(self, layer: Prunable, option: Option) -> Measurement | None:
        """Return what needs no pass: a layer that keeps all, or what the shelf has."""
        if self.dense and option.kept == layer.parameter.numel():
            return self.reference.unchanged()
        return self._look_up(layer, option)

    def _measured(
        self, layer: Prunable, options: list[Option]
    ) -> Iterator[tuple[Option, Measurement]]:
        """Measure options of a layer, and keep them on the shelf."""
        with self._writing(layer, options) as write:
            for option, measurement in self._measure(layer, write, options):
                if math.isfinite(measurement.distortion):
                    self._keep(layer.name, option.key, measurement)
                elif self.dense:
                    raise ValueError(
                        f"layer {layer.name!r}, option {option.label!r}: the distortion is "
                        f"{measurement.distortion}, must be finite; leave out this level or the "
                        "layer"
                    )
                yield option, measurement

    def _recall(self, jobs: Mapping[str, Job], meter: Meter) -> None:
        """Note what needs no pass: the dense layers, and what the store, or a rank's, has."""
        for job in jobs.values():
            for key, option in job.options.items():
                found = self._known(job.layer, option)
                if found is not None:
                    job.done[key] = found
        self._trade(jobs)
        for name, job in jobs.items():
            meter.found(name, sum(len(job.labels[key]) for key in job.done))

    def _trade(self, jobs: Mapping[str, Job]) -> None:
        """Have all ranks know, and all stores keep, what any rank has measured."""
        if self.ranks is not None:
            for name, key in trade(self.ranks, jobs):
                self._keep(name, key, jobs[name].done[key])

    def _pieces(
        self, jobs: Mapping[str, Job], meter: Meter, macs: Mapping[str, int]
    ) -> Iterator[Piece]:
        """Yield what is left to measure, layer after layer: all of it, or this rank's share."""
        order = jobs if self.prefix is None else self.prefix.order
        size = 1 if self.ranks is None else self.ranks.size
        fits = self._fits(jobs, macs)
        pieces = cut([jobs[n] for n in order if n in jobs], size, self.prefix, self.fewest, fits)
        costs = [piece.cost for piece in pieces]
        meter.expect(sum(costs))
        if self.ranks is None:
            yield from pieces
            return
        self.ranks.waiting = partial(self._overview, meter)
        for index in self.ranks.shared(costs):
            yield pieces[index]

    def _fits(self, jobs: Mapping[str, Job], macs: Mapping[str, int]) -> dict[str, Fit] | None:
        """Judge what fitting each layer takes, where weights are fitted and passes were timed."""
        if self.writer is None or self.prefix is None or not self.prefix.seconds:
            return None
        costs: dict[str, FitCost] = {}
        for name, job in jobs.items():
            positions = self.reference.samples * macs[name] // job.layer.parameter.numel()
            cost = self.writer.fit_cost(name, positions) if job.left() else None
            if cost is not None:
                costs[name] = cost
        if not costs:
            return None
        with preserved(self.prefix.plain.model):
            began = time.perf_counter()  # not the traced pass, which takes longer
            for _ in self.prefix.plain.outputs():
                pass
        seconds = time.perf_counter() - began
        return {
            name: Fit.of(cost, jobs[name].layer.parameter.numel(), seconds)
            for name, cost in costs.items()
        }

    def _measure_piece(self, piece: Piece, meter: Meter) -> None:
        """Measure options of a layer, each once."""
        job, start = piece.job, piece.start
        name = job.layer.name
        meter.advance(name, 0, 0.0)
        for option, measurement in self._measured(job.layer, list(piece.options)):
            labels = job.labels[option.key]
            job.done[option.key] = measurement
            cost = start + piece.passes(option)
            start = 0.0
            if self.ranks is not None:
                self.ranks.tell(len(labels), cost)
                self._overview(meter)
            meter.advance(name, len(labels), cost)

    def _overview(self, meter: Meter) -> None:
        """Let rank 0 show what the others do."""
        if self.ranks is not None and self.ranks.rank == 0:
            meter.elsewhere(*self.ranks.elsewhere())

    def _keep(self, layer: str, key: str, measurement: Measurement) -> None:
        if self.shelf is not None:
            self.shelf.put(layer, key, measurement)

    def _measure(
        self, layer: Prunable, write: Write, options: list[Option]
    ) -> Iterator[tuple[Option, Measurement]]:
        """Measure options of a layer, each with a pass of its own."""
        dense = layer.parameter.detach().clone()
        made = self.masks(layer, dense)

        def run(runner: Runner, option: Option) -> Measurement:
            write(made(option))
            return self.reference.measure(runner.outputs())

        runner = self.runner if self.prefix is None else self.prefix.plain
        if self.shelf is not None and self.ranks is None:
            # Another process that works on the same should not be measuring the same option.
            Random().shuffle(options)
        if self.prefix is not None and options and self.prefix.trusts(layer):
            if self.prefix.prepare(layer):
                runner = self.prefix.reusing
        elif self.prefix and len(options) >= self.fewest and self.prefix.prepare(layer):
            # Not the strongest: all zeros could hide what else a weight changes.
            probe = sorted(options, key=lambda option: option.kept)[len(options) // 2]
            options.remove(probe)
            write(made(probe))
            known = self._look_up(layer, probe)
            measurement = self.reference.measure(runner.outputs()) if known is None else known
            if self.prefix.agrees(layer, measurement):
                runner = self.prefix.reusing
            yield probe, measurement
        if self.stacker is not None:
            look_up = partial(self._look_up, layer)
            yield from self.stacker.measured(layer, dense, made, runner, run, look_up, options)
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


@dataclass(frozen=True, slots=True)
class Signature:
    """What measurements are kept and compared under.

    Attributes
    ----------
    digest : bytes
        SHA-256 of all that they depend on.
    about : dict
        What is in it, for people.
    """

    digest: bytes
    about: dict[str, Any]


def sign(runner: Runner, reference: Reference, *, distortion: str, recovery: str) -> Signature:
    """Sign this model, these batches and settings."""
    settings = {
        "distortion": distortion,
        "recovery": recovery,
        "responses": reference.projection,
        "seed": runner.seed,
    }
    if fits(recovery):
        settings["fits"] = FITS
    # The same outputs a little smaller: what is made of them tells projections apart.
    probe = reference.measure(output * 0.875 for output in reference.outputs)
    found = [*reference.outputs, torch.from_numpy(probe.errors)]
    if probe.response is not None:
        found.append(torch.from_numpy(probe.response))
    if not reference.built_in:
        found.extend(_told_apart(reference))
    digest = run_signature(runner.model, runner.batches, found, runner.forward, settings)
    about = {**settings, "model": signature(runner.model), "rdprune": __version__}
    return Signature(digest, about)


def _told_apart(reference: Reference) -> Iterator[torch.Tensor]:
    """Yield what a callable makes of outputs changed a little, more, and so that ranks change."""
    noisy = (partial(_noisy, size=size) for size in PROBES)
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = [*noisy, _reversed, _rolled]
    for change in changes:
        try:
            yield torch.from_numpy(reference.measure(map(change, reference.outputs)).errors)
        except Exception:  # whatever it raises for outputs that it is not made for; the others tell
            yield torch.zeros(0)


def _noisy(output: torch.Tensor, size: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return output + size * output.std(correction=0) * noise


def _reversed(output: torch.Tensor) -> torch.Tensor:
    return output.flip(-1)


def _rolled(output: torch.Tensor) -> torch.Tensor:
    return output.roll(1, 0)


def open_shelf(store: Store, signed: Signature, reference: Reference) -> Shelf:
    """Find what the store has under a signature."""
    sizes = {"samples": reference.samples, "size": reference.projection}
    return store.shelf(signed.digest, signed.about, **sizes)
