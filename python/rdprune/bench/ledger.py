"""Results of long experiments, one row each in the run folder's store: a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rdprune.store import Store

Row = Mapping[str, Any]


class Ledger:
    """Rows by what they are of, beside the measurements; several processes may share the folder.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it is not there.

    Raises
    ------
    FileFormatError, StoreError
        As `rdprune.store.Store`; here and whenever a row is read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        self._store.execute(
            "CREATE TABLE IF NOT EXISTS result (key TEXT PRIMARY KEY, row TEXT NOT NULL)", ()
        )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.close()

    def find(self, key: Row) -> dict[str, Any] | None:
        """Return the row of a key, or None."""
        found = self._store.execute("SELECT row FROM result WHERE key = ?", (_text(key),))
        return dict(json.loads(found[0][0])) if found else None

    def once(self, key: Row, make: Callable[[], Row]) -> dict[str, Any]:
        """Return the row of a key, made and kept if there is none."""
        found = self.find(key)
        if found is None:
            row = json.dumps(dict(make()))
            self._store.execute("INSERT OR REPLACE INTO result VALUES (?, ?)", (_text(key), row))
            found = dict(json.loads(row))
        return found


def grouped(rows: Iterable[Row]) -> dict[tuple[str, float], list[Row]]:
    """Return rows by network and sparsity."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["sparsity"]), []).append(row)
    return groups


def _text(row: Row) -> str:
    return json.dumps(dict(row), sort_keys=True)
