"""Exact compression budgets for the layers of a network.

>>> from rdprune_core import RDTable, allocate
>>> table = RDTable.from_arrays([[10, 5, 0], [20, 10, 0]], [[0, 1, 9], [0, 2, 8]])
>>> allocate(table, sparsity=0.5).options
('1', '1')
"""

from __future__ import annotations

try:
    from rdprune_core import _core
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "the compiled core of rdprune-core is missing. Did you compile it? Install the project "
        "with `pip install .`, and do not import it from its source folder."
    ) from error

from rdprune_core.allocation import Allocation as Allocation
from rdprune_core.batch import Allocations as Allocations
from rdprune_core.batch import allocate_many as allocate_many
from rdprune_core.curve import Frontier as Frontier
from rdprune_core.errors import FileFormatError as FileFormatError
from rdprune_core.errors import InfeasibleBudgetError as InfeasibleBudgetError
from rdprune_core.joint import predictions as predictions
from rdprune_core.near import NearOptimal as NearOptimal
from rdprune_core.near import near_optimal as near_optimal
from rdprune_core.solve import allocate as allocate
from rdprune_core.solve import frontier as frontier
from rdprune_core.table import RDTable as RDTable

__version__: str = _core.__version__
