"""The states that a network is repaired to: their names, and BatchNorm's statistics."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rdprune.aside import samples
from rdprune.batches import Forward, Runner, preserved

PARTS = ("least-squares", "bias", "batchnorm")
RECOVERIES = ("none", *PARTS)
FEWEST: Final = 4  # samples of a batch, for BatchNorm statistics of its own


def read_recovery(recovery: str) -> tuple[str, ...]:
    """Return the parts of a recovery such as ``"bias+batchnorm"``, in the order of ``PARTS``.

    Raises
    ------
    ValueError
        If a part is unknown or occurs twice.
    """
    parts = recovery.split("+") if isinstance(recovery, str) else [recovery]
    if parts == ["none"]:
        return ()
    if len(set(parts)) < len(parts) or not set(parts) <= set(PARTS):
        raise ValueError(
            f"recovery is {recovery!r}, must be one of {', '.join(RECOVERIES)}, or several of them "
            f"such as 'bias+batchnorm'"
        )
    return tuple(part for part in PARTS if part in parts)


def spelled(recovery: str) -> str:
    """Return the one spelling of a recovery, whatever the order of its parts."""
    return "+".join(read_recovery(recovery)) or "none"


def too_few(data: tuple[Any, ...]) -> str | None:
    """Name the first batch with too few samples for BatchNorm statistics of its own, if any."""
    for index, batch in enumerate(data):
        size = samples(batch)
        if size is not None and size < FEWEST:
            have = f"{size} sample{'s' if size > 1 else ''}"
            return f"batch {index} of {len(data)} has {have}, too few for BatchNorm statistics"
    return None


def warn_of_few(model: nn.Module, recovery: str, data: tuple[Any, ...]) -> None:
    """Warn where BatchNorm statistics are asked of a batch that has none to speak of."""
    if "batchnorm" not in read_recovery(recovery) or not batchnorms(model):
        return
    problem = too_few(data)
    if problem:
        warnings.warn(
            f"{problem} (recovery {recovery!r}): give batches of {FEWEST} or more, better a "
            "hundred (drop_last=True leaves out a short last one)",
            stacklevel=3,
        )


class NotFiniteError(ValueError):
    """The network's activations overflow, so that there is nothing to repair it by."""


@contextmanager
def recovered(model: nn.Module, recovery: str) -> Iterator[None]:
    """Run a model with the BatchNorm that a repair will leave, without changing its buffers.

    Parameters
    ----------
    model : torch.nn.Module
        The model, in evaluation mode.
    recovery : str
        With the part ``"batchnorm"``, BatchNorm modules normalise with the statistics of each
        batch. Other parts change nothing here.

    Raises
    ------
    ValueError
        If `recovery` is unknown, or the model has no BatchNorm statistics to recover.
    """
    wanted = "batchnorm" in read_recovery(recovery)
    modules = batchnorms(model) if wanted else []
    if wanted and not modules:
        raise ValueError(f"recovery is {recovery!r} but the model has no BatchNorm statistics")
    saved = [(module, module.running_mean, module.running_var) for module in modules]
    try:
        for module in modules:
            module.running_mean = module.running_var = None
        yield
    finally:
        for module, mean, variance in saved:
            module.running_mean, module.running_var = mean, variance


def batchnorms(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm modules of a model that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def fits(recovery: str) -> tuple[str, ...]:
    """Return the parts of a recovery that change weights and biases."""
    return tuple(part for part in read_recovery(recovery) if part != "batchnorm")


def statistics(
    model: nn.Module, data: tuple[Any, ...], forward: Forward | None
) -> list[tuple[_BatchNorm, dict[str, Tensor]]]:
    """Average the statistics of BatchNorm modules over batches; the model is left as it was.

    Returns
    -------
    list of (module, dict of str to Tensor)
        Of the modules that ran, their buffers' new values by name.

    Raises
    ------
    NotFiniteError
        If there are infinities or NaN among them.
    """
    modules = batchnorms(model)
    with preserved(model):
        for module in modules:
            module.reset_running_stats()
            module.momentum = None
            module.train()
        if modules:
            for _ in Runner(model, data, forward).outputs():
                pass
        found = [
            (module, {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)})
            for module in modules
        ]
    names = {module: name for name, module in model.named_modules()}
    for module, new in found:
        if not all(buffer.isfinite().all() for buffer in new.values()):
            raise NotFiniteError(
                f"the statistics of {names[module]!r} on the batches are not finite"
            )
    return [(module, new) for module, new in found if new["num_batches_tracked"] > 0]
