import numpy as np
from numpy.typing import NDArray

__version__: str
MAX_TOTAL_COST: int

class InfeasibleBudget(ValueError): ...

class Solution:
    @property
    def choice(self) -> NDArray[np.int64]: ...
    @property
    def optimal(self) -> bool: ...
    @property
    def lower_bound(self) -> float: ...
    @property
    def multipliers(self) -> list[float]: ...
    @property
    def states(self) -> int: ...

def solve(
    costs: NDArray[np.int64],
    distortions: NDArray[np.float64],
    offsets: NDArray[np.int64],
    allowed: NDArray[np.uint8],
    groups: NDArray[np.int64],
    budgets: NDArray[np.int64],
    *,
    time_limit: float,
    memory_limit: int,
) -> list[Solution]: ...
