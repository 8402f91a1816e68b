"""A model pruned this way and that, in its recovered state, beside its dense self."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdprune.batches import Forward, Runner, parts_of, preserved
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, named_layers
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.options import MASK, Option, magnitude_key
from rdprune.prefix import Prefix
from rdprune.probing import RemovedSums, backward_cost, first_order_about, gradients_tell
from rdprune.recovery import fits, recovered, warn_of_few
from rdprune.refitting import FitCost
from rdprune.repairing import Write, Writer, unmasked_copy
from rdprune.store import Shelf, Store
from rdprune.sweeping import Sweep, open_shelf, sign
from rdprune_core import RDTable

TOGETHER: Final = 4  # samples of a piece, where BatchNorm takes their statistics
WHOLE: Final = ""  # where the store keeps measurements of the network as it is
WHOLE_PART: Final = -1  # all samples, among the parts


def table_layers(model: nn.Module, table: RDTable) -> dict[str, Prunable]:
    """Look up the layers of a table in a dense model.

    Raises
    ------
    ValueError
        If the table is of another model, or a layer is masked.
    """
    kind = table.metadata.get("mask", MASK)
    if kind != MASK:
        raise ValueError(f"table has masks of kind {kind!r}, must be {MASK!r}")
    return same_layers(model, table)


def same_layers(model: nn.Module, table: RDTable) -> dict[str, Prunable]:
    """Look up the layers of a table with masks of any kind in a dense model.

    Raises
    ------
    ValueError
        If the table is of another model, or a layer is masked.
    """
    layers = named_layers(model, table.names, "table")
    shapes = table.metadata.get("shapes", {})
    for name, layer in layers.items():
        shape = tuple(layer.parameter.shape)
        expected = tuple(shapes.get(name, shape))
        if shape != expected:
            raise ValueError(
                f"table of another model: layer {name!r} has shape {shape}, the table's has "
                f"{expected}"
            )
        if layer.masked:
            raise ValueError(f"layer {name!r} carries a mask: applied already; strip_ first")
    return layers


class Trial:
    """A model whose layers keep given numbers of weights; made by `trial`.

    What the store has is not run, and the network is pruned and repaired only when it has to run.

    Attributes
    ----------
    found : int
        Measurements that the store had from earlier runs.
    ran : bool
        Whether the network has been run since this was last set to false.
    parts : int
        Parts of the samples that `look` can run on.
    """

    def __init__(
        self,
        layers: Mapping[str, Prunable],
        sweep: Sweep,
        writer: Writer | None,
        parts: Sequence[Sweep] = (),
    ) -> None:
        self._layers = layers
        self._sweep = replace(sweep, masks=self._masks, writer=self, dense=False)
        self._shelf = sweep.shelf
        self._parts = parts
        self.parts = len(parts)
        self._writer = writer
        self._dense = {n: layer.parameter.detach().clone() for n, layer in layers.items()}
        self._orders = {n: magnitude_order(w, layer=n) for n, w in self._dense.items()}
        self._wanted: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._based: dict[str, int] = {}
        self._place = ""
        self._looked = 0
        self._passes = 1
        self._own: set[tuple[str, int]] = set()
        self.found = 0
        self.ran = False

    @property
    def passes(self) -> int:
        """Runs of the network over all batches so far, rounded up.

        Those found in the store are among them; what a repair looks at counts as a run for each
        layer and network.
        """
        return self._with_looks(self._looked)

    def _with_looks(self, samples: int) -> int:
        """Return the passes when so many samples have been run in parts, rounded up."""
        return self._passes - -samples // self._sweep.reference.samples

    @property
    def repair(self) -> int:
        """Most passes that a repair takes: what every layer looks at, in both networks."""
        return 0 if self._writer is None else 2 * len(self._layers)

    def prune(self, kept: Mapping[str, int]) -> None:
        """Mask every layer by magnitude to so many weights, and repair."""
        if self._wanted == kept:
            return
        self._wanted = dict(kept)
        if self._writer is not None:
            repaired = [n for n in self._writer.order if kept[n] < self._dense[n].numel()]
            self._passes += 2 * len(repaired)
        if self._shelf is not None:
            text = json.dumps(self._wanted, sort_keys=True)
            self._place = hashlib.sha256(text.encode()).hexdigest()
            self._sweep = replace(self._sweep, shelf=self._shelf.around(self._place))

    def measure(self) -> Measurement:
        """Run the network as it is now."""
        self._passes += 1
        return self._run(self._sweep, self._sweep.shelf, WHOLE_PART)

    def look(self, part: int) -> Measurement:
        """Run the network as it is now on a part of the samples."""
        sweep = self._parts[part]
        self._looked += sweep.reference.samples
        shelf = None if sweep.shelf is None else sweep.shelf.around(self._place)
        return self._run(sweep, shelf, part)

    def around(
        self, part: int, options: Mapping[str, Sequence[int]], *, probes: int, seed: int
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Estimate what options do to the network as it is now: see `first_order_about`.

        On a part of the samples, as `look`; what comes out is not kept in the store.
        """
        self.settle()
        self.ran = True
        sweep = self._parts[part]
        self._looked += self._samples_around(part, probes)
        removals = {n: RemovedSums(w, self._orders[n]) for n, w in self._dense.items()}
        return first_order_about(
            self._layers, removals, self._now, options, sweep.runner, sweep.reference,
            probes=probes, seed=seed,
        )  # fmt: skip

    def passes_around(self, part: int, probes: int) -> int:
        """Return what `passes` would be after `around` on a part."""
        return self._with_looks(self._looked + self._samples_around(part, probes))

    def _samples_around(self, part: int, probes: int) -> int:
        return backward_cost(probes + 1) * self._parts[part].reference.samples

    def differentiable(self) -> bool:
        """Whether `around` can tell: see `gradients_tell`, of the dense network on the first part.

        The distortion has to be a mean of squares, too.
        """
        if not self._sweep.reference.measures_squares:
            return False
        self.settle()
        self.ran = True
        sweep = self._parts[0]
        told, passes = gradients_tell(self._layers, sweep.runner, sweep.reference.outputs)
        self._looked += passes * sweep.reference.samples
        return told

    def spend(self, passes: int) -> None:
        """Count runs of the network that were made elsewhere."""
        self._passes += passes

    def offset(self, part: int = WHOLE_PART) -> NDArray[np.float64] | None:
        """Return what the responses on a part of the samples, or on all, are added to."""
        sweep = self._sweep if part == WHOLE_PART else self._parts[part]
        return sweep.reference.offset

    def _run(self, sweep: Sweep, shelf: Shelf | None, part: int) -> Measurement:
        known = None if shelf is None else shelf.get(WHOLE, MASK)
        if known is not None:
            self.found += (self._place, part) not in self._own
            return known
        self._own.add((self._place, part))
        self.ran = True
        self.settle()
        measured = sweep.reference.measure(sweep.runner.outputs())
        if shelf is not None:
            shelf.put(WHOLE, MASK, measured)
        return measured

    def alternatives(self, name: str, kept: Iterable[int]) -> Iterator[tuple[int, Measurement]]:
        """Measure the network with one layer keeping other numbers of weights, in any order.

        Distortions may be infinite or NaN.
        """
        options = [Option(str(count), count, magnitude_key(count)) for count in kept]
        if self._writer is not None:
            self._passes += 2
        for option, measured, known in self._sweep.options(self._layers[name], options):
            self._passes += 1
            self.found += known
            self.ran = self.ran or not known
            yield option.kept, measured

    def fit_cost(self, name: str, positions: int) -> FitCost | None:
        """See `Writer.fit_cost`."""
        return None if self._writer is None else self._writer.fit_cost(name, positions)

    @contextmanager
    def layer(self, name: str) -> Iterator[Write]:
        """Yield what prunes one layer of the network as it is now."""
        self.settle()
        prefix = self._sweep.prefix
        if prefix is not None and self._based != self._now:
            self._based = {}
            prefix.rebase()
            self._based = dict(self._now)
        if self._writer is not None:
            with self._writer.layer(name) as write:
                yield write
            return
        weight = self._layers[name].parameter
        with saved_weights([weight]):
            yield lambda mask: write_masked(weight, self._dense[name], mask)

    def settle(self) -> None:
        """Prune and repair the network as was asked for, now: others may run the same model."""
        if self._now == self._wanted:
            return
        self._now = {}
        for name, layer in self._layers.items():
            mask = order_mask(self._orders[name], self._wanted[name], layer.parameter.shape)
            write_masked(layer.parameter, self._dense[name], mask)
        if self._writer is not None:
            self._writer.reset_()
            self._writer.repair_()
        self._now = dict(self._wanted)

    def _masks(self, layer: Prunable, _weight: Tensor) -> Callable[[Option], Tensor]:
        order, shape = self._orders[layer.name], layer.parameter.shape
        return lambda option: order_mask(order, option.kept, shape)


def _same_rows(parts: Sequence[Sweep], whole: Sweep) -> bool:
    """Whether parts give the dense outputs of the whole, but for rounding."""
    rows = torch.cat([out.flatten() for part in parts for out in part.reference.outputs])
    dense = torch.cat([out.flatten() for out in whole.reference.outputs])
    return rows.shape == dense.shape and torch.allclose(rows, dense, rtol=1e-3, atol=1e-4)


def _few(
    sweep: Callable[[tuple[Any, ...]], Sweep],
    whole: Sweep,
    data: tuple[Any, ...],
    parts: int,
    recovery: str,
) -> tuple[list[Sweep], int]:
    """Return the parts of the samples, and the passes that finding them took.

    They are of whole batches where pieces are not what they should be.

    A piece must give the rows of the whole, the same ones where it does not matter which samples
    are together.
    """
    if fits(recovery):
        raise ValueError(f"parts are of networks that are not fitted, not in the state {recovery}")
    together = "batchnorm" in recovery
    if len(data) < parts:
        try:
            found = [sweep(part) for part in parts_of(data, parts, TOGETHER if together else 1)]
        except (ValueError, RuntimeError):  # the model does not take them
            found = []
        rows = sum(part.reference.samples for part in found)
        if rows == whole.reference.samples and (together or _same_rows(found, whole)):
            return found, 1
    cut = len(data) < parts
    return [sweep(part) for part in parts_of(data, min(parts, len(data)))], 2 if cut else 1


@contextmanager
def trial(
    model: nn.Module,
    layers: Mapping[str, Prunable],
    data: tuple[Any, ...],
    distortion: str | SampleErrors,
    *,
    seed: int,
    recovery: str,
    projection: int,
    forward: Forward | None,
    reuse: bool = False,
    store: str | PathLike[str] | None = None,
    parts: int = 0,
) -> Iterator[Trial]:
    """Prune a dense model for a while; at the end it is exactly as it was.

    Parameters
    ----------
    model : torch.nn.Module
        Copied if `recovery` changes weights.
    layers : mapping of str to Prunable
        Its layers.
    data : tuple
        Batches.
    distortion : str or callable
    seed : int
    recovery : str
    projection : int
        Numbers in a response.
    forward : callable, optional
    reuse : bool
        Whether what runs before a layer is recorded, see `rdprune.prefix`.
    store : path, optional
        Run folder that has, and gets, what was measured.
    parts : int
        Parts of the samples to be looked at, where the recovery changes no weights: at least so
        many if there are as many samples and batches can be cut, else the batches. Responses are
        then of the parts alone.
    """
    with ExitStack() as stack:
        stack.enter_context(saved_weights(layer.parameter for layer in layers.values()))
        warn_of_few(model, recovery, data)
        stack.enter_context(recovered(model, recovery))
        stack.enter_context(preserved(model))
        kind = parse(distortion)
        opened = None if store is None else stack.enter_context(Store(store))

        def sweep(batches: tuple[Any, ...], projection: int = projection) -> Sweep:
            runner = Runner(model, batches, forward, seed)
            reference = Reference(
                runner.outputs(),
                distortion=distortion,
                projection=projection,
                seed=seed,
                beside=runner.beside(kind),
                cause=runner.cause,
            )
            if opened is None:
                return Sweep(runner, reference)
            signed = sign(runner, reference, distortion=kind.name, recovery=recovery)
            return Sweep(runner, reference, shelf=open_shelf(opened, signed, reference))

        whole = sweep(data, 0 if parts else projection)
        few, passes = _few(sweep, whole, data, parts, recovery) if parts else ([], 0)
        runner, reference = whole.runner, whole.reference
        twin = unmasked_copy(model) if fits(recovery) else None
        prefix = Prefix(runner, reference, layers) if reuse else None
        if prefix is not None:
            stack.enter_context(prefix.installed())
            runner = prefix.plain
        writer = None
        if twin is not None:
            pair = (named_layers(twin, layers, "table"), Runner(twin, data, forward, seed))
            writer = Writer(layers, runner, recovery, pair)
            stack.enter_context(writer.saved())
        network = Trial(layers, Sweep(runner, reference, prefix, whole.shelf), writer, few)
        network.spend(passes)
        yield network
