"""Running a model on batches, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from typing import Any

import torch
from torch import Tensor, nn

from rdprune.criteria import Beside, Criterion

Forward = Callable[[nn.Module, Any], Any]
"""Runs a model on one batch (already on the model's device) and returns its output."""

_REFUSALS = (
    TypeError, KeyError, IndexError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip
_LABELS = ("labels", "label")
_ASIDE = (*_LABELS, "token_weights")  # entries of a batch that the model is not called with


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
    if not data:
        raise ValueError("batches is empty: at least one batch is needed")
    return data


def labels(batch: Any) -> Tensor | None:
    """Return the labels of a batch, int64 of shape (n,), or None if it has none.

    They are the ``labels`` or ``label`` of a dict, or a second element that is a 1-D integer
    tensor as long as the inputs.
    """
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABELS if key in batch), None)
    else:
        found = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(found, Tensor) or found.ndim != 1:
        return None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        return None
    return found if _samples(batch) in (None, len(found)) else None


def loss_labels(batch: Any, *, following: bool, checked: bool = True) -> Tensor | None:
    """Return the labels of a batch for the task's loss, int64 of any shape, or None.

    Parameters
    ----------
    batch : object
        A dict with ``labels`` or ``label``, or a tuple whose second element they are.
    following : bool
        Whether the output at each position is about the next one, as in causal language models:
        the labels move back by one, and the last position has none (-100).
    checked : bool
        Refuse labels that are the inputs themselves and are not to be moved.

    Raises
    ------
    ValueError
        If the labels have the wrong shape, or are refused as said.
    """
    inputs = None
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABELS if key in batch), None)
        inputs = batch.get("input_ids")
    else:
        found = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(found, Tensor) or found.dtype == torch.bool or found.ndim == 0:
        return None
    if found.is_floating_point() or found.is_complex():
        return None
    truth = found.detach().to("cpu", torch.int64)
    if following:
        if truth.ndim != 2:
            raise ValueError(
                "distortion 'loss:next' needs labels of shape (n, tokens), "
                f"the batch's have {tuple(truth.shape)}"
            )
        return torch.nn.functional.pad(truth[:, 1:], (0, 1), value=-100)
    if checked and isinstance(inputs, Tensor) and inputs.shape == truth.shape and truth.ndim == 2:
        known = truth != -100
        if known.any() and torch.equal(truth[known], inputs.detach().cpu().long()[known]):
            raise ValueError(
                "the labels are the input_ids themselves: for the loss of the next token say "
                "distortion='loss:next'"
            )
    return truth


def position_weights(batch: Any, criterion: Criterion) -> Tensor:
    """Return the entry of a batch that weighs its positions, float64 of any shape.

    Raises
    ------
    ValueError
        If there is no such entry, or it is no tensor of numbers, finite and not negative.
    """
    key, found = criterion.weights, None
    if isinstance(batch, Mapping):
        found = batch.get(key)
    elif isinstance(batch, (tuple, list)) and key.isdecimal() and int(key) < len(batch):
        found = batch[int(key)]
    if not isinstance(found, Tensor) or found.is_complex():
        kind = "absent" if found is None else f"a {type(found).__name__}"
        raise ValueError(
            f"distortion {criterion.name!r}: the entry {key!r} of a batch is {kind}, must be a "
            "tensor of weights, one for each position"
        )
    weights = found.detach().to("cpu", torch.float64)
    if not weights.isfinite().all() or (weights < 0).any():
        raise ValueError(
            f"distortion {criterion.name!r}: a weight in {key!r} is negative or not finite"
        )
    if criterion.argument == "next" and weights.ndim == 2:
        return torch.nn.functional.pad(weights[:, 1:], (0, 1))
    return weights


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

    def live_outputs(self) -> Iterator[Tensor]:
        """Like `outputs`, but where and as the model returns them, with their graph."""
        _seed(self.seed)
        # An autocast around us would go on with the casts of other weights.
        torch.clear_autocast_cache()
        device = device_of(self.model)
        for index, batch in enumerate(self.batches):
            moved = to_device(batch, device)
            if self.on_batch is not None:
                self.on_batch(index)
            try:
                output = output_tensor(self._run(index, moved))
            except EnoughError:
                continue
            expected = _samples(moved) if self.forward is None else None
            if output.ndim == 0 or output.numel() == 0 or expected not in (None, len(output)):
                raise ValueError(
                    f"the output on batch {index} has shape {tuple(output.shape)}, "
                    f"must have one row for each of the {expected or 'n'} samples"
                )
            yield output

    def _run(self, index: int, batch: Any) -> Any:
        """Run the model; what a batch that does not fit its ``forward`` raises names the batch."""
        run = call if self.forward is None else self.forward
        try:
            return run(self.model, batch)
        except _REFUSALS as error:
            raise ValueError(
                f"the model cannot run on batch {index}: {type(error).__name__}: {error}; if the "
                "batch is not what it takes, give forward= a function (model, batch) -> output"
            ) from error


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


def _replace(target: dict[str, Any], items: Mapping[str, Any]) -> None:
    target.clear()
    target.update(items)


def call(model: nn.Module, batch: Any) -> Any:
    """Call a model with the inputs of a batch, and not with its labels or ``token_weights``."""
    if isinstance(batch, Mapping):
        return model(**{key: value for key, value in batch.items() if key not in _ASIDE})
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise ValueError("batches holds an empty tuple, must hold inputs")
        return call(model, batch[0])
    return model(batch)


def _samples(batch: Any) -> int | None:
    """Length of the first tensor among the inputs."""
    if isinstance(batch, (tuple, list)) and batch:
        return _samples(batch[0])
    if isinstance(batch, Mapping):
        values = (value for key, value in batch.items() if key not in _ASIDE)
        batch = next((value for value in values if isinstance(value, Tensor)), None)
    return len(batch) if isinstance(batch, Tensor) and batch.ndim else None


@contextmanager
def _forked_random() -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
