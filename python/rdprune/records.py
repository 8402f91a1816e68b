"""What a module returned, kept to be given again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass(frozen=True, slots=True)
class Record:
    """What a module returned."""

    leaves: tuple[Any, ...]
    spec: TreeSpec
    nbytes: int

    @staticmethod
    def of(output: Any, *, hollow: bool) -> Record:
        """Copy an output, or only its shapes."""
        leaves, spec = tree_flatten(output)
        copies = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        for key, tensor in copies.items():
            copies[key] = _hollow(tensor) if hollow else tensor.clone()
        nbytes = 0 if hollow else sum(tensor.nbytes for tensor in copies.values())
        return Record(tuple(copies.get(id(leaf), leaf) for leaf in leaves), spec, nbytes)

    def hollow(self) -> Record:
        """Return a record of the same shapes that holds no values."""
        return Record.of(self.tree(), hollow=True)

    def tree(self) -> Any:
        """Return what was recorded, itself."""
        return tree_unflatten(list(self.leaves), self.spec)

    def output(self, times: int = 1, rows: int = 1) -> Any:
        """Return a copy, because whoever gets it may write to it.

        It can be repeated: tensors with some rows for each of `rows` samples then have them
        `times` one after the other.
        """
        if self.nbytes == 0 and times == 1:
            return self.tree()
        copies = {
            id(leaf): torch.cat([leaf] * times)
            if times > 1 and leaf.ndim and len(leaf) % rows == 0
            else leaf.clone()
            for leaf in self.leaves
            if isinstance(leaf, Tensor)
        }
        return tree_unflatten([copies.get(id(leaf), leaf) for leaf in self.leaves], self.spec)


def _hollow(tensor: Tensor) -> Tensor:
    """NaN in the shape of a tensor: what nobody looks at needs no memory, or gives itself away."""
    nan = torch.full((), math.nan, dtype=tensor.dtype, device=tensor.device)
    return nan.expand(tensor.shape)
