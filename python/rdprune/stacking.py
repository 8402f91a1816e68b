"""Several options of one layer in one pass: copies of a small batch, each pruned differently.

A pass over a few samples takes little longer over a few times as many. So a batch is repeated, and
the operation that takes the measured layer's weight runs once for each copy, with the weight of
that copy's option; everything else runs once for all. Whether that gives the same numbers is not
proved but tried, for each layer: an option that a pass of its own has measured must have the same
bits in a stack that it shares with weights far from its own, and in the first stack of others. The
clock has a say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from rdprune.batches import Runner, device_of, map_tensors
from rdprune.distortion import Measurement, Reference
from rdprune.layers import Prunable
from rdprune.options import Option
from rdprune.prefix import Prefix

ROWS: Final = {"cpu": 32, "cuda": 256}
"""Samples in a stack, at most: beyond, a pass over more takes as much longer."""
MOST: Final = 8
"""Options in a stack, at most."""
FEWEST: Final = 3
"""Stacks that a layer's options must fill: one is spent on checks."""
FAR: Final = (64.0, -8.0, 0.0)
"""Times the weights of the option that is tried: what its samples must not see."""
WORTH: Final = 0.9
"""Part of a pass that an option must not take more of in a stack."""

Run = Callable[[Runner, Option], Measurement]


@dataclass(slots=True)
class Stacker:
    """Measures stacks of options of a layer whose other layers need no repair.

    Attributes
    ----------
    reference : Reference
    prefix : Prefix
        Its records are repeated as the batches are.
    worth : float
        `WORTH`; infinite where the clock is not asked.
    """

    reference: Reference
    prefix: Prefix
    worth: float = WORTH
    _rows: list[int] = field(init=False)
    _size: int = field(init=False)

    def __post_init__(self) -> None:
        self._rows = [len(output) for output in self.reference.outputs]
        device = device_of(self.prefix.plain.model).type
        self._size = min(MOST, ROWS.get(device, ROWS["cuda"]) // max(self._rows))

    def measured(
        self,
        layer: Prunable,
        dense: Tensor,
        made: Callable[[Option], Tensor],
        runner: Runner,
        run: Run,
        known: Callable[[Option], Measurement | None],
        options: list[Option],
    ) -> Iterator[tuple[Option, Measurement]]:
        """Measure options in stacks while this gives the same numbers sooner.

        Parameters
        ----------
        layer : Prunable
        dense : torch.Tensor
            A copy of its dense weight.
        made : callable
            Makes the mask of an option.
        runner : Runner
            What a pass of one option runs with.
        run : callable
            Measures one option with a pass of its own.
        known : callable
            What another process has measured by now.
        options : list of Option
            Those yielded are removed; what is left is for passes of their own.
        """
        size = self._size
        if size < 2 or len(options) < FEWEST * size or not self.prefix.steady:
            return
        batches = [_repeated(b, n, size) for b, n in zip(runner.batches, self._rows, strict=True)]
        many = replace(runner, batches=tuple(batches))

        def pruned(option: Option) -> Tensor:
            return dense.masked_fill(~made(option), 0)

        def stacked(weights: Sequence[Tensor]) -> list[Measurement]:
            return self._pass(layer.parameter, weights, many)

        stack: list[Option] = []
        yield from _take(options, 1, known, stack)
        if not stack:
            return
        probe = stack.pop()
        began = time.perf_counter()
        alone = run(runner, probe)
        seconds = time.perf_counter() - began
        yield probe, alone
        try:
            own = pruned(probe)
            others = dict(zip(range(1, max(size - 1, 2), 2), FAR, strict=False))
            began = time.perf_counter()
            try:
                found = stacked([others.get(place, 1.0) * own for place in range(size)])
            except Exception:  # a callable, too, may refuse what the network never gives
                return
            taken = time.perf_counter() - began
            if taken > self.worth * size * seconds:
                return
            if not all(alone.same_bits(found[p]) for p in range(size) if p not in others):
                return
            checked = False
            while len(options) * seconds * self.worth > taken:
                most = size if checked else size - 1
                yield from _take(options, most, known, stack)
                if not stack:
                    return
                padded = [*map(pruned, stack), *[own] * (size - len(stack))]
                found = stacked(padded)
                if not all(alone.same_bits(other) for other in found[len(stack) :]):
                    return
                yield from zip(stack, found, strict=False)
                stack.clear()
                checked = True
        except (RuntimeError, ValueError):  # the model, or its output, does not take copies
            return
        finally:
            options[:0] = stack

    def _pass(
        self, parameter: Tensor, weights: Sequence[Tensor], runner: Runner
    ) -> list[Measurement]:
        """Run the stacked batches once, and measure each copy's outputs."""
        mode = _Fan(parameter, weights)

        def on_batch(index: int) -> None:
            mode.rows = self._rows[index] * len(weights)
            if runner.on_batch is not None:
                runner.on_batch(index)

        outputs: list[list[Tensor]] = [[] for _ in weights]
        with self.prefix.repeating(len(weights)), mode:
            for output in replace(runner, on_batch=on_batch).outputs():
                for copy, part in zip(outputs, output.chunk(len(weights)), strict=True):
                    copy.append(part)
        if not mode.used:
            raise _UnstackableError
        return [self.reference.measure(copy) for copy in outputs]


def _take(
    options: list[Option],
    most: int,
    known: Callable[[Option], Measurement | None],
    taken: list[Option],
) -> Iterator[tuple[Option, Measurement]]:
    """Move up to so many options to `taken`; yield those on the way that need no pass."""
    while options and len(taken) < most:
        found = known(options[0])
        option = options.pop(0)
        if found is None:
            taken.append(option)
        else:
            yield option, found


class _UnstackableError(RuntimeError):
    """The weight is used in a way that cannot be told apart by copies."""


class _Fan(TorchFunctionMode):
    """Runs what takes the weight once for each copy, with that copy's weight."""

    def __init__(self, parameter: Tensor, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.rows = 0
        self.used = False
        self._parameter, self._weights = parameter, weights

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(leaf is self._parameter for leaf in leaves):
            return func(*args, **kwargs)
        if not any(self._stacked(leaf) for leaf in leaves):
            result = func(*args, **kwargs)
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
                raise _UnstackableError  # what is made of the weight alone would be every copy's
            return result
        self.used = True
        parts = []
        for copy, weight in enumerate(self._weights):

            def own(leaf: Any, copy: int = copy, weight: Tensor = weight) -> Any:
                if leaf is self._parameter:
                    return weight
                return leaf.chunk(len(self._weights))[copy] if self._stacked(leaf) else leaf

            part_args, part_kwargs = tree_map(own, (args, kwargs))
            parts.append(func(*part_args, **part_kwargs))
        if not all(isinstance(part, Tensor) and part.ndim for part in parts):
            raise _UnstackableError
        return torch.cat(parts)

    def _stacked(self, leaf: Any) -> bool:
        """Whether a tensor has the copies' rows one after the other."""
        return (
            isinstance(leaf, Tensor)
            and not isinstance(leaf, torch.nn.Parameter)
            and leaf.ndim > 0
            and len(leaf) > 0
            and len(leaf) % self.rows == 0
        )


def _repeated(batch: Any, rows: int, copies: int) -> Any:
    """Repeat a batch: its tensors of one row a sample."""
    return map_tensors(
        batch,
        lambda tensor: (
            torch.cat([tensor] * copies) if tensor.ndim and len(tensor) == rows else tensor
        ),
    )
