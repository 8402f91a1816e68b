"""Channels that masks empty, removed by Torch-Pruning (Fang et al. 2023, *DepGraph*)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from rdprune.batches import call, output_tensor
from rdprune.kinds import CONVOLUTION_TYPES
from rdprune.layers import named_layers
from rdprune.masking import apply_, strip_
from rdprune.shapes import geometry

TOLERANCE = 1e-4


class RemovalError(ValueError):
    """The network without the channels gives another output than the masked one."""


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """What `remove_channels` made.

    Attributes
    ----------
    model : torch.nn.Module
        The smaller network, in evaluation mode.
    silenced : torch.nn.Module
        The masked network that it equals: of removed output channels bias and BatchNorm are zero.
    removed : dict of str to int
        Output channels removed of each module.
    left : dict of str to int
        Output channels that a mask empties and that stay, of each module.
    parameters, dense_parameters : int
        Of the smaller network and of the given one.
    difference : float
        Largest difference of their outputs on the batch, by the largest output.
    """

    model: nn.Module
    silenced: nn.Module
    removed: dict[str, int]
    left: dict[str, int]
    parameters: int
    dense_parameters: int
    difference: float


def remove_channels(model: nn.Module, masks: Mapping[str, Tensor], batch: Any) -> Removal:
    """Remove the channels that masks leave empty, as far as the output allows it; `model` stays.

    Torch-Pruning knows which channels hang together. A channel goes in two cases:

    - every layer that reads it has none of its weights left: the output is that of the masked
      network;
    - every layer that writes it has none of its weights left. What is left of such a channel in
      the masked network is a constant, of its bias and BatchNorm; those are set to zero first, so
      that the output is that of the masked network *silenced* so, and of the masked network itself
      where they are zero already.

    Channels that a residual sum joins go only together. Channels stay that are the network's
    output, the last of their layer, of grouped convolutions that are not depthwise, or that
    channel padding shifts, which Torch-Pruning does not follow. Both networks run on the batch,
    and another output is an error.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model, or one after `apply_` or `strip_`.
    masks : mapping of str to torch.Tensor
        bool masks by parameter name; those of ``out:`` and ``in:`` options empty whole channels.
    batch : tensor, tuple or dict
        A batch as for `measure`.

    Raises
    ------
    RemovalError
        If the outputs differ by more than 1e-4 of the largest.
    ValueError
        If the masks do not fit the model.
    ImportError
        If Torch-Pruning is missing.
    """
    library = _library()
    silenced = copy.deepcopy(model)
    if any(layer.masked for layer in named_layers(silenced, masks, "masks").values()):
        strip_(silenced)
    strip_(apply_(silenced, masks)).eval()
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    graph = library.DependencyGraph().build_dependency(silenced, inputs)
    channels = _Channels(graph, silenced, masks)
    groups = list(channels.removable())
    with torch.no_grad():
        for group in groups:
            channels.silence(group)
    smaller = copy.deepcopy(silenced)
    twin = library.DependencyGraph().build_dependency(smaller, inputs)
    names = {module: name for name, module in silenced.named_modules()}
    removed: dict[str, set[int]] = {}
    for group in groups:
        for module, places in channels.written(group):
            removed.setdefault(names[module], set()).update(places)
    for root, place in channels.roots(groups):
        module = smaller.get_submodule(names[root])
        rule = twin.get_pruner_of_module(module).prune_out_channels
        twin.get_pruning_group(module, rule, idxs=place).prune()
    with torch.no_grad():
        outputs = [output_tensor(call(network, batch)) for network in (silenced, smaller)]
    difference = _difference(*outputs)
    if not difference <= TOLERANCE:
        raise RemovalError(
            f"without the channels the output differs by {difference:.2g} of the largest, at most "
            f"{TOLERANCE:g} is allowed: a function between the layers does not keep zeros, or "
            "Torch-Pruning does not follow the model"
        )
    left = {
        names[module]: len(places - removed.get(names[module], set()))
        for module, places in channels.empty.items()
    }
    return Removal(
        smaller, silenced, {name: len(places) for name, places in removed.items()},
        {name: count for name, count in left.items() if count},
        _size(smaller), _size(model), difference,
    )  # fmt: skip


def _library() -> Any:
    try:
        return import_module("torch_pruning")
    except ImportError as error:
        message = "Torch-Pruning is missing: pip install 'rdprune-core[removal]'"
        raise ImportError(message, name="torch_pruning") from error


class _Channels:
    """Which channels of a network can go, by groups of Torch-Pruning with one channel each."""

    def __init__(self, graph: Any, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self._graph = graph
        self._model = model
        self._makers: tuple[type[nn.Module], ...] = (*CONVOLUTION_TYPES, nn.Linear)
        self.empty: dict[nn.Module, set[int]] = {}
        self._unread: dict[nn.Module, set[int]] = {}
        for name, layer in named_layers(model, masks, "masks").items():
            place = geometry(layer)
            view = place.view(masks[name].cpu())
            written = (~view.any(3).any(2)).reshape(-1)
            read = (~view.any(3).any(1)).reshape(-1)
            for module, _, _ in layer.owners:
                self.empty[module] = set(written.nonzero().reshape(-1).tolist())
                self._unread[module] = set(read.nonzero().reshape(-1).tolist())

    def removable(self) -> Iterator[Any]:
        """Yield a group for each channel that can go; one channel of every layer stays."""
        settled: set[tuple[nn.Module, int]] = set()
        staying: dict[nn.Module, int] = {}
        for module in self._model.modules():
            if not isinstance(module, self._makers) or module not in self._graph.module2node:
                continue
            rule = self._graph.get_pruner_of_module(module)
            for channel in range(rule.get_out_channels(module)):
                if (module, channel) in settled:
                    continue
                group = self._graph.get_pruning_group(module, rule.prune_out_channels, [channel])
                written = list(self.written(group))
                settled.update((maker, place) for maker, places in written for place in places)
                if not self._may_go(group, written):
                    continue
                sizes = [(maker, len(set(places))) for maker, places in written]
                rest = [staying.get(m, self._graph.get_out_channels(m)) - n for m, n in sizes]
                if min(rest) < 1:
                    continue
                staying.update({m: r for (m, _), r in zip(sizes, rest, strict=True)})
                yield group

    def written(self, group: Any) -> Iterator[tuple[nn.Module, list[int]]]:
        """Yield the layers that write a group's channels, and where."""
        for dependency, places in group:
            module: nn.Module = dependency.target.module
            if isinstance(module, self._makers) and self._writes(dependency):
                yield module, list(places)

    def roots(self, groups: Iterable[Any]) -> Iterator[tuple[nn.Module, list[int]]]:
        """Yield each group's first layer once, with all channels of it that go."""
        found: dict[nn.Module, list[int]] = {}
        for group in groups:
            dependency, places = group[0]
            found.setdefault(dependency.target.module, []).extend(places)
        yield from found.items()

    def silence(self, group: Any) -> None:
        """Set to zero what a group's empty channels still add: biases and BatchNorm."""
        if self._is_unread(group):
            return
        for dependency, places in group:
            module = dependency.target.module
            if not self._writes(dependency):
                continue
            at = list(places)
            if isinstance(getattr(module, "bias", None), Tensor):
                module.bias.data[at] = 0
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.weight is not None:
                    module.weight.data[at] = 0
                if module.running_mean is not None:
                    module.running_mean[at] = 0

    def _may_go(self, group: Any, written: list[tuple[nn.Module, list[int]]]) -> bool:
        for dependency, _ in group:
            node, module = dependency.target, dependency.target.module
            if "ConstantPad" in node.name or _grouped(module):
                return False
            if self._writes(dependency) and not self._is_inner(node):
                return False
        if self._is_unread(group):
            return True
        dense = [(m, places) for m, places in written if not _depthwise(m)]
        return bool(dense) and all(set(p) <= self.empty.get(m, set()) for m, p in dense)

    def _is_unread(self, group: Any) -> bool:
        readers = [
            (dependency.target.module, set(places))
            for dependency, places in group
            if isinstance(dependency.target.module, self._makers) and not self._writes(dependency)
        ]
        return bool(readers) and all(p <= self._unread.get(m, set()) for m, p in readers)

    def _writes(self, dependency: Any) -> bool:
        return bool(self._graph.is_out_channel_pruning_fn(dependency.handler))

    def _is_inner(self, node: Any) -> bool:
        """Whether something of the network comes after a node."""
        return bool(node.outputs)


def _depthwise(module: nn.Module) -> bool:
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == getattr(module, "in_channels", 0) == module.out_channels


def _grouped(module: nn.Module) -> bool:
    return getattr(module, "groups", 1) != 1 and not _depthwise(module)


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        raise RemovalError(
            f"without the channels the output has shape {tuple(found.shape)}, the masked "
            f"network's has {tuple(expected.shape)}"
        )
    scale = float(expected.abs().max()) or 1.0
    return float((expected - found).abs().max()) / scale


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
