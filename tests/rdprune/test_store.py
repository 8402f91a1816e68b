"""The store of measurements: exact, never stale, safe from kills and from other processes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rdprune.distortion import Measurement
from rdprune.measuring import measure
from rdprune.store import FILE, Store, StoreError, go_on, run_signature
from rdprune_core import FileFormatError, RDTable

LEVELS = 9
SCRIPT = """
import os, random, signal, sys, time, torch, rdprune
from torch import nn
torch.set_num_threads(1)

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(float(sys.argv[3]))
        return x

torch.manual_seed(0)
parts = nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 6), Slow()
model = nn.Sequential(*parts)
data = [torch.randn(5, 7, generator=torch.Generator().manual_seed(1))]

def run(store):
    return rdprune.measure(model, data, levels=9, store=store, progress=False)

dice = random.Random(7)
kills = int(sys.argv[4])
if kills:
    run(None)  # here, so that the forks find all modules imported
for _ in range(kills):
    child = os.fork()
    if child == 0:
        run(sys.argv[1])
        os._exit(0)
    time.sleep(dice.uniform(0, 0.12))  # all of the rows take longer than all of these
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
run(sys.argv[1]).save(sys.argv[2])
"""


def _same(one: RDTable, other: RDTable) -> None:
    """Assert that two tables are the same, bit for bit."""
    assert (one.names, one.options, one.metadata) == (other.names, other.options, other.metadata)
    for a, b in zip(
        one.distortion + one.responses, other.distortion + other.responses, strict=True
    ):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    for name, costs in one.costs.items():
        assert [c.tolist() for c in costs] == [c.tolist() for c in other.costs[name]]


def _rows(folder) -> int:
    database = sqlite3.connect(Path(folder) / FILE)
    try:
        return database.execute("SELECT count(*) FROM measurement").fetchone()[0]
    finally:
        database.close()


@pytest.fixture
def counted():
    """Return a forward function and the list of its calls."""
    calls = []

    def forward(model, batch):
        calls.append(1)
        return model(batch[0])

    return forward, calls


def test_nothing_is_measured_twice(network, batches, counted, tmp_path):
    """A second run on the folder gives the same table from one dense pass and one for the MACs.

    With prefix reuse there is one more, which is watched.
    """
    forward, calls = counted
    options = {"levels": LEVELS, "forward": forward, "progress": False}
    plain = measure(network, batches, reuse=False, **options)
    _same(measure(network, batches, store=tmp_path / "run", **options), plain)
    rows = _rows(tmp_path / "run")
    calls.clear()
    _same(measure(network, batches, store=tmp_path / "run", reuse=False, **options), plain)
    assert len(calls) == 2 * len(batches)
    calls.clear()
    _same(measure(network, batches, store=tmp_path / "run", **options), plain)
    assert len(calls) == 3 * len(batches)
    assert _rows(tmp_path / "run") == rows


def test_more_levels_measure_only_what_is_new(network, batches, counted, tmp_path):
    """Levels asked for later join those that are there: 15 of 30 weights kept is known already."""
    forward, calls = counted
    options = {"layers": "linear", "forward": forward, "progress": False, "reuse": False}
    measure(network, batches[:1], levels=[0.5, 1], store=tmp_path, **options)
    calls.clear()
    measure(network, batches[:1], levels=[0.1, 0.5, 0.9], store=tmp_path, **options)
    assert len(calls) == 2 + 2


def _errors(power):
    def errors(dense, output):
        return (dense - output).abs().pow(power).mean(dim=1)

    return errors


def _changed(what, model, batches):
    options = {"levels": 3, "progress": False}
    x, y = batches[0]
    if what == "weight":
        model.conv2.weight.data[0, 0, 0, 0] += 1e-6
    elif what == "bias":
        model.linear.bias.data[0] += 1e-6
    elif what == "buffer":
        model.bn1.running_mean[0] += 1e-6
    elif what == "code":
        model.bn1.eps = 1e-3
    elif what == "sample":
        batches = [(x + 1e-6, y), batches[1]]
    elif what == "label":
        batches = [(x, y.flip(0) + 1), batches[1]]
    elif what == "order":
        batches = batches[::-1]
    elif what == "fewer":
        batches = batches[:1]
    else:
        options |= {
            "distortion": {"distortion": "max"},
            "recovery": {"recovery": "batchnorm"},
            "responses": {"responses": 3},
            "seed": {"seed": 1},
            "forward": {"forward": lambda model, batch: model(batch[0])},
            "kind": {"distortion": "kl"},
        }[what]
    return batches, options


CHANGES = ["weight", "bias", "buffer", "code", "sample", "label", "order", "fewer"]
CHANGES += ["distortion", "recovery", "responses", "seed", "forward", "kind"]


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_never_served_old_rows(network, batches, tmp_path, what):
    """Whatever is changed, everything is measured anew, as without a store."""
    measure(network, batches, levels=3, store=tmp_path, progress=False)
    before = _rows(tmp_path)
    data, options = _changed(what, network, batches)
    _same(measure(network, data, store=tmp_path, **options), measure(network, data, **options))
    assert _rows(tmp_path) == 2 * before


def test_callables_are_told_apart(network, batches, tmp_path):
    """A distortion of the same name that computes something else is measured anew."""
    found = [
        measure(
            network, batches, levels=3, distortion=_errors(p), store=tmp_path, progress=False
        ).distortion
        for p in (2, 3)
    ]
    assert not np.array_equal(found[0][0], found[1][0])


def test_callables_that_see_no_size_are_told_apart(network, batches, tmp_path):
    """Nor does it matter that a distortion is the same for all outputs in one direction."""

    def make(k):
        def disagreement(dense, output):
            return (dense.topk(k, 1).indices != output.topk(k, 1).indices).any(1).double()

        return disagreement

    options = {"levels": 3, "progress": False}
    measure(network, batches, distortion=make(2), store=tmp_path, **options)
    found = measure(network, batches, distortion=make(1), store=tmp_path, **options)
    _same(found, measure(network, batches, distortion=make(1), **options))
    with Store(tmp_path) as store:
        assert store.execute("SELECT count(*) FROM run", ()) == [(2,)]


def test_a_callable_may_refuse_what_the_network_never_gives(tmp_path):
    """Outputs by which callables are told apart do not end a run."""

    def errors(dense, output):
        assert ((output >= 0) & (output <= 1)).all()
        return (output - dense).abs().mean(1)

    model = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
    options = {"levels": 40, "distortion": errors, "progress": False}
    x = [torch.randn(4, 3, generator=torch.Generator().manual_seed(0))]
    _same(measure(model, x, store=tmp_path, **options), measure(model, x, **options))


def test_signature_tells_modules_apart():
    """What a module prints of itself counts, but not where it is in memory."""

    class Odd(nn.Linear):
        def extra_repr(self):
            return f"{object()}"

    x = torch.ones(2, 3)
    weight = torch.ones(3, 3)

    def digest(*modules):
        model = nn.Sequential(*modules)
        model[0].weight.data, model[0].bias.data = weight, weight[0]
        return run_signature(model, [x], [x], None, {})

    tails = ([nn.ReLU()], [nn.ReLU6()], [nn.Hardtanh(0, 9)], [nn.Hardtanh(0, 8)], [])
    found = [digest(nn.Linear(3, 3), *tail) for tail in tails]
    found.append(digest(Odd(3, 3)))
    assert len(set(found)) == len(found)
    assert digest(Odd(3, 3)) == found[-1]


def test_signature_tells_structure_apart():
    """Tensors in other containers, keys or types are other data."""
    x = torch.zeros(2, 3)
    model = nn.Linear(3, 2)
    batches = [[x], [(x,)], [{"x": x}], [{"y": x}], [x, x], [x.reshape(3, 2)], [x.int()], ["x"]]
    batches += [[x.numpy()], [1], [True], [1.0], [None]]
    found = {run_signature(model, batch, [x], None, {}) for batch in batches}
    assert len(found) == len(batches)


VALUES = [0.1, 1e-310, 5e-324, 1.7976931348623157e308, -3.3, 0.0, 1 / 3]


@pytest.mark.parametrize("value", VALUES)
def test_numbers_come_back_exactly(tmp_path, value):
    """Distortion, response and errors keep every bit, subnormal ones and infinities too."""
    response = np.array([0.1, np.inf, 1e-45, -0.0], dtype=np.float32)
    errors = np.array([value, -0.0, np.nan])
    with Store(tmp_path) as store:
        store.shelf(b"r", {}, samples=3, size=4).put("a", "o", Measurement(value, response, errors))
    with Store(tmp_path) as store:
        shelf = store.shelf(b"r", {}, samples=3, size=4)
        found = shelf.get("a", "o")
        assert shelf.get("a", "p") is shelf.get("b", "o") is None
        assert store.shelf(b"s", {}, samples=3, size=4).get("a", "o") is None
    assert found.distortion.hex() == value.hex()
    assert found.response.tobytes() == response.tobytes()
    assert found.errors.tobytes() == errors.tobytes()


def test_the_first_row_stays(tmp_path):
    """A measurement that is there is not replaced."""
    with Store(tmp_path) as store:
        shelf = store.shelf(b"r", {}, samples=1, size=0)
        for value in (1.0, 2.0):
            shelf.put("a", "o", Measurement(value, None, np.zeros(1)))
        assert shelf.get("a", "o").distortion == 1.0


def _run(*arguments, sleep="0.002", kills=0):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments), sleep, str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the table of the script's run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert _run(folder / "run", folder / "t.npz", sleep="0").wait(timeout=120) == 0
    return RDTable.load(folder / "t.npz")


def test_killed_and_resumed(tmp_path, uninterrupted):
    """Killed at random numbers of rows, the run goes on and ends with the same table."""
    dice = random.Random(7)
    run, output = tmp_path / "run", tmp_path / "t.npz"
    reached = 0
    for _ in range(3):
        process = _run(run, output, sleep="0.05")
        goal = reached + dice.randint(1, 5)
        while process.poll() is None and not ((run / FILE).exists() and _count(run) >= goal):
            time.sleep(dice.uniform(0.001, 0.02))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        assert _rows(run) >= max(goal, reached)
        reached = _rows(run)
    assert reached < 24
    assert not output.exists()
    assert _run(run, output, sleep="0").wait(timeout=120) == 0
    _same(RDTable.load(output), uninterrupted)


def test_killed_twenty_times(tmp_path, uninterrupted):
    """Killed at 20 random moments, the opening of the file among them: the same table."""
    run, output = tmp_path / "run", tmp_path / "t.npz"
    assert _run(run, output, sleep="0.1", kills=20).wait(timeout=240) == 0
    _same(RDTable.load(output), uninterrupted)


def _count(run) -> int:
    try:
        return _rows(run)
    except sqlite3.OperationalError:  # the tables are being made
        return 0


def test_two_processes_on_one_folder(tmp_path, uninterrupted):
    """Two processes that start together both end with the table that one alone gives."""
    outputs = [tmp_path / "a.npz", tmp_path / "b.npz"]
    processes = [_run(tmp_path / "run", output, sleep="0.01") for output in outputs]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for output in outputs:
        _same(RDTable.load(output), uninterrupted)


def test_a_full_disk(network, batches, tmp_path, fingerprint, monkeypatch):
    """A full disk is an error of one line; what was measured before it is there afterwards."""
    execute = Store.execute

    def limited(self, statement, values):
        self._database.execute("PRAGMA max_page_count = 5")
        return execute(self, statement, values)

    before = fingerprint(network)
    plain = measure(network, batches, levels=LEVELS, progress=False)
    monkeypatch.setattr(Store, "execute", limited)
    with pytest.raises(StoreError, match="disk is full; what was measured is kept: make room"):
        measure(network, batches, levels=LEVELS, store=tmp_path, progress=False)
    monkeypatch.undo()
    assert fingerprint(network) == before
    assert 0 < _rows(tmp_path) < 3 * (LEVELS - 1)
    _same(measure(network, batches, levels=LEVELS, store=tmp_path, progress=False), plain)


def test_a_locked_file(tmp_path, monkeypatch):
    """A file that another process keeps locked is an error, not a hang; then all is there."""
    with Store(tmp_path) as store:
        store.shelf(b"r", {}, samples=1, size=0).put("a", "o", Measurement(1.0, None, np.zeros(1)))
    monkeypatch.setattr("rdprune.store.PATIENCE", 0.05)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Store(tmp_path) as store, pytest.raises(StoreError, match="locked; another process"):
        store.shelf(b"s", {}, samples=1, size=0)
    other.execute("ROLLBACK")
    other.close()
    with Store(tmp_path) as store:
        assert store.shelf(b"r", {}, samples=1, size=0).get("a", "o").distortion == 1.0


@pytest.mark.parametrize("damage", ["text", "zeros", "header", "middle"])
def test_a_damaged_file(tmp_path, damage):
    """A file that is none of ours, or was damaged, is refused by name and left as it is."""
    path = tmp_path / FILE
    with Store(tmp_path) as store:
        shelf = store.shelf(b"r", {}, samples=50, size=0)
        for i in range(200):
            shelf.put("layer", str(i), Measurement(1.0, None, np.full(50, 1.5)))
    raw = bytearray(path.read_bytes())
    if damage == "text":
        raw = bytearray(b"no database at all\n" * 500)
    elif damage == "zeros":
        raw[4096:] = bytes(len(raw) - 4096)
    elif damage == "header":
        raw[:16] = b"X" * 16
    else:
        raw = raw.replace(np.full(3, 1.5).tobytes(), np.full(3, 2.5).tobytes())
    path.write_bytes(raw)
    with pytest.raises(FileFormatError, match=r"measurements.sqlite is damaged"):
        _read_all(tmp_path)
    assert path.read_bytes() == raw


def _read_all(folder):
    with Store(folder) as store:
        shelf = store.shelf(b"r", {}, samples=50, size=0)
        return [shelf.get("layer", str(i)) for i in range(200)]


def test_a_file_of_another_program(tmp_path):
    """An SQLite file that somebody else made is refused and not written to."""
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("CREATE TABLE t (x)")
    database.close()
    with pytest.raises(FileFormatError, match="of another program"):
        Store(tmp_path)


def test_a_newer_version(tmp_path):
    """A file that a newer version made is refused."""
    Store(tmp_path).close()
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FileFormatError, match="version 99, this rdprune knows 1"):
        Store(tmp_path)


def test_a_folder_that_is_a_file(tmp_path):
    """A run folder that cannot be made is named, with the rule."""
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match="run' is a file, must be a folder"):
        Store(tmp_path / "run")


def test_how_to_go_on(tmp_path):
    """What a run that stops says is so."""
    assert "--store FOLDER" in go_on(None)
    assert "nothing was measured yet" in go_on(tmp_path / "run")
    Store(tmp_path / "run").close()
    assert "run the same command again" in go_on(tmp_path / "run")


def test_a_file_that_cannot_be_opened(tmp_path):
    """The error says what is needed, not to try again."""
    (tmp_path / "measurements.sqlite").mkdir()
    with pytest.raises(StoreError, match="must be able to write to it and to its folder"):
        Store(tmp_path)
