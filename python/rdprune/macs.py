"""How many multiplications each layer does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from rdprune.kinds import multiplies_once
from rdprune.layers import Prunable


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
    counter = FlopCounterMode(display=False, custom_mapping=_MORE_OPERATIONS)
    attribution = _Attribution(layers, counter)
    with _in_the_open(layers), attribution.hooked(layers), counter, attribution:
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
        self._copies: dict[int, set[str]] = {}
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
        self._follow(func, taken, (args, kwargs), result)
        return result

    def _follow(self, func: Any, taken: set[str], arguments: Any, result: Any) -> None:
        """Note which results are copies of a weight, such as autocast's."""
        given = {_pointer(value) for value in tree_iter(arguments) if _is_dense(value)}
        for value in tree_iter(result):
            if _is_dense(value) and _pointer(value) not in given:
                self._copies.pop(_pointer(value), None)
                if taken and func.overloadpacket in _COPYING:
                    self._copies[_pointer(value)] = taken

    def _weights_in(self, arguments: Any) -> Iterator[str]:
        for value in tree_iter(arguments):
            if _is_dense(value):
                yield from self._copies.get(_pointer(value), ())
                for places, name in self._storages.get(_pointer(value), ()):
                    if value.storage_offset() in places:
                        yield name

    @contextmanager
    def hooked(self, layers: Mapping[str, Prunable]) -> Iterator[None]:
        """Note which layers' modules are running."""
        handles = []
        try:
            for name, layer in layers.items():
                for module in (o.module for o in layer.owners if multiplies_once(o.module)):
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


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _pointer(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _grouped(
    first: Sequence[int], _second: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Count ``_grouped_mm``, which FlopCounterMode does not know: each row meets one matrix."""
    return 2 * math.prod(out_shape) * first[-1]


_aten = torch.ops.aten
_COPYING = (_aten._to_copy, _aten.clone, _aten.index, _aten.index_select)
_MORE_OPERATIONS = {
    getattr(_aten, name): _grouped for name in ("_grouped_mm",) if hasattr(_aten, name)
}


@contextmanager
def _in_the_open(layers: Mapping[str, Prunable]) -> Iterator[None]:
    """Run layer by layer: FlopCounterMode cannot look into fused or compiled kernels."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, enabled)
        torch.backends.mha.set_fastpath_enabled(False)
        if hasattr(torch.compiler, "set_stance"):  # torch 2.6; a compiled layer else "never runs"
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", r"Using `torch.compile\(module\)` when there are global")
        if any(isinstance(o.module, nn.RNNBase) for p in layers.values() for o in p.owners):
            enabled = torch.backends.mkldnn.set_flags(False)[0]  # type: ignore[no-untyped-call]
            stack.callback(torch.backends.mkldnn.set_flags, enabled)
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
