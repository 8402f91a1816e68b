"""From an allocation to masks on a model, and to a model with the zeros written in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from rdprune.checking import check_allocation
from rdprune.layers import Prunable, named_layers
from rdprune.magnitude import kept_count, label_level, magnitude_mask
from rdprune.scoring import digest
from rdprune.shapes import Shape, geometry, nested_mask, parse_shape
from rdprune.tensorfiles import load_tensors, save_tensors
from rdprune_core import Allocation, FileFormatError

_KIND = "rdprune-masks"


def masks(
    model: nn.Module,
    allocation: Allocation,
    *,
    scores: Mapping[str, Tensor] | None = None,
    within: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Compute the masks of an allocation: what scores highest in each layer stays.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model, or one masked by `apply_` (whose dense weights count).
    allocation : Allocation
        What to keep.
    scores : mapping of str to torch.Tensor, optional
        Scores that the table was measured with, by `rdprune.scoring.scores`; needed for another
        criterion than magnitude.
    within : mapping of str to torch.Tensor, optional
        Previous masks that the table was measured within.

    Returns
    -------
    dict of str to torch.Tensor
        By parameter name, bool, shape of the weight, True where it is kept. The number of True is
        exactly the allocation's cost ``params`` of the layer.

    Raises
    ------
    ValueError
        If the allocation is of another model or of another kind of mask, or `scores` or `within`
        are missing or not those of the table.
    """
    check_allocation("allocation", allocation)
    layers = named_layers(model, allocation.names, "allocation")
    return layer_masks(layers, allocation, scores, within)


def layer_masks(
    layers: Mapping[str, Prunable],
    allocation: Allocation,
    scores: Mapping[str, Tensor] | None = None,
    within: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Compute the masks of an allocation for its layers; see `masks`."""
    kept = expected_kept(layers, allocation)
    criterion = allocation.metadata.get("criterion", "magnitude")
    if criterion != "magnitude" and scores is None:
        raise ValueError(
            f"allocation is by the criterion {criterion!r}: give the masks made with its scores"
        )
    _check_same("scores", scores, allocation, "the same criterion, batches and machine")
    _check_same("within", within, allocation, "the masks that it was measured within")
    if allocation.metadata.get("mask", "unstructured-magnitude") == "unstructured-magnitude":
        return {
            name: magnitude_mask(layer.parameter, kept[name], layer=name)
            for name, layer in layers.items()
        }
    made = {}
    for (name, layer), label in zip(layers.items(), allocation.options, strict=True):
        values = layer.parameter.detach().abs() if scores is None else scores[name]
        inside = None if within is None else within[name]
        made[name] = nested_mask(label, values, geometry(layer), inside, layer=name)
        count = int(made[name].count_nonzero())
        if count != kept[name]:
            raise ValueError(
                f"allocation of other weights: the mask {label!r} of layer {name!r} keeps {count}, "
                f"the allocation says {kept[name]}"
            )
    return made


def _check_same(
    what: str, given: Mapping[str, Tensor] | None, allocation: Allocation, needed: str
) -> None:
    """Refuse scores or previous masks other than those that were measured."""
    known = allocation.metadata.get(what)
    if known is None:
        return
    if given is None or any(name not in given for name in allocation.names):
        raise ValueError(f"allocation was measured with {what}=: give {what}, {needed}")
    if digest({name: given[name] for name in allocation.names}) != known:
        raise ValueError(f"{what} are not those of the allocation: they must be of {needed}")


def expected_kept(layers: Mapping[str, Prunable], allocation: Allocation) -> dict[str, int]:
    """Weights that an allocation keeps in each layer, checked against the layers.

    Raises
    ------
    ValueError
        If a layer's shape or size disagrees with the allocation.
    """
    kind = allocation.metadata.get("mask", "unstructured-magnitude")
    if kind not in ("unstructured-magnitude", "labelled"):
        raise ValueError(
            f"allocation has masks of kind {kind!r}, must be 'unstructured-magnitude' or 'labelled'"
        )
    if "params" not in allocation.layer_costs:
        raise ValueError("allocation has no cost 'params', the weights kept in each layer")
    shapes = allocation.metadata.get("shapes", {})
    kept = {}
    for name, label, count in zip(
        allocation.names, allocation.options, allocation.layer_costs["params"], strict=True
    ):
        found = tuple(layers[name].parameter.shape)
        expected = tuple(shapes.get(name, found))
        if found != expected:
            raise ValueError(
                f"allocation of another model: layer {name!r} has shape {found}, "
                f"the allocation's has {expected}"
            )
        try:
            shape = (
                parse_shape(label)
                if kind == "labelled"
                else Shape("weights", level=label_level(label))
            )
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        numel = layers[name].parameter.numel()
        # What the others keep depends on where a block is cut: their masks are counted instead.
        exact = kept_count(numel, shape.level) if shape.kind == "weights" else int(count)
        if exact != count:
            raise ValueError(
                f"allocation of another model: layer {name!r} at sparsity {label} keeps {exact} "
                f"of its weights, the allocation says {count}"
            )
        kept[name] = exact
    return kept


def apply_(model: nn.Module, allocation_or_masks: Allocation | Mapping[str, Tensor]) -> nn.Module:
    """Mask a model in place, with `torch.nn.utils.prune`.

    Each weight becomes ``weight_orig * weight_mask``, so that training goes on under the mask. A
    shared weight is masked in every module that holds it. The order of the parameters is kept.
    The weight of a module whose ``forward`` is never called is masked but does not train until
    `strip_`; ``out_proj`` of `torch.nn.MultiheadAttention` does.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model.
    allocation_or_masks : Allocation or mapping of str to torch.Tensor
        What to keep, or bool masks by parameter name.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    ValueError
        If the masks do not fit the model or a layer is masked already; the model is unchanged.
    """
    given = allocation_or_masks
    if not isinstance(given, Mapping):
        check_allocation("allocation_or_masks", given)
    names = given.names if isinstance(given, Allocation) else tuple(given)
    layers = named_layers(model, names, "allocation" if isinstance(given, Allocation) else "masks")
    for name, layer in layers.items():
        if layer.masked:
            raise ValueError(f"layer {name!r} carries a mask: applied already; strip_ first")
    chosen = masks(model, given) if isinstance(given, Allocation) else given
    for name, layer in layers.items():
        _check_mask(name, chosen[name], layer.parameter)
    done: list[tuple[nn.Module, str, list[str]]] = []
    try:
        for name, layer in layers.items():
            for module, attribute, _ in layer.owners:
                done.append((module, attribute, list(module._parameters)))
                _mask(module, attribute, chosen[name].to(layer.parameter.device))
        _follow_attention(model)
    except BaseException:
        for module, attribute, order in reversed(done):
            _unmask(module, attribute, order)
        _follow_attention(model)
        raise
    return model


def strip_(model: nn.Module) -> nn.Module:
    """Write the zeros of all masks into the weights, and remove the masks, in place.

    The names of the state dict are the dense model's again, and shared weights remain shared.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    ValueError
        If the model carries no masks.
    """
    masked = [
        (module, attribute)
        for module in model.modules()
        for attribute in _masked_attributes(module)
    ]
    if not masked:
        raise ValueError("model carries no masks: apply_ first")
    for module, attribute in masked:
        order = list(module._parameters)
        prune.remove(module, attribute)  # type: ignore[no-untyped-call]
        _remove_detaching(module)
        _reorder(module, [attribute if key == f"{attribute}_orig" else key for key in order])
    _follow_attention(model)
    return model


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, Tensor]) -> None:
    """Save masks as safetensors, atomically: the file is either complete or as before.

    Parameters
    ----------
    path : path-like
        The file, usually ``.safetensors``.
    masks : mapping of str to torch.Tensor
        bool masks by parameter name.
    """
    for name, mask in masks.items():
        _check_mask(name, mask, mask)
    save_tensors(path, masks, _KIND)


def load_masks(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Load what `save_masks` wrote.

    Raises
    ------
    FileFormatError
        If the file is damaged or cut short, or does not hold masks.
    FileNotFoundError
        If there is no such file.
    """
    loaded = load_tensors(path, _KIND)
    for name, mask in loaded.items():
        if mask.dtype != torch.bool:
            raise FileFormatError(f"{os.fspath(path)}: mask {name!r} is {mask.dtype}, must be bool")
    return loaded


def _check_mask(name: str, mask: Any, weight: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask of layer {name!r} is {found}, must be a bool tensor")
    if mask.shape != weight.shape:
        raise ValueError(
            f"mask of layer {name!r} has shape {tuple(mask.shape)}, "
            f"the weight has {tuple(weight.shape)}"
        )


def _mask(module: nn.Module, attribute: str, mask: Tensor) -> None:
    order = list(module._parameters)
    prune.custom_from_mask(module, attribute, mask)  # type: ignore[no-untyped-call]
    _reorder(module, [f"{attribute}_orig" if key == attribute else key for key in order])
    _detach_weights(module)
    if not any(hook is _detach_weights for hook in module._forward_hooks.values()):
        module.register_forward_hook(_detach_weights, always_call=True)


def _unmask(module: nn.Module, attribute: str, order: list[str]) -> None:
    """Undo `_mask`, however far it came."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == attribute:
            del module._forward_pre_hooks[key]
    _remove_detaching(module)
    module._buffers.pop(f"{attribute}_mask", None)
    original = module._parameters.pop(f"{attribute}_orig", None)
    if original is not None:
        vars(module).pop(attribute, None)
        # Not register_parameter, of which a recurrent module's list of weights does not hear.
        setattr(module, attribute, original)
    _reorder(module, order)


def _detach_weights(module: nn.Module, *_: Any) -> None:
    """Forward hook: cut the masked weight off the last graph, which deepcopy would refuse."""
    for attribute in _masked_attributes(module):
        setattr(module, attribute, getattr(module, attribute).detach())


def _follow_attention(model: nn.Module) -> None:
    """Let attention refresh its masked output projection, whose module it never calls."""
    for module in model.modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        masked = bool(_masked_attributes(module.out_proj))
        hooks = (
            (module._forward_pre_hooks, _refresh_output, module.register_forward_pre_hook),
            (module._forward_hooks, _detach_output, _always(module)),
        )
        for registered, hook, register in hooks:
            there = [key for key, value in registered.items() if value is hook]
            if masked and not there:
                register(hook)
            for key in there if not masked else ():
                del registered[key]
                module._forward_hooks_always_called.pop(key, None)


def _always(module: nn.Module) -> Callable[[Any], Any]:
    return lambda hook: module.register_forward_hook(hook, always_call=True)


def _refresh_output(module: nn.Module, *_: Any) -> None:
    """Forward pre-hook of attention: mask the output projection's weight as it is now."""
    projection: nn.Module = module.get_submodule("out_proj")
    for hook in projection._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            hook(projection, ())


def _detach_output(module: nn.Module, *_: Any) -> None:
    """Forward hook of attention: as `_detach_weights`, for its output projection."""
    _detach_weights(module.get_submodule("out_proj"))


def _masked_attributes(module: nn.Module) -> list[str]:
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def _remove_detaching(module: nn.Module) -> None:
    if _masked_attributes(module):
        return
    for key, hook in list(module._forward_hooks.items()):
        if hook is _detach_weights:
            del module._forward_hooks[key]
            module._forward_hooks_always_called.pop(key, None)


def _reorder(module: nn.Module, order: list[str]) -> None:
    parameters = {key: module._parameters[key] for key in order}
    module._parameters.clear()
    module._parameters.update(parameters)
