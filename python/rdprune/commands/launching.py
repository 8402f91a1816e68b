"""Commands under ``torchrun``: the ranks join, and rank 0 alone writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def launched(device: str) -> Iterator[int]:
    """Join the other ranks, if a launcher such as ``torchrun`` started this one; yield the rank.

    The backend is nccl on CUDA devices, where ``"cuda"`` is each rank's own, and gloo elsewhere.
    A launcher that ends this process, because another rank died, interrupts it as Ctrl-C does.
    """
    if any(name not in os.environ for name in _NEEDED) or int(os.environ["WORLD_SIZE"]) < 2:
        yield 0
        return
    import torch
    import torch.distributed as dist

    where = torch.device(device)
    if where.type == "cuda" and where.index is None:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield dist.get_rank()
    dist.destroy_process_group()


def alone(command: str) -> None:
    """Refuse several ranks for a command that does not share its work.

    Raises
    ------
    ValueError
        Names the command.
    """
    if who():
        raise ValueError(f"{command} runs in one process: only measure shares its work")


def who() -> str:
    """Say which rank speaks, where there are several."""
    size = os.environ.get("WORLD_SIZE", "1")
    return f"rank {os.environ['RANK']}: " if size != "1" and "RANK" in os.environ else ""
