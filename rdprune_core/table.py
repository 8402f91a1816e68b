"""Rate-distortion tables: what every option of every layer costs and how much it distorts."""

from __future__ import annotations

import difflib
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core.checks import (
    Rows,
    check_finite,
    check_sum,
    read_cost_name,
    read_dense,
    read_errors,
    read_floats,
    read_integers,
    read_metadata,
    read_names,
    read_offset,
    read_only,
    read_options,
    read_responses,
)
from rdprune_core.errors import FileFormatError
from rdprune_core.files import atomic_write

FORMAT = "rdprune-table"
VERSION = 1

#: What zipfile, numpy and json raise for files that are not as they should be.
_DAMAGE = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, RuntimeError, OSError,
    OverflowError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


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
    offset : float64 array (m,) or None
        What the responses are added to, where the distortion of no change is no minimum: the
        joint distortion is the mean of (offset + sum of responses)², less that of offset².
    errors : tuple of float64 arrays or None
        One array (K_l, samples) a layer: what the distortion is made of, sample by sample.
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
        "errors",
        "metadata",
        "names",
        "offset",
        "options",
        "responses",
    )

    names: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    costs: dict[str, tuple[NDArray[np.int64], ...]]
    distortion: tuple[NDArray[np.float64], ...]
    responses: tuple[NDArray[np.float32], ...] | None
    offset: NDArray[np.float64] | None
    errors: tuple[NDArray[np.float64], ...] | None
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
        offset: ArrayLike | None = None,
        errors: Sequence[ArrayLike] | None = None,
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
            Finite; may be negative, need not be monotone or convex in the cost. Integers beyond
            2**53 are taken only if float64 holds them.
        names : L strings, optional
            Unique layer names; ``"layer0"``, ``"layer1"``, … by default.
        options : K strings, or K_l strings a layer, optional
            Unique labels within a layer; ``"0"``, ``"1"``, … by default.
        responses : L arrays (K_l, m) of float, optional
            Stored as float32.
        offset : m floats, optional
            Added to the responses.
        errors : L arrays (K_l, samples) of float, optional
            Error of every sample, of which `distortion` is the mean, the maximum or the like.
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
        table.distortion = read_floats("distortion", distortion)
        sizes = [len(row) for row in table.distortion]
        table.names = read_names(names, len(sizes))
        table.options = read_options(options, sizes, table.names)
        for name, layer in zip(table.names, range(len(sizes)), strict=True):
            check_finite(table.distortion[layer], name, table.options[layer])
        check_sum(table.distortion)
        table.costs = {
            read_cost_name(key): read_integers(f"cost {key!r}", rows, sizes, table.names)
            for key, rows in named.items()
        }
        table.dense = read_dense(dense, table.costs, table.names)
        table.responses = read_responses(responses, sizes, table.names)
        table.offset = read_offset(offset, table.responses)
        table.errors = read_errors(errors, sizes, table.names)
        table.metadata = read_metadata(metadata)
        table._freeze(sizes)
        return table

    def _freeze(self, sizes: list[int]) -> None:
        """Lay the numbers out flat, as the core takes them, and make them read-only."""
        self._offsets = read_only(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        self._flat_distortion = read_only(np.concatenate(self.distortion))
        self._columns = {key: read_only(np.concatenate(rows)) for key, rows in self.costs.items()}
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

        Parameters
        ----------
        name : str
            The layer's name, such as ``"head.weight"``, or its module's, ``"head"``, if no other
            layer of the table is of that module.

        Raises
        ------
        ValueError
            If there is none of that name; suggests the closest ones.
        """
        if name in self.names:
            return self.names.index(name)
        inside = [i for i, layer in enumerate(self.names) if layer.rpartition(".")[0] == name != ""]
        if len(inside) == 1:
            return inside[0]
        names = [self.names[i] for i in inside]
        close = names or difflib.get_close_matches(name, self.names, n=3)
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"unknown layer {name!r}{hint}")

    def with_distortion(
        self, distortion: Rows, *, metadata: Mapping[str, Any] | None = None
    ) -> RDTable:
        """Return the same table with other distortions, and other metadata if given.

        Parameters
        ----------
        distortion : (L, K) array of float or ragged sequence
        metadata : dict, optional

        Raises
        ------
        ValueError
            As :meth:`from_arrays`.
        """
        return RDTable.from_arrays(
            self.costs,
            distortion,
            names=self.names,
            options=self.options,
            responses=self.responses,
            offset=self.offset,
            errors=self.errors,
            dense=self.dense,
            metadata=self.metadata if metadata is None else metadata,
        )

    def with_cost(self, name: str, cost: Rows, *, dense: ArrayLike | None = None) -> RDTable:
        """Return the same table with one more cost, such as bytes or nanoseconds.

        Parameters
        ----------
        name : str
            Of the cost; one of the table's own is replaced.
        cost : (L, K) array of int or ragged sequence
            Non-negative. Whoever has seconds scales them to integer nanoseconds, rounding up.
        dense : L integers, optional
            Cost of each uncompressed layer; the layer's largest cost by default.

        Raises
        ------
        ValueError
            As :meth:`from_arrays`.

        Examples
        --------
        >>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
        >>> table.with_cost("bytes", [4 * kept + 16 for kept in table.costs["params"]])
        RDTable(2 layers, 6 options, dense params 30, bytes 152)
        """
        known = {key: values for key, values in self.dense.items() if key != name}
        return RDTable.from_arrays(
            {**self.costs, name: cost},
            self.distortion,
            names=self.names,
            options=self.options,
            responses=self.responses,
            offset=self.offset,
            errors=self.errors,
            dense=known if dense is None else {**known, name: dense},
            metadata=self.metadata,
        )

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
            "responses": self.responses is not None,
            "offset": self.offset is not None,
            "errors": self.errors is not None,
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
        if self.offset is not None:
            arrays["offset"] = self.offset
        if self.errors is not None:
            arrays["errors"] = np.concatenate(self.errors)
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
        with Path(path).open("rb") as file:
            try:
                return cls._read(file)
            except FileFormatError as error:
                raise FileFormatError(f"{path}: {error}") from None
            except _DAMAGE as error:
                raise FileFormatError(
                    f"{path}: damaged or not a table of rdprune ({error})"
                ) from error

    @classmethod
    def _read(cls, file: BinaryIO) -> RDTable:
        with zipfile.ZipFile(file) as archive:
            # numpy acts upon a member's first bytes before it reads on to the checksum.
            damaged = archive.testzip()
        if damaged is not None:
            raise FileFormatError(f"the part {damaged!r} is damaged")
        file.seek(0)
        with np.load(file, allow_pickle=False) as members:
            arrays = {key: members[key] for key in members.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise FileFormatError("not a table of rdprune")
        if header["version"] > VERSION:
            raise FileFormatError(
                f"table version {header['version']} is newer than this program's {VERSION}; "
                "upgrade rdprune-core"
            )
        for part in ("responses", "offset", "errors"):
            # Not all files of version 0.1 know them.
            if header.get(part, False) != (part in arrays):
                raise FileFormatError(f"the {part} are missing")
        cuts = arrays["offsets"][1:-1]
        responses, errors = arrays.get("responses"), arrays.get("errors")
        return cls.from_arrays(
            {key: np.split(arrays[f"cost{i}"], cuts) for i, key in enumerate(header["costs"])},
            np.split(arrays["distortion"], cuts),
            names=header["names"],
            options=header["options"],
            responses=None if responses is None else np.split(responses, cuts),
            offset=arrays.get("offset"),
            errors=None if errors is None else np.split(errors, cuts),
            dense={key: arrays[f"dense{i}"] for i, key in enumerate(header["costs"])},
            metadata=header["metadata"],
        )
