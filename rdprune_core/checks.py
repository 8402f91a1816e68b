"""Checking a table's input: taken over without changing any value, or refused with the reason."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdprune_core._core import MAX_TOTAL_COST

#: One entry a layer: a (layers, options) array or ragged sequences.
Rows = ArrayLike | Sequence[ArrayLike]

_Float = TypeVar("_Float", np.float32, np.float64)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array read-only, in place, and give it back."""
    array.flags.writeable = False
    return array


def _rows(argument: str, rows: Rows) -> list[NDArray[Any]]:
    try:
        arrays = [np.asarray(row) for row in rows]  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument} must be a (layers, options) array or a sequence of rows of numbers "
            f"({error})"
        ) from error
    if not arrays:
        raise ValueError(f"{argument} must have at least one layer")
    for layer, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(f"{argument}: layer {layer} must be one row, got shape {array.shape}")
        if array.size == 0:
            raise ValueError(f"{argument}: layer {layer} has no options; each needs at least one")
    return arrays


def read_floats(argument: str, rows: Rows) -> tuple[NDArray[np.float64], ...]:
    """Take one row of numbers a layer as float64; refuse integers that would be rounded."""
    if isinstance(rows, Iterable) and not isinstance(rows, (np.ndarray, list, tuple)):
        rows = list(rows)
    arrays = _rows(argument, rows)
    for layer, array in enumerate(arrays):
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{argument}: layer {layer} must be numbers, got {array.dtype}")
        # Beside a float, or beyond 64 bits, numpy has made floats of a list's integers already.
        given = rows[layer] if isinstance(rows, (list, tuple)) else array
        check_exact(f"{argument}: layer {layer}", array, given)
    return tuple(array.astype(np.float64) for array in arrays)


def check_exact(what: str, array: NDArray[Any], given: object = None) -> None:
    """Refuse integers that no float64 holds, in an array or in the list that it was made of."""
    if array.dtype.kind == "f":
        rounded = _rounded(array, given) if isinstance(given, (list, tuple)) else None
    else:
        signed = array.dtype.kind == "i"
        sizes = np.abs(array.astype(np.int64)) if signed else array  # that of -2**63 is itself
        sizes = sizes.astype(np.uint64)
        lowest = sizes & (~sizes + np.uint64(1))  # bit that is set
        odd = sizes // np.maximum(lowest, np.uint64(1))
        wrong = np.argwhere(odd > np.uint64(2**53))
        rounded = int(array[tuple(wrong[0])]) if len(wrong) else None
    if rounded is not None:
        raise ValueError(
            f"{what} holds the integer {rounded}, which would be rounded; beyond 2**53 only "
            "integers that float64 holds are taken"
        )


def _rounded(array: NDArray[Any], given: Sequence[Any]) -> int | None:
    """Return an integer in nested lists of numbers that the array made of them has rounded."""
    for index in np.argwhere(np.abs(array) >= 2.0**53).tolist():
        value: Any = given
        for place in index:
            value = value[place]
        try:
            whole = operator.index(value)
        except TypeError:  # a float
            continue
        if whole != int(array[tuple(index)]):
            return whole
    return None


def read_integers(
    argument: str, rows: Rows, sizes: list[int], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], ...]:
    """Take one row a layer of a cost's non-negative integers as int64."""
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


def check_finite(distortion: NDArray[np.float64], name: str, options: tuple[str, ...]) -> None:
    """Refuse distortions of a layer that are not finite; name the option."""
    wrong = np.flatnonzero(~np.isfinite(distortion))
    if wrong.size:
        option = int(wrong[0])
        raise ValueError(
            f"distortion of layer {name!r}, option {options[option]!r} is "
            f"{distortion[option]}; it must be finite"
        )


def check_sum(distortion: tuple[NDArray[np.float64], ...]) -> None:
    """Refuse distortions whose total over the layers could exceed the largest double."""
    if not math.isfinite(sum(float(np.abs(row).max()) for row in distortion)):
        raise ValueError("distortion: the layers' largest distortions add up to more than 1.8e308")


def read_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Copy JSON data as it will stand in a file."""
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata must be JSON data ({error})") from error
    return copied


def read_cost_name(name: object) -> str:
    """Refuse a cost name that is not a non-empty string."""
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


def read_names(names: Sequence[str] | None, layers: int) -> tuple[str, ...]:
    """Take unique layer names, or number the layers."""
    if names is None:
        return tuple(f"layer{i}" for i in range(layers))
    if len(names) != layers:
        raise ValueError(f"names has {len(names)} entries, distortion has {layers} layers")
    return _strings("names", names)


def read_options(
    options: Sequence[str] | Sequence[Sequence[str]] | None,
    sizes: list[int],
    names: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    """Take labels, unique in each layer, or number the options."""
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


def read_dense(
    dense: Mapping[str, ArrayLike] | None,
    costs: dict[str, tuple[NDArray[np.int64], ...]],
    names: tuple[str, ...],
) -> dict[str, NDArray[np.int64]]:
    """Take the uncompressed cost of every layer, the largest one where none is given."""
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
        result[key] = read_only(array)
    if given:
        raise ValueError(f"dense names {next(iter(given))!r}, which is not a cost of the table")
    return result


def read_responses(
    responses: Sequence[ArrayLike] | None, sizes: list[int], names: tuple[str, ...]
) -> tuple[NDArray[np.float32], ...] | None:
    """Take one finite (K_l, m) array a layer as float32, the same m for all."""
    return _read_blocks("responses", responses, sizes, names, np.float32)


def read_errors(
    errors: Sequence[ArrayLike] | None, sizes: list[int], names: tuple[str, ...]
) -> tuple[NDArray[np.float64], ...] | None:
    """Take one finite (K_l, samples) array a layer as float64, the same samples for all."""
    return _read_blocks("errors", errors, sizes, names, np.float64)


def read_offset(
    offset: ArrayLike | None, responses: tuple[NDArray[np.float32], ...] | None
) -> NDArray[np.float64] | None:
    """Take m finite numbers as float64, one for each number of a response."""
    if offset is None:
        return None
    if responses is None:
        raise ValueError("offset is added to responses, and there are none")
    width = responses[0].shape[1]
    values = np.asarray(offset)
    if values.dtype.kind not in "iuf" or values.shape != (width,):
        raise ValueError(f"offset must be {width} numbers, one for each number of a response")
    if not np.isfinite(values).all():
        raise ValueError("offset must be finite")
    return read_only(values.astype(np.float64))


def _read_blocks(
    argument: str,
    blocks: Sequence[ArrayLike] | None,
    sizes: list[int],
    names: tuple[str, ...],
    dtype: type[_Float],
) -> tuple[NDArray[_Float], ...] | None:
    if blocks is None:
        return None
    if len(blocks) != len(sizes):
        raise ValueError(f"{argument} has {len(blocks)} layers, distortion has {len(sizes)}")
    result: list[NDArray[_Float]] = []
    for name, given, size in zip(names, blocks, sizes, strict=True):
        array = np.asarray(given)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{argument} of layer {name!r} must be numbers, got {array.dtype}")
        if array.ndim != 2 or len(array) != size:
            raise ValueError(
                f"{argument} of layer {name!r} must have shape ({size}, m), got {array.shape}"
            )
        if result and array.shape[1] != result[0].shape[1]:
            raise ValueError(
                f"{argument} of layer {name!r} has {array.shape[1]} numbers an option, "
                f"layer {names[0]!r} has {result[0].shape[1]}"
            )
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        if not np.isfinite(converted).all():
            kind = np.dtype(dtype).name
            raise ValueError(f"{argument} of layer {name!r} must be finite as {kind}")
        result.append(read_only(converted))
    return tuple(result)
