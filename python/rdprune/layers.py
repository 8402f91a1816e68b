"""Finding the weights of a model that can be pruned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from rdprune.kinds import DEFAULT_KINDS, kind_of, weight_names
from rdprune.selecting import Candidate, hint, select


class Owner(NamedTuple):
    """A module that holds a layer's parameter, under which attribute, and the module's name."""

    module: nn.Module
    attribute: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Prunable:
    """One layer: a weight, and every module that uses it.

    Attributes
    ----------
    name : str
        Fully qualified name of the parameter where it occurs first, without the ``_orig`` that
        `torch.nn.utils.prune` appends.
    parameter : torch.nn.Parameter
        The weight; under a mask the dense weight (``weight_orig``).
    owners : tuple of Owner
        The modules that hold the parameter. More than one if it is shared.
    aliases : tuple of str
        All names of the parameter and of its modules.
    kind : str
        See `kinds.kind_of`; of a shared weight the first kind that is pruned by default.
    """

    name: str
    parameter: nn.Parameter
    owners: tuple[Owner, ...]
    aliases: tuple[str, ...]
    kind: str

    @property
    def masked(self) -> bool:
        """Whether `torch.nn.utils.prune` masks the parameter in one of its modules."""
        return any(is_masked(module, attribute) for module, attribute, _ in self.owners)


def is_masked(module: nn.Module, attribute: str) -> bool:
    """Whether `torch.nn.utils.prune` masks this attribute of the module."""
    return f"{attribute}_orig" in module._parameters and f"{attribute}_mask" in module._buffers


def prunable(
    model: nn.Module,
    *,
    ignore: str | Iterable[str] = (),
    layers: str | Iterable[str] | None = None,
) -> dict[str, Prunable]:
    """List the layers of a model that can be pruned.

    By default these are the weights of linear layers (``Conv1D`` of Hugging Face too),
    convolutions, recurrent layers, attention's packed projections, and stacks of matrices in
    modules that torch does not define (fused experts). Embeddings and any other parameter of two
    or more dimensions are pruned only if `layers` names them. A weight that several modules share
    is one layer, of the kind that is pruned by default if one of them is. The names are those
    without ``torch.compile``.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    ignore : str or iterable of str
        Layers to leave out. An entry is the exact name of a parameter, of its module or of a
        module around it (which stands for all layers inside), a glob (``"*.conv1"``),
        ``"re:"`` and a regular expression, which must match the whole name of a parameter or of
        its module, or ``"kind:"`` and a kind (``"kind:recurrent"``, ``"kind:default"``).
    layers : str or iterable of str, optional
        The only layers to keep, written in the same way. A module around stands for what is
        pruned by default inside it; names, patterns and kinds choose the rest as well.

    Returns
    -------
    dict of str to Prunable
        Keyed by parameter name, in the order of ``model.named_parameters()``.

    Raises
    ------
    ValueError
        If an entry matches no layer, or if a remaining layer's weight cannot be pruned: computed
        by a parametrisation, not initialised, or not a floating-point tensor.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> list(prunable(model, ignore=["2"]))
    ['0.weight']
    """
    found, refused = _find_layers(model)
    candidates = {name: Candidate(layer.aliases, layer.kind) for name, layer in found.items()}
    for name, (kind, _) in refused.items():
        candidates[name] = Candidate((name, name.rpartition(".")[0]), kind)
    kept = select(candidates, ignore=ignore, layers=layers)
    for name in sorted(kept & refused.keys()):
        raise ValueError(f"layer {name!r} cannot be pruned: {refused[name][1]}; add it to ignore")
    return {name: layer for name, layer in found.items() if name in kept}


def named_layers(model: nn.Module, names: Iterable[str], what: str) -> dict[str, Prunable]:
    """Look up the layers that a table or an allocation names.

    Raises
    ------
    ValueError
        If the model has no such layer: `what` belongs to another model.
    """
    found, refused = _find_layers(model)
    chosen = {}
    for name in names:
        if name in refused:
            raise ValueError(f"layer {name!r} cannot be pruned: {refused[name][1]}")
        if name not in found:
            raise ValueError(
                f"{what} of another model: the model has no layer {name!r}{hint(name, found)}"
            )
        chosen[name] = found[name]
    return chosen


def all_layers(model: nn.Module) -> dict[str, Prunable]:
    """List all layers of a model that can be pruned, leaving out those that cannot."""
    return _find_layers(model)[0]


def signature(model: nn.Module) -> dict[str, Any]:
    """Describe a model: its class, its number of parameters and a digest of their values.

    Returns
    -------
    dict
        ``class`` (str), ``parameters`` (int) and ``digest`` (str, SHA-256 over the names, shapes,
        types and bytes of all parameters); JSON-able.
    """
    digest = hashlib.sha256()
    count = 0
    for name, parameter in model.named_parameters():
        digest.update(f"{_uncompiled(name)} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        data = parameter.detach().reshape(-1).cpu().contiguous()
        digest.update(data.view(torch.uint8).numpy().data)
        count += parameter.numel()
    kind = type(getattr(model, "_orig_mod", model))
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class": name, "parameters": count, "digest": digest.hexdigest()}


class _Place(NamedTuple):
    """One occurrence of a parameter in the model."""

    owner: Owner
    parameter: nn.Parameter
    name: str
    kind: str


def _find_layers(
    model: nn.Module,
) -> tuple[dict[str, Prunable], dict[str, tuple[str, str]]]:
    """All layers by name, and those that cannot be pruned with their kind and the reason."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}, must be a torch.nn.Module")
    occurrences: dict[int, list[_Place]] = {}
    refused: dict[str, tuple[str, str]] = {}
    for full_name, module in model.named_modules(remove_duplicate=False):
        module_name = _uncompiled(full_name)
        prefix = f"{module_name}." if module_name else ""
        computed = set(weight_names(module)) - {a for a, _ in _parameters(module)}
        for attribute in sorted(computed):
            refused[prefix + attribute] = (str(kind_of(module, attribute, ())), _COMPUTED)
        for attribute, parameter in _parameters(module):
            shape = () if nn.parameter.is_lazy(parameter) else tuple(parameter.shape)
            kind = kind_of(module, attribute, shape)
            if kind is None or (computed and attribute not in weight_names(module)):
                continue
            place = _Place(
                Owner(module, attribute, module_name), parameter, prefix + attribute, kind
            )
            occurrences.setdefault(id(parameter), []).append(place)
    found = {}
    for places in occurrences.values():
        layer = _layer(places)
        reason = _cannot_prune(layer)
        if reason:
            refused[layer.name] = (layer.kind, reason)
        else:
            found[layer.name] = layer
    return found, refused


_COMPUTED = (
    "its weight is computed by a parametrisation; remove it first, with "
    "torch.nn.utils.parametrize.remove_parametrizations (or remove_weight_norm and the like)"
)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of one module, under the names that they have without masks."""
    for key, parameter in module._parameters.items():
        if parameter is not None:
            base = key.removesuffix("_orig")
            yield base if base != key and is_masked(module, base) else key, parameter


def _layer(places: list[_Place]) -> Prunable:
    kinds = [place.kind for place in places]
    kind = next((k for k in kinds if k in DEFAULT_KINDS), kinds[0])
    owners: dict[tuple[int, str], Owner] = {}
    for place in places:
        owners.setdefault((id(place.owner.module), place.owner.attribute), place.owner)
    names = [
        name
        for place in places
        # A parameter that is not chosen by default is not what its module stands for.
        for name in ((place.name,) if kind == "parameter" else (place.name, place.owner.name))
    ]
    first = places[0]
    unique = tuple(dict.fromkeys(names))
    return Prunable(first.name, first.parameter, tuple(owners.values()), unique, kind)


def _uncompiled(name: str) -> str:
    """Name of a module without the wrappers of `torch.compile`."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _cannot_prune(layer: Prunable) -> str:
    parameter = layer.parameter
    if nn.parameter.is_lazy(parameter):
        return "its weight is not initialised; run the model once"
    if parameter.is_meta:
        return "its weight is on the meta device"
    if not parameter.is_floating_point():
        return f"its weight has type {parameter.dtype}, must be floating-point"
    if parameter.layout is not torch.strided:
        return f"its weight has layout {parameter.layout}, must be dense"
    if any(getattr(owner.module, "max_norm", None) is not None for owner in layer.owners):
        return "max_norm rewrites its rows while the model runs"
    return "its weight is empty" if parameter.numel() == 0 else ""
