"""What a run measures, and how it allocates, where it is not told: by what will ship.

Which quantity foretells top-1 depends on what is done after pruning (``docs/predictors.md``):

- nothing: the distortion of the network as it is, the paper's;
- BatchNorm statistics are estimated again: the distortion in that state, of a classifier that of
  standardised logits;
- it is fine-tuned, and has BatchNorm: the same, mixed half and half with the energy of the removed
  weights. Other networks were not studied: they stay with the first;
- it is fine-tuned in each of several rounds: the plain distortion in the state of BatchNorm
  (``docs/paper.md``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from rdprune.aside import labels
from rdprune.batches import Forward, Runner, preserved
from rdprune.layers import Prunable
from rdprune.recovery import FEWEST, batchnorms, read_recovery, too_few
from rdprune.settings import Settings

DECIDED: Final = ("recovery", "distortion", "blend")
BLEND: Final = 0.5
"""Share of the removed energy for a network that will be fine-tuned."""
CLASSES: Final = 3
"""Fewest: two standardised logits are a sign."""
ABOVE_CHANCE: Final = 3.0
"""Standard deviations more often right than by chance: then labels are of the outputs' classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is pruned, by which samples, and whether it will be fine-tuned.

    Attributes
    ----------
    model, forward, seed
        As for `iterate`.
    layers : mapping of str to Prunable
    data : tuple
        The batches.
    trained : bool
        Whether the pruned network is fine-tuned.
    rounds : int
    noise : bool
        Whether the batches are noise, which has statistics of its own.
    """

    model: nn.Module
    layers: Mapping[str, Prunable]
    data: tuple[Any, ...]
    forward: Forward | None
    seed: int
    trained: bool
    rounds: int
    noise: bool

    @property
    def gradual(self) -> bool:
        """Whether it is pruned and fine-tuned again and again."""
        return self.trained and self.rounds > 1


def decided(settings: Settings, case: Case, told: Container[str]) -> Settings:
    """Return settings with what was not told decided by what will ship.

    Parameters
    ----------
    settings : Settings
        The paper's where it was not told: ``"none"``, ``"mse"``, 0.
    case : Case
    told : container of str
        Those of `DECIDED` that stay as they are.
    """
    if "recovery" in told:
        again = "batchnorm" in read_recovery(settings.recovery)
    else:
        again = case.trained or "batchnorm" in read_recovery(settings.repair)
    if not again or all(name in told for name in DECIDED):
        return settings  # the paper's, where it is not told
    output, behind = _run(case)
    if "recovery" not in told:
        if not (behind and _enough(case)):
            return settings
        settings = replace(settings, recovery="batchnorm")
    if "distortion" not in told and not case.gradual and case.forward is None:
        logits = _are_logits(output, case.data[0])
        settings = replace(settings, distortion="nmse" if logits else "mse")
    if "blend" not in told and case.trained and not case.gradual and settings.blendable:
        settings = replace(settings, blend=BLEND)
    return settings


def taken_over(
    settings: Settings, case: Case, told: Container[str], begun: Mapping[str, Any]
) -> Settings:
    """Return settings with what was not told as a folder's rounds were done.

    Parameters
    ----------
    settings, case, told
        As for `decided`.
    begun : mapping
        The folder's settings.
    """
    names = [name for name in ("recovery", "distortion") if name in begun and name not in told]
    settings = replace(settings, **{name: begun[name] for name in names})
    blend = float(begun.get("blend", 0.0))
    if "blend" not in told and blend and settings.blendable:
        settings = replace(settings, blend=blend)
        if case.gradual and "distortion" not in told:
            warnings.warn(
                f"the run goes on as it was begun, for one round: distortion {settings.distortion}"
                f", blend {blend:g}; several rounds begun at once go by the plain distortion",
                stacklevel=3,
            )
    return settings


def _run(case: Case) -> tuple[Tensor, bool]:
    """Return the output on the first batch, and whether a pruned layer runs before a BatchNorm."""
    owners = {owner.module for layer in case.layers.values() for owner in layer.owners}
    ran: set[nn.Module] = set()
    before: list[bool] = []
    with (
        preserved(case.model),
        _watched(owners, ran.add),
        _watched(batchnorms(case.model), lambda _: before.append(bool(ran))),
    ):
        output = next(Runner(case.model, case.data[:1], case.forward, case.seed).outputs())
    hidden = ran != owners  # used by a module around it, perhaps before any
    return output, any(before) or (bool(before) and hidden)


@contextmanager
def _watched(modules: Any, see: Any) -> Iterator[None]:
    """Call a function with each of the modules that runs."""
    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_pre_hook(lambda one, _: see(one))
            stack.callback(handle.remove)
        yield


def _enough(case: Case) -> bool:
    """Whether every batch has statistics of its own; else it is said."""
    if case.noise:
        return False
    problem = too_few(case.data)
    if problem:
        warnings.warn(
            f"{problem}: all are measured as they are, by mean squares, without blend; leave out "
            f"batches of fewer than {FEWEST} (drop_last=True), or say recovery=",
            stacklevel=4,
        )
    return problem is None


def _are_logits(output: Tensor, batch: Any) -> bool:
    """Whether an output is (n, classes), and right about the labels well above chance."""
    truth = labels(batch)
    if truth is None or output.ndim != 2 or output.shape[1] < CLASSES or len(output) != len(truth):
        return False
    truth = truth.detach().to("cpu", torch.int64)
    if int(truth.min()) < 0 or int(truth.max()) >= output.shape[1]:
        return False
    right = int((output.argmax(1) == truth).sum())
    chance = 1 / output.shape[1]
    spread = math.sqrt(len(truth) * chance * (1 - chance))
    return right >= len(truth) * chance + ABOVE_CHANCE * spread
