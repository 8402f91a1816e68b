"""How long Ctrl-C takes, on instances that nobody solves.

Run as ``python -m rdprune.bench.limits CALL``: says ``ready``, calls until it is interrupted,
solves a small instance, and prints by the monotonic clock when the interrupt arrived.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from rdprune.bench.process import command
from rdprune.bench.solver import Step
from rdprune_core import RDTable, allocate, allocate_many, frontier, near_optimal

TARGET: Final = 0.1  # seconds
LONGEST: Final = 2.0  # seconds until the signal


def subset_sum(options: int = 2) -> RDTable:
    """Even costs that equal what they save, and a second cost in another order."""
    rng = np.random.default_rng(5)
    cost = 2 * rng.integers(10**11, 10**12, (80, options))
    cost[:, -1] = 0
    other = cost[::-1]
    responses = rng.standard_normal((80, options, 32)).astype(np.float32)
    return RDTable.from_arrays(
        {"params": cost, "macs": other}, -1.0 * cost, responses=list(responses)
    )


def _odd(table: RDTable) -> int:
    return int(table.dense["params"].sum() // 2) | 1


CALLS: Final[dict[str, Callable[[], object]]] = {
    "allocate": lambda: allocate(subset_sum(), _odd(subset_sum())),
    "allocate, 40 options": lambda: allocate(subset_sum(40), _odd(subset_sum(40))),
    "allocate, two budgets": lambda: allocate(
        subset_sum(), {"params": _odd(subset_sum()), "macs": "60%"}
    ),
    "allocate, joint": lambda: allocate(subset_sum(40), "50%", objective="joint"),
    "frontier": lambda: frontier(subset_sum(), points=101),
    "near_optimal": lambda: near_optimal(subset_sum(8), _odd(subset_sum(8)), k=1000),
    "allocate_many": lambda: allocate_many(
        subset_sum(),
        np.tile(subset_sum().flat_distortion, (100, 1)),
        _odd(subset_sum()),
        threads=2,
        memory_limit=1 << 28,
    ),
}


def interrupts(trials: int, step: Step) -> list[dict[str, Any]]:
    """Interrupt every kind of call at random moments.

    Returns
    -------
    list of dict
        One a call: median and largest seconds from the signal to the exception, by the clock.
    """
    rng = np.random.default_rng(0)
    found = []
    for name in CALLS:
        waits = []
        for trial in range(trials):
            step(f"interrupts: {name}, {trial + 1} of {trials}")
            waits.append(interrupt(name, float(rng.uniform(0, LONGEST))))
        found.append(
            {
                "call": name,
                "trials": trials,
                "median": statistics.median(waits),
                "max": max(waits),
            }
        )
    return found


def interrupt(name: str, after: float) -> float:
    """Return the seconds that a call in a process of its own goes on after SIGINT.

    Raises
    ------
    RuntimeError
        If the process does not end as it should.
    """
    with subprocess.Popen(
        command("rdprune.bench.limits", name),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{name}: {errors.strip() or process.returncode}")
    return float(output) - sent


def _main(name: str) -> None:
    small = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
    try:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            CALLS[name]()
    except KeyboardInterrupt:
        caught = time.monotonic()
    if allocate(small, 15).choice.tolist() != [1, 1]:
        raise RuntimeError("wrong after an interrupt")
    sys.stdout.write(str(caught))


if __name__ == "__main__":
    _main(*sys.argv[1:])
