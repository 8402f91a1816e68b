"""Runs of iterative pruning that kill themselves; started by test_schedule.py.

Arguments: a folder for the runs, then pairs of a place and how many times it is passed before the
kill. Every run is a fork of this process, which imports torch once, and is then started again.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from rdprune import rounds, runfolder
from rdprune.schedule import iterate


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).to(memory_format=torch.channels_last)


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 1, 6, 6, generator=generator)
    return [(x, torch.arange(12) % 5)]


def finetune(network: nn.Module, step: Any) -> dict[str, float]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        x, y = data()[0]
        loss = nn.functional.cross_entropy(network(x + 0.1 * torch.randn(x.shape)), y)
        loss.backward()
        optimizer.step()
        passed("finetune")
    return {"loss": float(loss.detach())}


def forward(network: nn.Module, batch: Any) -> Tensor:
    passed("forward")
    return network(batch[0])


COUNT = {"place": "", "left": 0}


def passed(place: str) -> None:
    if place == COUNT["place"]:
        COUNT["left"] -= 1
        if COUNT["left"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def watched(function: Any, place: str) -> Any:
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        passed(f"before {place}")
        result = function(*arguments, **keywords)
        passed(f"after {place}")
        return result

    return wrapper


def run(folder: str, **options: Any) -> list[runfolder.Round]:
    return iterate(
        model(), data(), folder=folder, rounds=3, amount=0.4, finetune=finetune, forward=forward,
        recovery="batchnorm", levels=11, seed=7, progress=False, **options,
    )  # fmt: skip


def forked(folder: str, place: str, left: int, seconds: float = 0) -> int:
    """Run in a fork that is killed at a place, or from outside after a while.

    Returns its exit code, negative for a signal.
    """
    child = os.fork()
    if child == 0:
        COUNT["place"], COUNT["left"] = place, left
        code = 1
        try:
            run(folder)
            code = 0
        finally:
            os._exit(code)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def shots(folder: str, whole: float) -> None:
    """Start again and again, killed at random moments of a first run's time, until it is done."""
    moments = random.Random(7)
    killed = 0
    for _ in range(8):
        seconds = moments.uniform(0.02, 0.6) * whole
        killed += forked(folder, "nowhere", 1, seconds) == -signal.SIGKILL
    assert killed >= 3, f"only {killed} runs were killed before they ended"
    assert forked(folder, "nowhere", 1) == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    rounds.save_weights = watched(rounds.save_weights, "weights")
    rounds.save_masks = watched(rounds.save_masks, "masks")
    runfolder.RunFolder.finish = watched(runfolder.RunFolder.finish, "history")
    parent, *places = sys.argv[1:]
    run(f"{parent}/nowhere")  # here, so that the forks find all modules imported
    begun = time.perf_counter()
    run(f"{parent}/again")
    shots(f"{parent}/random", time.perf_counter() - begun)
    for place, left in zip(places[::2], map(int, places[1::2]), strict=True):
        assert forked(f"{parent}/{place}", place, left) == -signal.SIGKILL, place
        assert forked(f"{parent}/{place}", "nowhere", 1) == 0, place
