"""One round of iterative pruning: measure, allocate, prune, repair, fine-tune, write."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rdprune.allocators import Problem, as_allocation, counts
from rdprune.batches import Forward
from rdprune.blending import NothingToMixError, blended
from rdprune.keeping import verify_sparsity_
from rdprune.layers import Prunable, all_layers
from rdprune.levels import falling_levels
from rdprune.magnitude import kept_count, level_label, magnitude_order, order_mask
from rdprune.masking import apply_, layer_masks, load_masks, save_masks, strip_
from rdprune.measuring import measure
from rdprune.repairing import repair_
from rdprune.runfolder import Round, RunFolder
from rdprune.scoring import scores
from rdprune.settings import Settings
from rdprune.sharing import scaled
from rdprune.tensorfiles import load_weights_, save_weights
from rdprune.verifying import verify
from rdprune_core import Allocation, FileFormatError, RDTable, allocate

LEVELS = 98
"""Levels of a round unless told: densities that fall by 0.93."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a fine-tuning callable is told.

    Attributes
    ----------
    number, rounds : int
        The round, from 1, and the last one.
    sparsity : float
        Fraction of the weights that is removed now.
    folder : pathlib.Path
        Of the round, for checkpoints of the callable's own.
    seed : int
        Of the round; torch's generators are seeded with it.
    """

    number: int
    rounds: int
    sparsity: float
    folder: Path
    seed: int


Finetune = Callable[[nn.Module, Step], Mapping[str, float] | None]
"""Trains the masked model in place; numbers that it returns go into the history."""

Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""Returns figures of a model, such as its accuracy, for the history."""


class Worker:
    """Does rounds on one model in one folder."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Prunable],
        data: tuple[Any, ...],
        run: RunFolder,
        settings: Settings,
        forward: Forward | None,
        progress: bool,
    ) -> None:
        self._model = model
        self._layers = layers
        self._data = data
        self._run = run
        self._settings = settings
        self._forward = forward
        self._progress = progress
        self._dense = sum(layer.parameter.numel() for layer in layers.values())
        self._strides = {name: p.stride() for name, p in model.named_parameters()}
        self._training = {module: module.training for module in model.modules()}
        self._trained = {name: p.requires_grad for name, p in model.named_parameters()}
        self._start = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def undo(self) -> None:
        """Give the model back as it was before the first round, after an error in any."""
        self._strip()
        current = self._model.state_dict()
        for name, value in self._start.items():
            current[name].copy_(value)
        self._reset()

    def work(
        self, number: int, rounds: int, finetune: Finetune | None, evaluate: Evaluate | None
    ) -> None:
        """Do one round, from the files of the last one to files of its own."""
        began = time.perf_counter()
        folder = self._run.round(number)
        masks, previous = self._restore(number - 1)
        allocation = self._allocation(number, folder, previous, masks)
        nested = self._masks(allocation, masks)
        save_masks(folder / "masks.safetensors", nested)
        apply_(self._model, nested)
        checked = verify(self._model, self._data, allocation, forward=self._forward)
        if self._settings.rewind:
            self._rewind()
        if self._settings.repair != "none":
            repair_(self._model, self._data, recovery=self._settings.repair, forward=self._forward)
        pruned = figures("evaluate", evaluate(self._model) if evaluate else None)
        seed = self._settings.seed + number
        step = Step(number, rounds, 1 - checked.kept_total / self._dense, folder, seed)
        returned = self._finetune(finetune, step)
        self._strip()
        self._check_finite(number)
        verify_sparsity_(self._model, nested)
        tuned = figures("evaluate", evaluate(self._model)) if evaluate and finetune else pruned
        save_weights(folder / "weights.safetensors", self._model)
        cost = self._settings.cost
        self._run.finish(
            Round(
                number=number,
                target=float(1 - self._settings.target(number)),
                sparsity=1 - allocation.cost[cost] / allocation.dense[cost],
                kept=checked.kept_total,
                dense=self._dense,
                predicted=allocation.distortion if math.isfinite(allocation.distortion) else None,
                distortion=checked.true,
                pruned=pruned,
                tuned=tuned,
                finetune=returned,
                seconds=time.perf_counter() - began,
            )
        )

    def _restore(self, number: int) -> tuple[dict[str, Tensor], Allocation | None]:
        """Bring the model to the end of a round, from its files even if it is there already."""
        self._reset()
        if number == 0:
            full = {n: torch.ones_like(p.parameter).bool() for n, p in self._layers.items()}
            return full, None
        folder = self._run.round(number)
        with self._intact(number):
            load_weights_(folder / "weights.safetensors", self._model)
            loaded = load_masks(folder / "masks.safetensors")
            masks = {name: loaded[name] for name in self._layers}
            return masks, Allocation.load(folder / "allocation.json")

    def finish(self, number: int) -> None:
        """Leave the model with the weights of a round.

        Raises
        ------
        FileFormatError
            If the round's file of weights is missing or damaged.
        """
        with self._intact(number):
            load_weights_(self._run.round(number) / "weights.safetensors", self._model)

    @contextmanager
    def _intact(self, number: int) -> Iterator[None]:
        """Say how to go on where a file of a round is missing or damaged."""
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            path = self._run.path / "history.json"
            raise FileFormatError(
                f"round {number} of {self._run.path} is damaged ({error}): restore its files, or "
                f'delete the entries from round {number} on under "rounds" in {path}, and it is '
                "done again from the round before"
            ) from error

    def _check_finite(self, number: int) -> None:
        for name, value in self._model.state_dict().items():
            wrong = 0 if not value.is_floating_point() else int((~value.isfinite()).sum())
            if wrong:
                raise ValueError(
                    f"round {number}: after fine-tuning {wrong} values of {name!r} are NaN or "
                    "infinite: training diverged; a lower learning rate may help"
                )

    def _reset(self) -> None:
        """Set what a file of weights does not hold as it was at the start."""
        for module, training in self._training.items():
            module.training = training
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(self._trained[name])
            parameter.grad = None

    def _allocation(
        self, number: int, folder: Path, previous: Allocation | None, masks: Mapping[str, Tensor]
    ) -> Allocation:
        settings = self._settings
        if settings.method == "rdprune":
            table = self._table(folder, masks)
            total = int(settings.target(number) * int(table.dense[settings.cost].sum()))
            floor = None if settings.shaped else previous  # shaped options lie in the last masks
            allocation = allocate(
                table, {settings.cost: total}, objective=settings.objective, previous=floor
            )
            if settings.blend:
                allocation = self._blended(table, allocation, floor)
        else:
            total = int(settings.target(number) * self._dense)
            problem = Problem(
                self._model, dict(self._layers), total, self._data, self._forward,
                settings.recovery, settings.seed,
            )  # fmt: skip
            kept = list(counts(settings.method, problem).values())
            caps = [int(mask.count_nonzero()) for mask in masks.values()]
            capped = scaled([max(count, 1) for count in kept], [0] * len(kept), caps, total)
            fits = all(count <= cap for count, cap in zip(kept, caps, strict=True))
            chosen = dict(zip(masks, kept if fits else capped, strict=True))
            allocation = as_allocation(self._layers, chosen, method=settings.method)
            allocation = replace(allocation, metadata={**allocation.metadata, **self._state()})
        allocation.save(folder / "allocation.json")
        return allocation

    def _blended(self, table: RDTable, least: Allocation, floor: Allocation | None) -> Allocation:
        """Allocate by the mixture with removed energy; measured distortions are said of it."""
        try:
            mixed = blended(table, self._model, dict(least.budget), share=self._settings.blend)
        except NothingToMixError:
            return least
        choice = allocate(mixed, dict(least.budget), previous=floor).choice
        chosen = Allocation.from_choice(
            table, choice, budget=least.budget, lower_bound=least.lower_bound
        )
        return replace(chosen, metadata={**chosen.metadata, "blended": mixed.metadata["blended"]})

    def _state(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "distortion": settings.distortion,
            "recovery": settings.recovery,
            "seed": settings.seed,
        }

    def _table(self, folder: Path, masks: Mapping[str, Tensor]) -> RDTable:
        """Measure the current network; the round's store has what was measured before a kill."""
        settings = self._settings
        levels: int | str | Sequence[float]
        if settings.levels is None:
            left = [(mask.numel(), int(mask.count_nonzero())) for mask in masks.values()]
            every = [float(level_label(level)) for level in falling_levels(LEVELS)]
            levels = [
                level
                for level in every
                if any(kept_count(size, level) <= kept for size, kept in left)
            ]
        else:
            levels = settings.levels
        table = measure(
            self._model, self._data, levels=levels, distortion=settings.distortion,
            recovery=settings.recovery, layers=list(self._layers), forward=self._forward,
            seed=settings.seed, store=folder, progress=self._progress, shapes=settings.shapes,
            criterion=settings.criterion, within=masks if settings.shaped else None,
        )  # fmt: skip
        table.save(folder / "table.npz")
        return table

    def _masks(self, allocation: Allocation, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep the largest weights among those that the previous masks keep."""
        settings = self._settings
        if settings.shaped:
            weighed = None
            if settings.criterion != "magnitude":
                weighed = scores(
                    settings.criterion, self._model, self._layers, self._data,
                    forward=self._forward, recovery=settings.recovery, seed=settings.seed,
                )  # fmt: skip
            return layer_masks(self._layers, allocation, weighed, previous)
        made = {}
        costs = allocation.layer_costs["params"].tolist()
        for name, kept in zip(allocation.names, costs, strict=True):
            weight = self._layers[name].parameter
            order = magnitude_order(weight, layer=name)
            inside = previous[name].to(weight.device).reshape(-1)[order]
            nested = torch.cat([order[inside], order[~inside]])
            made[name] = order_mask(nested, kept, weight.shape)
        return made

    def _finetune(self, finetune: Finetune | None, step: Step) -> dict[str, float]:
        if finetune is None:
            return {}
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(step.seed)
            return figures("finetune", finetune(self._model, step))

    def _rewind(self) -> None:
        """Write the values of the start under the masks."""
        current = self._model.state_dict()
        for name, value in self._start.items():
            masked = f"{name}_orig"
            current[masked if masked in current else name].copy_(value)

    def _strip(self) -> None:
        """Take off the masks that are left, and give back the memory format they have changed.

        A fine-tune may have taken them off. Kernels sum in another order in another format, and a
        resumed run must not differ.
        """
        if any(layer.masked for layer in all_layers(self._model).values()):
            strip_(self._model)
        for name, parameter in self._model.named_parameters():
            if parameter.stride() != self._strides[name]:
                data = torch.empty_strided(
                    parameter.shape, self._strides[name],
                    dtype=parameter.dtype, device=parameter.device,
                )  # fmt: skip
                parameter.data = data.copy_(parameter.data)


def figures(what: str, returned: Mapping[str, float] | None) -> dict[str, float]:
    """Return what a callable of the user's returned as finite numbers by name.

    Raises
    ------
    ValueError
        If they are no mapping, or one of them is not finite.
    """
    if returned is not None and not isinstance(returned, Mapping):
        raise ValueError(
            f"{what} returned a {type(returned).__name__}, must return named figures, such as "
            '{"top1": 0.5}, or nothing'
        )
    found = {str(name): float(value) for name, value in (returned or {}).items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"{what} returned {name} = {value}, must be finite")
    return found
