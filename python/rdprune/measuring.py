"""Measuring what each option of each layer costs and does to the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Integral
from operator import index
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rdprune.batches import Forward, Runner, preserved, read
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable, count_macs, prunable, signature
from rdprune.magnitude import kept_count, level_label
from rdprune.prefix import MEMORY, Prefix
from rdprune.progress import progress_bar
from rdprune.recovery import Writer, recovered, spelled
from rdprune.store import Store
from rdprune.sweeping import MASK, Option, Sweep, costs, open_shelf
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
    store: str | PathLike[str] | None = None,
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
        BatchNorm on each batch's statistics; ``"bias"`` or ``"least-squares"``, the pruned layer
        repaired as `repair_` does it; or several, such as ``"bias+batchnorm"``.
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
    store : path, optional
        Run folder, whose file ``measurements.sqlite`` keeps every measurement: what it holds of
        this model, data and settings is not measured again. Several processes may share it.
    progress : bool
        Show the progress on stderr: layer, options done, time left.

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
        never runs, or an output is not finite. A `FileFormatError` if the store is damaged.
    StoreError
        If the store cannot be written; what was measured is kept.

    Warns
    -----
    RuntimeWarning
        If prefix reuse cannot be exact on this model, so that whole passes are run instead.
    """
    chosen = _levels(levels)
    criterion = parse(distortion)
    _check_options(responses, seed)
    state = spelled(recovery)
    if index(reuse_memory) < 0:
        raise ValueError(f"reuse_memory is {reuse_memory}, must not be negative")
    found = prunable(model, ignore=ignore, layers=layers)
    _check_layers(found)
    data = read(batches)
    options = {name: _options(layer, chosen) for name, layer in found.items()}
    with recovered(model, recovery), preserved(model), ExitStack() as stack:
        runner = Runner(model, data, forward, seed)
        reference = Reference(
            runner.outputs(),
            distortion=distortion,
            projection=responses,
            seed=seed,
            labels=runner.labels(criterion),
        )
        shelf = None
        if store is not None:
            opened = stack.enter_context(Store(store))
            shelf = open_shelf(opened, runner, reference, distortion=criterion.name, recovery=state)
        macs = _macs(found, runner)
        prefix = Prefix(runner, reference, found, memory=reuse_memory) if reuse else None
        counts, weights = costs(options, prefix)
        meter = stack.enter_context(progress_bar(counts, progress, weights))
        writer = Writer(found, runner if prefix is None else prefix.plain, recovery)
        sweep = Sweep(runner, reference, meter, prefix, shelf, writer)
        if prefix is not None:
            stack.enter_context(prefix.installed())
        measured = {
            name: sweep.measure_layer(found[name], options[name])
            for name in (prefix.order if prefix else found)
        }
    metadata = {
        "model": signature(model),
        "distortion": criterion.name,
        "recovery": state,
        "samples": reference.samples,
        "outputs": reference.elements,
        "seed": seed,
        "projection": reference.projection,
        "rdprune": __version__,
        "shapes": {name: list(layer.parameter.shape) for name, layer in found.items()},
        "mask": MASK,
    }
    return _table(found, options, measured, macs, metadata, keep_errors)


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


def _check_options(responses: int, seed: int) -> None:
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


def _options(layer: Prunable, levels: Iterable[float]) -> list[Option]:
    numel = layer.parameter.numel()
    return [Option(level_label(level), kept_count(numel, level)) for level in levels]


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
    options: Mapping[str, Sequence[Option]],
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
        errors=_errors([measured[name] for name in layers]) if keep_errors else None,
        dense={"params": numel, "macs": dense_macs},
        metadata=metadata,
    )


def _errors(rows: Iterable[Sequence[Measurement]]) -> list[NDArray[np.float64]]:
    return [np.stack([m.errors for m in row if m.errors is not None]) for row in rows]


def _array(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
