"""Running a model on batches, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rdprune.aside import ASIDE, loss_labels, position_weights, samples
from rdprune.criteria import Beside, Criterion
from rdprune_core.errors import few

Forward = Callable[[nn.Module, Any], Any]
"""Runs a model on one batch (already on the model's device) and returns its output."""

_REFUSALS = (
    TypeError, KeyError, IndexError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip


def read(batches: Iterable[Any]) -> tuple[Any, ...]:
    """Read all batches once, so that every pass sees the same samples.

    A loader that shuffles or augments would otherwise give other samples at each pass. The state
    of torch's random generators is left as it was.

    Raises
    ------
    ValueError
        If there is no batch, or `batches` is a single batch.
    """
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        kind = type(batches).__name__
        raise ValueError(f"batches is a {kind}, must be an iterable of batches, such as [batch]")
    with _forked_random():
        data = tuple(batches)
    if isinstance(batches, tuple) and all(isinstance(part, Tensor) for part in data):
        ranks = {part.ndim for part in data}
        if len(ranks) > 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in data)
            raise ValueError(
                f"batches is a tuple of tensors of shapes {shapes}: is it one batch? Then [batch]"
            )
    if not data:
        raise ValueError("batches is empty: at least one batch is needed")
    return data


def to_device(value: Any, device: torch.device) -> Any:
    """Copy a batch to a device.

    A copy even on the same device, because a model may change its inputs in place.
    """
    return map_tensors(value, lambda tensor: tensor.to(device, copy=True))


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with its tensors changed, nested in dicts, tuples and lists."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter of a model that is on one, the CPU if none is.

    A model on several devices moves what it passes on between them itself; what is offloaded
    stands on the meta device meanwhile.
    """
    devices = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(devices, torch.device("cpu"))


def parts_of(batches: tuple[Any, ...], parts: int, least: int = 1) -> list[tuple[Any, ...]]:
    """Divide batches into parts: of whole batches, or of pieces where there are too few of these.

    A piece of a batch has the rows of every tensor that is as long as the batch has samples;
    whether that is what the model takes shows when it runs.

    Parameters
    ----------
    batches : tuple
        What `read` returned.
    parts : int
        At least so many parts, if there are as many samples; every sample is in one.
    least : int
        Samples of a piece.

    Returns
    -------
    list of tuple
        Batches of each part.
    """
    if len(batches) >= parts:
        return [batches[first::parts] for first in range(parts)]
    sizes = [samples(batch) or 1 for batch in batches]
    return [
        (piece,)
        for batch, size in zip(batches, sizes, strict=True)
        for piece in _pieces(
            batch, size, max(min(-(-parts * size // sum(sizes)), size // least), 1)
        )
    ]


def _pieces(batch: Any, total: int, count: int) -> list[Any]:
    ends = [total * place // count for place in range(count + 1)]

    def piece(begin: int, end: int) -> Any:
        return map_tensors(batch, lambda t: t[begin:end] if t.ndim and len(t) == total else t)

    return [piece(begin, end) for begin, end in pairwise(ends)] if count > 1 else [batch]


def output_tensor(output: Any) -> Tensor:
    """Pick the tensor that distortion is measured on from a model's output.

    It is the output itself; of a dict, a dataclass or a named tuple its ``logits``, else the
    first floating-point tensor; of a tuple or list the first, looking into what is nested.

    Raises
    ------
    ValueError
        If there is no floating-point tensor.
    """
    found = next(_floating(output), None)
    if found is not None:
        return found
    raise ValueError(
        f"the model's output, a {type(output).__name__}, holds no floating-point tensor: "
        "give forward= a function that returns one"
    )


def _floating(output: Any) -> Iterator[Tensor]:
    """Floating-point tensors of an output, the ``logits`` first."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
        return
    fields: Mapping[str, Any] | None = None
    if isinstance(output, Mapping):
        fields = output
    elif is_dataclass(output) and not isinstance(output, type):
        fields = {field.name: getattr(output, field.name) for field in fields_of(output)}
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        fields = dict(zip(output._fields, output, strict=True))
    if fields is not None:
        values = [fields["logits"]] if isinstance(fields.get("logits"), Tensor) else []
        values.extend(fields.values())
    else:
        values = list(output) if isinstance(output, (tuple, list)) else []
    for value in values:
        yield from _floating(value)


class EnoughError(BaseException):
    """Raised inside a pass on a batch whose output nobody needs; the next batch follows."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A model and the batches to run it on.

    Attributes
    ----------
    model : torch.nn.Module
        The model, run in the mode it is in.
    batches : tuple
        What `read` returned.
    forward : callable, optional
        Replaces the call of the model.
    seed : int
        Every pass starts from this state of torch's generators, so that a model that draws
        random numbers draws the same ones.
    on_batch : callable, optional
        Told the index of each batch before the model runs on it.
    """

    model: nn.Module
    batches: tuple[Any, ...]
    forward: Forward | None = None
    seed: int = 0
    on_batch: Callable[[int], None] | None = None

    def beside(self, criterion: Criterion) -> list[Beside]:
        """Return the labels and weights of all batches, as far as the criterion needs them."""
        following = criterion.argument == "next"
        checked = self.forward is None
        return [
            Beside(
                loss_labels(b, following=following, checked=checked)
                if criterion.needs_labels
                else None,
                position_weights(b, criterion) if criterion.weights else None,
            )
            for b in self.batches
        ]

    def outputs(self) -> Iterator[Tensor]:
        """Run the model on all batches; use within `preserved`.

        Yields
        ------
        torch.Tensor
            Output on one batch, on the CPU, shape (n, ...) for n samples: float64 if the model's
            is, else float32.

        Raises
        ------
        ValueError
            If the model does not take a batch, or an output is no floating-point tensor or has
            not one row a sample.
        """
        for output in self.live_outputs():
            wide = output.dtype == torch.float64
            yield output.detach().to("cpu", torch.float64 if wide else torch.float32)

    def cause(self, index: int) -> str:
        """Say where an output on a batch that is not finite comes from, as far as can be seen."""
        named = self.model.named_parameters()
        wrong = [repr(name) for name, parameter in named if not parameter.isfinite().all()]
        if wrong:
            return f"so does the weight {few(wrong)}"
        given = tree_leaves(self.batches[index])
        if any(isinstance(part, Tensor) and not part.isfinite().all() for part in given):
            return "so does the batch"
        return "the weights and the batch hold none"

    def live_outputs(self) -> Iterator[Tensor]:
        """Like `outputs`, but where and as the model returns them, with their graph."""
        _seed(self.seed)
        # An autocast around us would go on with the casts of other weights.
        torch.clear_autocast_cache()
        device = device_of(self.model)
        _part_buffers(self.model)
        for index, batch in enumerate(self.batches):
            moved = to_device(batch, device)
            if self.on_batch is not None:
                self.on_batch(index)
            try:
                output = output_tensor(self._run(index, moved))
            except EnoughError:
                continue
            expected = samples(moved) if self.forward is None else None
            if output.ndim == 0 or output.numel() == 0 or expected not in (None, len(output)):
                raise ValueError(
                    f"the output on batch {index} has shape {tuple(output.shape)}, "
                    f"must have one row for each of the {expected or 'n'} samples"
                )
            yield output
            _part_buffers(self.model)

    def _run(self, index: int, batch: Any) -> Any:
        """Run the model; what a batch that does not fit its ``forward`` raises names the batch."""
        run = call if self.forward is None else self.forward
        try:
            return run(self.model, batch)
        except _REFUSALS as error:
            raise ValueError(
                f"the model cannot run on batch {index}, {_described(batch)}: "
                f"{type(error).__name__}: {error}; if that is not what it takes, wrap it in a "
                "module that takes it, or give forward= a function (model, batch) -> output"
            ) from error
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"batch {index}, {_described(batch)}: {error}: BatchNorm on the batch's statistics "
                "needs several samples; leave that batch out, or measure and repair without "
                "'batchnorm'"
            ) from error
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # our own, or out of memory
                raise
            raise RuntimeError(f"batch {index}, {_described(batch)}: {error}") from error


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with the keys {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        first = f", the first {_described(batch[0])}" if batch else ""
        return f"a {type(batch).__name__} of {len(batch)}{first}"
    return f"of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__


@contextmanager
def preserved(*models: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradients, and leave the models as they were.

    At the end, also after an exception, the attributes of all modules (training mode among them),
    their buffers and the state of torch's generators are as before. Weights are not copied.
    """
    states = [_ModuleState(module) for model in models for module in model.modules()]
    with _forked_random(), torch.no_grad():
        try:
            for model in models:
                model.eval()
            yield
        finally:
            for state in states:
                state.restore()


class _ModuleState:
    """The attributes of one module, and the values of its buffers."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._attributes = {**vars(module), "training": module.training}
        self._parameters = dict(module._parameters)
        self._buffers = dict(module._buffers)
        self._values = {
            name: buffer.detach().clone()
            for name, buffer in self._buffers.items()
            if buffer is not None
        }
        # A recurrent module keeps its weights in a list besides, which masks replace.
        self._flat = list(module._flat_weights) if isinstance(module, nn.RNNBase) else []

    def restore(self) -> None:
        if isinstance(self._module, torch.jit.ScriptModule):
            self._module.train(self._attributes["training"])  # the rest cannot be written to
        else:
            self._restore_attributes()
        for name, values in self._values.items():
            buffer = self._buffers[name]
            if buffer is not None:
                buffer.data.copy_(values)

    def _restore_attributes(self) -> None:
        attributes = vars(self._module)
        for name in attributes.keys() - self._attributes.keys():
            del attributes[name]
        attributes.update(self._attributes)
        if isinstance(self._module, nn.RNNBase):
            self._module._flat_weights[:] = self._flat
        _replace(self._module._parameters, self._parameters)
        _replace(self._module._buffers, self._buffers)


def _part_buffers(model: nn.Module) -> None:
    """Put stand-ins with the same values in the place of buffers, if gradients are on.

    What is written to them in place, a graph with it, is then not of the model's own, which
    `preserved` puts back.
    """
    if not torch.is_grad_enabled():
        return
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.detach()


def _replace(target: dict[str, Any], items: Mapping[str, Any]) -> None:
    target.clear()
    target.update(items)


def call(model: nn.Module, batch: Any) -> Any:
    """Call a model with the inputs of a batch, and not with its labels or ``token_weights``."""
    if isinstance(batch, Mapping):
        return model(**{key: value for key, value in batch.items() if key not in ASIDE})
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise ValueError("batches holds an empty tuple, must hold inputs")
        return call(model, batch[0])
    return model(batch)


@contextmanager
def _forked_random() -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
