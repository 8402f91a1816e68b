"""Which parameters of a model can be pruned, and what each of them costs."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

LAYER_TYPES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


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
    """

    name: str
    parameter: nn.Parameter
    owners: tuple[Owner, ...]
    aliases: tuple[str, ...]

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

    These are the weights of linear, convolution and transposed convolution modules and of their
    subclasses. A weight that several modules share is one layer.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    ignore : str or iterable of str
        Layers to leave out. An entry is the exact name of a parameter, of its module or of a
        module around it (which stands for all layers inside), a glob (``"*.conv1"``) or
        ``"re:"`` and a regular expression, which must match the whole name of a parameter or of
        its module.
    layers : str or iterable of str, optional
        The only layers to keep, written in the same way.

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
    found, reasons = _find_layers(model)
    aliases = {name: layer.aliases for name, layer in found.items()}
    aliases.update({name: (name, name.rpartition(".")[0]) for name in reasons})
    dropped = _select(aliases, _entries(ignore), "ignore")
    kept = set(aliases) if layers is None else _select(aliases, _entries(layers), "layers")
    kept -= dropped
    for name in sorted(kept & reasons.keys()):
        raise ValueError(f"layer {name!r} cannot be pruned: {reasons[name]}; add it to ignore")
    return {name: layer for name, layer in found.items() if name in kept}


def named_layers(model: nn.Module, names: Iterable[str], what: str) -> dict[str, Prunable]:
    """Look up the layers that a table or an allocation names.

    Raises
    ------
    ValueError
        If the model has no such layer: `what` belongs to another model.
    """
    found, reasons = _find_layers(model)
    chosen = {}
    for name in names:
        if name in reasons:
            raise ValueError(f"layer {name!r} cannot be pruned: {reasons[name]}")
        if name not in found:
            raise ValueError(
                f"{what} of another model: the model has no layer {name!r}{_hint(name, found)}"
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
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        data = parameter.detach().reshape(-1).cpu().contiguous()
        digest.update(data.view(torch.uint8).numpy().data)
        count += parameter.numel()
    kind = type(model)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class": name, "parameters": count, "digest": digest.hexdigest()}


def count_macs(layers: Mapping[str, Prunable], run: Callable[[], int]) -> dict[str, int | None]:
    """Count the multiplications that each layer does for one sample.

    `torch.utils.flop_counter.FlopCounterMode` counts; an operation belongs to the layers whose
    weight it takes and to those whose module is running.

    Parameters
    ----------
    layers : mapping of str to Prunable
        The layers.
    run : callable
        Runs the model on all batches and returns the number of samples.

    Returns
    -------
    dict of str to int or None
        Multiply-accumulates a sample, rounded up; None for a layer that was never used.
    """
    counter = FlopCounterMode(display=False)
    attribution = _Attribution(layers, counter)
    with _without_fused_attention(), attribution.hooked(layers), counter, attribution:
        samples = run()
    return {
        name: -(-flops // (2 * samples)) if name in attribution.used else None
        for name, flops in attribution.flops.items()
    }


class _Attribution(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds each operation's count, as `counter` sees it, to the layers it belongs to."""

    def __init__(self, layers: Mapping[str, Prunable], counter: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = dict.fromkeys(layers, 0)
        self.used: set[str] = set()
        self._counter = counter
        self._running: list[str] = []
        self._storages: dict[int, list[tuple[range, str]]] = {}
        for name, layer in layers.items():
            weight = layer.parameter.detach()
            start = weight.storage_offset()
            place = (range(start, start + weight.numel()), name)
            self._storages.setdefault(weight.untyped_storage().data_ptr(), []).append(place)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        taken = set(self._weights_in((args, kwargs)))
        before = self._counter.get_total_flops()
        result = func(*args, **kwargs)
        spent = self._counter.get_total_flops() - before
        self.used |= taken
        for name in taken.union(self._running):
            self.flops[name] += spent
        return result

    def _weights_in(self, arguments: Any) -> Iterator[str]:
        for value in tree_iter(arguments):
            if isinstance(value, Tensor) and value.layout is torch.strided:
                for places, name in self._storages.get(value.untyped_storage().data_ptr(), ()):
                    if value.storage_offset() in places:
                        yield name

    @contextmanager
    def hooked(self, layers: Mapping[str, Prunable]) -> Iterator[None]:
        """Note which layers' modules are running."""
        handles = []
        try:
            for name, layer in layers.items():
                for module, _, _ in layer.owners:
                    handles.append(
                        module.register_forward_pre_hook(
                            lambda _module, _inputs, name=name: self._running.append(name)
                        )
                    )
                    handles.append(
                        module.register_forward_hook(
                            lambda _module, _inputs, _output: self._leave(), always_call=True
                        )
                    )
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self._running.pop()


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Run attention layer by layer: FlopCounterMode cannot look into the fused kernel."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _find_layers(model: nn.Module) -> tuple[dict[str, Prunable], dict[str, str]]:
    """All layers by name, and those that cannot be pruned with the reason."""
    occurrences: dict[int, list[tuple[Owner, nn.Parameter, str]]] = {}
    reasons = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{module_name}." if module_name else ""
        attributes = []
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            base = key.removesuffix("_orig")
            attribute = base if base != key and is_masked(module, base) else key
            attributes.append(attribute)
            occurrences.setdefault(id(parameter), []).append(
                (Owner(module, attribute, module_name), parameter, prefix + attribute)
            )
        if isinstance(module, LAYER_TYPES) and "weight" not in attributes:
            reasons[f"{prefix}weight"] = (
                "its weight is computed by a parametrisation; remove the parametrisation"
            )
    found = {}
    for places in occurrences.values():
        if not any(
            isinstance(o.module, LAYER_TYPES) and o.attribute == "weight" for o, *_ in places
        ):
            continue
        _, parameter, name = places[0]
        reason = _cannot_prune(parameter)
        if reason:
            reasons[name] = reason
            continue
        owners: dict[tuple[int, str], Owner] = {}
        for owner, *_ in places:
            owners.setdefault((id(owner.module), owner.attribute), owner)
        aliases = dict.fromkeys(a for owner, _, full in places for a in (full, owner.name))
        found[name] = Prunable(name, parameter, tuple(owners.values()), tuple(aliases))
    return found, reasons


def _cannot_prune(parameter: nn.Parameter) -> str:
    if nn.parameter.is_lazy(parameter):
        return "its weight is not initialised; run the model once"
    if parameter.is_meta:
        return "its weight is on the meta device"
    if not parameter.is_floating_point():
        return f"its weight has type {parameter.dtype}, must be floating-point"
    if parameter.layout is not torch.strided:
        return f"its weight has layout {parameter.layout}, must be dense"
    return "its weight is empty" if parameter.numel() == 0 else ""


def _entries(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _select(
    aliases: Mapping[str, Sequence[str]], entries: Sequence[str], argument: str
) -> set[str]:
    """Names of the layers that any of the entries matches; each must match one."""
    selected: set[str] = set()
    for entry in entries:
        matched = {name for name, names in aliases.items() if _matches(entry, names, argument)}
        if not matched:
            raise ValueError(f"{argument} entry {entry!r} matches no layer{_hint(entry, aliases)}")
        selected |= matched
    return selected


def _matches(entry: str, names: Sequence[str], argument: str) -> bool:
    if not isinstance(entry, str):
        raise ValueError(f"{argument} entry {entry!r} is not a string")
    if entry.startswith("re:"):
        try:
            pattern = re.compile(entry[3:])
        except re.error as error:
            raise ValueError(
                f"{argument} entry {entry!r} is no regular expression: {error}"
            ) from None
        return any(pattern.fullmatch(name) for name in names)
    inside = any(name.startswith(f"{entry}.") for name in names)
    return entry in names or inside or any(fnmatch.fnmatchcase(name, entry) for name in names)


def _hint(entry: str, names: Mapping[str, Any]) -> str:
    candidates = [alias for name in names for alias in (name, name.rpartition(".")[0]) if alias]
    close = difflib.get_close_matches(entry, candidates, n=3, cutoff=0.6)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
