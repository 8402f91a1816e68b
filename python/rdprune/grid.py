"""What is checked before anything is measured: layers, multiply-accumulates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from rdprune.batches import Runner
from rdprune.layers import Prunable
from rdprune.macs import count_macs

NOISE: Final = 0.01
"""Part of the outputs that two passes may differ by: half precision does in other kernels."""


def check_layers(layers: Mapping[str, Prunable]) -> None:
    """Refuse an empty choice of layers and layers that carry a mask."""
    if not layers:
        raise ValueError("model has no layer to measure: no weight is left")
    for name, layer in layers.items():
        if layer.masked:
            raise ValueError(f"layer {name!r} carries a mask: applied already; strip_ first")


def layer_macs(
    layers: Mapping[str, Prunable], runner: Runner, expected: Sequence[Tensor] = ()
) -> dict[str, int]:
    """Multiply-accumulates a sample of every layer; one that never runs is an error.

    Warns if the outputs are not those expected, where any are.
    """
    macs = {}
    part = 0.0

    def run() -> int:
        nonlocal part
        samples, part = _compared(runner, expected)
        return samples

    counted = count_macs(layers, run)
    if part > NOISE:  # it may count with other kernels than are measured with
        _, part = _compared(runner, expected)
    if part > NOISE:
        warnings.warn(
            f"the dense model's outputs differ by {part:.1%} from one pass to "
            "the next on the same batches (random numbers that are not torch's?): distortions are "
            "that noisy, too, and a store finds nothing again",
            RuntimeWarning,
            stacklevel=3,
        )
    for name, count in counted.items():
        if count is None:
            raise ValueError(
                f"layer {name!r} never runs on the batches, so nothing can be measured: "
                f"add {name!r} to ignore"
            )
        macs[name] = count
    return macs


def _compared(runner: Runner, expected: Sequence[Tensor]) -> tuple[int, float]:
    """Run; return the samples, and by which part of the expected outputs, if any, these differ."""
    samples, change, length = 0, 0.0, 0.0
    for index, output in enumerate(runner.outputs()):
        samples += len(output)
        if expected and output.shape == expected[index].shape:
            change += float((output - expected[index]).double().square().sum())
            length += float(expected[index].double().square().sum())
    if not change > 0:
        return samples, 0.0
    return samples, math.sqrt(change / length) if length else math.inf
