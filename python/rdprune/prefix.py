"""Prefix reuse: what ran before the measured layer gives its recorded output.

What a pass does before it first uses a layer's weight does not depend on that weight. So the
outermost modules that have finished by then need not run again: their ``forward`` gives a copy
of what it returned in a dense pass, while the model's own ``forward`` runs as written and any
control flow works. Modules that do more than return are left to run.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from rdprune.batches import EnoughError, Runner, preserved
from rdprune.distortion import Measurement, Reference, same_outputs
from rdprune.layers import Prunable
from rdprune.plans import Plan, Step, plan_of
from rdprune.records import Record
from rdprune.tracing import NEVER, BatchTrace, Call, patched, trace

MEMORY = 1 << 30
FEWEST = 4
"""Fewer passes than this cost less than recording and checking."""
FEWEST_SETTLING = 2
"""The same where more passes of a layer will follow, which need no check."""


class DivergedError(RuntimeError):
    """The model called other modules than in the pass that was recorded."""


class Prefix:
    """Records of what runs before each layer, for one layer after the other.

    Parameters
    ----------
    runner : Runner
        The dense model and its batches; use within `preserved`.
    reference : Reference
        The dense model's outputs.
    layers : mapping of str to Prunable
        The layers that will be measured.
    memory : int
        Most bytes that records take together. Batches whose records do not fit run whole.

    Attributes
    ----------
    order : tuple of str
        The layers in the order in which their records build on each other.
    shares : dict of str to float
        Which part of a pass is left to run for each layer, 0 to 1, by the traced pass's clock.
    seconds : float
        Of the traced pass; 0 if there was none.
    plain : Runner
        Runs the whole model.
    reusing : Runner
        Gives the same outputs from the records of the layer that was prepared last.
    """

    def __init__(
        self,
        runner: Runner,
        reference: Reference,
        layers: Mapping[str, Prunable],
        *,
        memory: int = MEMORY,
    ) -> None:
        self.order = tuple(layers)
        self.shares = dict.fromkeys(layers, 1.0)
        self.seconds = 0.0
        self.plain = replace(runner, on_batch=self._idle)
        self._reference = reference
        self._base: tuple[Tensor, ...] | None = None
        self._memory = memory
        self.reusing = replace(runner, on_batch=self._replay)
        self._recording = replace(runner, on_batch=self._record)
        self._held: dict[int, dict[Call, Record]] = {}
        self._firsts: dict[int, int] = {}
        self._plans: dict[int, Plan] = {}
        self._current: Plan | None = None
        self._steps: Sequence[Step] = ()
        self._next = 0
        self._taken: dict[Call, Record] = {}
        self._warned = False
        self._trusted: set[str] = set()
        self._hasty = False
        self._stateful = False
        self._copies = self._rows = 1
        self._batches: tuple[BatchTrace, ...] = ()
        problem = _obstacle(runner.model)
        if not problem:
            with preserved(runner.model):
                found = trace(runner, layers)
            problem = found.problem
        if problem:
            self._warn(f"every pass runs the whole model: {problem}")
            return
        self._batches = found.batches
        self.seconds = sum(batch.seconds for batch in found.batches)
        for name in layers:
            saved = sum(plan.seconds for plan in self._fitting(name).values())
            self.shares[name] = min(1.0, max(0.0, 1 - saved / self.seconds))
        self._stateful = found.stateful
        if not found.stateful:
            first = found.batches[0].first_use
            self.order = tuple(sorted(layers, key=lambda name: first.get(name, NEVER)))

    @property
    def steady(self) -> bool:
        """Whether modules can be told apart and leave nothing behind for the next pass."""
        return bool(self._batches) and not self._stateful

    @contextmanager
    def repeating(self, copies: int) -> Iterator[None]:
        """Give records as they would be of batches repeated so many times."""
        self._copies = copies
        try:
            yield
        finally:
            self._copies = 1

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let modules give recorded outputs; the runners are used inside."""
        modules = iter(self.plain.model.modules() if self._batches else ())
        with patched(modules, self._wrap):
            yield

    def rebase(self) -> None:
        """Make records of the network with the weights that it has now, from here on."""
        self._held, self._firsts, self._current = {}, {}, None
        self._idle(0)
        with preserved(self.plain.model):
            self._base = tuple(output.clone() for output in self.plain.outputs())

    def _expected(self) -> tuple[Tensor, ...]:
        return self._reference.outputs if self._base is None else self._base

    def prepare(self, layer: Prunable) -> bool:
        """Record what runs before a layer, whose weight is dense now, or as in `rebase`.

        Returns
        -------
        bool
            Whether `reusing` can be used for this layer, once it `agrees`. False where nothing
            can be reused, or where the dense network does not give the reference, which warns.
        """
        self._plans = self._fitting(layer.name)
        if not self._plans:
            return False
        for index in self._held.keys() - self._plans.keys():
            del self._held[index]
        try:
            with preserved(self.plain.model):
                if self.trusts(layer) and not self._stateful:
                    self._record_only()
                    return True
                # This also checks the records of the layer before, which are used here.
                if same_outputs(self._finished(self._recording.outputs()), self._expected()):
                    self._settle()
                    return True
        except DivergedError:
            pass
        self.forget(layer)
        return False

    def _fitting(self, name: str) -> dict[int, Plan]:
        """Return, by batch, what a layer can reuse, of the batches whose records fit."""
        room, fitting = self._memory, {}
        for index, batch in enumerate(self._batches):
            plan = plan_of(batch, name)
            if plan.replaced and plan.nbytes <= room:
                fitting[index] = plan
                room -= plan.nbytes
        return fitting

    def trusts(self, layer: Prunable) -> bool:
        """Whether a pass with this layer's records has agreed with one of the whole model."""
        return layer.name in self._trusted

    def _record_only(self) -> None:
        """Record what runs before the layer, and end the passes there."""
        self._hasty = True
        try:
            for _ in self._recording.outputs():
                pass
            self._settle()
        finally:
            self._hasty = False

    def agrees(self, layer: Prunable, expected: Measurement) -> bool:
        """Whether a pass with records measures what one of the whole model did, bit for bit.

        Parameters
        ----------
        layer : Prunable
            The layer that was prepared, its weight masked as for `expected`.
        expected : Measurement
            What `plain` gave. Where it is not met, all records are dropped, and this warns.
        """
        try:
            with preserved(self.plain.model):
                found = self._reference.measure(self._finished(self.reusing.outputs()))
        except DivergedError:
            found = None
        if found is not None and found.same_bits(expected):
            self._trusted.add(layer.name)
            return True
        self.forget(layer)
        return False

    def forget(self, layer: Prunable) -> None:
        """Drop all records, because a check of this layer's failed, and say so."""
        self._held = {}
        self._trusted = set()
        self._current = None
        self._idle(0)
        self._warn(
            f"what runs before layer {layer.name!r} is not the same in every pass, "
            "so this layer and others like it are measured by passes of the whole model"
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the records take now."""
        return sum(record.nbytes for held in self._held.values() for record in held.values())

    def _finished(self, outputs: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield outputs; each pass must have called everything that was recorded."""
        for output in outputs:
            if self._next != len(self._steps):
                raise DivergedError("some of the modules recorded were not called")
            yield output

    def _idle(self, _index: int) -> None:
        self._steps, self._next = (), 0

    def _replay(self, index: int) -> None:
        self._idle(index)
        self._rows = len(self._reference.outputs[index])
        if index in self._plans:
            held = self._held[index]
            calls = self._plans[index].calls
            self._steps = [Step(call, held.get(call)) for call in calls]

    def _record(self, index: int) -> None:
        self._settle()
        self._idle(index)
        plan = self._plans.get(index)
        if plan is None:
            return
        if plan.first < self._firsts.get(index, 0):
            self._held.pop(index, None)  # records of a later layer hide and hollow too much
        self._firsts[index] = plan.first
        self._make_room(index, plan.nbytes)
        held = self._held.setdefault(index, {})
        self._current, self._taken = replace(plan, index=index), {}
        steps: list[Step] = []

        def visit(calls: Sequence[Call], within: bool) -> None:
            for call in calls:
                if call.begin > plan.first:
                    return
                keep = call in plan.replaced
                # Outside of what will be replaced a record may hide modules to be recorded.
                record = held.get(call) if keep or within else None
                steps.append(Step(call, record, keep))
                if record is None:
                    visit(call.children, within or keep)

        visit(self._batches[index].calls, within=False)
        self._steps = steps

    def _make_room(self, index: int, nbytes: int) -> None:
        """Drop older records, this batch's and then the last batches', that leave no room."""
        for other in (index, *sorted(self._held.keys() - {index}, reverse=True)):
            if self.nbytes + nbytes <= self._memory:
                return
            self._held.pop(other, None)

    def _settle(self) -> None:
        """Keep of the batch just recorded what the layer needs."""
        plan, self._current = self._current, None
        if plan is None:
            return
        if not plan.replaced <= self._taken.keys():
            raise DivergedError("some of the modules to record were not called")
        self._held[plan.index] = {
            call: record if call in plan.needed else record.hollow()
            for call, record in self._taken.items()
        }
        self._taken = {}

    def _wrap(self, module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._next >= len(self._steps):
                return original(*args, **kwargs)
            step = self._steps[self._next]
            if step.call.module is not module:
                raise DivergedError("another module was called than the recorded one")
            self._next += 1
            if step.record is None:
                output = original(*args, **kwargs)
            else:
                output = step.record.output(self._copies, self._rows)
            if step.keep and self._current is not None:
                needed = step.call in self._current.needed
                self._taken[step.call] = step.record or Record.of(output, hollow=not needed)
                if self._hasty and len(self._taken) == len(self._current.replaced):
                    raise EnoughError
            return output

        return forward

    def _warn(self, text: str) -> None:
        if not self._warned:
            warnings.warn(f"prefix reuse: {text}", RuntimeWarning, stacklevel=2)
        self._warned = True


def _obstacle(model: nn.Module) -> str:
    """Why calls of a model's modules cannot be replaced; empty if they can."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "torch has hooks that run around every module"
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    for name, module in model.named_modules():
        where = f"module {name!r}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            return f"{where} is a ScriptModule"
        if isinstance(module, parallel):
            return f"{where} is a {type(module).__name__}"
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            return f"{where} is compiled"
    return ""
