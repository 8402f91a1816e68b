"""One rank of a measurement that is timed; `rdprune.bench.ranks` starts them by ``torchrun``.

Run as ``python -m rdprune.bench.rank NETWORK LEVELS SAMPLES PREFIX``; writes the table
to ``PREFIX-RANK.npz``, and the seconds of the clock and of the processor to ``PREFIX-RANK.json``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # torch imports it, for seconds, once operations are counted
import torch.distributed as dist

from rdprune.bench.networks import NETWORKS
from rdprune.commands.launching import launched


def _main(name: str, levels: str, samples: str, prefix: str) -> None:
    torch.set_num_threads(1)
    network = NETWORKS[name]
    model, batches = network.model(), network.batches(int(samples))
    with launched("cpu") as rank:
        if dist.is_initialized():
            dist.barrier()  # all have their model and data
        wall, cpu = time.perf_counter(), time.process_time()
        table = network.measure(model, batches, levels=int(levels))
        found = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    table.save(f"{prefix}-{rank}.npz")
    Path(f"{prefix}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
