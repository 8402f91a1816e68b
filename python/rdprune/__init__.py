"""Measure, prune and verify PyTorch models: the torch layer of rdprune-core.

Names are imported when they are first used, so that the commands that need no network
(`rdprune allocate`, `rdprune frontier`) start without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rdprune_core import __version__ as __version__

if TYPE_CHECKING:
    from rdprune import baselines as baselines
    from rdprune.allocators import allocate_by as allocate_by
    from rdprune.blending import blended as blended
    from rdprune.compared import features as features
    from rdprune.comparing import CompareRow as CompareRow
    from rdprune.comparing import compare as compare
    from rdprune.hooks import lightning_callback as lightning_callback
    from rdprune.hooks import transformers_callback as transformers_callback
    from rdprune.keeping import MaskKeeper as MaskKeeper
    from rdprune.keeping import SparsityLostError as SparsityLostError
    from rdprune.keeping import verify_sparsity_ as verify_sparsity_
    from rdprune.keeping import zero_masks as zero_masks
    from rdprune.layers import Prunable as Prunable
    from rdprune.layers import prunable as prunable
    from rdprune.looking import first_look as first_look
    from rdprune.masking import apply_ as apply_
    from rdprune.masking import load_masks as load_masks
    from rdprune.masking import masks as masks
    from rdprune.masking import save_masks as save_masks
    from rdprune.masking import strip_ as strip_
    from rdprune.measuring import measure as measure
    from rdprune.noise import gaussian as gaussian
    from rdprune.refining import refine as refine
    from rdprune.removal import Removal as Removal
    from rdprune.removal import RemovalError as RemovalError
    from rdprune.removal import remove_channels as remove_channels
    from rdprune.repairing import repair_ as repair_
    from rdprune.resampling import Bootstrap as Bootstrap
    from rdprune.resampling import bootstrap as bootstrap
    from rdprune.resampling import reduce as reduce
    from rdprune.rounds import Step as Step
    from rdprune.runfolder import Round as Round
    from rdprune.runfolder import read_history as read_history
    from rdprune.schedule import iterate as iterate
    from rdprune.searching import Generation as Generation
    from rdprune.searching import Searched as Searched
    from rdprune.searching import search as search
    from rdprune.storage import with_bytes as with_bytes
    from rdprune.trust_region import Refined as Refined
    from rdprune.verifying import CountMismatchError as CountMismatchError
    from rdprune.verifying import VerifyReport as VerifyReport
    from rdprune.verifying import verify as verify

_HOMES = {
    "Bootstrap": "resampling",
    "CompareRow": "comparing",
    "CountMismatchError": "verifying",
    "Generation": "searching",
    "MaskKeeper": "keeping",
    "Prunable": "layers",
    "Refined": "trust_region",
    "Removal": "removal",
    "RemovalError": "removal",
    "Searched": "searching",
    "SparsityLostError": "keeping",
    "VerifyReport": "verifying",
    "allocate_by": "allocators",
    "apply_": "masking",
    "blended": "blending",
    "bootstrap": "resampling",
    "compare": "comparing",
    "features": "compared",
    "first_look": "looking",
    "gaussian": "noise",
    "iterate": "schedule",
    "lightning_callback": "hooks",
    "load_masks": "masking",
    "masks": "masking",
    "measure": "measuring",
    "prunable": "layers",
    "reduce": "resampling",
    "remove_channels": "removal",
    "Round": "runfolder",
    "Step": "rounds",
    "read_history": "runfolder",
    "refine": "refining",
    "repair_": "repairing",
    "save_masks": "masking",
    "search": "searching",
    "strip_": "masking",
    "transformers_callback": "hooks",
    "verify": "verifying",
    "verify_sparsity_": "keeping",
    "with_bytes": "storage",
    "zero_masks": "keeping",
}


def __getattr__(name: str) -> Any:
    if name != "baselines" and name not in _HOMES:
        raise AttributeError(f"module 'rdprune' has no attribute {name!r}")
    try:
        module = import_module(f"rdprune.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise ModuleNotFoundError(
            f"rdprune.{name} needs {error.name}: pip install 'rdprune-core[torch]'", name=error.name
        ) from error
    value = module if name == "baselines" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "baselines"})
