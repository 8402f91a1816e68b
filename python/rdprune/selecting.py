"""Choosing layers by name, pattern or kind."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rdprune.kinds import DEFAULT_KINDS, OPTIONAL_KINDS

FEW = 8  # names that an error lists


class Candidate(NamedTuple):
    """What a layer is called, its parameter and its modules, and its kind."""

    names: tuple[str, ...]
    kind: str


def select(
    candidates: Mapping[str, Candidate],
    *,
    ignore: str | Iterable[str],
    layers: str | Iterable[str] | None,
) -> set[str]:
    """Names of the layers that `layers` chooses and `ignore` leaves; see `layers.prunable`.

    Raises
    ------
    ValueError
        If an entry is malformed or matches no layer.
    """
    dropped = _matching(candidates, ignore, "ignore")
    if layers is not None:
        return _matching(candidates, layers, "layers") - dropped
    return {name for name, layer in candidates.items() if layer.kind in DEFAULT_KINDS} - dropped


def hint(entry: str, names: Iterable[str]) -> str:
    """Suggest what may have been meant by a name that is not there; all names, if they are few."""
    names = list(names)
    candidates = [alias for name in names for alias in (name, name.rpartition(".")[0]) if alias]
    close = difflib.get_close_matches(entry, candidates, n=3, cutoff=0.6)
    if close or len(names) > FEW:
        return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    return f"; there are {', '.join(map(repr, names))}" if names else ""


def _matching(
    candidates: Mapping[str, Candidate], given: str | Iterable[str], argument: str
) -> set[str]:
    """Names of the layers that any of the entries matches; each must match one."""
    selected: set[str] = set()
    for entry in (given,) if isinstance(given, str) else tuple(given):
        matched = {n for n, layer in candidates.items() if _matches(entry, layer, argument)}
        if not matched:
            raise ValueError(
                f"{argument} entry {entry!r} matches no layer{hint(entry, candidates)}"
            )
        selected |= matched
    return selected


def _matches(entry: Any, layer: Candidate, argument: str) -> bool:
    if not isinstance(entry, str):
        raise ValueError(f"{argument} entry {entry!r} is not a string")
    if entry.startswith("kind:"):
        return layer.kind in _kinds(entry, argument)
    if entry.startswith("re:"):
        try:
            pattern = re.compile(entry[3:])
        except re.error as error:
            raise ValueError(
                f"{argument} entry {entry!r} is no regular expression: {error}"
            ) from None
        return any(pattern.fullmatch(name) for name in layer.names)
    if entry in layer.names or any(fnmatch.fnmatchcase(name, entry) for name in layer.names):
        return True
    # A module around chooses what would be pruned by default, but ignores all that is inside.
    around = argument == "ignore" or layer.kind in DEFAULT_KINDS
    return around and any(name.startswith(f"{entry}.") for name in layer.names)


def _kinds(entry: str, argument: str) -> tuple[str, ...]:
    kind = entry.removeprefix("kind:")
    if kind == "default":
        return DEFAULT_KINDS
    known = (*DEFAULT_KINDS, *OPTIONAL_KINDS)
    if kind not in known:
        raise ValueError(
            f"{argument} entry {entry!r}: the kind must be default, {', '.join(known)}"
        )
    return (kind,)
