"""Giving memory back that the C library keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return None
    return found


def release() -> None:
    """Give the pages of freed memory back to the system, where the C library is glibc.

    Before version 2.38 it seldom uses freed aligned blocks, which tensors are, again (its bug
    14581): thousands of passes would take gigabytes. Elsewhere this does nothing.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
