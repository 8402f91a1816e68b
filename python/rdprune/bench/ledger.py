"""Results of long experiments, one row each in a SQLite file: a run that was stopped goes on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

FILE: Final = "results.sqlite"
PATIENCE: Final = 60.0


class Ledger:
    """Rows by what they are of, in a run folder; several processes may share it.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it is not there.

    Raises
    ------
    ValueError
        If the file in it is no such file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        self._database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS result (key TEXT PRIMARY KEY, row TEXT NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ValueError(f"{path} is no file of results: {error}") from error

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._database.close()

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row of a key, or None."""
        found = self._database.execute(
            "SELECT row FROM result WHERE key = ?", (_text(key),)
        ).fetchone()
        return None if found is None else dict(json.loads(found[0]))

    def once(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the row of a key, made and kept if there is none."""
        found = self.find(key)
        if found is None:
            row = json.dumps(dict(make()), sort_keys=True)
            self._database.execute("INSERT OR REPLACE INTO result VALUES (?, ?)", (_text(key), row))
            found = dict(json.loads(row))
        return found


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True)
