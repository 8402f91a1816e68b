"""Ranks that share a measurement: the same table as one, and what happens when one dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from rdprune.ranks import Ranks
from rdprune.store import FILE, Store
from rdprune_core import RDTable

# A rank: settings from the environment, as torchrun gives them.
SCRIPT = """
import os, signal, sys, time
import torch
from torch import nn
import torch.distributed as dist
from rdprune import measure, ranks

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
folder, pause, budgets = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
rank = int(os.environ.get("RANK", 0))
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3),
                      nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
batches = [torch.randn(5, 1, 8, 8), torch.randn(3, 1, 8, 8)]
if os.environ.get("ODD") == str(rank):
    model[0].weight.data[0, 0, 0, 0] += 1e-6
if "PATIENCE" in os.environ:
    ranks.PATIENCE = float(os.environ["PATIENCE"])

def forward(model, batch):
    time.sleep(pause)
    return model(batch)

if "RANK" in os.environ:
    dist.init_process_group("gloo")
if os.environ.get("BROKEN") == str(rank):
    batches = (batch if batch.shape[0] == 5 else 1 / 0 for batch in batches)
chosen = {"levels": "auto", "budgets": budgets} if budgets else {"levels": 13, "keep_errors": True}
table = measure(model, batches, forward=forward, progress=False, recovery="batchnorm",
                store=f"{folder}/run", **chosen)
table.save(f"{folder}/table-{rank}.npz")
if "RANK" in os.environ:
    dist.destroy_process_group()
"""


def _start(folder, size=1, pause=0.0, budgets=(), **extra):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for rank in range(size):
        more = {"OMP_NUM_THREADS": "1", **extra}
        if size > 1:
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size}
            more |= {**place, "RANK": rank}
        command = [sys.executable, "-c", SCRIPT, str(folder), str(pause), *budgets]
        environment = {**os.environ, **{key: str(value) for key, value in more.items()}}
        found.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return found


def _finish(processes, timeout=120):
    """Return the exit codes and what was said on stderr."""
    said = [process.communicate(timeout=timeout)[1] for process in processes]
    return [process.returncode for process in processes], said


def _same(one, other):
    for part in ("distortion", "responses", "errors"):
        if getattr(one, part) is None:
            assert getattr(other, part) is None
            continue
        for a, b in zip(getattr(one, part), getattr(other, part), strict=True):
            assert a.tobytes() == b.tobytes()
    assert one.metadata == other.metadata


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the table that one process measures."""
    folder = tmp_path_factory.mktemp("alone")
    codes, said = _finish(_start(folder))
    assert codes == [0], said
    return RDTable.load(folder / "table-0.npz")


def test_two_ranks_and_one_have_the_same_table(tmp_path, alone):
    """Both ranks return the table of one process, bit for bit."""
    codes, said = _finish(_start(tmp_path, 2))
    assert codes == [0, 0], said
    for rank in (0, 1):
        _same(RDTable.load(tmp_path / f"table-{rank}.npz"), alone)


def test_ranks_measure_adaptively(tmp_path):
    """Three ranks choose and measure the same options as one process."""
    for name, size in (("one", 1), ("three", 3)):
        (tmp_path / name).mkdir()
        codes, said = _finish(_start(tmp_path / name, size, budgets=["40%", "20%"]))
        assert codes == [0] * size, said
    one, other = (RDTable.load(tmp_path / name / "table-0.npz") for name in ("one", "three"))
    assert one.metadata["interpolated"]
    _same(other, one)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_noticed_and_the_run_goes_on(tmp_path, alone, victim):
    """The other rank stops with an error that says how to go on; two ranks finish the table."""
    processes = _start(tmp_path, 2, pause=0.05, PATIENCE=3)
    deadline = time.monotonic() + 60
    while _rows(tmp_path / "run") < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes[victim].send_signal(signal.SIGKILL)
    codes, said = _finish(processes)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    # torch says before every line whose it is, once ranks have met.
    error = said[1 - victim].strip().splitlines()[-1].removeprefix(f"[rank{1 - victim}]: ")
    assert error.startswith("rdprune.ranks.RankError: ")
    assert f"kept in {tmp_path / 'run'}: run the same command again to go on" in error
    assert not list(tmp_path.glob("table-*"))
    before = _rows(tmp_path / "run")
    assert before < 48
    codes, said = _finish(_start(tmp_path, 2))
    assert codes == [0, 0], said
    _same(RDTable.load(tmp_path / "table-0.npz"), alone)


def test_a_rank_that_cannot_read_its_data_is_quoted(tmp_path):
    """Before anything is measured, too, and at once."""
    codes, said = _finish(_start(tmp_path, 2, BROKEN=1), timeout=60)
    assert codes == [1, 1]
    assert "RankError: rank 1 stopped, ZeroDivisionError" in said[0]


def test_a_rank_that_fails_is_quoted(tmp_path):
    """What one rank stopped with is in the other's error."""
    (tmp_path / "run").mkdir()
    processes = _start(tmp_path, 2, pause=0.1, PATIENCE=3)
    while _rows(tmp_path / "run") < 2:
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGINT)
    codes, said = _finish(processes)
    assert codes[0] == 1
    assert "RankError: rank 1 stopped, KeyboardInterrupt; what was measured is kept" in said[0]


def test_ranks_with_different_models_are_refused(tmp_path):
    """A weight that differs on one rank is an error on both, before anything is measured."""
    codes, said = _finish(_start(tmp_path, 2, ODD=1))
    assert codes == [1, 1]
    for text in said:
        assert "ranks 0 and 1 have not the same model, batches, settings" in text
    assert _rows(tmp_path / "run") == 0


def test_each_round_counts_what_others_do_in_it():
    """What another rank told in an earlier round is not added to the steps of the next."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranks = Ranks(str)
        for steps in (5, 3):
            assert list(ranks.shared([1.0])) == [0]
            assert ranks.elsewhere() == (0, 0.0)
            ranks.tell(2, 4.0)
            ranks._counted(f"steps {ranks._work}", steps)  # as the other rank's `tell` does
            assert ranks.elsewhere() == (steps, 0.0)
    finally:
        dist.destroy_process_group()


def _rows(folder):
    if not (folder / FILE).exists():
        return 0
    with Store(folder) as store:
        return int(store.execute("SELECT count(*) FROM measurement", ())[0][0])
