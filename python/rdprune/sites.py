"""Where the layers of a network run, and what they are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rdprune.batches import Runner
from rdprune.kinds import LAYER_TYPES
from rdprune.layers import Prunable
from rdprune.patches import weight_index


@dataclass(slots=True)
class Site:
    """One module that runs a layer's weight.

    Attributes
    ----------
    module : torch.nn.Module
    name : str
    calls : list of int
        Calls of the module on each batch.
    follower : BatchNorm module, optional
        The BatchNorm that takes the module's output as it is.
    """

    module: nn.Module
    name: str
    calls: list[int]
    follower: _BatchNorm | None = None

    @property
    def shiftable(self) -> Tensor | None:
        """What the mean of the output is restored with: the bias, or the BatchNorm's mean.

        None with neither, or where the BatchNorm takes the mean away, on batch statistics.
        """
        bias = self.module.bias
        if isinstance(bias, Tensor):
            return bias
        return None if self.follower is None else self.follower.running_mean


class _Seen(Exception):  # noqa: N818
    """All inputs of interest were seen."""


def find_sites(layers: Mapping[str, Prunable], runner: Runner) -> dict[str, list[Site]]:
    """Run once, and note where every layer runs; use within `preserved`.

    Returns
    -------
    dict of str to list of Site
        By layer name, in the order in which the layers run first.

    Raises
    ------
    ValueError
        If a layer never runs, or not by the ``forward`` of a linear or convolution module.
    """
    sites: dict[int, tuple[str, Site]] = {}
    for name, layer in layers.items():
        for module, _, owner in layer.owners:
            sites[id(module)] = (name, Site(module, owner, []))
    ran: list[str] = []
    outputs: dict[int, Site] = {}
    held: list[Tensor] = []

    def seen(module: nn.Module, _args: object, output: object) -> None:
        name, site = sites[id(module)]
        site.calls[-1] += 1
        if name not in ran:
            ran.append(name)
        if isinstance(output, Tensor):
            outputs[id(output)] = site
            held.append(output)

    def follows(module: nn.Module, args: tuple[object, ...]) -> None:
        site = outputs.get(id(args[0])) if args else None
        if site is not None and isinstance(module, _BatchNorm):
            site.follower = module

    handles = [site.module.register_forward_hook(seen) for _, site in sites.values()]
    handles += [
        module.register_forward_pre_hook(follows)
        for module in runner.model.modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        for batch in runner.batches:
            for _, site in sites.values():
                site.calls.append(0)
            for _ in replace(runner, batches=(batch,)).outputs():
                outputs.clear()
                held.clear()
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in ran:
            raise ValueError(
                f"layer {name!r} never runs by its module's forward, so its inputs cannot be seen: "
                f'add it to ignore, or use recovery "none" or "batchnorm"'
            )
    found: dict[str, list[Site]] = {name: [] for name in ran}
    for name, site in sites.values():
        if any(site.calls):
            found[name].append(site)
    return found


def check_kinds(layers: Mapping[str, Prunable]) -> None:
    """Check that every weight is that of linear and convolution modules, and of nothing else.

    Raises
    ------
    ValueError
        If a weight is also another module's, such as an embedding's or a recurrent one's.
    """
    for name, layer in layers.items():
        for module, attribute, owner in layer.owners:
            if not isinstance(module, LAYER_TYPES) or attribute != "weight":
                raise ValueError(
                    f"layer {name!r} is {attribute} of {owner!r}, a {type(module).__name__}: its "
                    f"means and weights cannot be fitted; add it to ignore, or use recovery "
                    f'"none" or "batchnorm"'
                )


def check_parts(
    layers: Mapping[str, Prunable], sites: Mapping[str, Sequence[Site]], parts: Sequence[str]
) -> None:
    """Check that every layer can be repaired so.

    Raises
    ------
    ValueError
        If modules of different kinds share a weight, or a mean is to be restored where there is
        neither a bias nor a BatchNorm behind the layer.
    """
    for name in layers:
        indices = [weight_index(site.module) for site in sites[name]]
        if any(not torch.equal(index, indices[0]) for index in indices):
            raise ValueError(f"layer {name!r} is shared by modules of different kinds")
        for site in sites[name]:
            if "bias" in parts and site.module.bias is None and site.follower is None:
                raise ValueError(
                    f"layer {name!r}: module {site.name!r} has no bias and no BatchNorm behind it "
                    f'to restore its mean with, as recovery "bias" would; give it a bias of zeros, '
                    f"or add it to ignore"
                )


def inputs_of(sites: Sequence[Site], runner: Runner) -> list[tuple[int, Tensor]]:
    """Run until all inputs of these modules were seen, and return them.

    Returns
    -------
    list of (int, torch.Tensor)
        Position of the site, and its input, in the order of the calls.
    """
    found: list[tuple[int, Tensor]] = []
    left = [0]

    def seen(module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, object]) -> None:
        given = [*args, *kwargs.values()]
        if len(given) != 1 or not isinstance(given[0], Tensor):
            raise ValueError(
                f"module {positions[id(module)][1]!r} is called with more than its input: its "
                f"inputs cannot be fitted; add it to ignore"
            )
        found.append((positions[id(module)][0], given[0].detach().clone()))
        left[0] -= 1
        if left[0] == 0:
            raise _Seen

    positions = {id(site.module): (i, site.name) for i, site in enumerate(sites)}
    handles = [site.module.register_forward_pre_hook(seen, with_kwargs=True) for site in sites]
    try:
        for index, batch in enumerate(runner.batches):
            left[0] = sum(site.calls[index] for site in sites)
            if left[0] == 0:
                continue
            try:
                for _ in replace(runner, batches=(batch,)).outputs():
                    pass
            except _Seen:
                pass
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def saved_shifts(sites: Sequence[Site]) -> Iterator[None]:
    """Write the biases and running means of these places back at the end."""
    targets = [site.shiftable for site in sites if site.shiftable is not None]
    values = [target.detach().clone() for target in targets]
    try:
        yield
    finally:
        for target, value in zip(targets, values, strict=True):
            target.data.copy_(value)
