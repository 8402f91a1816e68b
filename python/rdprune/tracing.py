"""Following a model through its passes: what ran when, and what it did besides returning."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from rdprune.batches import Runner
from rdprune.layers import Prunable
from rdprune.states import PLAIN, ModuleState, hooked, random_state

NEVER = 1 << 62


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module within the pass of one batch.

    Attributes
    ----------
    module : torch.nn.Module
    parent : Call or None
        The call that it was made in; None if it was made outside of all.
    begin, end : int
        When its ``forward`` began and ended, on a clock that every operation advances.
    children : list of Call
    effects : bool
        Whether it did something that leaving it out would undo: it changed a buffer, an
        attribute or a tensor from outside, drew random numbers, or ran somebody's hooks.
    plain : bool
        Whether its output can be recorded and given back: plain tensors that it made itself, in
        containers that are known, from inputs that it cannot have changed.
    nbytes : int
        Of the tensors in its output.
    seconds : float
        What it took in the traced pass.
    readers : set of Call or None
        The calls whose own operations touched its output afterwards; None for outside, and
        where the output is not of floating-point numbers alone.
    """

    module: nn.Module
    parent: Call | None
    begin: int
    end: int = NEVER
    children: list[Call] = field(default_factory=list)
    effects: bool = False
    plain: bool = False
    nbytes: int = 0
    seconds: float = 0.0
    readers: set[Call | None] = field(default_factory=set)

    @property
    def replaceable(self) -> bool:
        """Whether its recorded output can stand for it."""
        return self.plain and not self.effects


@dataclass(slots=True)
class BatchTrace:
    """The pass of one batch.

    Attributes
    ----------
    calls : list of Call
        Those made outside of any other, in order.
    first_use : dict of str to int
        When an operation first took each layer's weight; missing for a layer that was not used.
    seconds : float
        What the pass took.
    """

    calls: list[Call] = field(default_factory=list)
    first_use: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Passes of all batches.

    Attributes
    ----------
    batches : tuple of BatchTrace
    stateful : bool
        Whether buffers or attributes were not the same after a pass as before.
    problem : str
        Why calls cannot be told apart from what they change; empty if they can.
    """

    batches: tuple[BatchTrace, ...]
    stateful: bool
    problem: str


def trace(runner: Runner, layers: Mapping[str, Prunable]) -> Trace:
    """Run the model once on all batches and follow it.

    Parameters
    ----------
    runner : Runner
        The dense model and its batches; use within `preserved`.
    layers : mapping of str to Prunable
        The layers whose first use is looked for.
    """
    tracer = _Tracer(runner.model, layers)
    with patched(runner.model.modules(), tracer.wrap), tracer:
        for _ in replace(runner, on_batch=tracer.start).outputs():
            pass
        tracer.finish()
    return Trace(tuple(tracer.batches), tracer.stateful, tracer.problem)


@contextmanager
def patched(
    modules: Iterator[nn.Module],
    wrap: Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Replace the ``forward`` of modules for a while; hooks around it keep running."""
    saved: list[tuple[dict[str, Any], Any]] = []
    try:
        for module in modules:
            attributes = vars(module)
            saved.append((attributes, attributes.get("forward")))
            attributes["forward"] = wrap(module, module.forward)
        yield
    finally:
        for attributes, forward in saved:
            if forward is None:
                attributes.pop("forward", None)
            else:
                attributes["forward"] = forward


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation and every call of a module."""

    def __init__(self, model: nn.Module, layers: Mapping[str, Prunable]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batches: list[BatchTrace] = []
        self.stateful = False
        self.problem = ""
        self._names = {module: name for name, module in model.named_modules()}
        self._stack: list[Call] = []
        self._clock = 0
        self._busy = False
        self._explained: set[nn.Module] = set()
        self._before: dict[nn.Module, ModuleState] = {}
        self._started = 0.0
        self._born: dict[int, int] = {}  # storages made by this pass's operations
        self._made_by: dict[int, list[Call]] = {}  # storages that calls have returned
        self._buffers = {b.untyped_storage().data_ptr() for b in _buffers(model)}
        self._weights: dict[int, list[tuple[range, str]]] = {}
        for name, layer in layers.items():
            weight = layer.parameter.detach()
            place = (range(*_extent(weight)), name)
            self._weights.setdefault(weight.untyped_storage().data_ptr(), []).append(place)

    def start(self, _index: int) -> None:
        """Begin a batch."""
        self.finish()
        self._busy = True
        self._explained = set()
        self._before = {module: ModuleState(module) for module in self._names}
        self._born.clear()
        self._made_by.clear()
        self._busy = False
        self.batches.append(BatchTrace())
        self._started = time.perf_counter()

    def finish(self) -> None:
        """End a batch: whatever changed must have been seen to change in a call of its own."""
        if not self.batches or not self._before:
            return
        self.batches[-1].seconds = time.perf_counter() - self._started
        self._busy = True
        for module, state in self._before.items():
            if state.changed(module):
                self.stateful = True
                if module not in self._explained and not hooked(module):
                    self.problem = f"module {self._names[module]!r} is changed by another"
        self._before = {}
        self._busy = False

    def wrap(self, module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the module's forward, followed."""

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._busy = True
            inputs = tree_leaves((args, kwargs))
            before, random = ModuleState(module), random_state()
            call = self._enter(module)
            self._busy = False
            began = time.perf_counter()
            try:
                output = original(*args, **kwargs)
            except BaseException:
                call.effects = True
                self._leave(call)
                raise
            call.seconds = time.perf_counter() - began
            self._busy = True
            if before.changed(module):
                self._explained.add(module)
                call.effects = True
            after = tree_leaves((args, kwargs))
            same = len(inputs) == len(after) and all(map(_is, inputs, after))
            call.effects |= random_state() != random or not same
            call.plain = all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in inputs)
            self._keep(call, output)
            self._leave(call)
            self._busy = False
            return output

        return forward

    def _enter(self, module: nn.Module) -> Call:
        parent = self._stack[-1] if self._stack else None
        self._clock += 1
        call = Call(module, parent, self._clock)
        (self.batches[-1].calls if parent is None else parent.children).append(call)
        self._stack.append(call)
        return call

    def _leave(self, call: Call) -> None:
        self._stack.pop()
        self._clock += 1
        call.end = self._clock
        if call.parent is not None:
            call.parent.effects |= call.effects or hooked(call.module)

    def _keep(self, call: Call, output: Any) -> None:
        """Note what the call returned."""
        leaves, spec = tree_flatten(output)
        tensors = list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())
        call.plain &= all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves)
        call.plain &= type(tree_unflatten(leaves, spec)) is type(output)
        call.plain &= all(map(_recordable, tensors))
        if not all(tensor.is_floating_point() for tensor in tensors):
            call.readers.add(None)
        call.nbytes = sum(tensor.nbytes for tensor in tensors)
        storages = [_storage(tensor) for tensor in tensors if tensor.numel()]
        call.plain &= len(set(storages)) == len(storages)
        # What it did not make itself is somebody else's, too.
        call.plain &= all(self._born.get(storage, -1) > call.begin for storage in storages)
        for storage in storages:
            self._made_by.setdefault(storage, []).append(call)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._busy or not self.batches:
            return func(*args, **kwargs)
        self._clock += 1
        leaves = tree_leaves((args, kwargs))
        taken = {_storage(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        reader = self._stack[-1] if self._stack else None
        for value in (leaf for leaf in leaves if isinstance(leaf, Tensor)):
            for places, name in self._weights.get(_storage(value), ()):
                start, stop = _extent(value)
                if start < places.stop and places.start < stop:
                    self.batches[-1].first_use.setdefault(name, self._clock)
        for storage in taken:
            for call in self._made_by.get(storage, ()):
                call.readers.add(reader)
        for storage in _written(func, args, kwargs):
            if storage not in self._buffers:  # those are compared by value
                self._blame(self._born.get(storage, -1))
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            self._blame(-1)
        result = func(*args, **kwargs)
        for value in tree_leaves(result):
            storage = _storage(value) if isinstance(value, Tensor) else 0
            if storage and storage not in taken:
                self._born[storage] = self._clock
                self._made_by.pop(storage, None)
        return result

    def _blame(self, born: int) -> None:
        """Note a change of something made at a time in the calls that it came from outside of."""
        for call in self._stack:
            call.effects |= born < call.begin


def _buffers(model: nn.Module) -> Iterator[Tensor]:
    return (buffer for buffer in model.buffers() if buffer.layout is torch.strided)


def _is(one: Any, other: Any) -> bool:
    return one is other


def _recordable(tensor: Tensor) -> bool:
    """Whether a clone is as good as the tensor: in its memory format, of the plain kind."""
    if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.requires_grad:
        return False
    if (
        tensor.is_nested
        or tensor.is_inference()
        or tensor.is_conj()
        or tensor.is_neg()
        or tensor.is_quantized
    ):
        return False
    return torch.empty_like(tensor).stride() == tensor.stride()


def _storage(tensor: Tensor) -> int:
    """Where a tensor's numbers are; 0 if nowhere in particular."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Where in its storage a tensor's elements begin and end."""
    start = int(tensor.storage_offset())
    if tensor.numel() == 0:
        return start, start
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return start, start + sum(int((size - 1) * stride) for size, stride in steps) + 1


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[int]:
    """Storages that an operation changes in place, by its schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and _storage(leaf):
                    yield _storage(leaf)
