"""Running a network pruned to numbers of weights kept, while there are passes left."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rdprune.breeding import Counts
from rdprune.progress import Meter
from rdprune.trial import Trial

PROBES: Final = 4  # about a pruned network; new ones after every gain
STEP: Final = "searching"  # what the progress bar calls a pass


class SpentError(Exception):
    """All passes are spent."""


class Judge:
    """Runs the network, and counts; see `rdprune.descent.Judge`.

    Parameters
    ----------
    names : list of str
        The layers.
    network : Trial
    most : int
        Passes after which it raises `SpentError`.
    meter : Meter
    gradients : bool
        Whether backward passes can tell what steps do.
    straight : bool
        Whether they tell it well: not behind BatchNorm.
    """

    def __init__(
        self,
        names: list[str],
        network: Trial,
        most: int,
        meter: Meter,
        *,
        gradients: bool,
        straight: bool,
    ) -> None:
        self.parts = network.parts
        self.straight = straight
        self._gradients = gradients
        self._names = names
        self._network = network
        self._most = most
        self._meter = meter
        meter.found(STEP, network.passes, network.passes)  # before its clock

    @property
    def passes(self) -> int:
        """Runs over all samples so far."""
        return self._network.passes

    def score(self, kept: Counts) -> float:
        """Run on all samples."""
        self._prune(kept)
        distortion = self._network.measure().distortion
        self._tell()
        return distortion if math.isfinite(distortion) else math.inf

    def look(self, kept: Counts, part: int) -> tuple[float, NDArray[np.float64]]:
        """Run on a part."""
        self._prune(kept)
        measured = self._network.look(part)
        self._tell()
        assert measured.response is not None
        response = measured.response.astype(np.float64)
        offset = self._network.offset(part)
        return measured.distortion, response if offset is None else response + offset

    def around(
        self, kept: Counts, options: list[Counts], part: int, seed: int
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]] | None:
        """Estimate by gradients; None without any, or with too few passes left for them."""
        if not self._gradients or self._network.passes_around(part, PROBES) > self._most:
            return None
        self._prune(kept)
        by_name = dict(zip(self._names, (row.tolist() for row in options), strict=True))
        try:
            error, changes = self._network.around(part, by_name, probes=PROBES, seed=seed)
        except (TypeError, ValueError, RuntimeError):  # refused on this part, or out of memory
            self._gradients = False
            return None
        self._tell()
        return error, [changes[name] for name in self._names]

    def _prune(self, kept: Counts) -> None:
        if self._network.passes >= self._most:
            raise SpentError
        self._network.prune(dict(zip(self._names, kept.tolist(), strict=True)))

    def _tell(self) -> None:
        """Note what was run; what the store has takes no time."""
        more = self._network.passes - self._meter.done
        ran, self._network.ran = self._network.ran, False
        if ran:
            self._meter.advance(STEP, more)
        else:
            self._meter.found(STEP, more, more)
