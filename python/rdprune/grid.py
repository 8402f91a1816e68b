"""What is read and checked before anything is measured: levels, layers, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from rdprune.batches import Runner
from rdprune.layers import Prunable
from rdprune.macs import count_macs


def read_levels(levels: int | str | Sequence[float]) -> list[float]:
    """Return sorted, unique sparsities, 0 the first.

    Raises
    ------
    ValueError
        If there are fewer than two, or one is outside of [0, 1].
    """
    if isinstance(levels, Integral) and not isinstance(levels, bool):
        if levels < 2:
            raise ValueError(f"levels is {levels}, must be at least 2")
        last = int(levels) - 1
        return [float(round(i / last, 12)) for i in range(last + 1)]
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise ValueError(
            f"levels is {levels!r}, must be an integer, a sequence of sparsities or 'auto'"
        )
    values = {0.0}
    for level in levels:
        if not 0 <= level <= 1:
            raise ValueError(f"levels holds {level}, must hold sparsities in [0, 1]")
        values.add(float(round(level, 12)))
    if len(values) < 2:
        raise ValueError("levels holds no sparsity above 0")
    return sorted(values)


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
