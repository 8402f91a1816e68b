"""A model pruned this way and that, in its recovered state, beside its dense self."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from rdprune.batches import Forward, Runner, preserved
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, named_layers
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.options import MASK
from rdprune.recovery import Write, Writer, fits, recovered, unmasked_copy
from rdprune_core import RDTable


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

    Attributes
    ----------
    passes : int
        Runs of the network over all batches so far; what a repair looks at counts as a run for
        each layer and network.
    """

    def __init__(
        self,
        layers: Mapping[str, Prunable],
        runner: Runner,
        reference: Reference,
        writer: Writer | None,
    ) -> None:
        self._layers = layers
        self._runner = runner
        self._reference = reference
        self._writer = writer
        self._dense = {n: layer.parameter.detach().clone() for n, layer in layers.items()}
        self._orders = {n: magnitude_order(w, layer=n) for n, w in self._dense.items()}
        self._now: dict[str, int] = {}
        self.passes = 1

    def prune(self, kept: Mapping[str, int]) -> None:
        """Mask every layer by magnitude to so many weights, and repair."""
        if self._now == kept:
            return
        self._now = {}
        for name, layer in self._layers.items():
            mask = order_mask(self._orders[name], kept[name], layer.parameter.shape)
            write_masked(layer.parameter, self._dense[name], mask)
        if self._writer is not None:
            self._writer.reset_()
            self.passes += 2 * self._writer.repair_()
        self._now = dict(kept)

    def measure(self) -> Measurement:
        """Run the network as it is now."""
        self.passes += 1
        return self._reference.measure(self._runner.outputs())

    def alternatives(self, name: str, kept: Iterable[int]) -> Iterator[Measurement]:
        """Measure the network with one layer keeping other numbers of weights."""
        with self._writing(name) as write:
            for count in kept:
                shape = self._layers[name].parameter.shape
                write(order_mask(self._orders[name], count, shape))
                yield self.measure()

    @contextmanager
    def _writing(self, name: str) -> Iterator[Write]:
        if self._writer is not None:
            self.passes += 2
            with self._writer.layer(name) as write:
                yield write
            return
        weight = self._layers[name].parameter
        with saved_weights([weight]):
            yield lambda mask: write_masked(weight, self._dense[name], mask)


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
            labels=runner.labels(parse(distortion)),
        )
        writer = None
        if fits(recovery):
            twin = unmasked_copy(model)
            pair = (named_layers(twin, layers, "table"), Runner(twin, data, forward, seed))
            writer = Writer(layers, runner, recovery, pair)
            stack.enter_context(writer.saved())
        yield Trial(layers, runner, reference, writer)
