"""Iterative pruning, round by round, resumable after every round."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from rdprune.batches import Forward, read
from rdprune.layers import prunable
from rdprune.noise import Noise
from rdprune.purpose import Case, decided, taken_over
from rdprune.rounds import Evaluate as Evaluate
from rdprune.rounds import Finetune as Finetune
from rdprune.rounds import Step as Step
from rdprune.rounds import Worker, figures
from rdprune.runfolder import Round, RunFolder, digest
from rdprune.settings import Settings, amount_of, check_callable, plain_levels


def iterate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    folder: str | os.PathLike[str],
    rounds: int = 20,
    amount: float | None = None,
    sparsity: float | None = None,
    finetune: Finetune | None = None,
    evaluate: Evaluate | None = None,
    method: str = "rdprune",
    cost: str = "params",
    objective: str = "additive",
    levels: int | str | Sequence[float] | None = None,
    shapes: str | Iterable[str] = (),
    criterion: str = "magnitude",
    distortion: str | None = None,
    recovery: str | None = None,
    blend: float | None = None,
    repair: str = "none",
    rewind: bool = False,
    ignore: str | Iterable[str] = (),
    layers: str | Iterable[str] | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Round]:
    """Prune in rounds to a sparsity of 1 - (1 - amount)^rounds, in place.

    Xu et al. 2023, section 4.1: in each round the distortions are measured on the current
    network, the allocation has the previous one as its floor, and the network is fine-tuned under
    its masks, which only ever grow sparser. One round is one-shot pruning. A run that was killed
    goes on where its folder ends, with the same model and batches, and gives the same masks, as
    far as `finetune` gives the same weights for the same seed. Each round begins from weights and
    buffers alone: gradients are dropped, and what requires them is as at the start; other
    attributes that `finetune` changes are not kept when a run goes on.

    An error, or Ctrl-C, leaves the model as it was given, and the rounds done in the folder.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model. At the end it has the pruned weights, without masks.
    batches : iterable
        Calibration batches, as for `measure`; `gaussian` makes some without data.
    folder : path-like
        Run folder: ``history.json`` and a folder for each round.
    rounds : int
        Number of rounds, at least 1. With `amount`, may be larger than when the folder was begun,
        which then goes on as one round would: better say the last one from the start.
    amount : float
        Fraction of the remaining cost that a round removes, in (0, 1); by default 0.2.
    sparsity : float, optional
        In place of `amount`: fraction of the cost that is removed after the last round. A folder
        goes on with the same number of rounds.
    finetune : callable, optional
        ``finetune(model, step)`` trains the model, masked by `torch.nn.utils.prune`, in place.
    evaluate : callable, optional
        ``evaluate(model)`` returns figures for the history: of the dense model, and of each
        round's before and after its fine-tune.
    method : str
        ``"rdprune"``, or one of ``rdprune.allocators.ALLOCATORS`` to compare with.
    cost : str
        What is counted: ``"params"`` or, for ``"rdprune"``, ``"macs"``.
    objective : str
        ``"additive"`` or, for ``"rdprune"``, ``"joint"``, as for `allocate`.
    levels : int, str or sequence of float, optional
        As for `measure`; by default densities 0.93^i down to 0.001, and 0.
    shapes : str or iterable of str
        Further options of every layer, as for `measure`, within the masks of the round before.
        For ``"rdprune"``.
    criterion : str
        ``"magnitude"``, ``"wanda"`` or ``"taylor"``, as for `measure`. For ``"rdprune"``.
    distortion, recovery : str, optional
        As for `measure`. By default, with `finetune` or a `repair` of BatchNorm, a network that
        has some behind a pruned layer is measured in the state ``"batchnorm"``, others, and on
        batches of fewer than four or `gaussian` ones, as they are. In the state ``"batchnorm"`` a
        classifier is measured by ``"nmse"`` (outputs (n, classes) that are right about the batches'
        labels well above chance, no `forward`), all else, and rounds that are fine-tuned, by
        ``"mse"``. ``docs/predictors.md`` says why. A folder with rounds goes on with what it was
        begun with. A fine-tune that keeps BatchNorm as it is should say ``recovery="none"``.
    blend : float, optional
        Share of the removed weights' energy in what ``"rdprune"`` minimises, in [0, 1], as for
        `blended`; for the additive objective, single weights by magnitude, and distortions that are
        not negative. By default 0.5 for one round with `finetune` in the state ``"batchnorm"``,
        else 0. Where
        nothing measured, or no energy, need be lost, there is nothing to mix, and what was measured
        decides.
    forward : callable, optional
        As for `measure`.
    repair : str
        ``"none"``, or what `repair_` does after pruning, before fine-tuning.
    rewind : bool
        Give the kept weights the values of the start before each fine-tune (Frankle, Carbin 2019,
        *The Lottery Ticket Hypothesis*).
    ignore, layers : str or iterable of str
        Layers to leave out, or the only ones; see `prunable`.
    seed : int
        Of the measuring, and with the round's number of the fine-tuning.
    identity : mapping of str to JSON values, optional
        What else the run depends on, such as the settings of `finetune`: a folder with rounds of
        another is refused.
    progress : bool
        Show a progress bar on stderr while measuring.

    Returns
    -------
    list of Round
        The history.

    Raises
    ------
    FileExistsError
        If the folder is a file.
    ValueError
        If an argument is out of range, the folder is of another run, or a round would keep
        nothing, or fine-tuning leaves a weight that is not finite.
    FileFormatError
        If the files of the last round that was done are missing or damaged.
    SparsityLostError
        If a weight under a mask is not zero after fine-tuning.
    """
    asked = {"recovery": recovery, "distortion": distortion, "blend": blend}
    told = {name for name, value in asked.items() if value is not None}
    settings = Settings(
        amount=amount_of(amount, sparsity, rounds), method=method, cost=cost,
        objective=objective, levels=plain_levels(levels), repair=repair, rewind=rewind,
        ignore=_tuple(ignore), layers=None if layers is None else _tuple(layers), seed=seed,
        shapes=_tuple(shapes), criterion=criterion, blend=0.0 if blend is None else blend,
        distortion="mse" if distortion is None else distortion,
        recovery="none" if recovery is None else recovery,
    )  # fmt: skip
    settings = replace(settings, blend=float(settings.blend))
    found = prunable(model, ignore=ignore, layers=layers)
    settings.check(model, found, rounds)
    check_callable("finetune", finetune, "model, step")
    check_callable("evaluate", evaluate, "model")
    data = read(batches)
    run = RunFolder(folder)
    noise = isinstance(batches, Noise)
    case = Case(model, found, data, forward, seed, finetune is not None, rounds, noise)
    if run.rounds:  # it goes on as it was begun
        _check_amount(settings.amount, sparsity, rounds, run)
        settings = taken_over(settings, case, told, run.settings)
    else:
        settings = decided(settings, case, told)
    said = asdict(settings)
    if not settings.blend:
        del said["blend"]
    if not settings.shaped:  # as in folders that are older than these settings
        del said["shapes"], said["criterion"]
    said |= {"model": digest(model.state_dict()), "batches": digest(data)}
    run.settle(said if identity is None else {**said, "identity": dict(identity)})
    worker = Worker(model, found, data, run, settings, forward, progress)
    try:
        if evaluate is not None and not run.rounds and not run.dense:
            run.begin(figures("evaluate", evaluate(model)))
        for number in range(len(run.rounds) + 1, rounds + 1):
            worker.work(number, rounds, finetune, evaluate)
        worker.finish(rounds)
    except BaseException:
        worker.undo()
        raise
    return run.rounds[:rounds]


def _check_amount(amount: float, sparsity: float | None, rounds: int, run: RunFolder) -> None:
    """Refuse a sparsity and rounds that the folder was not begun with, in these words."""
    begun = run.settings.get("amount")
    if sparsity is not None and amount != begun:
        raise ValueError(
            f"{run.path} holds a run of another sparsity or number of rounds: it removes {begun} "
            f"of what is left in each, sparsity {sparsity} in {rounds} would remove {amount:.6g}; "
            f"give those it was begun with, or amount={begun} (--amount), or take another folder"
        )


def _tuple(entries: str | Iterable[str]) -> tuple[str, ...]:
    return (entries,) if isinstance(entries, str) else tuple(entries)
