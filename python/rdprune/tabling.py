"""The table of what was measured, and of what is interpolated between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdprune.adaptive import Wanted, fill, fill_responses
from rdprune.distortion import Measurement
from rdprune.layers import Prunable
from rdprune.magnitude import label_level
from rdprune.options import Option
from rdprune_core import RDTable


@dataclass(slots=True)
class Findings:
    """What is known of every layer's options, and the table of it.

    Attributes
    ----------
    layers : mapping of str to Prunable
    options : mapping of str to sequence of Option
        By rising level, where some are to be interpolated.
    macs : mapping of str to int
        Multiply-accumulates of a sample, of the dense layers.
    metadata : dict
    offset : ndarray, optional
        What the responses are added to, see `RDTable`.
    measured : dict of str to dict of int to Measurement
        By layer and position among its options.
    """

    layers: Mapping[str, Prunable]
    options: Mapping[str, Sequence[Option]]
    macs: Mapping[str, int]
    metadata: dict[str, Any]
    offset: NDArray[np.float64] | None = None
    measured: dict[str, dict[int, Measurement]] = field(default_factory=dict)

    def levels(self) -> dict[str, NDArray[np.float64]]:
        """Fraction removed by each option of each layer; all must be unstructured."""
        return {name: self._levels(name) for name in self.options}

    def note(self, name: str, found: Mapping[str, Measurement]) -> None:
        """Add a layer's measurements, by the keys of their masks, to all options of these masks."""
        known = self.measured.setdefault(name, {})
        for position, option in enumerate(self.options[name]):
            if option.key in found:
                known[position] = found[option.key]

    def _levels(self, name: str) -> NDArray[np.float64]:
        return np.array([label_level(option.label) for option in self.options[name]])

    def _filled(
        self, name: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | None, list[str]]:
        """Return a layer's distortions and responses, and the labels of what is interpolated.

        Between the fractions that the masks really remove, so that one mask has one distortion.
        """
        row, measured = self.options[name], self.measured[name]
        numel = self.layers[name].parameter.numel()
        removed = np.array([1 - option.kept / numel for option in row])
        levels, first, place = np.unique(removed, return_index=True, return_inverse=True)
        at = [at for at, position in enumerate(first.tolist()) if position in measured]
        known = [measured[int(first[index])] for index in at]
        curve = fill(levels, at, np.array([m.distortion for m in known]))
        sketches = [m.response for m in known if m.response is not None]
        sketch = fill_responses(levels, at, np.stack(sketches), curve) if sketches else None
        rest = [option.label for number, option in enumerate(row) if number not in measured]
        return curve[place], None if sketch is None else sketch[place], rest

    def positions(self) -> dict[str, list[int]]:
        """Positions measured, of every layer."""
        return {name: sorted(self.measured.get(name, ())) for name in self.layers}

    def everything(self) -> Wanted:
        """Positions of all options."""
        return {name: list(range(len(row))) for name, row in self.options.items()}

    def digest(self) -> bytes:
        """SHA-256 of all options' labels and masks."""
        rows = {
            name: [(option.label, option.kept, option.key) for option in row]
            for name, row in self.options.items()
        }
        return hashlib.sha256(json.dumps(rows).encode()).digest()

    def table(self, *, keep_errors: bool = False) -> RDTable:
        """Return all options, those not measured interpolated and named in the metadata.

        ``metadata["interpolated"]`` has their labels by layer, if there are any. Errors of the
        samples are kept of tables only that are measured whole.
        """
        distortion, responses, interpolated = [], [], {}
        for name, row in self.options.items():
            known = self.measured[name]
            if len(known) < len(row):
                curve, sketch, interpolated[name] = self._filled(name)
            else:
                found = [known[position] for position in range(len(row))]
                curve = np.array([m.distortion for m in found])
                sketches = [m.response for m in found if m.response is not None]
                sketch = np.stack(sketches) if sketches else None
            distortion.append(curve)
            if sketch is not None:
                responses.append(sketch)
        extra = {"interpolated": interpolated} if interpolated else {}
        errors = self._errors() if keep_errors else None
        return self._assemble(distortion, responses or None, errors, {**self.metadata, **extra})

    def costs_only(self) -> RDTable:
        """Return the table with distortions of zero, to try budgets on."""
        zeros = [np.zeros(len(row)) for row in self.options.values()]
        return self._assemble(zeros, None, None, self.metadata)

    def _assemble(
        self,
        distortion: list[NDArray[np.float64]],
        responses: list[NDArray[np.float32]] | None,
        errors: list[NDArray[np.float64]] | None,
        metadata: dict[str, Any],
    ) -> RDTable:
        params = [_array([option.kept for option in row]) for row in self.options.values()]
        numel = _array([layer.parameter.numel() for layer in self.layers.values()])
        dense_macs = _array([self.macs[name] for name in self.layers])
        kept_macs = [
            _array([-(-int(total) * int(kept) // int(count)) for kept in row])
            for row, total, count in zip(params, dense_macs, numel, strict=True)
        ]
        return RDTable.from_arrays(
            {"params": params, "macs": kept_macs},
            distortion,
            names=list(self.layers),
            options=[[option.label for option in row] for row in self.options.values()],
            responses=responses,
            offset=None if responses is None else self.offset,
            errors=errors,
            dense={"params": numel, "macs": dense_macs},
            metadata=metadata,
        )

    def _errors(self) -> list[NDArray[np.float64]]:
        rows = []
        for name in self.layers:
            found = [self.measured[name][at] for at in range(len(self.options[name]))]
            rows.append(np.stack([m.errors for m in found if m.errors is not None]))
        return rows


def _array(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
