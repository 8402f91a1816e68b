"""The folder of an iterative run: one history file, and each round's tables, masks and weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from rdprune_core import FileFormatError
from rdprune_core.files import atomic_write, remove_left_over

FORMAT = "rdprune-history"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Round:
    """One round of iterative pruning, as the history file holds it.

    Attributes
    ----------
    number : int
        From 1.
    target : float
        Sparsity asked for, 1 - (1 - a)^number.
    sparsity : float
        Fraction of the cost that is removed.
    kept, dense : int
        Weights kept in all layers, and those of the dense layers.
    predicted : float or None
        Distortion that the allocation predicted; None if the method predicts none.
    distortion : float
        Distortion of the pruned network's output, before fine-tuning, against that of the round's
        start.
    pruned, tuned : dict of str to float
        What `evaluate` returned after pruning (and repair), and after fine-tuning; the same
        without.
    finetune : dict of str to float
        What the fine-tuning callable returned.
    seconds : float
        Time the round took.
    """

    number: int
    target: float
    sparsity: float
    kept: int
    dense: int
    predicted: float | None
    distortion: float
    pruned: dict[str, float]
    tuned: dict[str, float]
    finetune: dict[str, float]
    seconds: float


class RunFolder:
    """Reads and writes a run's folder; every file is written whole or not at all.

    A round counts as done when ``history.json`` holds it, which is written last. Beside it are
    ``round-001/table.npz``, ``allocation.json``, ``masks.safetensors``, ``weights.safetensors``.

    Attributes
    ----------
    settings : dict of str to JSON values
        What the run depends on; empty until there are rounds, or `settle` was told.
    rounds : list of Round
        Those that are done.
    dense : dict of str to float
        Figures of the model before the first round.

    Parameters
    ----------
    path : path-like
        Need not be there; nothing is written before `settle`.

    Raises
    ------
    FileExistsError
        If it is a file.
    ValueError
        If it has rounds but no history.
    FileFormatError
        If the history is damaged or of another kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_file():
            raise FileExistsError(f"the run folder {str(path)!r} is a file, must be a folder")
        self.settings: dict[str, Any] = {}
        self.rounds: list[Round] = []
        self.dense: dict[str, float] = {}
        self._begun: dict[str, Any] = {}
        file = self.path / "history.json"
        if file.exists():
            self._begun, self.dense, self.rounds = _read(file)
            self.settings = self._begun if self.rounds else {}
        elif lost := sorted(self.path.glob("round-*")):
            raise ValueError(
                f"{self.path} holds {lost[0].name} of a run but no history.json: restore that, or "
                "take another folder"
            )

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Begin a run with these settings, or see that the one that was begun has the same.

        Raises
        ------
        ValueError
            If it has others; names the first that differs.
        """
        wanted = json.loads(json.dumps(settings, allow_nan=False))
        if self.rounds and wanted != self.settings:
            ours, theirs = _flat(wanted), _flat(self.settings)
            differ = [n for n in sorted({*ours, *theirs}) if ours.get(n, ...) != theirs.get(n, ...)]
            name = differ[0] if differ else "identity"
            raise ValueError(
                f"{self.path} holds a run with {name} {_short(theirs.get(name))}, this one has "
                f"{_short(ours.get(name))}: take another folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        remove_left_over(self.path)
        self.settings = wanted
        if not self.rounds:
            if self._begun != wanted:  # figures of another model
                self.dense = {}
            self._write()

    def round(self, number: int) -> Path:
        """Return the folder of a round, made if absent."""
        path = self.path / f"round-{number:03d}"
        path.mkdir(exist_ok=True)
        return path

    def begin(self, dense: Mapping[str, float]) -> None:
        """Note the figures of the dense model."""
        self.dense = dict(dense)
        self._write()

    def finish(self, done: Round) -> None:
        """Add a round to the history: from here on it is done."""
        self.rounds.append(done)
        self._write()

    def _write(self) -> None:
        payload = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "dense": self.dense,
            "rounds": [asdict(done) for done in self.rounds],
        }
        text = json.dumps(payload, indent=1, allow_nan=False) + "\n"
        with atomic_write(self.path / "history.json") as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_history(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Round]]:
    """Read the settings and the rounds of a ``history.json``.

    Raises
    ------
    FileFormatError
        If the file is damaged or of another kind.
    """
    settings, _, rounds = _read(path)
    return settings, rounds


def _read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, float], list[Round]]:
    """Read a history's settings, the dense model's figures, and the rounds."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ValueError("another format or version")
        names = {field.name for field in fields(Round)}
        rounds = [Round(**{name: entry[name] for name in names}) for entry in data["rounds"]]
        if [done.number for done in rounds] != list(range(1, len(rounds) + 1)):
            raise ValueError("rounds are missing")
        dense = {str(name): float(value) for name, value in dict(data.get("dense", {})).items()}
        return dict(data["settings"]), dense, rounds
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: damaged or not a history of rdprune ({error})") from error


def digest(values: Mapping[str, Tensor] | Iterable[Any]) -> str:
    """Digest of all tensors in a state dict or in batches: names, types, shapes and values."""
    found = hashlib.sha256()
    items = values.items() if isinstance(values, Mapping) else enumerate(tree_iter(list(values)))
    for name, value in items:
        if not isinstance(value, Tensor):
            continue
        found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        data = value.detach().cpu().contiguous().reshape(-1)
        found.update(data.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings and the entries of an identity, each by its own name where that is free."""
    plain = dict(settings)
    told = plain.pop("identity", {})
    return plain | {f"identity {n}" if n in plain else n: value for n, value in told.items()}


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    if len(text) <= 40:
        return text
    return f'{text[:36]}..."' if isinstance(value, str) else f"{text[:37]}..."
