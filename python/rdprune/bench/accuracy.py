"""Every allocator on a real network: distortion and top-1 one-shot, repaired, and fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

import rdprune
from rdprune.allocators import ALLOCATORS, Problem, counts
from rdprune.bench.candidates import between, filled
from rdprune.bench.ledger import Ledger
from rdprune.bench.subject import (
    Protocol,
    Subject,
    figures,
    labels_of,
    one_thread,
    open_subject,
    run,
)
from rdprune.levels import falling_levels
from rdprune.masking import expected_kept
from rdprune_core import Allocation, RDTable, allocate

FITTED: Final = "least-squares+bias+batchnorm"
STATES: Final = {"one-shot": "none", "batchnorm": "batchnorm", "fitted": FITTED}
#: Ours: the state and the distortion that are measured, and the objective.
OURS: Final = {
    "additive none": ("none", "mse", "additive"),
    "additive nmse none": ("none", "nmse", "additive"),
    "joint none": ("none", "mse", "joint"),
    "refined none": ("none", "mse", "refined"),
    "searched none": ("none", "mse", "searched"),
    "searched nmse none": ("none", "nmse", "searched"),
    "additive": ("batchnorm", "mse", "additive"),
    "joint": ("batchnorm", "mse", "joint"),
    "refined": ("batchnorm", "mse", "refined"),
    "additive nmse": ("batchnorm", "nmse", "additive"),
    "joint nmse": ("batchnorm", "nmse", "joint"),
    "blended nmse": ("batchnorm", "nmse", "blended"),
    "refined nmse": ("batchnorm", "nmse", "refined"),
    "searched": ("batchnorm", "mse", "searched"),
    "searched nmse": ("batchnorm", "nmse", "searched"),
    "searched loss": ("batchnorm", "loss", "searched"),
    "additive fitted": (FITTED, "mse", "additive"),
    "refined fitted": (FITTED, "mse", "refined"),
}
#: Densities half way, in their logarithms, between global magnitude's and another of ours.
HALFWAY: Final = {
    "halfway nmse": "additive nmse",
    "halfway fitted": "additive fitted",
    "halfway searched": "searched",
    "halfway searched nmse": "searched nmse",
}
DENSE: Final = "dense"
METHODS: Final = (DENSE, *ALLOCATORS, *OURS, *HALFWAY)
PASSES: Final = 300
SPARSITIES: Final = (0.5, 0.7, 0.8, 0.9, 0.955)
TUNED: Final = ("batchnorm", "fitted")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes
    ----------
    networks, methods : tuple of str
    sparsities : tuple of float
    states : tuple of str
        Some of ``"one-shot"``, ``"batchnorm"`` and ``"fitted"``.
    tuned : tuple of str
        The states, ``"batchnorm"`` or ``"fitted"``, that are fine-tuned.
    seeds : int
        Fine-tunes of each; 0 for none.
    images, test : int
    levels : int
        Of the measured tables; see `rdprune.levels.falling_levels`.
    passes : int
        Of a search.
    protocol : Protocol
    """

    networks: tuple[str, ...]
    methods: tuple[str, ...] = METHODS
    sparsities: tuple[float, ...] = SPARSITIES
    states: tuple[str, ...] = tuple(STATES)
    tuned: tuple[str, ...] = TUNED
    seeds: int = 3
    images: int = 256
    test: int = 10_000
    levels: int = 64
    passes: int = PASSES
    protocol: Protocol = field(default_factory=lambda: Protocol(steps=100, rate=0.03))


def collect(
    plan: Plan,
    folder: Path,
    say: Callable[[str], None],
    *,
    part: tuple[int, int] = (0, 1),
    fresh: bool = True,
) -> list[dict[str, Any]]:
    """Run what the folder does not hold yet, and return one row for each method and sparsity.

    Parameters
    ----------
    plan : Plan
    folder : pathlib.Path
        Run folder: a run that was stopped goes on, and several processes may share it.
    say : callable
        Told what is being done.
    part : (int, int)
        Do the i-th of n parts of the work, for n processes side by side.
    fresh : bool
        Whether to run anything; else what is there is read.

    Raises
    ------
    ValueError
        If a network, method or state is unknown.
    """
    for method in plan.methods:
        if method not in METHODS:
            raise ValueError(f"method is {method!r}, must be one of {', '.join(METHODS)}")
    for state in (*plan.states, *plan.tuned):
        if state not in STATES:
            raise ValueError(f"state is {state!r}, must be one of {', '.join(STATES)}")
    rows = []
    with Ledger(folder) as ledger, one_thread():
        for network in plan.networks:
            rows += _Work(plan, network, folder, ledger, say, part, fresh).rows()
    return rows


class _Work:
    """One network."""

    def __init__(
        self,
        plan: Plan,
        network: str,
        folder: Path,
        ledger: Ledger,
        say: Callable[[str], None],
        part: tuple[int, int],
        fresh: bool,
    ) -> None:
        self._plan, self._ledger, self._say = plan, ledger, say
        self._folder, self._part, self._fresh = folder, part, fresh
        self._subject: Subject = open_subject(network, plan.images, plan.test)
        self._cells = [(s, m) for s in plan.sparsities for m in plan.methods]
        self._tables: dict[tuple[str, str], RDTable] = {}
        self._models: dict[tuple[tuple[int, ...], str], torch.nn.Module] = {}
        self._dense: tuple[torch.Tensor, torch.Tensor] | None = None
        self._key = self._subject.key("accuracy")

    def rows(self) -> list[dict[str, Any]]:
        for cell in self._mine():
            for state in self._plan.states:
                self._outcome(cell, state)
        for seed in range(self._plan.seeds):
            for cell in self._mine():
                for state in self._plan.tuned:
                    self._tuned(cell, state, seed)
        self._fresh = False
        return [found for cell in self._cells if (found := self._row(cell)) is not None]

    def _mine(self) -> Iterator[tuple[float, str]]:
        if self._fresh:
            yield from self._cells[self._part[0] :: self._part[1]]

    def _row(self, cell: tuple[float, str]) -> dict[str, Any] | None:
        planned = self._planned(cell)
        if planned is None:
            return None
        row: dict[str, Any] = {
            "network": self._subject.name, "sparsity": cell[0], "method": cell[1],
            "kept": sum(planned["kept"]), "passes": planned["passes"],
            "densities": {
                name: kept / layer.parameter.numel()
                for (name, layer), kept in zip(
                    self._subject.layers.items(), planned["kept"], strict=True
                )
            },
        }  # fmt: skip
        for state in self._plan.states:
            row[state] = self._outcome(cell, state)
        for state in self._plan.tuned:
            seeds = [self._tuned(cell, state, seed) for seed in range(self._plan.seeds)]
            row[f"{state}, tuned"] = [found["top1"] for found in seeds if found is not None]
        return row

    def _planned(self, cell: tuple[float, str]) -> dict[str, Any] | None:
        key = {**self._key, "sparsity": cell[0], "method": cell[1], "levels": self._plan.levels}
        if self._plan.passes != PASSES and "searched" in cell[1]:
            key["passes"] = self._plan.passes
        return self._once(key, f"{cell[1]} at {cell[0]:g}", lambda: self._allocated(*cell))

    def _allocated(self, sparsity: float, method: str) -> dict[str, Any]:
        """Allocate, each method to the same number of weights."""
        subject = self._subject
        if method == DENSE:
            sizes = [layer.parameter.numel() for layer in subject.layers.values()]
            return {"kept": sizes, "passes": None}
        total = round((1 - sparsity) * subject.size)
        if method in ALLOCATORS:
            problem = Problem(
                subject.model, subject.layers, total, tuple(subject.calibration),
                recovery="batchnorm",
            )  # fmt: skip
            return {"kept": list(counts(method, problem).values()), "passes": None}
        if method in HALFWAY:
            ends = [self._planned((sparsity, m)) for m in ("global_magnitude", HALFWAY[method])]
            one, other = (
                dict(zip(subject.layers, end["kept"], strict=True)) for end in ends if end
            )
            kept = between(subject, one, other, 0.5, total)
            return {"kept": list(kept.values()), "passes": ends[1] and ends[1]["passes"]}
        allocation, passes = self._ours(sparsity, *OURS[method])
        kept = filled(subject, expected_kept(subject.layers, allocation), total)
        return {"kept": list(kept.values()), "passes": passes}

    def _ours(
        self, sparsity: float, state: str, distortion: str, objective: str
    ) -> tuple[Allocation, int]:
        """Return one of our allocations, and the passes that it took."""
        subject = self._subject
        if objective == "searched":
            searched = rdprune.search(
                subject.model, subject.calibration, sparsity=sparsity, passes=self._plan.passes,
                recovery=state, distortion=distortion, store=self._folder, progress=False,
            )  # fmt: skip
            return searched.allocation, searched.passes
        table = self._table(state, distortion)
        passes = sum(len(row) for row in table.distortion)
        if objective == "refined":
            refined = rdprune.refine(
                subject.model, subject.calibration, table, sparsity=sparsity,
                store=self._folder, progress=False,
            )  # fmt: skip
            return refined.allocation, passes + refined.passes
        if objective == "blended":
            mixed = rdprune.blended(table, subject.model, sparsity=sparsity)
            return allocate(mixed, sparsity=sparsity), passes
        return allocate(table, sparsity=sparsity, objective=objective), passes

    def _table(self, recovery: str, distortion: str) -> RDTable:
        key = recovery, distortion
        if key not in self._tables:
            self._say(f"{self._subject.name}: measuring {distortion} in the state {recovery}")
            self._tables[key] = rdprune.measure(
                self._subject.model, self._subject.calibration, recovery=recovery,
                distortion=distortion, levels=falling_levels(self._plan.levels),
                store=self._folder,
            )  # fmt: skip
        return self._tables[key]

    def _outcome(self, cell: tuple[float, str], state: str) -> dict[str, Any] | None:
        planned = self._planned(cell)
        if planned is None:
            return None
        key = {**self._key, "kept": planned["kept"], "state": STATES[state]}
        return self._once(
            key, f"{cell[1]} at {cell[0]:g}, {state}",
            lambda: self._tested(self._repaired(planned["kept"], state), True),
        )  # fmt: skip

    def _tuned(self, cell: tuple[float, str], state: str, seed: int) -> dict[str, Any] | None:
        planned = self._planned(cell)
        if planned is None or cell[1] == DENSE:
            return None
        protocol = self._plan.protocol
        key = {
            **self._key, "kept": planned["kept"], "state": STATES[state], "seed": seed,
            "protocol": asdict(protocol),
        }  # fmt: skip

        def make() -> dict[str, Any]:
            start = self._repaired(planned["kept"], state)
            return self._tested(self._subject.tuned(start, protocol, seed), False)

        return self._once(key, f"{cell[1]} at {cell[0]:g}, {state}, fine-tune {seed}", make)

    def _repaired(self, kept: Sequence[int], state: str) -> torch.nn.Module:
        """Return a repaired network; it is kept, because the repair can take as long as tuning."""
        key = tuple(kept), state
        if key not in self._models:
            by_name = dict(zip(self._subject.layers, kept, strict=True))
            pruned = self._subject.pruned(by_name)
            self._models[key] = self._subject.repaired(pruned, STATES[state])
        return self._models[key]

    def _tested(self, model: torch.nn.Module, calibrated: bool) -> dict[str, Any]:
        """Return figures on the test pictures, and the distortion on the calibration pictures."""
        subject = self._subject
        if self._dense is None:
            dense = run(subject.model, subject.calibration)
            self._dense = dense, run(subject.model, subject.test)
        row = figures(self._dense[1], run(model, subject.test), labels_of(subject.test))
        if calibrated:
            labels = labels_of(subject.calibration)
            own = figures(self._dense[0], run(model, subject.calibration), labels)
            row["calibration"] = own["mse"]
        return row

    def _once(
        self, key: Mapping[str, Any], what: str, make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        found = self._ledger.find(key)
        if found is None and self._fresh:
            self._say(f"{self._subject.name}: {what}")
            found = self._ledger.once(key, make)
        return found
