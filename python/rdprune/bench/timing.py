"""Taking the time of a call, and naming the machine that took it."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

CALLS: Final = 3
SHORT: Final = 0.02  # seconds
PACKAGES: Final = ("rdprune-core", "numpy", "scipy", "ortools")


class Time(NamedTuple):
    """Seconds by the clock, and seconds of processor time, of all threads, in this process.

    On a busy machine the clock counts what others do: hardly ever in a short call, again and
    again in a long one. Ratios of processor time do not suffer from it.
    """

    wall: float
    cpu: float


def timed(call: Callable[[], T]) -> tuple[Time, T]:
    """Return the time that a call takes, and what it returns.

    The best of three where it takes less than 20 ms. The garbage collector rests meanwhile.
    """
    best = Time(float("inf"), float("inf"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(CALLS):
            start = Time(time.perf_counter(), time.process_time())
            result = call()
            end = Time(time.perf_counter(), time.process_time())
            best = Time(min(best.wall, end.wall - start.wall), min(best.cpu, end.cpu - start.cpu))
            if best.wall > SHORT:
                break
    finally:
        gc.enable()
    return best, result


def machine() -> dict[str, str | int]:
    """Name the processor, its cores that this process may use, Python and the packages."""
    found: dict[str, str | int] = {
        "cpu": _cpu(),
        "cores": cores(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _cpu() -> str:
    """Return the processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor() or platform.machine()])[0]
