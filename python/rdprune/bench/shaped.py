"""2:4 in every layer beside what one table of single weights and 2:4 chooses, in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.table import Table

from rdprune import report
from rdprune.commands.options import Json
from rdprune.console import check_folders, emit

PATTERN: Final = "2:4"
STEPS: Final = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One allocation.

    Attributes
    ----------
    what : str
    bytes, dense : int
        Of all layers, by `rdprune.storage`; and of the dense layers.
    weights : int
        Kept.
    patterned : int
        Layers with 2:4.
    predicted, true, heldout : float
        Distortion: by the table, of the network on the calibration and on other batches.
    top1 : float
        On the other batches.
    """

    what: str
    bytes: int
    dense: int
    weights: int
    patterned: int
    predicted: float
    true: float
    heldout: float
    top1: float


def run(network: str, *, images: int, test: int, levels: int, recovery: str) -> list[Row]:
    """Measure both kinds of options and compare at equal bytes and at equal true distortion.

    The third and fourth rows have the fewest bytes, found by bisection, whose distortion *on the
    network* is not above that of 2:4 everywhere: with both kinds of options, and with single
    weights alone.
    """
    import rdprune
    from rdprune.bench.recovery import load
    from rdprune.storage import with_bytes
    from rdprune_core import Allocation, allocate

    model, calibration, heldout = load(network, images, test)
    measured = rdprune.measure(
        model, calibration, levels=levels, shapes=[PATTERN], recovery=recovery
    )
    table = with_bytes(measured, model)
    single = _without(table, PATTERN)
    everywhere = Allocation.from_choice(
        table, np.array([row.index(PATTERN) for row in table.options])
    )

    def row(what: str, allocation: Any) -> Row:
        inside = rdprune.verify(model, calibration, allocation)
        outside = rdprune.verify(model, heldout, allocation)
        return Row(
            what,
            allocation.cost["bytes"],
            int(table.dense["bytes"].sum()),
            allocation.cost["params"],
            allocation.options.count(PATTERN),
            allocation.distortion,
            inside.true,
            outside.true,
            _top1(model, heldout, allocation, recovery, calibration),
        )

    def fewest(options: Any, limit: float) -> Any:
        low, high = 0, int(everywhere.cost["bytes"])
        found = allocate(options, {"bytes": high})
        for _ in range(STEPS):
            middle = (low + high) // 2
            tried = allocate(options, {"bytes": middle})
            if rdprune.verify(model, calibration, tried).true <= limit:
                found, high = tried, int(tried.cost["bytes"])
            else:
                low = middle + 1
            if low >= high:
                break
        return found

    first = row("2:4 everywhere", everywhere)
    return [
        first,
        row("both, same bytes", allocate(table, {"bytes": everywhere.cost["bytes"]})),
        row("both, same distortion", fewest(table, first.true)),
        row("single weights, same distortion", fewest(single, first.true)),
    ]


def _without(table: Any, label: str) -> Any:
    from rdprune_core import RDTable

    kept = [[i for i, option in enumerate(row) if option != label] for row in table.options]
    return RDTable.from_arrays(
        {
            name: [costs[at] for costs, at in zip(rows, kept, strict=True)]
            for name, rows in table.costs.items()
        },
        [row[at] for row, at in zip(table.distortion, kept, strict=True)],
        names=table.names,
        options=[[row[i] for i in at] for row, at in zip(table.options, kept, strict=True)],
        dense=table.dense,
        metadata=table.metadata,
    )


def _top1(model: Any, heldout: Any, allocation: Any, recovery: str, calibration: Any) -> float:
    import copy

    import torch

    import rdprune

    pruned = rdprune.apply_(copy.deepcopy(model), allocation)
    if recovery != "none":
        rdprune.repair_(pruned, calibration, recovery=recovery)
    pruned.eval()
    with torch.no_grad():
        right = sum(int((pruned(x).argmax(1) == y).sum()) for x, y in heldout)
    return right / sum(len(y) for _, y in heldout)


def show(network: str, rows: Sequence[Row]) -> Table:
    """Return one row an allocation."""
    grid = report.new_grid(
        network, "bytes", "of dense", "weights", "2:4 layers",
        "predicted", "true", "held out", "top-1",
    )  # fmt: skip
    for row in rows:
        grid.add_row(
            row.what, f"{row.bytes:,}", report.share(row.bytes / row.dense), f"{row.weights:,}",
            str(row.patterned), report.number(row.predicted), report.number(row.true),
            report.number(row.heldout), report.share(row.top1),
        )  # fmt: skip
    grid.caption = "bytes: values and 2 bits each (2:4), or values and a bitmask (single weights)"
    return grid


def shapes(
    network: Annotated[
        str, typer.Option(help="mnist; or, with RDPRUNE_DATA, resnet20, resnet32, resnet56.")
    ] = "mnist",
    images: Annotated[int, typer.Option(min=1, help="Calibration pictures.")] = 128,
    test: Annotated[int, typer.Option(min=1, help="Test pictures.")] = 1000,
    levels: Annotated[int, typer.Option(min=2, help="Sparsities of every layer.")] = 21,
    recovery: Annotated[str, typer.Option(help="State measured, and repair.")] = "batchnorm",
    json: Json = None,
) -> None:
    """Compare 2:4 everywhere with a table of 2:4 and single weights, in bytes and distortion."""
    from dataclasses import asdict

    check_folders(json)
    rows = run(network, images=images, test=test, levels=levels, recovery=recovery)
    payload = {"network": network, "rows": [asdict(row) for row in rows]}
    emit(json, payload, lambda out: out.print(show(network, rows)))
