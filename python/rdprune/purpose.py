"""What a run measures, and how it allocates, where it is not told: by what will ship.

Which quantity foretells top-1 depends on what is done after pruning (``docs/predictors.md``):

- nothing: the distortion of the network as it is, the paper's;
- BatchNorm statistics are estimated again: the distortion in that state, of a classifier that of
  standardised logits;
- it is fine-tuned, and has BatchNorm: the same, mixed half and half with the energy of the removed
  weights. Other networks were not studied: they stay with the first.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any, Final

from torch import nn

from rdprune.aside import labels
from rdprune.batches import Forward, Runner, preserved
from rdprune.recovery import batchnorms, read_recovery
from rdprune.settings import Settings

BLEND: Final = 0.5
"""Share of the removed energy for a network that will be fine-tuned."""
CLASSES: Final = 3
"""Fewest: two standardised logits are a sign."""


def decided(
    settings: Settings,
    model: nn.Module,
    data: tuple[Any, ...],
    *,
    trained: bool,
    forward: Forward | None,
    told: Container[str],
) -> Settings:
    """Return settings with what was not told decided by what will ship.

    Parameters
    ----------
    settings : Settings
    model, data, forward
        As for `iterate`.
    trained : bool
        Whether the pruned network is fine-tuned.
    told : container of str
        Those of ``"recovery"``, ``"distortion"`` and ``"blend"`` that stay as they are.
    """
    if "recovery" not in told:
        again = trained or "batchnorm" in read_recovery(settings.repair)
        state = "batchnorm" if again and batchnorms(model) else "none"
        settings = replace(settings, recovery=state)
    restated = "batchnorm" in read_recovery(settings.recovery)
    if "distortion" not in told:
        logits = restated and _classifies(model, data, forward, settings.seed)
        settings = replace(settings, distortion="nmse" if logits else "mse")
    if "blend" not in told:
        blend = BLEND if trained and restated and settings.blendable else 0.0
        settings = replace(settings, blend=blend)
    return settings


def _classifies(
    model: nn.Module, data: tuple[Any, ...], forward: Forward | None, seed: int
) -> bool:
    """Whether a model returns (n, classes) for a batch with n labels below that."""
    truth = labels(data[0])
    if truth is None:
        return False
    with preserved(model):
        output = next(Runner(model, data[:1], forward, seed).outputs())
    logits = output.ndim == 2 and len(output) == len(truth) and output.shape[1] >= CLASSES
    return logits and int(truth.min()) >= 0 and int(truth.max()) < output.shape[1]
