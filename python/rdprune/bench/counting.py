"""Counts the multiply-accumulates that a call does, at little more than the call's own time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_BACKWARD: Final = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
"""Their operations are those of the graph, which their arguments do not tell."""


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by looking at every single operation, which takes as long as a small one itself.

    Attributes
    ----------
    flops : int
        Floating point operations, two a multiply-accumulate, by the formulas of
        `torch.utils.flop_counter`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


class MacCounter(TorchFunctionMode):
    """Counts by functions: the operations of each are looked at once for all alike arguments.

    Backward passes are looked at every time. TorchScript is not seen, and layers that have a fused
    kernel run without it, as under every `torch.overrides.TorchFunctionMode`.

    Attributes
    ----------
    flops : int
        As `OperationCounter` counts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._known: dict[Hashable, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        key = None if func in _BACKWARD else (func, _like(args), _like(kwargs))
        if key in self._known:
            self.flops += self._known[key]
            return func(*args, **kwargs)
        counter = OperationCounter()
        try:
            with counter:
                result = func(*args, **kwargs)
        finally:
            self.flops += counter.flops
        if key is not None:
            self._known[key] = counter.flops
        return result


def _like(value: object) -> Hashable:
    """Return what two arguments have in common for which the same operations are done."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.requires_grad
    if isinstance(value, list | tuple):
        return tuple([_like(item) for item in value])
    if isinstance(value, dict):
        return tuple([(key, _like(item)) for key, item in value.items()])
    if isinstance(value, int | float | str):
        return value
    return type(value).__qualname__
