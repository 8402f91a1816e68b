"""An allocation: one option for each layer, with its totals and its certificate."""

from __future__ import annotations

import copy
import json
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core.errors import FileFormatError
from rdprune_core.files import atomic_write
from rdprune_core.table import RDTable

FORMAT = "rdprune-allocation"
VERSION = 1
STATUSES = ("optimal", "feasible")
UNKNOWN = "unknown"  # in the file, for the distortion of what nobody measured: inf


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """One option for each layer. Stands alone: it does not refer to its table.

    Attributes
    ----------
    names : tuple of str
        The L layers.
    choice : int64 array (L,)
        Index of the chosen option of each layer.
    options : tuple of str
        Label of the chosen option of each layer.
    layer_costs : dict of str to int64 array (L,)
        Cost of the chosen option of each layer, for every cost of the table.
    cost, dense : dict of str to int
        Totals of the allocation and of the uncompressed network.
    budget : dict of str to int
        The bounds that were asked for.
    objective : str
        ``"additive"``: the sum of the layers' distortions; ``"joint"``: the mean square of the sum
        of their responses.
    distortion : float
        Value of the objective: the exact sum, correctly rounded, or the mean square in double
        precision; inf where nothing was measured.
    lower_bound : float
        No allocation within the budget and constraints has a lower value.
    status : str
        ``"optimal"`` (proved) or ``"feasible"`` (a limit ended the search).
    multipliers : dict of str to float
        Shadow price of each budgeted cost: distortion saved per unit, about the optimum.
    metadata : dict
        The table's metadata.
    """

    names: tuple[str, ...]
    choice: NDArray[np.int64]
    options: tuple[str, ...]
    layer_costs: dict[str, NDArray[np.int64]]
    dense: dict[str, int]
    budget: dict[str, int]
    objective: str
    distortion: float
    lower_bound: float
    status: str
    multipliers: dict[str, float]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers = len(self.names)
        if len(set(self.names)) != layers:
            raise ValueError("names must be unique")
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}; it must be one of {STATUSES}")
        if not self.layer_costs:
            raise ValueError("layer_costs must name at least one cost")
        if self.dense.keys() != self.layer_costs.keys():
            raise ValueError("dense must name the same costs as layer_costs")
        if not self.layer_costs.keys() >= {*self.budget, *self.multipliers}:
            raise ValueError("budget and multipliers must name costs of layer_costs")
        for what, values in [("choice", self.choice), *self.layer_costs.items()]:
            if values.dtype != np.int64 or values.shape != (layers,):
                raise ValueError(f"{what} must be an int64 array with one entry a layer")
            if layers and values.min() < 0:
                raise ValueError(f"{what} must not be negative")
            values.flags.writeable = False
        if len(self.options) != layers:
            raise ValueError("options must have one label a layer")
        if math.isnan(self.distortion) or math.isnan(self.lower_bound):
            raise ValueError("distortion and lower_bound must be numbers")

    @property
    def cost(self) -> dict[str, int]:
        """Totals of every cost."""
        return {key: int(values.sum()) for key, values in self.layer_costs.items()}

    @property
    def gap(self) -> float:
        """(distortion - lower_bound) / |distortion|; 0 when the bound is met, else maybe inf."""
        if self.distortion == self.lower_bound:
            return 0.0
        if self.distortion == 0.0 or math.isinf(self.distortion):
            return math.inf
        return (self.distortion - self.lower_bound) / abs(self.distortion)

    @property
    def sparsity(self) -> float:
        """Fraction of the first cost that is removed."""
        first = next(iter(self.layer_costs))
        return 1.0 - self.cost[first] / self.dense[first] if self.dense[first] else 0.0

    @classmethod
    def from_choice(
        cls,
        table: RDTable,
        choice: ArrayLike,
        *,
        budget: dict[str, int] | None = None,
        objective: str = "additive",
        distortion: float | None = None,
        lower_bound: float = -math.inf,
        status: str = "feasible",
        multipliers: dict[str, float] | None = None,
    ) -> Allocation:
        """Make the allocation that takes these options of a table, however they were found.

        Parameters
        ----------
        table : RDTable
        choice : (L,) integers
            Option index of each layer.
        budget : dict of str to int, optional
            The bounds that it was made for.
        objective : str
        distortion : float, optional
            Value of the objective; the sum of the layers' distortions by default.
        lower_bound : float
            Taken as it is for a feasible allocation; an optimal one is its own bound.
        status : str
        multipliers : dict of str to float, optional

        Raises
        ------
        ValueError
            If a choice is missing or out of range; names the layer.
        """
        indices = np.asarray(choice)
        if indices.dtype.kind not in "iu" or indices.shape != (len(table.names),):
            raise ValueError(f"choice must be {len(table.names)} integers, one a layer")
        sizes = np.diff(table.offsets)
        if ((indices < 0) | (indices >= sizes)).any():
            layer = int(np.argmax((indices < 0) | (indices >= sizes)))
            raise ValueError(
                f"choice of layer {table.names[layer]!r} is {indices[layer]}; it has "
                f"{sizes[layer]} options"
            )
        indices = indices.astype(np.int64)
        flat = table.offsets[:-1] + indices
        if distortion is None:
            distortion = math.fsum(table.flat_distortion[flat].tolist())
        return cls(
            names=table.names,
            choice=indices,
            options=tuple(
                [labels[i] for labels, i in zip(table.options, indices.tolist(), strict=True)]
            ),
            layer_costs={key: table.flat_cost(key)[flat] for key in table.costs},
            dense={key: int(values.sum()) for key, values in table.dense.items()},
            budget=dict(budget or {}),
            objective=objective,
            distortion=distortion,
            lower_bound=distortion if status == "optimal" else min(lower_bound, distortion),
            status=status,
            multipliers=dict(multipliers or {}),
            metadata=copy.deepcopy(table.metadata) if table.metadata else {},
        )

    def __repr__(self) -> str:
        totals = ", ".join(
            f"{key} {value:,} of {self.dense[key]:,}" for key, value in self.cost.items()
        )
        return (
            f"Allocation({self.status}, {len(self.names)} layers, {totals}, sparsity "
            f"{self.sparsity:.4f}, distortion {self.distortion:.6g}, gap {self.gap:.2g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the content of the ``.json`` file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "status": self.status,
            "objective": self.objective,
            "distortion": UNKNOWN if self.distortion == math.inf else self.distortion,
            "lower_bound": self.lower_bound if math.isfinite(self.lower_bound) else None,
            "gap": self.gap if math.isfinite(self.gap) else None,
            "sparsity": self.sparsity,
            "budget": self.budget,
            "cost": self.cost,
            "dense": self.dense,
            "multipliers": self.multipliers,
            "layers": [
                {
                    "name": name,
                    "choice": int(self.choice[i]),
                    "option": self.options[i],
                    "cost": {key: int(values[i]) for key, values in self.layer_costs.items()},
                }
                for i, name in enumerate(self.names)
            ],
            "metadata": self.metadata,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the allocation to a ``.json`` file, whole or not at all."""
        data = json.loads(json.dumps(self.to_dict(), allow_nan=False))
        text = json.dumps({**data, "crc32": _crc32(data)}, indent=1) + "\n"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Allocation:
        """Read an allocation that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If the file is damaged, cut short, of another kind or of a newer version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise FileFormatError(f"{path}: not an allocation of rdprune")
            if data["version"] > VERSION:
                raise FileFormatError(
                    f"{path}: allocation version {data['version']} is newer than this program's "
                    f"{VERSION}; upgrade rdprune-core"
                )
            if "crc32" in data and data.pop("crc32") != _crc32(data):
                raise FileFormatError(
                    f"{path}: damaged or edited; to load what you edited yourself, remove its crc32"
                )
            return _from_dict(data)
        except FileFormatError:
            raise
        except (
            ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
        ) as error:  # fmt: skip
            raise FileFormatError(
                f"{path}: damaged or not an allocation of rdprune ({error})"
            ) from error


def _crc32(data: dict[str, Any]) -> str:
    """Checksum of JSON data, whatever the order of its keys and its white space."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} stands where an integer must")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} stands where a number must")
    return float(value)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} stands where a string must")
    return value


def _integers(values: Sequence[object]) -> NDArray[np.int64]:
    return np.array([_integer(value) for value in values], np.int64)


def _from_dict(data: dict[str, Any]) -> Allocation:
    layers = data["layers"]
    allocation = Allocation(
        names=tuple(_text(layer["name"]) for layer in layers),
        choice=_integers([layer["choice"] for layer in layers]),
        options=tuple(_text(layer["option"]) for layer in layers),
        layer_costs={
            key: _integers([layer["cost"][key] for layer in layers]) for key in data["cost"]
        },
        dense={key: _integer(value) for key, value in data["dense"].items()},
        budget={key: _integer(value) for key, value in data["budget"].items()},
        objective=_text(data["objective"]),
        distortion=math.inf if data["distortion"] == UNKNOWN else _number(data["distortion"]),
        lower_bound=-math.inf if data["lower_bound"] is None else _number(data["lower_bound"]),
        status=data["status"],
        multipliers={key: _number(value) for key, value in data["multipliers"].items()},
        metadata=dict(data["metadata"]),
    )
    if allocation.cost != data["cost"]:
        raise ValueError("the layers' costs do not add up to the stated totals")
    return allocation
