"""Measuring what each option of each layer costs and does to the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from operator import index
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdprune.adaptive import settle
from rdprune.batches import Forward, Runner, preserved, read
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Reference
from rdprune.grid import check_layers, layer_macs, read_levels
from rdprune.layers import Prunable, prunable, signature
from rdprune.menu import LABELLED, menu
from rdprune.prefix import FEWEST, FEWEST_SETTLING, MEMORY, Prefix
from rdprune.recovery import Writer, recovered, spelled
from rdprune.scoring import Score, digest, scores
from rdprune.store import Store
from rdprune.sweeping import Sweep, open_shelf
from rdprune.tabling import Findings
from rdprune_core import RDTable, __version__, allocate
from rdprune_core.budget import Budget

AUTO = "auto"
AUTO_LEVELS = 101


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    levels: int | str | Sequence[float] = 101,
    budgets: Sequence[Budget] | None = None,
    objective: str = "additive",
    shapes: Iterable[str] = (),
    criterion: str | Score = "magnitude",
    within: Mapping[str, Tensor] | None = None,
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

    Each layer in turn is masked with each option, all others being dense, and the model
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
        0, the dense layer, is always added. ``"auto"``: 101 levels, of which a few are measured
        and the others interpolated, until the allocations at the `budgets` and the options next
        to them were measured.
    budgets : sequence of budgets, optional
        With ``levels="auto"``: where the table will be used, each as for
        `rdprune_core.allocate`, such as ``["20%", {"params": "30%", "macs": "40%"}]``.
    objective : str
        With ``levels="auto"``: ``"additive"`` or ``"joint"``, what is minimised there.
    shapes : iterable of str
        Further options of every layer: ``"2:4"``, ``"4x2:0.5"`` (blocks), ``"out:0.5"``,
        ``"in:0.5"`` (channels), each measured with the very mask that is applied; see
        `rdprune.shapes`.
    criterion : str or callable
        What a mask keeps first: ``"magnitude"``, ``"wanda"``, ``"taylor"`` (needs labels) or a
        callable that scores a layer; see `rdprune.scoring`.
    within : mapping of str to torch.Tensor, optional
        Previous bool masks by parameter name: every option keeps some of what they keep, and
        sparsities that keep more are left out.
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
        A layer for each prunable parameter, an option for each level, labelled such as ``"0.35"``,
        and for each shape. Costs ``params``, weights kept, ``numel - round(level * numel)`` for a
        level, and ``macs``, multiply-accumulates a sample, in proportion to the weights kept and
        rounded up.

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
    _check_auto(levels, budgets, objective, responses, keep_errors, shapes)
    chosen = read_levels(AUTO_LEVELS if _is_auto(levels) else levels)
    kind = parse(distortion)
    _check_options(responses, seed)
    state = spelled(recovery)
    if index(reuse_memory) < 0:
        raise ValueError(f"reuse_memory is {reuse_memory}, must not be negative")
    found = prunable(model, ignore=ignore, layers=layers)
    check_layers(found)
    data = read(batches)
    weighed = None
    if criterion != "magnitude":
        weighed = scores(
            criterion, model, found, data, forward=forward, recovery=recovery, seed=seed
        )
    _check_within(within, found, _is_auto(levels))
    choices = menu(found, chosen, shapes, weighed, within)
    with recovered(model, recovery), preserved(model), ExitStack() as stack:
        runner = Runner(model, data, forward, seed)
        reference = Reference(
            runner.outputs(),
            distortion=distortion,
            projection=responses,
            seed=seed,
            labels=runner.labels(kind),
        )
        shelf = None
        if store is not None:
            opened = stack.enter_context(Store(store))
            shelf = open_shelf(opened, runner, reference, distortion=kind.name, recovery=state)
        metadata = {
            "model": signature(model),
            "distortion": kind.name,
            "recovery": state,
            "samples": reference.samples,
            "outputs": reference.elements,
            "seed": seed,
            "projection": reference.projection,
            "rdprune": __version__,
            "shapes": {name: list(layer.parameter.shape) for name, layer in found.items()},
            "mask": choices.kind,
        }
        if choices.kind == LABELLED:
            own = getattr(criterion, "__name__", type(criterion).__name__)
            metadata["criterion"] = criterion if isinstance(criterion, str) else f"callable {own}"
            if weighed is not None:
                metadata["scores"] = digest(weighed)
            if within is not None:
                metadata["within"] = digest({name: within[name] for name in found})
        findings = Findings(found, choices.options, layer_macs(found, runner), metadata)
        targets = _targets(findings, budgets, objective)
        prefix = Prefix(runner, reference, found, memory=reuse_memory) if reuse else None
        if prefix is not None:
            stack.enter_context(prefix.installed())
        fewest = FEWEST if budgets is None else FEWEST_SETTLING
        writer = Writer(found, runner if prefix is None else prefix.plain, recovery)
        sweep = Sweep(runner, reference, prefix, shelf, choices.masks, writer, fewest)
        if budgets is None:
            sweep.measure(findings, findings.everything(), progress)
        else:
            settle(
                lambda wanted: sweep.measure(findings, wanted, progress),
                lambda: [solve(findings.table()) for solve in targets],
                findings.positions,
                findings.levels(),
            )
    return findings.table(keep_errors=keep_errors)


def _targets(
    findings: Findings, budgets: Sequence[Budget] | None, objective: str
) -> list[Callable[[RDTable], NDArray[np.int64]]]:
    """Return what chooses at each budget, once it is known that none of them is impossible."""
    if budgets is None:
        return []
    if isinstance(budgets, (str, Mapping)) or not isinstance(budgets, Iterable):
        raise ValueError(f"budgets is {budgets!r}, must be a list of budgets, such as ['20%']")
    for budget in budgets:
        allocate(findings.costs_only(), budget)

    def choose(budget: Budget, table: RDTable) -> NDArray[np.int64]:
        return allocate(table, budget, objective=objective).choice

    return [partial(choose, budget) for budget in budgets]


def _check_auto(
    levels: int | str | Sequence[float],
    budgets: Sequence[Budget] | None,
    objective: str,
    responses: int,
    keep_errors: bool,
    shapes: Iterable[str],
) -> None:
    if objective not in ("additive", "joint"):
        raise ValueError(f"objective is {objective!r}, must be 'additive' or 'joint'")
    if _is_auto(levels) != (budgets is not None):
        raise ValueError(
            "levels='auto' and budgets= go together: what is measured depends on where it is used"
        )
    if budgets is None:
        return
    if objective == "joint" and not responses:
        raise ValueError('objective "joint" needs responses above 0')
    if keep_errors:
        raise ValueError("keep_errors needs every level measured, not levels='auto'")
    if tuple(shapes):
        raise ValueError("shapes need every level measured, not levels='auto'")


def _check_within(
    within: Mapping[str, Tensor] | None, layers: Mapping[str, Prunable], auto: bool
) -> None:
    if within is None:
        return
    if auto:
        raise ValueError("within needs every level measured, not levels='auto'")
    for name, layer in layers.items():
        mask = within.get(name)
        if mask is None or mask.dtype != torch.bool or mask.shape != layer.parameter.shape:
            what = "missing" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise ValueError(
                f"within: the mask of layer {name!r} is {what}, must be bool of shape "
                f"{tuple(layer.parameter.shape)}"
            )


def _is_auto(levels: Any) -> bool:
    return isinstance(levels, str) and levels == AUTO


def _check_options(responses: int, seed: int) -> None:
    if index(responses) < 0:
        raise ValueError(f"responses is {responses}, must not be negative")
    if not 0 <= index(seed) < 2**32:
        raise ValueError(f"seed is {seed}, must be between 0 and 2**32 - 1")
