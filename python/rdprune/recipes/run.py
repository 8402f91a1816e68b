"""A recipe from start to end: network, data, rounds of pruning and fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.batches import device_of
from rdprune.demo.network import load_weights
from rdprune.recipes.datasets import Source, open_source
from rdprune.recipes.networks import NETWORKS
from rdprune.recipes.recipe import Recipe
from rdprune.rounds import Step
from rdprune.runfolder import Round
from rdprune.schedule import iterate


def run(
    recipe: Recipe,
    data: str | Source,
    folder: Path,
    *,
    weights: str | None = None,
    method: str = "rdprune",
    objective: str = "additive",
    repair: str = "none",
    blend: float = 0.0,
    levels: Any = None,
    shapes: Iterable[str] = (),
    criterion: str = "magnitude",
    tested: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> list[Round]:
    """Prune a recipe's network on its data; a run that was stopped goes on.

    Parameters
    ----------
    recipe : Recipe
        The settings.
    data : str or Source
        Folder of the pictures, or ``"fake"``; see `open_source`; or what it returned.
    folder : pathlib.Path
        Run folder, as for `iterate`.
    weights : str, optional
        Dense weights: a ``.safetensors`` file, or ``"pretrained"`` for those that torchvision or
        timm download. Without them the network starts from random ones.
    method, objective, repair, blend, levels, shapes, criterion, seed, progress : optional
        As for `iterate`; the blend is 0 unless told.
    tested : int, optional
        Test pictures for the top-1; all of them by default.
    device : str
        Where the network runs.

    Returns
    -------
    list of Round
        The history, with ``top1`` among its figures.

    Raises
    ------
    ValueError
        If data or weights do not fit.
    """
    source = open_source(recipe, data) if isinstance(data, str) else data
    model = network(recipe, source.pixels, weights).to(device)
    return iterate(
        model,
        source.calibration(recipe.calibration),
        folder=folder,
        rounds=recipe.rounds,
        amount=recipe.amount,
        finetune=Finetune(recipe, source),
        evaluate=Top1(source.tested(tested)),
        method=method,
        objective=objective,
        repair=repair,
        levels=levels,
        shapes=shapes,
        criterion=criterion,
        distortion=recipe.distortion,
        recovery=recipe.recovery,
        blend=blend,
        seed=seed,
        identity={**_settings(recipe), "tested": tested},
        progress=progress,
    )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return what the results of a round depend on; a run may be given more rounds."""
    found = asdict(recipe)
    for name in ("title", "notes", "rounds"):
        del found[name]
    return found


def network(recipe: Recipe, pixels: int, weights: str | None) -> nn.Module:
    """Return a recipe's network, in evaluation mode; random weights are always the same."""
    if recipe.network not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise ValueError(f"recipe's network is {recipe.network!r}, must be one of {known}")
    build = NETWORKS[recipe.network]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = build(recipe.classes, pixels, weights == "pretrained")
    if weights not in (None, "pretrained"):
        load_weights(model, Path(str(weights)))
    return model.eval()


@dataclass(frozen=True, slots=True, eq=False)
class Finetune:
    """Trains by the optimiser, rate and steps of a recipe; a callable for `iterate`."""

    recipe: Recipe
    source: Source

    def __call__(self, model: nn.Module, step: Step) -> Mapping[str, float]:
        """Train the model in place and return the mean loss of the last hundred steps."""
        recipe = self.recipe
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "adamw":
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay
            )
        else:
            optimizer = torch.optim.SGD(
                model.parameters(), lr=recipe.rate, momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
            )  # fmt: skip
        rates = None
        if recipe.schedule == "cosine":
            rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
        device = device_of(model)
        losses: list[float] = []
        model.train()
        stream = self.source.stream(recipe.batch, step.seed)
        for _ in range(recipe.steps):
            pictures, labels = next(stream)
            loss = functional.cross_entropy(model(pictures.to(device)), labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if rates is not None:
                rates.step()
            losses = [*losses[-99:], loss.item()]
        model.eval()
        return {"loss": sum(losses) / len(losses)}


@dataclass(frozen=True, slots=True, eq=False)
class Top1:
    """Share of the test pictures that are classified right; a callable for `iterate`."""

    batches: Iterable[tuple[Tensor, Tensor]]

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        """Return ``{"top1": share}``; the model is in evaluation mode."""
        device = device_of(model)
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in self.batches
            )
        return {"top1": right / sum(len(y) for _, y in self.batches)}


def changed(recipe: Recipe, **settings: Any) -> Recipe:
    """Return a recipe with those settings replaced that are not None."""
    return replace(recipe, **{name: v for name, v in settings.items() if v is not None})
