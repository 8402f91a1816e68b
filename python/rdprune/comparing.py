"""The allocation beside the usual baselines, at exactly the same number of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from torch import Tensor, nn

from rdprune.allocators import ALLOCATORS, Problem, counts
from rdprune.aside import labels
from rdprune.baselines import BASELINES
from rdprune.batches import Forward, Runner, preserved, read
from rdprune.compared import features_of, in_question
from rdprune.criteria import SampleErrors, parse
from rdprune.distortion import Reference
from rdprune.magnitude import magnitude_order, order_mask, saved_weights, write_masked
from rdprune.masking import expected_kept
from rdprune.progress import progress_bar
from rdprune.recovery import NotFiniteError, batchnorms, fits
from rdprune.refining import refine
from rdprune.repairing import repair_, unmasked_copy
from rdprune.searching import search
from rdprune.trial import table_layers
from rdprune_core import Allocation, RDTable, allocate, predictions

METHODS = ("dense", "rdprune", "joint", *BASELINES)
ALL_METHODS = ("dense", "rdprune", "joint", "refined", "searched", *ALLOCATORS)
SEARCH = 200  # passes of "searched"


@dataclass(frozen=True, slots=True)
class CompareRow:
    """One method at one sparsity.

    Attributes
    ----------
    method : str
        ``"dense"``; ``"rdprune"``, the additive optimum; ``"joint"``, that of the joint objective;
        ``"refined"``, what `refine` makes of the better of them;
        ``"searched"``, what `search` finds from the first; or the name of a baseline.
    sparsity : float
        Sparsity asked for; 0 for the dense network.
    kept : int
        Weights kept in all layers of the table.
    distortion, distortion_heldout : float
        Distortion of the output on the calibration and held-out batches, of the table's kind;
        not finite where the pruned network's output is not.
    top1 : float
        Fraction of the held-out samples (else of the calibration samples) classified right.
    repaired_distortion, repaired_distortion_heldout, repaired_top1 : float
        The same after `repair_` on the calibration batches, by the table's recovery, else of
        the BatchNorm statistics.
    predicted, predicted_joint : float
        What the table predicts of the network in the state in which it was measured: the sum of
        the layers' distortions, and the mean square of the sum of their responses. Of
        ``"rdprune"``, ``"joint"`` and ``"refined"``.

    What is not available is None: held-out figures without held-out batches, top-1 without
    labels, repaired figures without BatchNorm or another recovery, predictions of baselines.
    """

    method: str
    sparsity: float
    kept: int
    distortion: float
    distortion_heldout: float | None
    top1: float | None
    repaired_distortion: float | None
    repaired_distortion_heldout: float | None
    repaired_top1: float | None
    predicted: float | None
    predicted_joint: float | None = None


def compare(
    model: nn.Module,
    batches: Iterable[Any],
    table: RDTable,
    *,
    sparsities: Sequence[float],
    heldout: Iterable[Any] | None = None,
    forward: Forward | None = None,
    methods: Sequence[str] | None = None,
    distortion: str | SampleErrors | None = None,
    progress: bool = True,
) -> list[CompareRow]:
    """Prune by each method to the same number of weights, and run the network.

    At each sparsity the additive allocation of the table is computed, and all baselines keep as
    many weights in all as it does, in the layers of the table; ``"joint"``, ``"refined"`` and
    ``"searched"`` have the same budget. The model is left exactly as it
    was, also after an error or an interrupt.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model that was measured.
    batches : iterable
        Calibration batches, as for `measure`.
    table : RDTable
        What `measure` returned.
    sparsities : sequence of float
        In (0, 1).
    heldout : iterable, optional
        Further batches, with labels for top-1.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model; by default the `features` that
        were measured, which have no top-1.
    methods : sequence of str
        Some of ``ALL_METHODS``; by default ``METHODS``, all but the slower ``"refined"``,
        ``"searched"`` (200 passes), ``"owl"`` and ``"spdy"``; and ``"joint"`` only of a table with
        responses.
    distortion : str or callable, optional
        By default that of the table; needed again where that is a callable.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    list of CompareRow
        The dense network, if asked for, then each method at each sparsity, in the order given.

    Raises
    ------
    ValueError
        If a method is unknown, a sparsity is out of range, or the table is of another model.
    InfeasibleBudgetError
        If a sparsity cannot be reached with the options of the table.
    """
    layers = table_layers(model, table)
    if methods is None:
        methods = [m for m in METHODS if m != "joint" or table.responses is not None]
    forward = in_question(table.metadata, forward)
    data = read(batches)

    def refined(allocation: Allocation) -> Allocation:
        return refine(
            model, data, table, allocation, forward=forward, distortion=distortion,
            progress=progress,
        ).allocation  # fmt: skip

    def searched(allocation: Allocation) -> Allocation:
        return search(
            model, data, allocation, forward=forward, distortion=distortion, passes=SEARCH,
            progress=progress,
        ).allocation  # fmt: skip

    plans = _plans(
        Problem(
            model, layers, 0, data, forward,
            table.metadata.get("recovery", "none"), int(table.metadata.get("seed", 0)),
        ),
        table, sparsities, methods, {"refined": refined, "searched": searched},
    )  # fmt: skip
    further = None if heldout is None else read(heldout)
    rows = []
    with ExitStack() as stack:
        saved = stack.enter_context(saved_weights(layer.parameter for layer in layers.values()))
        stack.enter_context(preserved(model))
        kind = table.metadata.get("distortion", "mse") if distortion is None else distortion
        seed, state = table.metadata.get("seed", 0), table.metadata.get("recovery", "none")
        run = _Network(model, data, further, forward, kind, int(seed), state)
        orders = [magnitude_order(w, layer=n) for n, w in zip(layers, saved, strict=True)]
        meter = stack.enter_context(progress_bar(len(plans), progress))
        for plan in plans:
            meter.advance(plan.method, 0)
            for layer, weight, order in zip(layers.values(), saved, orders, strict=True):
                mask = order_mask(order, plan.kept[layer.name], weight.shape)
                write_masked(layer.parameter, weight, mask)
            rows.append(
                CompareRow(
                    method=plan.method,
                    sparsity=plan.sparsity,
                    kept=sum(plan.kept.values()),
                    **run.figures(),
                    predicted=plan.predicted[0],
                    predicted_joint=plan.predicted[1],
                )
            )
            meter.advance(plan.method)
    return rows


@dataclass(frozen=True, slots=True)
class _Plan:
    method: str
    sparsity: float
    kept: Mapping[str, int]
    predicted: tuple[float | None, float | None] = (None, None)


def _plans(
    problem: Problem,
    table: RDTable,
    sparsities: Sequence[float],
    methods: Sequence[str],
    further: Mapping[str, Callable[[Allocation], Allocation]],
) -> list[_Plan]:
    for method in methods:
        if method not in ALL_METHODS:
            known = ", ".join(ALL_METHODS)
            raise ValueError(f"methods holds {method!r}, must hold some of {known}")
    layers = problem.layers
    plans = []
    if "dense" in methods:
        plans.append(_Plan("dense", 0.0, {n: p.parameter.numel() for n, p in layers.items()}))
    for sparsity in sparsities:
        allocation = allocate(table, sparsity=sparsity)
        kept = expected_kept(layers, allocation)
        total = sum(kept.values())
        for method in methods:
            if method == "rdprune":
                ours = allocation
            elif method == "joint":
                ours = allocate(table, sparsity=sparsity, objective="joint")
            elif method in further:
                ours = further[method](allocation)
            else:
                if method in ALLOCATORS:
                    same = replace(problem, kept_total=total)
                    plans.append(_Plan(method, sparsity, counts(method, same)))
                continue
            predicted = (None, None) if method == "searched" else predictions(table, ours)
            plans.append(_Plan(method, sparsity, expected_kept(layers, ours), predicted))
    return plans


class _Figures(TypedDict):
    distortion: float
    distortion_heldout: float | None
    top1: float | None
    repaired_distortion: float | None
    repaired_distortion_heldout: float | None
    repaired_top1: float | None


class _Network:
    """The model on both sets of batches, compared with the dense network's outputs."""

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Any, ...],
        heldout: tuple[Any, ...] | None,
        forward: Forward | None,
        kind: str | SampleErrors,
        seed: int,
        recovery: str,
    ) -> None:
        self._model = model
        self._data = data
        self._forward = forward
        self._recovery = "batchnorm" if recovery == "none" else recovery
        self._dense = unmasked_copy(model) if fits(self._recovery) else None
        self._calibration = _Evaluation(Runner(model, data, forward, seed), kind)
        self._heldout = None
        if heldout is not None:
            self._heldout = _Evaluation(Runner(model, heldout, forward, seed), kind)

    def figures(self) -> _Figures:
        """Run the network with the weights that it has now, as it is and repaired."""
        distortion, heldout, top1 = self._run()
        repaired: tuple[float | None, float | None, float | None] = (None, None, None)
        parameters = list(self._model.parameters()) if self._dense is not None else []
        with _saved_statistics(self._model), saved_weights(parameters):
            try:
                fixed = repair_(
                    self._model,
                    self._data,
                    recovery=self._recovery,
                    forward=self._forward,
                    dense=self._dense,
                )
            except NotFiniteError:
                fixed = 0  # this allocation broke the network; the others' rows are not lost
            if fixed:
                repaired = self._run()
        return {
            "distortion": distortion,
            "distortion_heldout": heldout,
            "top1": top1,
            "repaired_distortion": repaired[0],
            "repaired_distortion_heldout": repaired[1],
            "repaired_top1": repaired[2],
        }

    def _run(self) -> tuple[float, float | None, float | None]:
        distortion, top1 = self._calibration.run()
        if self._heldout is None:
            return distortion, None, top1
        heldout, top1 = self._heldout.run()
        return distortion, heldout, top1


class _Evaluation:
    """Distortion and top-1 of a model on some batches, against its outputs at the start."""

    def __init__(self, runner: Runner, kind: str | SampleErrors) -> None:
        self._runner = runner
        scores = not features_of(runner.forward)
        self._labels = [labels(batch) if scores else None for batch in runner.batches]
        self._reference = Reference(
            runner.outputs(),
            distortion=kind,
            beside=runner.beside(parse(kind)),
            cause=runner.cause,
        )
        self._right: int | None = None

    def run(self) -> tuple[float, float | None]:
        self._right = 0
        distortion = self._reference.measure(self._scored()).distortion
        right = self._right
        return distortion, None if right is None else right / self._reference.samples

    def _scored(self) -> Iterator[Tensor]:
        for output, truth in zip(self._runner.outputs(), self._labels, strict=True):
            if self._right is not None:
                right = _count_right(output, truth)
                self._right = None if right is None else self._right + right
            yield output


def _count_right(output: Tensor, truth: Tensor | None) -> int | None:
    if truth is None or output.ndim != 2 or len(truth) != len(output):
        return None
    return int((output.argmax(dim=1) == truth.cpu()).sum())


@contextmanager
def _saved_statistics(model: nn.Module) -> Iterator[None]:
    buffers = [buffer for module in batchnorms(model) for buffer in module.buffers(recurse=False)]
    values = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, values, strict=True):
            buffer.data.copy_(value)
