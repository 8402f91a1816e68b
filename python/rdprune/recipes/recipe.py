"""What a recipe says: one JSON file of settings for each network, in ``catalog``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Final

CATALOG: Final = Path(__file__).with_name("catalog")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of one experiment.

    Attributes
    ----------
    name, title, notes : str
        What it is called, what it is, and what of it is not the paper's.
    network : str
        A name of `rdprune.recipes.networks.NETWORKS`.
    data : str
        ``"cifar10"`` or ``"imagenet"``.
    picture : tuple of int
        Channels, height and width of an input.
    classes : int
        Number of outputs.
    calibration : int
        Training pictures that the distortions are measured on.
    rounds : int
        Of pruning.
    amount : float
        Fraction of the weights left that a round removes.
    distortion, recovery : str
        As for `measure`.
    optimizer : str
        ``"adamw"`` or ``"sgd"``.
    rate, momentum, weight_decay : float
        Of the optimiser.
    schedule : str
        Of the rate: ``"constant"`` or ``"cosine"``, to 0 within a round.
    batch : int
        Pictures in a step.
    steps : int
        Of each round's fine-tune.
    """

    name: str
    title: str
    network: str
    data: str
    picture: tuple[int, int, int]
    classes: int
    calibration: int
    rounds: int
    amount: float
    distortion: str
    recovery: str
    optimizer: str
    rate: float
    momentum: float
    weight_decay: float
    schedule: str
    batch: int
    steps: int
    notes: str

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("data", self.data, ("cifar10", "imagenet")),
            ("optimizer", self.optimizer, ("adamw", "sgd")),
            ("schedule", self.schedule, ("constant", "cosine")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, must be one of {', '.join(allowed)}")
        for name in ("calibration", "rounds", "batch", "steps", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")


def load(path: Path) -> Recipe:
    """Read a recipe's file.

    Raises
    ------
    ValueError
        If the file is not a recipe; says what is missing or too much.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(Recipe)}
        if not isinstance(data, dict) or set(data) != names:
            wrong = ", ".join(sorted(names ^ set(data)))
            raise ValueError(f"settings missing or too many: {wrong}")
        return Recipe(**{**data, "picture": tuple(data["picture"])})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a recipe: {error}") from error


def recipes() -> dict[str, Recipe]:
    """Return all recipes by name."""
    return {path.stem: load(path) for path in sorted(CATALOG.glob("*.json"))}


def find(name: str) -> Recipe:
    """Return a recipe by its name, or by the path of a file of one's own (``.json``).

    Raises
    ------
    ValueError
        If there is none.
    """
    if name.endswith(".json"):
        return load(Path(name))
    known = recipes()
    if name not in known:
        close = get_close_matches(name, known, n=3)
        raise ValueError(
            f"no recipe {name!r}; {'close' if close else 'there are'}: {', '.join(close or known)}"
        )
    return known[name]
