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
def solve_batch(
    costs: NDArray[np.int64],
    distortions: NDArray[np.float64],
    offsets: NDArray[np.int64],
    allowed: NDArray[np.uint8],
    groups: NDArray[np.int64],
    budget: NDArray[np.int64],
    *,
    threads: int,
    time_limit: float,
    memory_limit: int,
) -> list[Solution]: ...

class NearSolution:
    @property
    def choices(self) -> NDArray[np.int64]: ...
    @property
    def optimal(self) -> bool: ...
    @property
    def best_optimal(self) -> bool: ...
    @property
    def multiplier(self) -> float: ...
    @property
    def complete(self) -> bool: ...
    @property
    def lower_bound(self) -> float: ...

def solve_near(
    costs: NDArray[np.int64],
    distortions: NDArray[np.float64],
    offsets: NDArray[np.int64],
    allowed: NDArray[np.uint8],
    groups: NDArray[np.int64],
    budget: int,
    *,
    k: int,
    relative: float,
    absolute: float,
    time_limit: float,
    memory_limit: int,
) -> NearSolution: ...

class JointSolution:
    @property
    def choice(self) -> NDArray[np.int64]: ...
    @property
    def distortion(self) -> float: ...
    @property
    def optimal(self) -> bool: ...
    @property
    def lower_bound(self) -> float: ...
    @property
    def multipliers(self) -> list[float]: ...
    @property
    def states(self) -> int: ...

def solve_joint(
    costs: NDArray[np.int64],
    distortions: NDArray[np.float64],
    responses: NDArray[np.float32],
    offset: NDArray[np.float64],
    offsets: NDArray[np.int64],
    allowed: NDArray[np.uint8],
    groups: NDArray[np.int64],
    budget: NDArray[np.int64],
    *,
    time_limit: float,
    memory_limit: int,
) -> JointSolution: ...
def search_joint(
    costs: NDArray[np.int64],
    distortions: NDArray[np.float64],
    responses: NDArray[np.float32],
    offset: NDArray[np.float64],
    offsets: NDArray[np.int64],
    allowed: NDArray[np.uint8],
    groups: NDArray[np.int64],
    budget: NDArray[np.int64],
    *,
    time_limit: float,
    memory_limit: int,
    effort: int = 1,
) -> JointSolution: ...
def solve_joint_exact(
    costs: NDArray[np.int64],
    distortions: NDArray[np.float64],
    responses: NDArray[np.float32],
    offset: NDArray[np.float64],
    offsets: NDArray[np.int64],
    allowed: NDArray[np.uint8],
    groups: NDArray[np.int64],
    budget: NDArray[np.int64],
    *,
    time_limit: float,
    memory_limit: int,
) -> JointSolution: ...
