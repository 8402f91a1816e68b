"""Repair of a pruned network that needs no training: BatchNorm statistics, means, least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from rdprune.batches import Forward, Runner, preserved, read
from rdprune.layers import Prunable, all_layers, is_masked, named_layers
from rdprune.magnitude import saved_weights, write_masked
from rdprune.recovery import batchnorms, fits, read_recovery, recovered, statistics, warn_of_few
from rdprune.refitting import FitCost, Refitter, fit_cost, kept_weights
from rdprune.sites import Site, check_kinds, check_parts, find_sites, inputs_of, saved_shifts

Write = Callable[[Tensor], None]
"""Prunes one layer by a mask and brings it into its recovered state."""


class Writer:
    """Prunes single layers, in their recovered state; use within `recovered` and `preserved`.

    Parameters
    ----------
    layers : mapping of str to Prunable
        Of the network that the runner runs.
    runner : Runner
    recovery : str
    dense : (mapping of str to Prunable, Runner), optional
        The dense network, where the runner's is pruned already.

    Raises
    ------
    ValueError
        If a layer cannot be repaired so.
    """

    def __init__(
        self,
        layers: Mapping[str, Prunable],
        runner: Runner,
        recovery: str,
        dense: tuple[Mapping[str, Prunable], Runner] | None = None,
    ) -> None:
        self._layers = layers
        self._runner = runner
        self._parts = fits(recovery)
        self._dense = dense
        self._sites: dict[str, list[Site]] = {}
        self._dense_sites: dict[str, list[Site]] = {}
        if self._parts:
            check_kinds(layers)
            self._sites = find_sites(layers, runner)
            check_parts(layers, self._sites, self._parts)
            self._dense_sites = find_sites(*dense) if dense else self._sites

    @property
    def order(self) -> tuple[str, ...]:
        """Layers in the order in which they run, where that is known."""
        return tuple(self._dense_sites)

    def fit_cost(self, name: str, positions: int) -> FitCost | None:
        """Time a fit of a layer that runs at so many positions; None where nothing is fitted."""
        if "least-squares" not in self._parts:
            return None
        return fit_cost(self._sites[name][0].module, self._layers[name].parameter.dtype, positions)

    @contextmanager
    def layer(self, name: str) -> Iterator[Write]:
        """Yield what prunes a layer; at the end the layer is as before."""
        weight = self._layers[name].parameter
        with saved_weights([weight]) as (saved,), saved_shifts(self._sites.get(name, ())):
            if self._parts:
                yield self.refitter(name, saved).write
            else:
                dense = saved if self._dense is None else self._dense[0][name].parameter
                yield lambda mask: write_masked(weight, dense, mask)

    def refitter(self, name: str, saved: Tensor) -> Refitter:
        """Look at a layer's inputs; `saved` are its dense weights where there is one network."""
        sites = self._sites[name]
        inputs = inputs_of(sites, self._runner)
        others, weights = None, saved
        if self._dense is not None:
            others = inputs_of(self._dense_sites[name], self._dense[1])
            weights = self._dense[0][name].parameter
        return Refitter(
            self._layers[name], sites, self._parts, inputs, others, weights, self._dense_sites[name]
        )

    @contextmanager
    def saved(self) -> Iterator[None]:
        """Write all layers' weights, biases and means back at the end."""
        places = [site for sites in self._sites.values() for site in sites]
        weights = [layer.parameter for layer in self._layers.values()]
        with saved_weights(weights), saved_shifts(places):
            yield

    def reset_(self) -> None:
        """Set all biases and running means to the dense network's."""
        for name, sites in self._sites.items():
            for site, origin in zip(sites, self._dense_sites[name], strict=True):
                if site.shiftable is not None and origin.shiftable is not None:
                    site.shiftable.data.copy_(origin.shiftable)

    def repair_(self) -> int:
        """Repair all layers that lack weights, in the order in which they run; their number.

        Every layer is fitted to the dense outputs on what the layers before it, repaired, give.
        """
        done = 0
        for name in self.order:
            layer = self._layers[name]
            mask = kept_weights(layer)
            if not mask.all():
                self.refitter(name, layer.parameter).write(mask)
                done += 1
        return done


@contextmanager
def refitted(
    layers: Mapping[str, Prunable],
    runner: Runner,
    recovery: str,
    dense: tuple[Mapping[str, Prunable], Runner],
) -> Iterator[None]:
    """Run a pruned network with the weights and biases that `repair_` gives it.

    Use within `recovered` and `preserved`; at the end it is as before.

    Parameters
    ----------
    layers : mapping of str to Prunable
        Of the pruned network, masked or with zeros.
    runner : Runner
        Runs it.
    recovery : str
        Where it has no part that changes weights, nothing is done.
    dense : (mapping of str to Prunable, Runner)
        The dense network.
    """
    if not fits(recovery):
        yield
        return
    writer = Writer(layers, runner, recovery, dense)
    with writer.saved():
        writer.repair_()
        yield


def repair_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    recovery: str = "batchnorm",
    forward: Forward | None = None,
    dense: nn.Module | None = None,
) -> int:
    """Repair a pruned model in place, without training.

    A failure leaves the model as it was. Every part is optional; together they are done in this
    order.

    Parameters
    ----------
    model : torch.nn.Module
        The pruned model.
    batches : iterable
        Calibration batches.
    recovery : str
        ``"least-squares"``: the kept weights of every pruned layer are fitted to the dense
        layer's outputs, layer after layer, with a ridge of 1 % of the inputs' mean square.
        ``"bias"``: the mean of every output channel of a pruned layer is made the dense one's
        again, in its bias, or in the running mean of the BatchNorm behind it. ``"batchnorm"``:
        running statistics become the averages over the batches, each counting the same. Or
        several, such as ``"bias+batchnorm"``.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model.
    dense : torch.nn.Module, optional
        The dense model; ``"least-squares"`` and ``"bias"`` need it, unless the model carries masks,
        under which the dense weights still are. A model with masks is copied for the while.

    Returns
    -------
    int
        Number of layers and BatchNorm modules repaired. A module that does not run keeps its
        statistics, a layer that lacks no weight its weights.

    Raises
    ------
    ValueError
        If `recovery` is unknown, `batches` is empty, a layer cannot be repaired so, `dense` is
        missing, or the new statistics are not finite.

    Warns
    -----
    UserWarning
        If a batch is too small for BatchNorm statistics.
    """
    parts = read_recovery(recovery)
    if not parts:
        raise ValueError("recovery is 'none', must be one that repairs, such as 'batchnorm'")
    data = read(batches)
    warn_of_few(model, recovery, data)
    with ExitStack() as stack:
        done = 0
        if fits(recovery):
            done += _refit(model, data, recovery, forward, dense, stack)
        repaired = statistics(model, data, forward) if "batchnorm" in parts else []
        stack.pop_all()
    for module, new in repaired:
        for name, buffer in module.named_buffers(recurse=False):
            buffer.data.copy_(new[name])
    return done + len(repaired)


def _refit(
    model: nn.Module,
    data: tuple[Any, ...],
    recovery: str,
    forward: Forward | None,
    dense: nn.Module | None,
    undo: ExitStack,
) -> int:
    """Fit the layers of a pruned model; `undo` takes it back if it is not emptied."""
    layers = all_layers(model)
    masked = {name: layer for name, layer in layers.items() if layer.masked}
    if dense is None and not masked:
        raise ValueError(
            f"recovery {recovery!r} needs the dense model: give dense=, or repair before strip_"
        )
    twin = unmasked_copy(model) if dense is None else dense
    whole = named_layers(twin, layers, "model")
    pruned = masked or {n: p for n, p in layers.items() if _lacks(p, whole[n])}
    buffers = [module.running_mean for module in batchnorms(model)]
    means = [buffer for buffer in buffers if buffer is not None]
    undo.callback(_put_back, [(t, t.detach().clone()) for t in (*model.parameters(), *means)])
    with (
        recovered(model, recovery if batchnorms(model) else "none"),
        recovered(twin, recovery if batchnorms(twin) else "none"),
        preserved(twin),
        preserved(model),
    ):
        pair = ({name: whole[name] for name in pruned}, Runner(twin, data, forward))
        done = Writer(pruned, Runner(model, data, forward), recovery, pair).repair_()
        moved = [(mean, mean.clone()) for mean in means]
    _put_back(moved)
    return done


def _lacks(layer: Prunable, dense: Prunable) -> bool:
    """Whether weights of a layer are zero that the dense layer's are not."""
    return bool(((layer.parameter == 0) & (dense.parameter != 0)).any())


def _put_back(values: Iterable[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in values:
        buffer.data.copy_(value)


def unmasked_copy(model: nn.Module) -> nn.Module:
    """Copy a model, with all the weights that its masks hide."""
    copy = deepcopy(model)
    for module in copy.modules():
        for key in list(module._buffers):
            if key.endswith("_mask") and is_masked(module, key.removesuffix("_mask")):
                module.get_buffer(key).data.fill_(1)
    return copy
