"""Files: what is saved comes back, damage is found, and a failed write leaves nothing behind."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdprune_core import Allocation, FileFormatError, RDTable, allocate
from rdprune_core.files import atomic_write, remove_left_over


def make_table(responses: bool, errors: bool = False) -> RDTable:
    rng = np.random.default_rng(0)
    sizes = [4, 1, 3]
    return RDTable.from_arrays(
        {
            "params": [rng.integers(0, 10**12, size) for size in sizes],
            "Größe": [rng.integers(0, 9, size) for size in sizes],
        },
        [rng.standard_normal(size) for size in sizes],
        names=["stem.weight", "層", "fc.weight"],
        options=[["0", "½", "2:4", "none"], ["dense"], ["a", "b", "c"]],
        responses=[rng.standard_normal((size, 5)) for size in sizes] if responses else None,
        offset=rng.standard_normal(5) if responses and errors else None,
        errors=[rng.standard_normal((size, 6)) for size in sizes] if errors else None,
        dense={"params": [10**13, 5, 7]},
        metadata={"seed": 3, "shapes": {"層": [2, 2]}, "none": None},
    )


def same_table(a: RDTable, b: RDTable) -> bool:
    return (
        (a.names, a.options, a.metadata) == (b.names, b.options, b.metadata)
        and list(a.costs) == list(b.costs)
        and a.offsets.tolist() == b.offsets.tolist()
        and a.flat_distortion.tobytes() == b.flat_distortion.tobytes()
        and all(a.flat_cost(key).tolist() == b.flat_cost(key).tolist() for key in a.costs)
        and all(a.dense[key].tolist() == b.dense[key].tolist() for key in a.costs)
        and (a.responses is None) == (b.responses is None)
        and all(
            x.dtype == y.dtype == np.float32 and x.tobytes() == y.tobytes()
            for x, y in zip(a.responses or (), b.responses or (), strict=True)
        )
        and (a.offset is None) == (b.offset is None)
        and (a.offset is None or a.offset.tobytes() == b.offset.tobytes())  # type: ignore[union-attr]
        and (a.errors is None) == (b.errors is None)
        and all(
            x.dtype == y.dtype == np.float64 and x.tobytes() == y.tobytes()
            for x, y in zip(a.errors or (), b.errors or (), strict=True)
        )
    )


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize("responses", [False, True])
def test_a_table_comes_back_as_it_was(tmp_path: Path, responses: bool, errors: bool) -> None:
    """Every number, name and label of a table survives the file, bit for bit."""
    table = make_table(responses, errors)
    for path in (tmp_path / "table.npz", str(tmp_path / "other")):
        table.save(path)
        assert same_table(RDTable.load(path), table)


@pytest.mark.parametrize("status", ["optimal", "feasible"])
def test_an_allocation_comes_back_as_it_was(tmp_path: Path, status: str) -> None:
    """Every field of an allocation survives the file, an infinite bound too."""
    table = make_table(False)
    allocation = Allocation.from_choice(
        table, [3, 0, 1], budget={"params": 10**13}, status=status, multipliers={"params": 1e-9}
    )
    path = tmp_path / "allocation.json"
    allocation.save(path)
    again = Allocation.load(path)
    assert again.to_dict() == allocation.to_dict()
    assert again.lower_bound == allocation.lower_bound
    for field in ("names", "options", "dense", "budget", "multipliers", "metadata", "cost"):
        assert getattr(again, field) == getattr(allocation, field)
    assert again.choice.tolist() == allocation.choice.tolist()
    assert again.choice.dtype == np.int64


def test_an_allocation_stopped_early_comes_back_with_its_gap(tmp_path: Path) -> None:
    """The bound and the gap of a feasible allocation are read back exactly."""
    rng = np.random.default_rng(5)
    cost = np.column_stack([rng.integers(10**11, 10**12, 40), np.zeros(40, np.int64)])
    distortion = np.column_stack([np.zeros(40), cost[:, 0] * (1 + 1e-9 * rng.random(40))])
    table = RDTable.from_arrays(cost, distortion)
    allocation = allocate(table, int(cost.sum() // 2), memory_limit=0)
    assert allocation.status == "feasible"
    allocation.save(tmp_path / "a.json")
    again = Allocation.load(tmp_path / "a.json")
    assert (again.gap, again.lower_bound) == (allocation.gap, allocation.lower_bound)
    assert 0 < again.gap < math.inf


ALLOCATION = allocate(make_table(False), {"params": "30%", "Größe": "60%"})
Saver = Callable[[Path], None]
KINDS: dict[str, tuple[Saver, Callable[[Path], Any], Callable[[Any], bool]]] = {
    "table": (
        make_table(False).save,
        RDTable.load,
        lambda found: same_table(found, make_table(False)),
    ),
    "table with responses": (
        make_table(True).save,
        RDTable.load,
        lambda found: same_table(found, make_table(True)),
    ),
    "allocation": (
        ALLOCATION.save,
        Allocation.load,
        lambda found: found.to_dict() == ALLOCATION.to_dict(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    """Cut at any place, a file raises FileFormatError, whose message names the file."""
    save, load, _ = KINDS[kind]
    path = tmp_path / "file"
    save(path)
    whole = path.read_bytes()
    # The last byte of the JSON text is only its newline.
    for length in [*range(0, len(whole) - 2, max(1, len(whole) // 100)), len(whole) - 2]:
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=str(path)):
            load(path)


@pytest.mark.parametrize("how", ["bit", "byte", "gap"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_or_harmless(tmp_path: Path, kind: str, how: str) -> None:
    """With a bit flipped, a byte changed or some lost, loading raises FileFormatError and nothing
    else, or gives the very numbers that were saved.
    """
    save, load, is_whole = KINDS[kind]
    path = tmp_path / "file"
    save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = int(rng.integers(len(whole)))
        if how == "bit":
            damaged[place] ^= 1 << int(rng.integers(8))
        elif how == "byte":
            damaged[place] = int(rng.integers(256))
        else:
            del damaged[place : place + int(rng.integers(1, 9))]
        path.write_bytes(damaged)
        try:
            found = load(path)
        except FileFormatError:
            refused += 1
        else:
            assert is_whole(found), (place, damaged[place : place + 8])
    assert refused >= 30


@pytest.mark.parametrize("load", [RDTable.load, Allocation.load])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 100, b"null", b"[]", b"{}", b'"text"', b"3", b"NaN", b"PK\x03\x04",
        b"PK\x05\x06", b"\x93NUMPY\x01\x00", b'{"format": "rdprune-masks"}', b"[" * 100_000,
        b"\xff\xfe\xfd", b'{"format": "rdprune-allocation"}', b"SQLite format 3\0",
    ],
)  # fmt: skip
def test_another_kind_of_file_is_refused(
    tmp_path: Path, load: Callable[[Path], object], content: bytes
) -> None:
    """A file that is something else raises FileFormatError."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        load(path)


def test_each_others_files_are_refused(tmp_path: Path) -> None:
    """A table is no allocation, an allocation no table."""
    table = make_table(False)
    table.save(tmp_path / "table.npz")
    Allocation.from_choice(table, [0, 0, 0]).save(tmp_path / "a.json")
    with pytest.raises(FileFormatError, match="not an allocation of rdprune"):
        Allocation.load(tmp_path / "table.npz")
    with pytest.raises(FileFormatError, match="not a table of rdprune"):
        RDTable.load(tmp_path / "a.json")


@pytest.mark.parametrize("load", [RDTable.load, Allocation.load])
def test_a_missing_file_is_called_missing(tmp_path: Path, load: Callable[[Path], object]) -> None:
    """No file is a FileNotFoundError, a folder an OSError, as with open()."""
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def rewrite(path: Path, **changes: Any) -> None:
    """Save the table of `path` again with some members replaced, or dropped if None."""
    with np.load(path) as file:
        members = {key: file[key] for key in file.files}
    members.update(changes)
    with path.open("wb") as stream:
        np.savez(stream, **{k: v for k, v in members.items() if v is not None})  # type: ignore[arg-type]


def header(path: Path, **changes: Any) -> np.ndarray[Any, Any]:
    with np.load(path) as file:
        values = json.loads(file["header"].tobytes())
    return np.frombuffer(json.dumps({**values, **changes}).encode(), np.uint8)


def test_a_newer_table_is_refused(tmp_path: Path) -> None:
    """A later format version asks for an upgrade instead of guessing."""
    path = tmp_path / "table.npz"
    make_table(True).save(path)
    rewrite(path, header=header(path, version=2))
    with pytest.raises(FileFormatError, match=r"version 2 is newer than .* upgrade rdprune-core"):
        RDTable.load(path)


def test_a_pickle_in_a_table_is_refused(tmp_path: Path) -> None:
    """An .npz with a pickled array is refused, and its pickle does not run."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "table.npz"
    make_table(False).save(path)
    rewrite(path, extra=np.array([Trap()], object))
    with pytest.raises(FileFormatError, match="pickle"):
        RDTable.load(path)
    assert not (tmp_path / "ran").exists()


WRONG_MEMBERS: dict[str, dict[str, Any]] = {
    "no header": {"header": None},
    "no distortion": {"distortion": None},
    "no offsets": {"offsets": None},
    "no cost": {"cost1": None},
    "no dense": {"dense0": None},
    "short distortion": {"distortion": np.zeros(7)},
    "float offsets": {"offsets": np.array([0.0, 4, 5, 8])},
    "offsets that fall": {"offsets": np.array([0, 5, 4, 8])},
    "fewer offsets": {"offsets": np.array([0, 4, 8])},
    "fractional costs": {"cost0": np.full(8, 0.5)},
    "negative costs": {"cost0": np.full(8, -1)},
    "nan": {"distortion": np.full(8, np.nan)},
    "header of numbers": {"header": np.arange(4)},
    "header of text": {"header": np.frombuffer(b"[1, 2]", np.uint8)},
    "flat responses": {"responses": np.zeros(8)},
    "responses of fewer options": {"responses": np.zeros((7, 5))},
}


@pytest.mark.parametrize("changes", WRONG_MEMBERS.values(), ids=WRONG_MEMBERS)
def test_a_table_with_wrong_members_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the checksums cannot find, because it was written so, the table's checks find."""
    path = tmp_path / "table.npz"
    make_table(True).save(path)
    rewrite(path, **changes)
    with pytest.raises(FileFormatError):
        RDTable.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"}, {"version": None}, {"names": "ab"}, {"names": ["a", "a", "b"]},
        {"names": [1, 2, 3]}, {"options": 3}, {"costs": ["params"] * 3}, {"costs": 3},
        {"metadata": 3}, {"format": "rdprune-masks"},
    ],
)  # fmt: skip
def test_a_table_with_a_wrong_header_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """So are headers of the wrong types."""
    path = tmp_path / "table.npz"
    make_table(False).save(path)
    rewrite(path, header=header(path, **changes))
    with pytest.raises(FileFormatError):
        RDTable.load(path)


def test_an_encrypted_table_is_refused(tmp_path: Path) -> None:
    """The flag that a zip member is encrypted, which zipfile answers with a RuntimeError."""
    path = tmp_path / "table.npz"
    make_table(False).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="encrypted"):
        RDTable.load(path)


def test_a_checksum_is_read_before_the_array_is_made(tmp_path: Path) -> None:
    """A flip in an array's shape is damage, not a request for petabytes of memory."""
    path = tmp_path / "table.npz"
    make_table(False).save(path)
    data = path.read_bytes()
    shape = b"'shape': (8,), "
    assert data.count(shape) == 3
    path.write_bytes(data.replace(shape, b"'shape':(9**8,)"[: len(shape)]))
    with pytest.raises(FileFormatError):
        RDTable.load(path)
    path.write_bytes(data.replace(shape, b"'shape':(9" + b"9" * 3 + b",),"))
    with pytest.raises(FileFormatError, match="is damaged"):
        RDTable.load(path)


def test_a_table_holds_no_pickle_and_no_stray_members(tmp_path: Path) -> None:
    """The file is a zip of plain arrays, without objects."""
    path = tmp_path / "table.npz"
    make_table(True).save(path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == [
            "cost0.npy", "cost1.npy", "dense0.npy", "dense1.npy", "distortion.npy", "header.npy",
            "offsets.npy", "responses.npy",
        ]  # fmt: skip
    with np.load(path, allow_pickle=False) as file:
        assert all(file[key].dtype.kind in "uif" for key in file.files)


WRONG_VALUES: list[tuple[dict[str, Any], str | None]] = [
    ({"version": 2}, r"version 2 is newer than this program's 1; upgrade rdprune-core"),
    ({"format": "rdprune-table"}, r"not an allocation of rdprune"),
    ({"status": "best"}, r"status is 'best'"),
    ({"cost": {"params": 2}}, r"do not add up to the stated totals"),
    ({"cost": {}}, r"at least one cost"),
    ({"cost": {"macs": 1}}, r"'macs'"),
    ({"dense": {"params": 3.5}}, r"3\.5 stands where an integer must"),
    ({"dense": {"params": "3"}}, r"'3' stands where an integer must"),
    ({"dense": {"params": True}}, r"True stands where an integer must"),
    ({"budget": {"params": 1.0}}, r"1\.0 stands where an integer must"),
    ({"budget": {"macs": 1}}, r"must name costs"),
    ({"distortion": "1"}, r"'1' stands where a number must"),
    ({"distortion": math.nan}, r"must be numbers"),
    ({"lower_bound": math.nan}, r"must be numbers"),
    ({"multipliers": {"params": "0"}}, r"'0' stands where a number must"),
    ({"objective": 3}, r"3 stands where a string must"),
    ({"layers": {}}, None),
    ({"layers": [3]}, None),
    ({"layers": None}, None),
    ({"metadata": 3}, None),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_VALUES)
def test_an_allocation_with_wrong_values_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str | None
) -> None:
    """Values of the wrong type, and totals that contradict each other, are damage."""
    path = tmp_path / "a.json"
    allocate(RDTable.from_arrays([[3, 1, 0]], [[0, 1, 5]]), 1).save(path)
    data = json.loads(path.read_text())
    del data["crc32"]
    path.write_text(json.dumps({**data, **changes}))
    with pytest.raises(FileFormatError, match=message):
        Allocation.load(path)


@pytest.mark.parametrize(
    "layer",
    [
        {"choice": 1.0}, {"choice": True}, {"choice": -1}, {"choice": 2**63}, {"name": 3},
        {"option": None}, {"cost": {"params": 2}}, {"cost": {}}, {"cost": {"params": 1.0}},
        {"cost": {"params": -1}}, {"cost": {"params": 2**64}},
    ],
)  # fmt: skip
def test_an_allocation_with_a_wrong_layer_is_refused(tmp_path: Path, layer: dict[str, Any]) -> None:
    """So are wrong values within a layer."""
    path = tmp_path / "a.json"
    allocate(RDTable.from_arrays([[3, 1, 0]], [[0, 1, 5]]), 1).save(path)
    data = json.loads(path.read_text())
    del data["crc32"]
    data["layers"][0].update(layer)
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError):
        Allocation.load(path)


def test_an_edited_allocation_needs_its_checksum_removed(tmp_path: Path) -> None:
    """A changed choice is found; whoever changed it on purpose is told what to do."""
    path = tmp_path / "a.json"
    allocate(RDTable.from_arrays([[3, 3, 0]], [[0, 1, 5]]), 3).save(path)
    data = json.loads(path.read_text())
    data["layers"][0].update(choice=1, option="1")
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match=r"edited; to load .* yourself, remove its crc32"):
        Allocation.load(path)
    del data["crc32"]
    path.write_text(json.dumps(data))
    assert Allocation.load(path).choice.tolist() == [1]


def test_an_allocation_may_be_laid_out_anew(tmp_path: Path) -> None:
    """Other white space and another order of keys are not damage."""
    path = tmp_path / "a.json"
    ALLOCATION.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, ensure_ascii=False))
    assert Allocation.load(path).choice.tolist() == ALLOCATION.choice.tolist()


def test_lost_responses_are_missed(tmp_path: Path) -> None:
    """A table whose last member fell out of the zip's list is not one without responses."""
    # One byte does it: the length of the entry before, which then swallows the last one.
    path = tmp_path / "table.npz"
    make_table(True).save(path)
    rewrite(path, responses=None)
    with pytest.raises(FileFormatError, match="the responses are missing"):
        RDTable.load(path)


def test_lost_errors_are_missed_and_older_files_have_none(tmp_path: Path) -> None:
    """A table that lost its errors is damaged; one written before there were any is not."""
    path = tmp_path / "table.npz"
    make_table(False, errors=True).save(path)
    rewrite(path, errors=None)
    with pytest.raises(FileFormatError, match="the errors are missing"):
        RDTable.load(path)
    make_table(False).save(path)
    with np.load(path) as members:
        old = json.loads(members["header"].tobytes())
    del old["errors"]
    rewrite(path, header=np.frombuffer(json.dumps(old).encode(), np.uint8))
    assert same_table(RDTable.load(path), make_table(False))


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, existing: bool) -> None:
    """When writing raises, even by KeyboardInterrupt, the folder is as it was before."""
    path = tmp_path / "file"
    if existing:
        path.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            write_half(path, error)
        assert list(tmp_path.iterdir()) == ([path] if existing else [])
        assert not existing or path.read_text() == "old"


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    """The system's error names no file."""
    path = tmp_path / "file"
    with pytest.raises(OSError, match=r"No space left on device: '.*file'"), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_save_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that cannot be written, as on a full disk, does not harm the one that is there."""
    path = tmp_path / "table.npz"
    make_table(False).save(path)
    old = path.read_bytes()

    def full_disk(file: Any, **_: Any) -> None:
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make_table(True).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_an_allocation_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    """An infinite number in the metadata is refused before anything is written."""
    path = tmp_path / "a.json"
    allocation = allocate(make_table(False), "100%")
    allocation.save(path)
    old = path.read_bytes()
    allocation.metadata["loss"] = math.inf
    with pytest.raises(ValueError, match="JSON"):
        allocation.save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_no_folder_or_onto_a_folder(tmp_path: Path) -> None:
    """A missing folder is a FileNotFoundError; a folder is not replaced; neither leaves litter."""
    table = make_table(False)
    with pytest.raises(FileNotFoundError):
        table.save(tmp_path / "no" / "table.npz")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - its kind differs between systems
        table.save(folder)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """The temporary file's narrow permissions do not stay."""
    allocate(make_table(False), "100%").save(tmp_path / "a.json")
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_the_same_allocation_is_the_same_file(tmp_path: Path) -> None:
    """Saving twice writes the same bytes, so that files can be compared and versioned."""
    for name in ("a", "b"):
        allocate(make_table(False), "50%").save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_symbolic_link_stays(tmp_path):
    """Writing to a link writes the file that it leads to, whole, and leaves the link."""
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


def test_a_pipe_is_written_to_and_stays(tmp_path):
    """What is no plain file gets the bytes, and is not replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic_write(pipe) as temporary:
            temporary.write_text("new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_what_a_kill_left_is_removed_later(tmp_path):
    folder = tmp_path / "round-001"
    folder.mkdir()
    old, new, ours = folder / ".a.npz.x1.part", folder / ".b.npz.x2.part", folder / "a.npz"
    for path in (old, new, ours):
        path.touch()
    for path in (old, ours):
        os.utime(path, (0, 0))
    remove_left_over(tmp_path)
    assert sorted(folder.iterdir()) == [new, ours]
