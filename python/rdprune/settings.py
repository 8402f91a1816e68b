"""What an iterative run depends on, checked before anything is measured."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Final

from torch import nn

from rdprune.allocators import ALLOCATORS
from rdprune.checking import check_whole
from rdprune.criteria import parse
from rdprune.layers import Prunable
from rdprune.levels import read_levels
from rdprune.magnitude import kept_count
from rdprune.recovery import batchnorms, read_recovery
from rdprune.scoring import CRITERIA
from rdprune.shapes import parse_shape
from rdprune_core.solve import OBJECTIVES

METHODS = ("rdprune", *ALLOCATORS)
COSTS = ("params", "macs")

Levels = int | str | Sequence[float] | None

AMOUNT: Final = 0.2
"""Fraction of what is left that a round removes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the masks depend on; written into the run folder and compared on resuming."""

    amount: float
    method: str
    cost: str
    objective: str
    levels: int | str | tuple[float, ...] | None
    distortion: str
    recovery: str
    repair: str
    rewind: bool
    ignore: tuple[str, ...]
    layers: tuple[str, ...] | None
    seed: int
    shapes: tuple[str, ...] = ()
    criterion: str = "magnitude"
    blend: float = 0.0

    def __post_init__(self) -> None:
        if not _is_number(self.amount, Real) or not 0 < self.amount < 1:
            raise ValueError(f"amount is {self.amount!r}, must be a fraction between 0 and 1")
        for name, known in (
            ("method", METHODS),
            ("cost", COSTS),
            ("objective", OBJECTIVES),
            ("criterion", CRITERIA),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}, must be one of {', '.join(known)}")
        if self.cost != "params" and self.method != "rdprune":
            raise ValueError(f"method {self.method!r} counts params, not {self.cost!r}")
        if self.objective != OBJECTIVES[0] and self.method != "rdprune":
            raise ValueError(f"method {self.method!r} has no objective: {self.objective!r} is ours")
        if self.shaped and self.method != "rdprune":
            raise ValueError(
                f"method {self.method!r} removes single weights by magnitude: it has no shapes and "
                "no criterion"
            )
        if not isinstance(self.distortion, str):
            raise ValueError(f"distortion is {self.distortion!r}, must be a name in a run")
        parse(self.distortion)
        if not _is_number(self.blend, Real) or not 0 <= self.blend <= 1:
            raise ValueError(f"blend is {self.blend!r}, must be a fraction between 0 and 1")
        if self.blend and self._unblended:
            raise ValueError(
                f"blend is {self.blend!r}, but {self._unblended}: leave blend out, or say 0"
            )
        read_recovery(self.recovery)
        try:
            read_recovery(self.repair)
        except ValueError as error:
            raise ValueError(str(error).replace("recovery is", "repair is", 1)) from None
        if self.levels == "auto":
            raise ValueError("levels is 'auto', which is for one table; rounds measure all levels")
        if self.levels is not None:
            read_levels(self.levels)
        for shape in self.shapes:
            parse_shape(shape)
        check_whole("seed", self.seed, -math.inf)

    @property
    def shaped(self) -> bool:
        """Whether there are options other than single weights by magnitude."""
        return bool(self.shapes) or self.criterion != "magnitude"

    @property
    def _unblended(self) -> str:
        """Why removed energy cannot be mixed in; nothing where it can."""
        if self.method != METHODS[0]:
            return f"method is {self.method!r}, which minimises nothing measured"
        if self.objective != OBJECTIVES[0]:
            return f"objective is {self.objective!r}, and energy is a sum"
        if self.shaped:
            return "shapes or criterion keep other weights than the largest"
        if parse(self.distortion).needs_labels:
            return "distortion is 'loss', which may be negative"
        return ""

    @property
    def blendable(self) -> bool:
        """Whether removed energy can be mixed in: a sum over single weights by magnitude."""
        return not self._unblended

    def target(self, number: int) -> Fraction:
        """Fraction that is kept after a round, exact."""
        return (1 - Fraction(repr(float(self.amount)))) ** number

    def check(self, model: nn.Module, layers: Mapping[str, Prunable], rounds: int) -> None:
        """Refuse what this model cannot be pruned by.

        Raises
        ------
        ValueError
            Names the argument, or the layer.
        """
        check_rounds(rounds)
        if not layers:
            raise ValueError("model has no layer to prune: no weight is left")
        for name, layer in layers.items():
            if layer.masked:
                raise ValueError(f"layer {name!r} carries a mask: applied already; strip_ first")
        for name in ("recovery", "repair"):
            if "batchnorm" in read_recovery(getattr(self, name)) and not batchnorms(model):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} but the model has no BatchNorm statistics"
                )
        sizes = [layer.parameter.numel() for layer in layers.values()]
        total = int(self.target(rounds) * sum(sizes))
        if total < 1:
            raise ValueError(
                f"rounds is {rounds}: at amount {self.amount} the last would keep none of the "
                f"{sum(sizes)} weights"
            )
        if self.levels is None or self.shapes or self.cost != "params" or self.method != METHODS[0]:
            return
        most = read_levels(self.levels)[-1]
        least = sum(kept_count(size, most) for size in sizes)
        if least > total:
            raise ValueError(
                f"levels end at {most:g}, where {least} of the {sum(sizes)} weights are kept; the "
                f"last round keeps {total}: add sparser levels"
            )


def plain_levels(levels: Levels) -> int | str | tuple[float, ...] | None:
    """Return levels as they are written into the run folder."""
    if levels is None or isinstance(levels, str):
        return levels
    if isinstance(levels, Integral):
        return int(levels)
    return tuple(read_levels(levels))


def amount_of(amount: float | None, sparsity: float | None, rounds: int) -> float:
    """Return the fraction that a round removes: as given, or such that the last one reaches it.

    Raises
    ------
    ValueError
        If both are given, or `sparsity` or `rounds` is out of range.
    """
    if sparsity is None:
        return AMOUNT if amount is None else amount
    if amount is not None:
        raise ValueError(f"amount is {amount!r} and sparsity {sparsity!r}: give one of them")
    if not _is_number(sparsity, Real) or not 0 < sparsity < 1:
        raise ValueError(
            f"sparsity is {sparsity!r}, must be a fraction between 0 and 1, such as 0.8"
        )
    check_rounds(rounds)
    if rounds == 1:
        return float(sparsity)
    found = float(1 - (1 - sparsity) ** (1 / rounds))
    kept = 1 - Fraction(repr(float(sparsity)))
    while (1 - Fraction(repr(found))) ** rounds < kept:  # not a weight fewer than was asked for
        found = math.nextafter(found, 0)
    return found


def check_rounds(rounds: int) -> None:
    """Refuse what is no number of rounds."""
    if not _is_number(rounds, Integral) or rounds < 1:
        raise ValueError(f"rounds is {rounds!r}, must be an integer of at least 1")


def check_callable(what: str, function: Callable[..., Any] | None, arguments: str) -> None:
    """Refuse, before the work, a function that cannot be called with so many arguments.

    Raises
    ------
    ValueError
        Names the argument and how it will be called.
    """
    if function is None:
        return
    if not callable(function):
        raise ValueError(f"{what} is a {type(function).__name__}, must be a function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in callables have none
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError as error:
        raise ValueError(f"{what} is called as {what}({arguments}): {error}") from None


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
