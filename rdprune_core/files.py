"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

UNFINISHED: Final = ".part"
ABANDONED: Final = 3600.0  # seconds: nothing takes that long to write


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block succeeds.

    A symbolic link stays, and the file that it leads to is written. What is no plain file, such
    as ``/dev/stdout`` or a pipe, is written to when the block has succeeded. A reader of a file
    sees the old one or the whole new one, never a part. When the block raises, the temporary file
    is removed and `path` is as before.

    Raises
    ------
    FileNotFoundError
        If the folder of `path` does not exist.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole"
            whole.touch()
            yield whole
            target.write_bytes(whole.read_bytes())
        return
    target = target.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=UNFINISHED)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp, and some writers, leave it to the owner alone
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_left_over(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files in a folder, and in those below, that a kill left an hour ago."""
    for path in Path(folder).rglob(f".*{UNFINISHED}"):
        if time.time() - path.stat().st_mtime > ABANDONED:
            path.unlink(missing_ok=True)
