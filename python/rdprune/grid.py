"""What is checked before anything is measured: layers, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping

from rdprune.batches import Runner
from rdprune.layers import Prunable
from rdprune.macs import count_macs


def check_layers(layers: Mapping[str, Prunable]) -> None:
    """Refuse an empty choice of layers and layers that carry a mask."""
    if not layers:
        raise ValueError("model has no layer to measure: no weight is left")
    for name, layer in layers.items():
        if layer.masked:
            raise ValueError(f"layer {name!r} carries a mask: applied already; strip_ first")


def layer_macs(layers: Mapping[str, Prunable], runner: Runner) -> dict[str, int]:
    """Multiply-accumulates a sample of every layer; one that never runs is an error."""
    macs = {}
    counted = count_macs(layers, lambda: sum(len(output) for output in runner.outputs()))
    for name, count in counted.items():
        if count is None:
            raise ValueError(
                f"layer {name!r} never runs on the batches, so nothing can be measured: "
                f"add {name!r} to ignore"
            )
        macs[name] = count
    return macs
