"""Measuring what each option of each layer costs and does to the output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rdprune.batches import Advance, Forward, Runner, preserved, progress_bar, read
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, count_macs, prunable, signature
from rdprune.magnitude import (
    kept_count,
    level_label,
    magnitude_order,
    order_mask,
    saved_weights,
    write_masked,
)
from rdprune.prefix import FEWEST, MEMORY, DivergedError, Prefix
from rdprune.recovery import RECOVERIES, recovered
from rdprune_core import RDTable, __version__


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    levels: int | Sequence[float] = 101,
    distortion: str | SampleErrors = "mse",
    recovery: str = "none",
    ignore: str | Iterable[str] = (),
    layers: str | Iterable[str] | None = None,
    forward: Forward | None = None,
    responses: int = 256,
    seed: int = 0,
    reuse: bool = True,
    reuse_memory: int = MEMORY,
    keep_errors: bool = False,
    progress: bool = True,
) -> RDTable:
    """Measure the cost and the distortion of every sparsity of every layer.

    Each layer in turn is masked by magnitude at each level, all others being dense, and the model
    runs on all batches (Xu et al. 2023, *Efficient Joint Optimization of Layer-Adaptive Weight
    Pruning in Deep Neural Networks*, section 3). The model is left exactly as it was, also after
    an error or an interrupt.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model, on any device.
    batches : iterable
        Calibration batches, read once and kept in memory: tensors, tuples or lists whose first
        element is the input, or dicts of keyword arguments (``labels`` apart).
    levels : int or sequence of float
        Number of evenly spaced sparsities from 0 to 1, or the sparsities themselves, in [0, 1].
        0, the dense layer, is always added.
    distortion : str or callable
        Error of a sample, and after a comma how the samples are reduced: ``"mse"``, ``"max"``
        (the largest of the mean square errors), ``"cvar:0.1"`` (the worst tenth), ``"kl:2"``,
        ``"cosine"``, ``"loss"``, ``"kl,max"``, or a callable ``errors(dense_output, output)``
        that returns one a sample; see `rdprune.criteria.parse`.
    recovery : str
        State of the network that is measured: ``"none"``, as it is; ``"batchnorm"``, with
        BatchNorm on each batch's statistics.
    ignore, layers : str or iterable of str
        Layers to leave out, or the only ones to measure; see `prunable`.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model and returns its output.
    responses : int
        Numbers kept of each option's output difference, for the joint objective; 0 for none.
    seed : int
        Of the projection of the responses and of what the model itself draws, below 2**32.
    reuse : bool
        What runs before the measured layer gives its recorded output instead of running again,
        see `rdprune.prefix`. The table is the same.
    reuse_memory : int
        Most bytes that these records take, 1 GiB unless told; batches that do not fit run whole.
    keep_errors : bool
        Keep the error of every sample in the table, for `reduce` and `bootstrap`: 8 bytes for
        each layer, option and sample.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    RDTable
        A layer for each prunable parameter, an option for each level, labelled such as ``"0.35"``.
        Costs ``params``, weights kept, ``numel - round(level * numel)``, and ``macs``,
        multiply-accumulates a sample, in proportion to the weights kept and rounded up.

    Raises
    ------
    ValueError
        If an argument is out of range, there is nothing to measure, a layer is masked already or
        never runs, or an output is not finite.

    Warns
    -----
    RuntimeWarning
        If prefix reuse cannot be exact on this model, so that whole passes are run instead.
    """
    chosen = _levels(levels)
    criterion = parse(distortion)
    _check_options(recovery, responses, seed)
    if index(reuse_memory) < 0:
        raise ValueError(f"reuse_memory is {reuse_memory}, must not be negative")
    found = prunable(model, ignore=ignore, layers=layers)
    _check_layers(found)
    data = read(batches)
    options = {name: _options(layer, chosen) for name, layer in found.items()}
    with recovered(model, recovery), preserved(model):
        runner = Runner(model, data, forward, seed)
        reference = Reference(
            runner.outputs(),
            distortion=distortion,
            projection=responses,
            seed=seed,
            labels=runner.labels(criterion),
        )
        macs = _macs(found, runner)
        with progress_bar(sum(map(len, options.values())), progress) as advance:
            measured = _measure_all(
                found, options, runner, reference, advance, reuse_memory if reuse else None
            )
    metadata = {
        "model": signature(model),
        "distortion": criterion.name,
        "recovery": recovery,
        "samples": reference.samples,
        "outputs": reference.elements,
        "seed": seed,
        "projection": reference.projection,
        "rdprune": __version__,
        "shapes": {name: list(layer.parameter.shape) for name, layer in found.items()},
        "mask": "unstructured-magnitude",
    }
    return _table(found, options, measured, macs, metadata, keep_errors)


@dataclass(frozen=True, slots=True)
class _Option:
    label: str
    kept: int


def _measure_all(
    layers: Mapping[str, Prunable],
    options: Mapping[str, Sequence[_Option]],
    runner: Runner,
    reference: Reference,
    advance: Advance,
    memory: int | None,
) -> dict[str, list[Measurement]]:
    """Measure every layer, with prefix reuse in `memory` bytes or, without it, plainly."""
    if memory is None:
        return {
            name: _measure_layer(layer, options[name], runner, reference, advance)
            for name, layer in layers.items()
        }
    prefix = Prefix(runner, reference, layers, memory=memory)
    measured = {}
    with prefix.installed():
        for name in prefix.order:
            measured[name] = _measure_layer(
                layers[name], options[name], prefix.plain, reference, advance, prefix
            )
    return measured


def _measure_layer(
    layer: Prunable,
    options: Sequence[_Option],
    runner: Runner,
    reference: Reference,
    advance: Advance,
    prefix: Prefix | None = None,
) -> list[Measurement]:
    """Measure every option of a layer, once for each count of weights.

    Without `prefix` this is the plain loop, which everything faster is checked against.
    """
    weight = layer.parameter
    advance(layer.name, 0)
    order = magnitude_order(weight, layer=layer.name)
    done = {weight.numel(): reference.unchanged()}
    missing = {option.kept for option in options} - done.keys()
    if prefix is not None and len(missing) >= FEWEST:
        middle = sorted(missing)[len(missing) // 2]  # all zeros could hide what else they change
        mask = order_mask(order, middle, weight.shape)
        runner = prefix.prepare(layer, weight.detach().masked_fill(~mask, 0))
    measurements = []
    with saved_weights([weight]) as (saved,):
        for option in options:
            if option.kept not in done:
                write_masked(weight, saved, order_mask(order, option.kept, weight.shape))
                try:
                    done[option.kept] = reference.measure(runner.outputs())
                except DivergedError:
                    assert prefix is not None
                    prefix.forget(layer)
                    runner = prefix.plain
                    done[option.kept] = reference.measure(runner.outputs())
            measurement = done[option.kept]
            if not math.isfinite(measurement.distortion):
                raise ValueError(
                    f"layer {layer.name!r}, option {option.label!r}: the distortion is "
                    f"{measurement.distortion}, must be finite; leave out this level or the layer"
                )
            measurements.append(measurement)
            advance(layer.name, 1)
    return measurements


def _levels(levels: int | Sequence[float]) -> list[float]:
    """Sorted, unique sparsities, 0 the first."""
    if isinstance(levels, Integral) and not isinstance(levels, bool):
        if levels < 2:
            raise ValueError(f"levels is {levels}, must be at least 2")
        last = int(levels) - 1
        return [float(round(i / last, 12)) for i in range(last + 1)]
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise ValueError(f"levels is {levels!r}, must be an integer or a sequence of sparsities")
    values = {0.0}
    for level in levels:
        if not 0 <= level <= 1:
            raise ValueError(f"levels holds {level}, must hold sparsities in [0, 1]")
        values.add(float(round(level, 12)))
    if len(values) < 2:
        raise ValueError("levels holds no sparsity above 0")
    return sorted(values)


def _check_options(recovery: str, responses: int, seed: int) -> None:
    if recovery not in RECOVERIES:
        raise ValueError(f"recovery is {recovery!r}, must be one of {', '.join(RECOVERIES)}")
    if index(responses) < 0:
        raise ValueError(f"responses is {responses}, must not be negative")
    if not 0 <= index(seed) < 2**32:
        raise ValueError(f"seed is {seed}, must be between 0 and 2**32 - 1")


def _check_layers(layers: Mapping[str, Prunable]) -> None:
    if not layers:
        raise ValueError("model has no layer to measure: no linear or convolution weight is left")
    for name, layer in layers.items():
        if layer.masked:
            raise ValueError(f"layer {name!r} carries a mask: applied already; strip_ first")


def _options(layer: Prunable, levels: Iterable[float]) -> list[_Option]:
    numel = layer.parameter.numel()
    return [_Option(level_label(level), kept_count(numel, level)) for level in levels]


def _macs(layers: Mapping[str, Prunable], runner: Runner) -> dict[str, int]:
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


def _table(
    layers: Mapping[str, Prunable],
    options: Mapping[str, Sequence[_Option]],
    measured: Mapping[str, Sequence[Measurement]],
    macs: Mapping[str, int],
    metadata: dict[str, Any],
    keep_errors: bool,
) -> RDTable:
    params = [_array([option.kept for option in options[name]]) for name in layers]
    numel = _array([layer.parameter.numel() for layer in layers.values()])
    dense_macs = _array([macs[name] for name in layers])
    kept_macs = [
        _array([-(-int(total) * int(kept) // int(count)) for kept in row])
        for row, total, count in zip(params, dense_macs, numel, strict=True)
    ]
    sketches = [
        np.stack([m.response for m in measured[name] if m.response is not None])
        for name in layers
        if metadata["projection"]
    ]
    return RDTable.from_arrays(
        {"params": params, "macs": kept_macs},
        [np.array([m.distortion for m in measured[name]]) for name in layers],
        names=list(layers),
        options=[[option.label for option in options[name]] for name in layers],
        responses=sketches or None,
        errors=_errors(measured) if keep_errors else None,
        dense={"params": numel, "macs": dense_macs},
        metadata=metadata,
    )


def _errors(measured: Mapping[str, Sequence[Measurement]]) -> list[NDArray[np.float64]]:
    rows = measured.values()
    return [np.stack([m.errors for m in row if m.errors is not None]) for row in rows]


def _array(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
