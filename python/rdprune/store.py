"""What was measured, in one SQLite file: nothing is measured twice, and a kill loses one pass.

Rows are keyed by a digest of everything that a measurement depends on, so a row is either right
or not found. Any number of processes may use one file at the same time.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from rdprune.distortion import Measurement
from rdprune_core import FileFormatError

FILE: Final = "measurements.sqlite"
PATIENCE: Final = 30.0  # seconds that another process may keep the file locked
ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]+")  # of an object, another one in every process
_MAGIC: Final = 0x52445052  # "RDPR"
_VERSION: Final = 1
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS run (
    run BLOB PRIMARY KEY, about TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS measurement (
    run BLOB NOT NULL, layer TEXT NOT NULL, option TEXT NOT NULL,
    distortion REAL NOT NULL, response BLOB NOT NULL, errors BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (run, layer, option)
);
PRAGMA application_id = {_MAGIC};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


def go_on(folder: str | PathLike[str] | None) -> str:
    """Say what a run that stops leaves, and how to go on."""
    if folder is None:
        return "no measurement is kept; with --store FOLDER a run can go on where it stopped"
    if not (Path(folder) / FILE).exists():
        return f"nothing was measured yet that could be kept in {folder}"
    return f"what was measured is kept in {folder}: run the same command again to go on"


class StoreError(OSError):
    """The store cannot be read or written now; what it holds is safe."""


class Store:
    """The file of measurements in a run folder.

    Parameters
    ----------
    folder : path
        The run folder, made if it is not there. The file in it is ``measurements.sqlite``.

    Raises
    ------
    FileFormatError
        If the file is damaged, is no such file, or is of a newer version.
    StoreError
        If it cannot be opened or is locked for long.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        if Path(folder).is_file():
            raise FileExistsError(f"the store {str(folder)!r} is a file, must be a folder")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.path = Path(folder) / FILE
        with self._explained():
            self._database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._database.close()

    def shelf(self, run: bytes, about: Mapping[str, Any], *, samples: int, size: int) -> Shelf:
        """Return what was measured under one signature.

        Parameters
        ----------
        run : bytes
            What `run_signature` returned.
        about : mapping
            Says what the signature stands for, for those who read the file; JSON-able.
        samples, size : int
            Numbers in a measurement's errors and in its response.
        """
        self.execute(
            "INSERT OR IGNORE INTO run VALUES (?, ?)", (run, json.dumps(about, sort_keys=True))
        )
        return Shelf(self, run, samples, size)

    def execute(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        """Run one statement, which is one transaction."""
        with self._explained():
            return self._database.execute(statement, values).fetchall()

    def _prepare(self) -> None:
        """Check what kind of file this is, and make the tables."""
        wait = time.monotonic() + PATIENCE
        while True:
            try:
                # Switching to it does not wait for others as everything else does.
                self._database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > wait:
                    raise
                time.sleep(0.01)
        self._database.execute("PRAGMA synchronous = NORMAL")
        found = self._pragma("application_id"), self._pragma("user_version")
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found[0] != _MAGIC and tables:
            raise FileFormatError(f"{self.path} is an SQLite file of another program")
        if found[0] == _MAGIC and found[1] > _VERSION:
            raise FileFormatError(
                f"{self.path} has version {found[1]}, this rdprune knows {_VERSION}"
            )
        if found != (_MAGIC, _VERSION):
            self._database.executescript(_SCHEMA)

    def _pragma(self, name: str) -> int:
        return int(self._database.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what SQLite's errors mean for the user."""
        try:
            yield
        except sqlite3.OperationalError as error:
            advice = "what was measured is kept: run the same again to go on"
            if "readonly" in str(error) or "unable to open" in str(error):
                advice = "this process must be able to write to it and to its folder"
            if "full" in str(error):
                advice = "what was measured is kept: make room and run the same again"
            elif "locked" in str(error):
                advice = f"another process has kept it for {PATIENCE:.0f} s; {advice}"
            raise StoreError(f"{self.path}: {error}; {advice}") from error
        except sqlite3.DatabaseError as error:
            raise FileFormatError(
                f"{self.path} is damaged or no file of measurements: {error}; "
                "move it away to measure anew"
            ) from error


class Shelf:
    """The measurements under one signature; made by `Store.shelf`."""

    def __init__(self, store: Store, run: bytes, samples: int, size: int, around: str = "") -> None:
        self._store = store
        self._run = run
        self._samples = samples
        self._size = size
        self._around = around

    def around(self, place: str) -> Shelf:
        """Return what was measured in the network as it is at a place: not dense, but pruned."""
        return Shelf(self._store, self._run, self._samples, self._size, f" around {place}")

    def get(self, layer: str, option: str) -> Measurement | None:
        """Look a measurement up.

        Raises
        ------
        FileFormatError
            If its row is damaged.
        StoreError
            If the file cannot be read.
        """
        option += self._around
        rows = self._store.execute(
            "SELECT distortion, response, errors, crc FROM measurement "
            "WHERE run = ? AND layer = ? AND option = ?",
            (self._run, layer, option),
        )
        if not rows:
            return None
        distortion, response, errors, crc = rows[0]
        whole = (
            isinstance(distortion, float)
            and isinstance(response, bytes)
            and isinstance(errors, bytes)
            and len(response) == 4 * self._size
            and len(errors) == 8 * self._samples
        )
        if not whole or _crc(layer, option, distortion, response, errors) != crc:
            raise FileFormatError(
                f"{self._store.path} is damaged: layer {layer!r}, option {option!r}; "
                "move it away to measure anew"
            )
        return Measurement(
            distortion,
            np.frombuffer(response, "<f4").astype(np.float32) if self._size else None,
            np.frombuffer(errors, "<f8").astype(np.float64),
        )

    def put(self, layer: str, option: str, measurement: Measurement) -> None:
        """Keep a measurement, unless it is there already.

        Raises
        ------
        StoreError
            If the file cannot be written: it is locked or the disk is full.
        """
        option += self._around
        sketch = measurement.response
        response = b"" if sketch is None else sketch.astype("<f4").tobytes()
        errors = b"" if measurement.errors is None else measurement.errors.astype("<f8").tobytes()
        distortion = measurement.distortion + 0.0  # SQLite knows no -0.0
        crc = _crc(layer, option, distortion, response, errors)
        self._store.execute(
            "INSERT OR IGNORE INTO measurement VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._run, layer, option, distortion, response, errors, crc),
        )


def run_signature(
    model: nn.Module,
    batches: Iterable[Any],
    outputs: Iterable[Tensor],
    forward: Callable[..., Any] | None,
    settings: Mapping[str, Any],
) -> bytes:
    """Digest all that a measurement depends on.

    The dense outputs are in it, so that a change in the model's code, in torch or in the kernels
    that it chooses is a change of the signature, too.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters and buffers count, with names, types, devices and strides, and its modules,
        with what they print of their settings.
    batches : iterable
        All bytes of all batches.
    outputs : iterable of torch.Tensor
        The dense model's, and whatever else was computed from them.
    forward : callable, optional
        Its qualified name.
    settings : mapping
        JSON-able.

    Returns
    -------
    bytes
        SHA-256.
    """
    digest = hashlib.sha256()
    _add(digest, f"{_VERSION} {torch.__version__} {json.dumps(settings, sort_keys=True)}")
    for used in (type(model), forward if hasattr(forward, "__qualname__") else type(forward)):
        _add(digest, f"{used.__module__}.{getattr(used, '__qualname__', '')}")
    _add(digest, ADDRESS.sub("", repr(model)))
    for module in model.modules():
        _add(digest, f"{type(module).__module__}.{type(module).__qualname__}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _add(digest, f"{name} {tensor.device.type}")
        _add_leaf(digest, tensor)
    for batch in batches:
        leaves, spec = tree_flatten(batch)
        _add(digest, str(spec))
        for leaf in leaves:
            _add_leaf(digest, leaf)
    for output in outputs:
        _add_leaf(digest, output)
    return digest.digest()


def _add(digest: Any, text: str) -> None:
    data = text.encode()
    digest.update(len(data).to_bytes(8, "little") + data)


def _add_leaf(digest: Any, leaf: Any) -> None:
    if isinstance(leaf, Tensor):
        strides = leaf.stride() if leaf.layout is torch.strided else leaf.layout
        _add(digest, f"{leaf.dtype} {tuple(leaf.shape)} {strides}")
        dense = leaf.detach() if leaf.layout is torch.strided else leaf.detach().to_dense()
        digest.update(dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
        _add(digest, f"{leaf.dtype} {leaf.shape}")
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    elif isinstance(leaf, (bool, int, float, complex, str, bytes, type(None))):
        _add(digest, f"{type(leaf).__name__} {leaf!r}")
    else:
        _add(digest, f"{type(leaf).__module__}.{type(leaf).__qualname__}")


def _crc(layer: str, option: str, distortion: float, response: bytes, errors: bytes) -> int:
    head = f"{layer}\0{option}\0{distortion.hex()}\0".encode()
    return zlib.crc32(errors, zlib.crc32(response, zlib.crc32(head)))
