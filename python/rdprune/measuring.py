"""Measuring what each option of each layer costs and does to the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from rdprune.adaptive import settle
from rdprune.batches import Forward, Runner, preserved, read
from rdprune.checking import check_seed, check_whole
from rdprune.compared import features_of
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Reference
from rdprune.grid import check_layers, layer_macs
from rdprune.layers import Prunable, prunable, signature
from rdprune.levels import read_levels
from rdprune.menu import LABELLED, menu
from rdprune.prefix import FEWEST, FEWEST_SETTLING, MEMORY, Prefix
from rdprune.ranks import found_ranks
from rdprune.recovery import recovered, spelled, warn_of_few
from rdprune.repairing import Writer
from rdprune.scoring import Score, digest, scores
from rdprune.stacking import Stacker
from rdprune.store import Store, go_on
from rdprune.sweeping import Sweep, open_shelf, sign
from rdprune.tabling import Findings
from rdprune.targets import AUTO_LEVELS, check_auto, choosers, is_auto
from rdprune_core import RDTable, __version__
from rdprune_core.budget import Budget


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
    distributed: bool = True,
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
    levels : int, str or sequence of float
        Number of evenly spaced sparsities from 0 to 1, or the sparsities themselves, in [0, 1].
        0, the dense layer, is always added. ``"falling"`` or ``"falling:64"``: so many (101) whose
        densities fall by one ratio, for sparsities of 0.9 and above. ``"auto"``: 101 even ones,
        of which a few are measured and the others interpolated, until the allocations at the
        `budgets` and the options next to them were measured.
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
        (the largest of the mean square errors), ``"cvar:0.1"`` (the worst tenth), ``"nmse"``,
        ``"kl:2"``, ``"cosine"``, ``"loss"``, ``"kl,max"``, ``"mse@attention_mask"``, or a
        callable ``errors(dense_output, output)`` that returns one a sample; see
        `rdprune.criteria.parse`.
    recovery : str
        State of the network that is measured: ``"none"``, as it is; ``"batchnorm"``, with
        BatchNorm on each batch's statistics; ``"bias"`` or ``"least-squares"``, the pruned layer
        repaired as `repair_` does it; or several, such as ``"bias+batchnorm"``.
    ignore, layers : str or iterable of str
        Layers to leave out, or the only ones to measure; see `prunable`.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model and returns its output, such as
        `features`.
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
    distributed : bool
        Where torch.distributed has a process group of several ranks, all of them must call this,
        share the work, and return the same table; see `rdprune.ranks`. False measures alone.
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
    RankError
        If another rank died or failed.

    Warns
    -----
    UserWarning
        If a batch is too small for the statistics of a `recovery` of BatchNorm.
    RuntimeWarning
        If prefix reuse cannot be exact on this model, so that whole passes are run instead.
    """
    check_auto(levels, budgets, objective, responses, keep_errors, shapes)
    chosen = read_levels(AUTO_LEVELS if is_auto(levels) else levels)
    kind = parse(distortion)
    check_whole("responses", responses)
    check_seed(seed)
    check_whole("reuse_memory", reuse_memory)
    state = spelled(recovery)
    ranks = found_ranks(lambda: go_on(store)) if distributed else None
    with ExitStack() as stack:
        if ranks is not None:
            stack.enter_context(ranks.working())
        found = prunable(model, ignore=ignore, layers=layers)
        check_layers(found)
        data = read(batches)
        weighed = None
        if criterion != "magnitude":
            weighed = scores(
                criterion, model, found, data, forward=forward, recovery=recovery, seed=seed
            )
        _check_within(within, found, is_auto(levels))
        choices = menu(found, chosen, shapes, weighed, within)
        warn_of_few(model, recovery, data)
        stack.enter_context(recovered(model, recovery))
        stack.enter_context(preserved(model))
        runner = Runner(model, data, forward, seed)
        reference = Reference(
            runner.outputs(),
            distortion=distortion,
            projection=responses,
            seed=seed,
            beside=runner.beside(kind),
            cause=runner.cause,
        )
        macs = layer_macs(found, runner, reference.outputs)
        findings = Findings(found, choices.options, macs, {}, reference.offset)
        findings.metadata.update(
            _metadata(model, reference, findings, kind.name, state, seed, choices.kind)
        )
        if choices.kind == LABELLED:
            own = getattr(criterion, "__name__", type(criterion).__name__)
            findings.metadata["criterion"] = (
                criterion if isinstance(criterion, str) else f"callable {own}"
            )
            if weighed is not None:
                findings.metadata["scores"] = digest(weighed)
            if within is not None:
                findings.metadata["within"] = digest({name: within[name] for name in found})
        if features_of(forward):
            findings.metadata["features"] = features_of(forward)
        solvers = choosers(findings, budgets, objective)
        shelf = None
        if store is not None or ranks is not None:
            signed = sign(runner, reference, distortion=kind.name, recovery=state)
            if ranks is not None:
                ranks.agree(signed.digest + findings.digest())
            if store is not None:
                shelf = open_shelf(stack.enter_context(Store(store)), signed, reference)
        prefix = Prefix(runner, reference, found, memory=reuse_memory) if reuse else None
        if prefix is not None:
            stack.enter_context(prefix.installed())
        fewest = FEWEST if budgets is None else FEWEST_SETTLING
        writer = Writer(found, runner if prefix is None else prefix.plain, recovery)
        stacker = Stacker(reference, prefix) if prefix is not None and state == "none" else None
        sweep = Sweep(
            runner, reference, prefix, shelf, choices.masks, writer, fewest,
            ranks=ranks, stacker=stacker,
        )  # fmt: skip
        if budgets is None:
            sweep.measure(findings, findings.everything(), progress)
        else:
            settle(
                lambda wanted: sweep.measure(findings, wanted, progress),
                lambda: [solve(findings.table()) for solve in solvers],
                findings.positions,
                findings.levels(),
            )
    return findings.table(keep_errors=keep_errors)


def _metadata(
    model: nn.Module,
    reference: Reference,
    findings: Findings,
    distortion: str,
    recovery: str,
    seed: int,
    mask: str,
) -> dict[str, Any]:
    """Say in the table what it is of."""
    return {
        "model": signature(model),
        "distortion": distortion,
        "recovery": recovery,
        "samples": reference.samples,
        "outputs": reference.elements,
        "seed": seed,
        "projection": reference.projection,
        "rdprune": __version__,
        "shapes": {name: list(layer.parameter.shape) for name, layer in findings.layers.items()},
        "mask": mask,
    }


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
