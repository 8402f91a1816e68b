"""A sequence of allocations that are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from rdprune_core.allocation import Allocation


class LazyAllocations(Sequence[Allocation]):
    """What holds the choices of its allocations, and makes each of these once."""

    __slots__ = ()

    choices: NDArray[np.int64]
    _made: dict[int, Allocation]

    @abstractmethod
    def _make(self, index: int) -> Allocation:
        """Make the allocation at an index that is not negative."""

    @property
    def allocations(self) -> tuple[Allocation, ...]:
        """All of them."""
        return tuple(self)

    def __len__(self) -> int:
        return len(self.choices)

    @overload
    def __getitem__(self, place: int) -> Allocation: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Allocation, ...]: ...
    def __getitem__(self, place: int | slice) -> Allocation | tuple[Allocation, ...]:
        if isinstance(place, slice):
            return tuple(self[index] for index in range(len(self))[place])
        index = range(len(self))[place]
        if index not in self._made:
            self._made[index] = self._make(index)
        return self._made[index]
