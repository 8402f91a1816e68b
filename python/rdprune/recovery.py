"""Repair of a pruned network that needs no training: BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rdprune.batches import Forward, Runner, preserved, read

RECOVERIES = ("none", "batchnorm")


@contextmanager
def recovered(model: nn.Module, recovery: str) -> Iterator[None]:
    """Run a model in the state that a repair will leave it in, without changing its buffers.

    Parameters
    ----------
    model : torch.nn.Module
        The model, in evaluation mode.
    recovery : str
        ``"none"``: the model as it is. ``"batchnorm"``: BatchNorm modules normalise with the
        statistics of each batch.

    Raises
    ------
    ValueError
        If `recovery` is unknown, or the model has no BatchNorm statistics to recover.
    """
    if recovery not in RECOVERIES:
        raise ValueError(f"recovery is {recovery!r}, must be one of {', '.join(RECOVERIES)}")
    modules = [] if recovery == "none" else batchnorms(model)
    if recovery == "batchnorm" and not modules:
        raise ValueError("recovery is 'batchnorm' but the model has no BatchNorm statistics")
    saved = [(module, module.running_mean, module.running_var) for module in modules]
    try:
        for module in modules:
            module.running_mean = module.running_var = None
        yield
    finally:
        for module, mean, variance in saved:
            module.running_mean, module.running_var = mean, variance


def repair_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    recovery: str = "batchnorm",
    forward: Forward | None = None,
) -> int:
    """Re-estimate the running statistics of BatchNorm modules, in place.

    The new statistics are the averages over the batches, each batch counting the same. All other
    modules stay in evaluation mode. A module that does not run keeps its statistics, and a
    failure leaves all of them as they were.

    Parameters
    ----------
    model : torch.nn.Module
        The pruned model.
    batches : iterable
        Calibration batches.
    recovery : str
        ``"batchnorm"``.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model.

    Returns
    -------
    int
        Number of modules repaired; 0 if the model has no BatchNorm.

    Raises
    ------
    ValueError
        If `recovery` is unknown, `batches` is empty, or the new statistics are not finite.
    """
    if recovery != "batchnorm":
        raise ValueError(f"recovery is {recovery!r}, must be 'batchnorm'")
    modules = batchnorms(model)
    data = read(batches)
    if not modules:
        return 0
    with preserved(model):
        for module in modules:
            module.reset_running_stats()
            module.momentum = None
            module.train()
        for _ in Runner(model, data, forward).outputs():
            pass
        estimates = [
            {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
            for module in modules
        ]
    repaired = _checked(model, modules, estimates)
    for module, new in repaired:
        for name, buffer in module.named_buffers(recurse=False):
            buffer.data.copy_(new[name])
    return len(repaired)


def batchnorms(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm modules of a model that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def _checked(
    model: nn.Module, modules: list[_BatchNorm], estimates: list[dict[str, torch.Tensor]]
) -> list[tuple[_BatchNorm, dict[str, torch.Tensor]]]:
    """Return the modules that ran with their new statistics, all finite."""
    names = {module: name for name, module in model.named_modules()}
    ran = []
    for module, new in zip(modules, estimates, strict=True):
        if not all(buffer.isfinite().all() for buffer in new.values()):
            raise ValueError(f"the statistics of {names[module]!r} on the batches are not finite")
        if new["num_batches_tracked"] > 0:
            ran.append((module, new))
    return ran
