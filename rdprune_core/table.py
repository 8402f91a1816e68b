"""Rate-distortion tables: what every option of every layer costs and how much it distorts."""

from __future__ import annotations

import difflib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core._core import MAX_TOTAL_COST
from rdprune_core.errors import FileFormatError
from rdprune_core.files import atomic_write

FORMAT = "rdprune-table"
VERSION = 1

#: One entry a layer: a (layers, options) array or ragged sequences.
Rows = ArrayLike | Sequence[ArrayLike]


class RDTable:
    """Costs, distortions and responses of every layer's options. Immutable.

    Build one with :meth:`from_arrays` or :meth:`load`; `rdprune.measure` returns one.

    Attributes
    ----------
    names : tuple of str
        The L layers.
    options : tuple of tuple of str
        Labels of the K_l options of each layer.
    costs : dict of str to tuple of int64 arrays
        For each cost, one array (K_l,) a layer. The first cost is the table's primary one.
    distortion : tuple of float64 arrays
        One array (K_l,) a layer: change of the network's output if this option alone is applied.
    responses : tuple of float32 arrays or None
        One array (K_l, m) a layer: the change itself, projected to m numbers.
    dense : dict of str to int64 array (L,)
        Cost of each uncompressed layer; per cent are taken of its sum.
    metadata : dict
        JSON data about where the numbers come from. Carried, not interpreted.
    """

    __slots__ = (
        "_columns",
        "_flat_distortion",
        "_offsets",
        "costs",
        "dense",
        "distortion",
        "metadata",
        "names",
        "options",
        "responses",
    )

    names: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    costs: dict[str, tuple[NDArray[np.int64], ...]]
    distortion: tuple[NDArray[np.float64], ...]
    responses: tuple[NDArray[np.float32], ...] | None
    dense: dict[str, NDArray[np.int64]]
    metadata: dict[str, Any]

    def __init__(self) -> None:
        raise TypeError("use RDTable.from_arrays(cost, distortion) or RDTable.load(path)")

    @classmethod
    def from_arrays(
        cls,
        cost: Rows | Mapping[str, Rows],
        distortion: Rows,
        *,
        names: Sequence[str] | None = None,
        options: Sequence[str] | Sequence[Sequence[str]] | None = None,
        responses: Sequence[ArrayLike] | None = None,
        dense: Mapping[str, ArrayLike] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RDTable:
        """Make a table of arrays, checking every number.

        Parameters
        ----------
        cost : (L, K) array of int, ragged sequence, or dict of those
            Non-negative integers. One unnamed cost is called ``"params"``. Whoever has
            seconds scales them to integer nanoseconds, rounding up.
        distortion : (L, K) array of float or ragged sequence
            Finite; may be negative, need not be monotone or convex in the cost.
        names : L strings, optional
            Unique layer names; ``"layer0"``, ``"layer1"``, … by default.
        options : K strings, or K_l strings a layer, optional
            Unique labels within a layer; ``"0"``, ``"1"``, … by default.
        responses : L arrays (K_l, m) of float, optional
            Stored as float32.
        dense : dict of cost name to L integers, optional
            Cost of each uncompressed layer; the layer's largest cost by default.
        metadata : dict, optional
            JSON data.

        Raises
        ------
        ValueError
            Names the argument, the layer, the value and the rule.

        Examples
        --------
        >>> from rdprune_core import RDTable
        >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
        >>> table.names, table.costs["params"][1].tolist()
        (('layer0', 'layer1'), [20, 10, 0])
        """
        table = object.__new__(cls)
        named = dict(cost) if isinstance(cost, Mapping) else {"params": cost}
        if not named:
            raise ValueError("cost must name at least one cost")
        table.distortion = _floats("distortion", distortion)
        sizes = [len(row) for row in table.distortion]
        table.names = _names(names, len(sizes))
        table.options = _options(options, sizes, table.names)
        for name, layer in zip(table.names, range(len(sizes)), strict=True):
            _check_finite(table.distortion[layer], name, table.options[layer])
        table.costs = {
            _cost_name(key): _integers(f"cost {key!r}", rows, sizes, table.names)
            for key, rows in named.items()
        }
        table.dense = _dense(dense, table.costs, table.names)
        table.responses = _responses(responses, sizes, table.names)
        table.metadata = json.loads(json.dumps(dict(metadata or {})))
        table._freeze(sizes)
        return table

    def _freeze(self, sizes: list[int]) -> None:
        """Lay the numbers out flat, as the core takes them, and make them read-only."""
        self._offsets = _read_only(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        self._flat_distortion = _read_only(np.concatenate(self.distortion))
        self._columns = {key: _read_only(np.concatenate(rows)) for key, rows in self.costs.items()}
        cuts = self._offsets[1:-1]
        self.distortion = tuple(np.split(self._flat_distortion, cuts))
        self.costs = {key: tuple(np.split(flat, cuts)) for key, flat in self._columns.items()}

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each layer's options begin in the flat arrays; (L + 1,)."""
        return self._offsets

    @property
    def flat_distortion(self) -> NDArray[np.float64]:
        """All distortions, layer after layer; (sum K_l,)."""
        return self._flat_distortion

    def flat_cost(self, cost: str) -> NDArray[np.int64]:
        """All options' costs of one kind, layer after layer; (sum K_l,).

        Raises
        ------
        ValueError
            If the table has no such cost.
        """
        if cost not in self._columns:
            raise ValueError(f"unknown cost {cost!r}; the table has {', '.join(self.costs)}")
        return self._columns[cost]

    def layer(self, name: str) -> int:
        """Index of a layer.

        Raises
        ------
        ValueError
            If there is none of that name; suggests the closest ones.
        """
        if name in self.names:
            return self.names.index(name)
        close = difflib.get_close_matches(name, self.names, n=3)
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"unknown layer {name!r}{hint}")

    def __repr__(self) -> str:
        costs = ", ".join(f"{key} {int(value.sum()):,}" for key, value in self.dense.items())
        width = "" if self.responses is None else f", responses of {self.responses[0].shape[1]}"
        return (
            f"RDTable({len(self.names)} layers, {len(self._flat_distortion)} options, "
            f"dense {costs}{width})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to an ``.npz`` file, whole or not at all. No pickle."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "names": self.names,
            "options": self.options,
            "costs": list(self.costs),
            "metadata": self.metadata,
        }
        arrays = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "offsets": self._offsets,
            "distortion": self._flat_distortion,
        }
        for i, key in enumerate(self.costs):
            arrays[f"cost{i}"] = self._columns[key]
            arrays[f"dense{i}"] = self.dense[key]
        if self.responses is not None:
            arrays["responses"] = np.concatenate(self.responses)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RDTable:
        """Read a table that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If the file is damaged, cut short, of another kind or of a newer version.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                raise FileFormatError(f"{path}: not a table of rdprune")
            if header["version"] > VERSION:
                raise FileFormatError(
                    f"{path}: table version {header['version']} is newer than this program's "
                    f"{VERSION}; upgrade rdprune-core"
                )
            cuts = arrays["offsets"][1:-1]
            responses = arrays.get("responses")
            return cls.from_arrays(
                {key: np.split(arrays[f"cost{i}"], cuts) for i, key in enumerate(header["costs"])},
                np.split(arrays["distortion"], cuts),
                names=header["names"],
                options=header["options"],
                responses=None if responses is None else np.split(responses, cuts),
                dense={key: arrays[f"dense{i}"] for i, key in enumerate(header["costs"])},
                metadata=header["metadata"],
            )
        except FileFormatError:
            raise
        except (
            ValueError, KeyError, TypeError, EOFError, IndexError, AttributeError,
            NotImplementedError, zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            raise FileFormatError(f"{path}: damaged or not a table of rdprune ({error})") from error


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _rows(argument: str, rows: Rows) -> list[NDArray[Any]]:
    if isinstance(rows, (str, bytes)) or not hasattr(rows, "__len__"):
        raise ValueError(f"{argument} must be a (layers, options) array or a sequence of rows")
    arrays = [np.asarray(row) for row in rows]  # type: ignore[union-attr]
    if not arrays:
        raise ValueError(f"{argument} must have at least one layer")
    for layer, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(f"{argument}: layer {layer} must be one row, got shape {array.shape}")
        if array.size == 0:
            raise ValueError(f"{argument}: layer {layer} has no options; each needs at least one")
    return arrays


def _floats(argument: str, rows: Rows) -> tuple[NDArray[np.float64], ...]:
    arrays = _rows(argument, rows)
    for layer, array in enumerate(arrays):
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{argument}: layer {layer} must be numbers, got {array.dtype}")
    return tuple(array.astype(np.float64) for array in arrays)


def _integers(
    argument: str, rows: Rows, sizes: list[int], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], ...]:
    arrays = _rows(argument, rows)
    if len(arrays) != len(sizes):
        raise ValueError(f"{argument} has {len(arrays)} layers, distortion has {len(sizes)}")
    result = []
    total = 0
    for name, array, size in zip(names, arrays, sizes, strict=True):
        if len(array) != size:
            raise ValueError(
                f"{argument} of layer {name!r} has {len(array)} options, distortion has {size}"
            )
        converted = _to_int64(f"{argument} of layer {name!r}", array)
        total += int(converted.max())
        result.append(converted)
    if total > MAX_TOTAL_COST:
        raise ValueError(
            f"{argument}: the layers' largest costs add up to {total}, more than 2**61; "
            "use a larger unit"
        )
    return tuple(result)


def _to_int64(what: str, array: NDArray[Any]) -> NDArray[np.int64]:
    """Convert without changing any value; refuse what is not a non-negative integer."""
    if array.dtype.kind == "f":
        wrong = ~(np.isfinite(array) & (np.floor(array) == array) & (np.abs(array) < 2.0**53))
    elif array.dtype.kind in "iu":
        wrong = np.asarray(array > np.iinfo(np.int64).max)
    else:
        raise ValueError(f"{what} must be integers, got {array.dtype}")
    if wrong.any():
        value = array[wrong][0]
        raise ValueError(f"{what} is {value!s}; costs must be integers (below 2**53 if floats)")
    if (array < 0).any():
        raise ValueError(f"{what} is {array[array < 0][0]!s}; costs must not be negative")
    return array.astype(np.int64)


def _check_finite(distortion: NDArray[np.float64], name: str, options: tuple[str, ...]) -> None:
    wrong = np.flatnonzero(~np.isfinite(distortion))
    if wrong.size:
        option = int(wrong[0])
        raise ValueError(
            f"distortion of layer {name!r}, option {options[option]!r} is "
            f"{distortion[option]}; it must be finite"
        )


def _cost_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"cost names must be non-empty strings, got {name!r}")
    return name


def _strings(argument: str, values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise ValueError(f"{argument} must be a sequence of strings, got the string {values!r}")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{argument} must be strings, got {value!r}")
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise ValueError(f"{argument} must be unique; {twice!r} stands there twice")
    return tuple(values)


def _names(names: Sequence[str] | None, layers: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"layer{i}" for i in range(layers))
    if len(names) != layers:
        raise ValueError(f"names has {len(names)} entries, distortion has {layers} layers")
    return _strings("names", names)


def _options(
    options: Sequence[str] | Sequence[Sequence[str]] | None,
    sizes: list[int],
    names: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    if options is None:
        return tuple(tuple(map(str, range(size))) for size in sizes)
    shared = all(isinstance(option, str) for option in options)
    rows = [options] * len(sizes) if shared else list(options)
    if len(rows) != len(sizes):
        raise ValueError(f"options has {len(rows)} layers, distortion has {len(sizes)}")
    result = []
    for name, row, size in zip(names, rows, sizes, strict=True):
        labels = _strings(f"options of layer {name!r}", row)  # type: ignore[arg-type]
        if len(labels) != size:
            raise ValueError(
                f"options of layer {name!r} has {len(labels)} labels, distortion has {size}"
            )
        result.append(labels)
    return tuple(result)


def _dense(
    dense: Mapping[str, ArrayLike] | None,
    costs: dict[str, tuple[NDArray[np.int64], ...]],
    names: tuple[str, ...],
) -> dict[str, NDArray[np.int64]]:
    given = dict(dense or {})
    result = {}
    for key, rows in costs.items():
        if key in given:
            array = _to_int64(f"dense {key!r}", np.asarray(given.pop(key)))
            if array.shape != (len(names),):
                raise ValueError(f"dense {key!r} must have {len(names)} entries, one a layer")
            if sum(map(int, array)) > MAX_TOTAL_COST:
                raise ValueError(f"dense {key!r} adds up to more than 2**61; use a larger unit")
        else:
            array = np.array([row.max() for row in rows], np.int64)
        result[key] = _read_only(array)
    if given:
        raise ValueError(f"dense names {next(iter(given))!r}, which is not a cost of the table")
    return result


def _responses(
    responses: Sequence[ArrayLike] | None, sizes: list[int], names: tuple[str, ...]
) -> tuple[NDArray[np.float32], ...] | None:
    if responses is None:
        return None
    if len(responses) != len(sizes):
        raise ValueError(f"responses has {len(responses)} layers, distortion has {len(sizes)}")
    result: list[NDArray[np.float32]] = []
    for name, given, size in zip(names, responses, sizes, strict=True):
        array = np.asarray(given)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"responses of layer {name!r} must be numbers, got {array.dtype}")
        if array.ndim != 2 or len(array) != size:
            raise ValueError(
                f"responses of layer {name!r} must have shape ({size}, m), got {array.shape}"
            )
        if result and array.shape[1] != result[0].shape[1]:
            raise ValueError(
                f"responses of layer {name!r} has {array.shape[1]} numbers an option, "
                f"layer {names[0]!r} has {result[0].shape[1]}"
            )
        with np.errstate(over="ignore"):
            converted = array.astype(np.float32)
        if not np.isfinite(converted).all():
            raise ValueError(f"responses of layer {name!r} must be finite as float32")
        result.append(_read_only(converted))
    return tuple(result)
