"""Measure, prune and verify PyTorch models: the torch layer of rdprune-core."""

from __future__ import annotations

from rdprune import baselines as baselines
from rdprune.compare import CompareRow as CompareRow
from rdprune.compare import compare as compare
from rdprune.layers import Prunable as Prunable
from rdprune.layers import prunable as prunable
from rdprune.masking import apply_ as apply_
from rdprune.masking import load_masks as load_masks
from rdprune.masking import masks as masks
from rdprune.masking import save_masks as save_masks
from rdprune.masking import strip_ as strip_
from rdprune.measure import measure as measure
from rdprune.recovery import repair_ as repair_
from rdprune.verify import CountMismatchError as CountMismatchError
from rdprune.verify import VerifyReport as VerifyReport
from rdprune.verify import verify as verify
from rdprune_core import __version__ as __version__
