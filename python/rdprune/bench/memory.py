"""What a contender allocates at its peak, taken in a process of its own.

Run as ``python -m rdprune.bench.memory CONTENDER SHAPE SECONDS``; prints bytes. Linux alone tells a
process its peak and lets it start again from where it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from rdprune.bench.contenders import CONTENDERS, PREPARATION
from rdprune.bench.instances import MAIN_CURVE, Instance, find_shape, make_table
from rdprune.bench.process import command
from rdprune.bench.solver import MIDDLE, Step
from rdprune_core import RDTable

STATUS: Final = Path("/proc/self/status")
RESET: Final = Path("/proc/self/clear_refs")


def peaks(
    shapes: tuple[str, ...],
    names: tuple[str, ...],
    limit: float,
    step: Step,
    *,
    full: bool = False,
) -> list[dict[str, Any]]:
    """Return, for every shape and contender that reaches so far, the bytes at its peak.

    None as bytes where the system does not tell.
    """
    found = []
    for shape in shapes:
        size = len(find_shape(shape).layers) * find_shape(shape).levels
        for name in names:
            contender = CONTENDERS[name]
            reaches = full or size <= contender.reach[0]
            if contender is PREPARATION or contender.missing or not reaches:
                continue
            step(f"memory of {name}, {shape}")
            found.append({"shape": shape, "contender": name, "bytes": _ask(name, shape, limit)})
    return found


def _ask(name: str, shape: str, limit: float) -> int | None:
    """Start a process for one call."""
    if not (STATUS.exists() and RESET.exists()):
        return None
    call = command("rdprune.bench.memory", name, shape, str(limit))
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def _main(name: str, shape: str, limit: str) -> None:
    """Call a contender on a tiny table, so that everything is imported, then on the real one."""
    contender = CONTENDERS[name]
    tiny = RDTable.from_arrays([[2, 1, 0]] * 3, [[0.0, 1.0, 3.0]] * 3)
    contender.run(tiny, 3, float(limit))
    table = make_table(find_shape(shape), MAIN_CURVE, 0)
    budget = Instance(shape, MAIN_CURVE, MIDDLE, table).budget
    RESET.write_text("5")
    before = _kilobytes("VmRSS")
    contender.run(table, budget, float(limit))
    sys.stdout.write(str(1024 * (_kilobytes("VmHWM") - before)))


def _kilobytes(key: str) -> int:
    """Read a line of the process's status."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
