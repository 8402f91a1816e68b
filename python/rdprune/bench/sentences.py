"""Every allocator on MiniLM: what embeddings lose, and what people's sense of likeness does.

The Lee corpus has 50 documents and, for each pair of them, how alike people found the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

import rdprune
from rdprune import report
from rdprune.bench.accuracy_view import Column, shown
from rdprune.bench.ledger import grouped
from rdprune.bench.networks import NETWORKS, embed, lee, news, tokens
from rdprune.bench.subject import one_thread
from rdprune.criteria import parse
from rdprune.levels import falling_levels
from rdprune_core import Allocation, RDTable, allocate

NETWORK: Final = "minilm"
DENSE: Final = "dense"
BASELINES: Final = ("uniform", "erk", "global_magnitude", "lamp")
PREDICTED: Final = ("additive", "joint")
METHODS: Final = (DENSE, *BASELINES, *PREDICTED, "refined", "searched")
SPARSITIES: Final = (0.3, 0.4, 0.5, 0.6, 0.7)
WORDS: Final = 128  # of a document


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes
    ----------
    methods : tuple of str
    sparsities : tuple of float
        Of the layers of the encoder; embeddings stay whole.
    texts : int
        Calibration texts.
    levels : int
        Of the table; see `rdprune.levels.falling_levels`.
    passes : int
        Of a search.
    """

    methods: tuple[str, ...] = METHODS
    sparsities: tuple[float, ...] = SPARSITIES
    texts: int = 32
    levels: int = 24
    passes: int = 300


@dataclass(frozen=True, slots=True)
class _Texts:
    """Calibration texts, documents, and what people say of each pair of documents."""

    calibration: list[dict[str, Tensor]]
    documents: list[dict[str, Tensor]]
    people: NDArray[np.float64]


def collect(plan: Plan, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Prune by each method, and return a row for each method and sparsity.

    Parameters
    ----------
    plan : Plan
    folder : pathlib.Path
        Run folder, where measurements are kept: a run that was stopped goes on.
    say : callable
        Told what is being done.

    Raises
    ------
    ValueError
        If a method is unknown.
    ImportError
        If transformers, gensim or the network's package is missing.
    """
    for method in plan.methods:
        if method not in METHODS:
            raise ValueError(f"--method is {method!r}, must be one of {', '.join(METHODS)}")
    model = NETWORKS[NETWORK].model()
    documents = lee("lee.cor").read_text(encoding="latin-1").splitlines()
    texts = _Texts(
        news(plan.texts), tokens(documents, WORDS), np.loadtxt(lee("similarities0-1.txt"))
    )
    rows = []
    with one_thread():
        dense = [_embeddings(model, part) for part in (texts.calibration, texts.documents)]
        allocator = _Allocator(plan, model, texts.calibration, folder, say)
        for sparsity in plan.sparsities:
            for method in plan.methods:
                say(f"{method} at {sparsity:g}")
                allocation, passes = allocator.by(method, sparsity)
                pruned = deepcopy(model)
                if allocation is not None:
                    rdprune.apply_(pruned, allocation)
                found = [_embeddings(pruned, part) for part in (texts.calibration, texts.documents)]
                row = {
                    "network": NETWORK, "sparsity": sparsity, "method": method, "passes": passes,
                    "kept": allocation and allocation.cost["params"],
                    "predicted": _prediction(method, allocation),
                    "calibration": _distortion(dense[0], found[0]),
                    "documents": _distortion(dense[1], found[1]),
                    "pearson": likeness(found[1], texts.people),
                }  # fmt: skip
                rows.append(row)
    return rows


class _Allocator:
    """Allocates by every method, with one table."""

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        batches: list[dict[str, Tensor]],
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._model, self._batches = plan, model, batches
        self._folder, self._say = folder, say
        self._table: RDTable | None = None

    def by(self, method: str, sparsity: float) -> tuple[Allocation | None, int | None]:
        """Return a method's allocation, and the passes that it took; None for the dense network."""
        network = NETWORKS[NETWORK]
        if method == DENSE:
            return None, None
        if method in BASELINES:
            return rdprune.allocate_by(
                method, self._model, sparsity=sparsity, **network.arguments
            ), None
        if method == "searched":
            searched = rdprune.search(
                self._model, self._batches, sparsity=sparsity, passes=self._plan.passes,
                forward=embed, store=self._folder, **network.arguments,
            )  # fmt: skip
            return searched.allocation, searched.passes
        table = self._measured()
        passes = sum(len(row) for row in table.distortion)
        if method == "refined":
            refined = rdprune.refine(
                self._model, self._batches, table, sparsity=sparsity, forward=embed,
                store=self._folder,
            )  # fmt: skip
            return refined.allocation, passes + refined.passes
        return allocate(table, sparsity=sparsity, objective=method), passes

    def _measured(self) -> RDTable:
        if self._table is None:
            self._say("measuring the table")
            self._table = NETWORKS[NETWORK].measure(
                self._model, self._batches, levels=falling_levels(self._plan.levels),
                store=self._folder, progress=True,
            )  # fmt: skip
        return self._table


def likeness(embeddings: Tensor, people: NDArray[np.float64]) -> float:
    """Return Pearson's correlation of the embeddings' cosines with what people say of the pairs.

    Parameters
    ----------
    embeddings : torch.Tensor
        Shape (n, width), of unit length.
    people : numpy.ndarray
        Shape (n, n); what is above the diagonal counts.
    """
    cosines = (embeddings.double() @ embeddings.double().T).numpy()
    pairs = np.triu_indices(len(people), 1)
    return float(np.corrcoef(cosines[pairs], people[pairs])[0, 1])


def _embeddings(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([embed(model, batch) for batch in batches])


def _prediction(method: str, allocation: Allocation | None) -> float | None:
    """Return what the table says of its own optima."""
    return allocation.distortion if allocation and method in PREDICTED else None


def _distortion(dense: Tensor, pruned: Tensor) -> float:
    return float(parse("mse").errors(dense, pruned).mean())


def show(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return a table for each sparsity; the best of a column is in bold."""
    columns = [
        _column("predicted", "predicted"),
        _column("calibration\ndistortion", "calibration"),
        _column("documents\ndistortion", "documents"),
        _column("Pearson", "pearson", sign=-1),
    ]
    return [shown(columns, *group, members) for group, members in grouped(rows).items()]


def _column(title: str, name: str, sign: int = 1) -> Column:
    return Column(title, lambda row: row[name], lambda row: report.number(row[name], 3), sign)
