"""Linear and convolution layers as products of rows: which inputs meet which weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_CHUNK = 1 << 22  # elements of the patches at once


def weight_index(module: nn.Module) -> Tensor:
    """Flat indices of a layer's weights, one row an output.

    Parameters
    ----------
    module : torch.nn.Module
        A linear, convolution or transposed convolution module.

    Returns
    -------
    torch.Tensor
        int64, shape (groups, outputs of a group, inputs of an output): output channel ``g * o +
        i`` of the module is the product of row ``[g, i]`` with a row of `input_rows`.
    """
    weight = module.get_parameter(_weight_name(module))
    index = torch.arange(weight.numel()).reshape(weight.shape)
    if isinstance(module, nn.Linear):
        return index[None]
    assert isinstance(module, _ConvNd)
    groups = module.groups
    if module.transposed:
        index = index.reshape(groups, module.in_channels // groups, *weight.shape[1:])
        index = index.transpose(1, 2)
    return index.reshape(groups, module.out_channels // groups, -1)


def input_rows(module: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """Rows that the outputs are products with, a few samples at a time.

    Parameters
    ----------
    module : torch.nn.Module
        A linear, convolution or transposed convolution module, with any stride, padding, padding
        mode, dilation and groups.
    inputs : torch.Tensor
        What its ``forward`` is called with.

    Yields
    ------
    torch.Tensor
        Shape (groups, positions, inputs of an output), in the order of the output positions.
    """
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(1, -1, module.in_features)
        yield from torch.split(rows, max(1, _CHUNK // module.in_features), dim=1)
        return
    assert isinstance(module, _ConvNd)
    dimensions = len(module.kernel_size)
    if inputs.ndim == dimensions + 1:
        inputs = inputs[None]
    size = max(1, int(inputs[0].numel() * _area(module)))
    for part in torch.split(inputs, max(1, _CHUNK // size)):
        yield _conv_rows(module, part)


def _area(module: _ConvNd) -> float:
    """Elements of the patches for each element of the input, about."""
    area = 1.0
    for kernel, stride in zip(module.kernel_size, module.stride, strict=True):
        area *= kernel * (stride if module.transposed else 1 / stride)
    return area


def _conv_rows(module: _ConvNd, x: Tensor) -> Tensor:
    dimensions = len(module.kernel_size)
    x = _spread(module, x) if module.transposed else _padded(module, x)
    for axis, (kernel, dilation, stride) in enumerate(
        zip(module.kernel_size, module.dilation, module.stride, strict=True)
    ):
        step = 1 if module.transposed else stride
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, step)[..., ::dilation]
    if module.transposed:
        x = x.flip(tuple(range(2 + dimensions, 2 + 2 * dimensions)))
    # (samples, channels, positions…, kernel…) to (samples, positions…, channels, kernel…)
    order = (0, *range(2, 2 + dimensions), 1, *range(2 + dimensions, 2 + 2 * dimensions))
    rows = len(x) * math.prod(x.shape[2 : 2 + dimensions])
    return x.permute(order).reshape(rows, module.groups, -1).transpose(0, 1)


def _padded(module: _ConvNd, x: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)


def _spread(module: _ConvNd, x: Tensor) -> Tensor:
    """Input of the plain convolution, with the kernel turned round, that a transposed one is."""
    assert isinstance(module, _ConvTransposeNd)
    shape = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], module.stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *shape)
    slices: list[Any] = [..., *(slice(None, None, stride) for stride in module.stride)]
    spread[tuple(slices)] = x
    padding: list[int] = []
    for kernel, dilation, pad, extra in zip(
        module.kernel_size, module.dilation, module.padding, module.output_padding, strict=True
    ):
        assert isinstance(pad, int)  # transposed convolutions take no words
        edge = dilation * (kernel - 1) - pad
        padding = [edge, edge + extra, *padding]
    return functional.pad(spread, padding)


def _weight_name(module: nn.Module) -> str:
    return "weight" if "weight" in module._parameters else "weight_orig"
