"""What the weights of each option take on disk, as a cost of the table: ``bytes``."""

from __future__ import annotations

import numpy as np
from torch import nn

from rdprune.layers import Prunable
from rdprune.magnitude import label_level
from rdprune.options import MASK
from rdprune.shapes import Shape, geometry, parse_shape
from rdprune.trial import same_layers
from rdprune_core import RDTable


def with_bytes(table: RDTable, model: nn.Module) -> RDTable:
    """Add the cost ``bytes``: the values kept, and what says where they are, rounded up a layer.

    ==================  =============================================================
    option              besides the values
    ==================  =============================================================
    dense               nothing
    single weights      a bitmask: one bit for each weight, kept or not
    N:M                 the position of each value in its group: ceil(log2 M) bits, so 2 for 2:4
    blocks, channels    one bit for each block or channel
    ==================  =============================================================

    A layer of which nothing is left takes no bytes. No entropy coding; a value takes what the
    parameter's type takes. At half of the weights, single weights and 2:4 take the same.

    Parameters
    ----------
    table : RDTable
        What `measure` returned.
    model : torch.nn.Module
        The model that was measured.

    Returns
    -------
    RDTable
        With the costs, distortions, responses and errors of the table, and ``bytes``.

    Raises
    ------
    ValueError
        If the table is of another model or has the cost already.
    """
    if "bytes" in table.costs:
        raise ValueError("table has a cost 'bytes' already")
    layers = same_layers(model, table)
    labelled = table.metadata.get("mask", MASK) != MASK
    rows, dense = [], []
    for at, layer in enumerate(layers.values()):
        kept = table.costs["params"][at].tolist()
        shapes = [
            parse_shape(label) if labelled else Shape("weights", level=label_level(label))
            for label in table.options[at]
        ]
        rows.append([taken(layer, shape, n) for shape, n in zip(shapes, kept, strict=True)])
        dense.append(layer.parameter.numel() * layer.parameter.element_size())
    return RDTable.from_arrays(
        {**table.costs, "bytes": [np.array(row, np.int64) for row in rows]},
        table.distortion,
        names=table.names,
        options=table.options,
        responses=table.responses,
        errors=table.errors,
        dense={**table.dense, "bytes": np.array(dense, np.int64)},
        metadata=table.metadata,
    )


def taken(layer: Prunable, shape: Shape, kept: int) -> int:
    """Bytes of a layer's option that keeps so many weights; see `with_bytes`."""
    weight = layer.parameter
    if kept in (0, weight.numel()):
        return kept * weight.element_size()
    groups, outputs, inputs, positions = geometry(layer).view(weight).shape
    if shape.kind == "weights":
        bits = weight.numel()
    elif shape.kind == "n:m":
        bits = kept * (shape.second - 1).bit_length()
    elif shape.kind == "blocks":
        across = -(-outputs // shape.first) * -(-inputs // shape.second)
        bits = groups * positions * across
    else:
        bits = groups * (outputs if shape.kind == "out" else inputs)
    return kept * weight.element_size() + -(-bits // 8)
