"""The check at the end: count the weights, run the network, compare with the prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdprune.batches import Forward, Runner, preserved, read
from rdprune.checking import check_allocation
from rdprune.compared import in_question
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Reference
from rdprune.layers import Prunable, named_layers, signature
from rdprune.magnitude import saved_weights, write_masked
from rdprune.masking import expected_kept, layer_masks
from rdprune.recovery import fits, recovered, spelled
from rdprune.repairing import refitted, repair_, unmasked_copy
from rdprune_core import Allocation, RDTable, predictions


class CountMismatchError(ValueError):
    """A layer keeps another number of weights than its allocation says.

    Attributes
    ----------
    layer : str
    counted, expected : int
        Weights kept.
    """

    def __init__(self, layer: str, counted: int, expected: int) -> None:
        super().__init__(layer, counted, expected)
        self.layer = layer
        self.counted = counted
        self.expected = expected

    def __str__(self) -> str:
        return (
            f"layer {self.layer!r} keeps {self.counted} weights, "
            f"the allocation says {self.expected}"
        )


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    predicted : float
        The allocation's distortion: the value of the objective it minimised.
    true : float
        Distortion of the pruned network's output on the batches, of the table's kind, in the state
        `recovery`.
    ratio : float
        ``true / predicted``; 1 if both are 0, inf if only `predicted` is.
    kept : dict of str to int
        Weights counted in each layer.
    kept_total, expected_total : int
        Weights counted in all, and those of the allocation.
    samples : int
        Samples that the network ran on.
    objective, recovery : str
        What the prediction is of, and the state in which the network ran.
    additive, joint : float, optional
        What the table predicts: the sum of the layers' distortions, and the mean square of the sum
        of their responses. None without a table, or a table without responses.
    before, after : float, optional
        Distortion of the pruned network as it is, and after `repair_`, both from the dense network
        as it is. `after` is None without recovery, and for a network given pruned.
    """

    predicted: float
    true: float
    ratio: float
    kept: dict[str, int]
    kept_total: int
    expected_total: int
    samples: int
    objective: str
    recovery: str
    additive: float | None
    joint: float | None
    before: float
    after: float | None


def verify(
    model: nn.Module,
    batches: Iterable[Any],
    allocation: Allocation,
    *,
    forward: Forward | None = None,
    dense: nn.Module | None = None,
    recovery: str | None = None,
    distortion: str | SampleErrors | None = None,
    table: RDTable | None = None,
    scores: Mapping[str, Tensor] | None = None,
) -> VerifyReport:
    """Count the weights of a pruned network, run it, and compare with the allocation's prediction.

    All models are left exactly as they were, also after an error or an interrupt.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model, which is masked for the check; or one masked by `apply_`, which is
        compared with its dense weights; or, with `dense`, the pruned model in any form.
    batches : iterable
        Batches as for `measure`. The prediction is for those that were measured.
    allocation : Allocation
        What should be kept.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model; by default the `features` that
        were measured.
    dense : torch.nn.Module, optional
        The dense model to compare with; needed for a model after `strip_`, and for one that was
        trained or repaired since `apply_`.
    recovery : str, optional
        State in which both networks run, such as ``"bias+batchnorm"``; by default that of the
        table. A pruned model given with `dense` keeps the weights and biases that it has.
    distortion : str or callable, optional
        By default that of the table; needed again where that is a callable.
    table : RDTable, optional
        The table that the allocation is of, for both objectives' predictions.
    scores : mapping of str to torch.Tensor, optional
        As for `masks`: for another criterion than magnitude, if `model` is dense.

    Returns
    -------
    VerifyReport

    Raises
    ------
    CountMismatchError
        If a layer keeps another number of weights than the allocation says.
    ValueError
        If the allocation is of another model or of other weights, the model is stripped and
        `dense` is missing, or an output is not finite.
    """
    check_allocation("allocation", allocation)
    layers = named_layers(model, allocation.names, "allocation")
    expected = expected_kept(layers, allocation)
    state = spelled(allocation.metadata.get("recovery", "none") if recovery is None else recovery)
    kind = allocation.metadata.get("distortion", "mse") if distortion is None else distortion
    forward = in_question(allocation.metadata, forward)
    data = read(batches)
    whole = None if dense is None else _dense_layers(dense, allocation)
    masked = any(layer.masked for layer in layers.values())
    source = dense
    if source is None:
        source = unmasked_copy(model) if masked or fits(state) else model
    if masked or dense is not None:
        kept = _counted(layers, expected, whole)
    if dense is not None:
        _check_measured(dense, allocation, "dense")
    elif not masked and not _check_measured(model, allocation, "model"):
        _check_not_stripped(layers, expected)
    trial = _Trial(
        model, source, layers, data, forward, kind, int(allocation.metadata.get("seed", 0))
    )
    references = {name: trial.reference(name) for name in {"none", state}}
    with ExitStack() as stack:
        if dense is None and not masked:
            kept = stack.enter_context(_pruned(layers, layer_masks(layers, allocation, scores)))
            _compare(kept, expected)
        true = trial.measure(references[state], state, refit=dense is None)
        before, after = true, None
        if state != "none":
            before = trial.measure(references["none"], "none", refit=False)
            if dense is None:
                after = trial.repaired(references["none"], state)
    if not math.isfinite(true):
        raise ValueError(f"the distortion of the pruned network is {true}, must be finite")
    additive, joint = (None, None) if table is None else predictions(table, allocation)
    return VerifyReport(
        predicted=allocation.distortion,
        true=true,
        ratio=_ratio(true, allocation.distortion),
        kept=kept,
        kept_total=sum(kept.values()),
        expected_total=allocation.cost["params"],
        samples=references[state].samples,
        objective=allocation.objective,
        recovery=state,
        additive=additive,
        joint=joint,
        before=before,
        after=after,
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """A pruned network beside the dense one, both to be run in several states."""

    model: nn.Module
    dense: nn.Module
    layers: Mapping[str, Prunable]
    data: tuple[Any, ...]
    forward: Forward | None
    distortion: str | SampleErrors
    seed: int

    def runner(self, model: nn.Module) -> Runner:
        return Runner(model, self.data, self.forward, self.seed)

    def reference(self, state: str) -> Reference:
        runner = self.runner(self.dense)
        with recovered(self.dense, state), preserved(self.dense):
            return Reference(
                runner.outputs(),
                distortion=self.distortion,
                beside=runner.beside(parse(self.distortion)),
                cause=runner.cause,
            )

    def measure(self, reference: Reference, state: str, *, refit: bool) -> float:
        with ExitStack() as stack:
            for model in {id(m): m for m in (self.dense, self.model)}.values():
                stack.enter_context(recovered(model, state))
                stack.enter_context(preserved(model))
            if refit and state != "none":
                whole = named_layers(self.dense, self.layers, "dense")
                pair = (whole, self.runner(self.dense))
                stack.enter_context(refitted(self.layers, self.runner(self.model), state, pair))
            return reference.measure(self.runner(self.model).outputs()).distortion

    def repaired(self, reference: Reference, state: str) -> float:
        parameters = list(self.model.parameters())
        with saved_weights(parameters), preserved(self.model):
            repair_(self.model, self.data, recovery=state, forward=self.forward, dense=self.dense)
            return reference.measure(self.runner(self.model).outputs()).distortion


def _counted(
    layers: Mapping[str, Prunable],
    expected: Mapping[str, int],
    dense: Mapping[str, Prunable] | None,
) -> dict[str, int]:
    """Count the weights kept in each layer of a model that is pruned already, and check them."""
    masked = any(layer.masked for layer in layers.values())
    kept = (
        _count_masks(layers) if masked or dense is None else _count_weights(layers, dense, expected)
    )
    _compare(kept, expected)
    return kept


def _ratio(true: float, predicted: float) -> float:
    if predicted == 0:
        return 1.0 if true == 0 else math.inf
    return true / predicted


def _dense_layers(dense: nn.Module, allocation: Allocation) -> dict[str, Prunable]:
    layers = named_layers(dense, allocation.names, "dense")
    expected_kept(layers, allocation)
    for name, layer in layers.items():
        if layer.masked:
            raise ValueError(f"dense carries a mask on layer {name!r}, must be the dense model")
    return layers


def _count_masks(layers: Mapping[str, Prunable]) -> dict[str, int]:
    """Count what `torch.nn.utils.prune` keeps; the masks of a shared weight must agree."""
    kept = {}
    for name, layer in layers.items():
        found = []
        for module, attribute, owner in layer.owners:
            mask = module._buffers.get(f"{attribute}_mask")
            if mask is None:
                raise ValueError(f"layer {name!r} carries no mask in module {owner!r}, others do")
            found.append(mask)
        if not all(torch.equal(mask, found[0]) for mask in found):
            raise ValueError(f"layer {name!r} carries different masks in its modules")
        kept[name] = int(found[0].count_nonzero())
    return kept


def _count_weights(
    layers: Mapping[str, Prunable], dense: Mapping[str, Prunable], expected: Mapping[str, int]
) -> dict[str, int]:
    """Count the weights that are not zero.

    A mask of largest magnitudes keeps a dense weight of zero only when nothing else is left, so
    fewer weights than expected are right if the dense layer has no more.
    """
    kept = {}
    for name, layer in layers.items():
        counted = int(layer.parameter.count_nonzero())
        available = int(dense[name].parameter.count_nonzero())
        enough = counted == min(expected[name], available)
        kept[name] = expected[name] if enough else counted
    return kept


def _check_not_stripped(layers: Mapping[str, Prunable], expected: Mapping[str, int]) -> None:
    pruned = [layer for name, layer in layers.items() if expected[name] < layer.parameter.numel()]
    if pruned and all(int(p.parameter.count_nonzero()) <= expected[p.name] for p in pruned):
        raise ValueError(
            "model is pruned already, its weights are zero where the allocation removes them: "
            "give dense= the dense model to compare with"
        )


def _check_measured(source: nn.Module, allocation: Allocation, what: str) -> bool:
    """Refuse a dense model with other weights than were measured; whether these are known."""
    digest = allocation.metadata.get("model", {}).get("digest")
    if digest is None:
        return False
    if digest != signature(source)["digest"]:
        raise ValueError(
            f"{what} does not have the weights that were measured for this allocation, or it is "
            "pruned already: give the dense model that was measured, as dense= where this one is "
            "to be verified"
        )
    return True


@contextmanager
def _pruned(
    layers: Mapping[str, Prunable], masks: Mapping[str, Tensor]
) -> Iterator[dict[str, int]]:
    """Write the masks of an allocation into the weights for a while; yield the weights kept.

    Those are counted that are not zero, and dense zeros that a mask keeps.
    """
    with saved_weights(layer.parameter for layer in layers.values()) as saved:
        kept = {}
        for (name, layer), weight in zip(layers.items(), saved, strict=True):
            write_masked(layer.parameter, weight, masks[name])
            zeros = int((masks[name] & (weight == 0)).count_nonzero())
            kept[name] = int(layer.parameter.count_nonzero()) + zeros
        yield kept


def _compare(kept: Mapping[str, int], expected: Mapping[str, int]) -> None:
    for name, count in kept.items():
        if count != expected[name]:
            raise CountMismatchError(name, count, expected[name])
