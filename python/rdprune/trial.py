"""A model pruned this way and that, in its recovered state, beside its dense self."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any, Final

from torch import Tensor, nn

from rdprune.batches import Forward, Runner, preserved
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, named_layers
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.options import MASK, Option, magnitude_key
from rdprune.prefix import Prefix
from rdprune.recovery import Write, Writer, fits, recovered, unmasked_copy
from rdprune.store import Store
from rdprune.sweeping import Sweep, open_shelf, sign
from rdprune_core import RDTable

WHOLE: Final = ""  # where the store keeps measurements of the network as it is


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
    passes : int
        Runs of the network over all batches so far, those found in the store among them; what a
        repair looks at counts as a run for each layer and network.
    found : int
        Measurements that the store had.
    """

    def __init__(
        self,
        layers: Mapping[str, Prunable],
        sweep: Sweep,
        writer: Writer | None,
    ) -> None:
        self._layers = layers
        self._sweep = replace(sweep, masks=self._masks, writer=self, dense=False)
        self._shelf = sweep.shelf
        self._writer = writer
        self._dense = {n: layer.parameter.detach().clone() for n, layer in layers.items()}
        self._orders = {n: magnitude_order(w, layer=n) for n, w in self._dense.items()}
        self._wanted: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._based: dict[str, int] = {}
        self.passes = 1
        self.found = 0

    @property
    def cost(self) -> int:
        """Most passes that pruning to an allocation and measuring it takes."""
        return 1 if self._writer is None else 1 + 2 * len(self._layers)

    def prune(self, kept: Mapping[str, int]) -> None:
        """Mask every layer by magnitude to so many weights, and repair."""
        if self._wanted == kept:
            return
        self._wanted = dict(kept)
        if self._writer is not None:
            repaired = [n for n in self._writer.order if kept[n] < self._dense[n].numel()]
            self.passes += 2 * len(repaired)
        if self._shelf is not None:
            text = json.dumps(self._wanted, sort_keys=True)
            place = hashlib.sha256(text.encode()).hexdigest()
            self._sweep = replace(self._sweep, shelf=self._shelf.around(place))

    def measure(self) -> Measurement:
        """Run the network as it is now."""
        self.passes += 1
        shelf = self._sweep.shelf
        known = None if shelf is None else shelf.get(WHOLE, MASK)
        if known is not None:
            self.found += 1
            return known
        self.settle()
        measured = self._sweep.reference.measure(self._sweep.runner.outputs())
        if shelf is not None:
            shelf.put(WHOLE, MASK, measured)
        return measured

    def alternatives(self, name: str, kept: Iterable[int]) -> Iterator[tuple[int, Measurement]]:
        """Measure the network with one layer keeping other numbers of weights, in any order."""
        options = [Option(str(count), count, magnitude_key(count)) for count in kept]
        if self._writer is not None:
            self.passes += 2
        for option, measured, known in self._sweep.options(self._layers[name], options):
            self.passes += 1
            self.found += known
            yield option.kept, measured

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
    """
    with ExitStack() as stack:
        stack.enter_context(saved_weights(layer.parameter for layer in layers.values()))
        stack.enter_context(recovered(model, recovery))
        stack.enter_context(preserved(model))
        runner = Runner(model, data, forward, seed)
        reference = Reference(
            runner.outputs(),
            distortion=distortion,
            projection=projection,
            seed=seed,
            beside=runner.beside(parse(distortion)),
            cause=runner.cause,
        )
        shelf = None
        if store is not None:
            opened = stack.enter_context(Store(store))
            kind = parse(distortion).name
            signed = sign(runner, reference, distortion=kind, recovery=recovery)
            shelf = open_shelf(opened, signed, reference)
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
        yield Trial(layers, Sweep(runner, reference, prefix, shelf), writer)
