"""What a module and torch's generators hold, to see whether a call changes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
"""Types whose values cannot change."""

_CONTAINERS = (list, tuple, dict, set)


class ModuleState:
    """The attributes of a module and the values of its buffers, to see whether they change."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = dict(vars(module))
        self._contents = {
            name: _contents(value)
            for name, value in self._attributes.items()
            if isinstance(value, _CONTAINERS)
        }
        self._buffers = {
            name: buffer.detach().clone()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def changed(self, module: nn.Module) -> bool:
        """Whether the module holds something else now: one level deep in its containers."""
        now = vars(module)
        if now.keys() != self._attributes.keys():
            return True
        if not all(_same(now[name], value) for name, value in self._attributes.items()):
            return True
        for name, contents in self._contents.items():
            current = _contents(now[name])
            if len(current) != len(contents) or not all(map(_same, current, contents)):
                return True
        return not all(
            equal_bits(values, module._buffers[name]) for name, values in self._buffers.items()
        )


def hooked(module: nn.Module) -> bool:
    """Whether somebody's hooks run around the module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def equal_bits(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors hold the same bytes; NaN equals itself."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return False
    raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*raw)


def random_state() -> list[bytes]:
    """State of torch's generators."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    return [generator.get_state().numpy().tobytes() for generator in generators]


def _contents(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for pair in value.items() for item in pair]
    return list(value)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, PLAIN) and bool(one == other)
