"""The first look: an estimate of the whole table from a few backward passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from rdprune.batches import Forward, Runner, preserved, read
from rdprune.checking import check_seed, check_whole
from rdprune.distortion import Measurement
from rdprune.grid import check_layers, layer_macs
from rdprune.layers import prunable, signature
from rdprune.levels import read_levels
from rdprune.menu import menu
from rdprune.options import MASK
from rdprune.probing import first_order
from rdprune.progress import progress_bar
from rdprune.recovery import recovered
from rdprune.tabling import Findings
from rdprune_core import RDTable, __version__


def first_look(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    levels: int | str | Sequence[float] = 101,
    probes: int = 32,
    recovery: str = "none",
    ignore: str | Iterable[str] = (),
    layers: str | Iterable[str] | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RDTable:
    """Estimate the mean square error of every option of every layer to first order.

    Takes one forward and `probes` backward passes over the batches, whatever the number of layers
    and levels; see `rdprune.probing` for the formula. It says where the network is sensitive, and
    is good at low sparsities; high ones it underestimates, and removing all of a layer before
    BatchNorm it takes for harmless. The model is left exactly as it was.

    Parameters
    ----------
    model, batches, levels, recovery, ignore, layers, forward, seed, progress
        As for `measure`; of recoveries ``"none"`` and ``"batchnorm"``.
    probes : int
        Vectors of random signs, which are also the numbers in a response. The relative standard
        error of an estimate is ``sqrt(2 / probes)``.

    Returns
    -------
    RDTable
        As of `measure`, with responses; ``metadata["estimated"]`` says what it is.

    Raises
    ------
    ValueError
        As `measure`; also if the model is not differentiable.
    """
    chosen = read_levels(levels)
    check_whole("probes", probes, 1)
    check_seed(seed)
    if recovery not in ("none", "batchnorm"):
        raise ValueError(f"recovery is {recovery!r}, a first look takes none or batchnorm")
    found = prunable(model, ignore=ignore, layers=layers)
    check_layers(found)
    data = read(batches)
    options = menu(found, chosen, (), None).options
    kept = {name: [option.kept for option in row] for name, row in options.items()}
    with recovered(model, recovery), preserved(model):
        runner = Runner(model, data, forward, seed)
        macs = layer_macs(found, runner)
        with progress_bar(probes * len(data), progress) as meter:
            responses = first_order(found, kept, runner, probes=probes, seed=seed, meter=meter)
    metadata = {
        "model": signature(model),
        "distortion": "mse",
        "estimated": f"to first order, from {probes} probes",
        "recovery": recovery,
        "seed": seed,
        "projection": probes,
        "rdprune": __version__,
        "shapes": {name: list(layer.parameter.shape) for name, layer in found.items()},
        "mask": MASK,
    }
    findings = Findings(found, options, macs, metadata)
    for name, rows in responses.items():
        squares = np.square(rows, dtype=np.float64).mean(axis=1)
        if not np.isfinite(squares).all():
            raise ValueError(f"the gradient of layer {name!r} is not finite")
        findings.measured[name] = {
            at: Measurement(float(square), row)
            for at, (square, row) in enumerate(zip(squares, rows, strict=True))
        }
    return findings.table()
