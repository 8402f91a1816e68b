"""Ranks of `torch.distributed` that share the work of one measurement.

Every rank measures what it claims; claims are counters in the process group's store, so no piece
is measured twice, and whoever is done early takes over what others have left. Between rounds the
ranks exchange what they found, and all end with the same table.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

BEAT: Final = 0.5  # seconds between two signs of life
PATIENCE: Final = 30.0  # seconds without any after which a rank is taken for dead
JOINING: Final = 600.0  # seconds that ranks may come late
_POLL: Final = 0.05
_UNIT: Final = 1e-6  # of the costs that ranks tell each other, which are whole numbers

_measurements = count()


class RankError(RuntimeError):
    """Another rank died or failed, so that the measurement cannot be finished."""


def found_ranks(advice: Callable[[], str]) -> Ranks | None:
    """Return the ranks of the default process group, None where there are no two."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() < 2:
        return None
    return Ranks(advice)


class Ranks:
    """The ranks of the default process group; made by all of them, in the same order.

    Parameters
    ----------
    advice : callable
        Asked after a failure how the user can go on.

    Attributes
    ----------
    rank, size : int
    waiting : callable, optional
        Called now and then while this rank waits for others.
    """

    def __init__(self, advice: Callable[[], str]) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._advice = advice
        store = distributed_c10d._get_default_store()
        self._store: Any = distributed_c10d.PrefixStore(f"rdprune {next(_measurements)}", store)
        nccl = dist.get_backend() == dist.Backend.NCCL
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu"
        self._problem = ""
        self._stop = threading.Event()
        self._meetings, self._works = count(), count()
        self.waiting: Callable[[], None] | None = None
        self._work, self._told = 0, (0, 0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be seen to be alive, watch the others, and tell them if this rank fails."""
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            self._meet(JOINING)
            yield
            self._leave()
        except BaseException as error:
            self._tell(error)
            raise
        finally:
            self._stop.set()
            watch.join()

    def check(self) -> None:
        """Raise a `RankError` if another rank is dead or has failed."""
        if self._problem:
            raise RankError(f"{self._problem}; {self._advice()}")

    def agree(self, digest: bytes) -> None:
        """Check that all ranks have the same model, batches and settings.

        Raises
        ------
        ValueError
            If a rank's digest is not rank 0's, on all ranks.
        """
        mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        for rank, other in enumerate(self.gathered(mine)):
            if bytes(other.tolist()) != digest:
                pair = sorted((rank, self.rank))
                raise ValueError(
                    f"ranks {pair[0]} and {pair[1]} have not the same model, batches, settings "
                    "and dense outputs, bit for bit: what they measure makes no table"
                )

    def shared(self, costs: Sequence[float]) -> Iterator[int]:
        """Yield the pieces of work that fall to this rank: its own part, then others' leftovers.

        Parameters
        ----------
        costs : sequence of float
            Of all pieces, the same pieces on all ranks.
        """
        work, total = next(self._works), sum(costs)
        self._work, self._told = work, (0, 0)
        parts: list[list[int]] = [[] for _ in range(self.size)]
        before = 0.0
        for piece, cost in enumerate(costs):
            middle = (before + cost / 2) / total if total > 0 else 0.0
            parts[min(int(middle * self.size), self.size - 1)].append(piece)
            before += cost
        others = [parts[(self.rank + step) % self.size] for step in range(1, self.size)]
        for piece in (*parts[self.rank], *(piece for part in others for piece in reversed(part))):
            self.check()
            if self._counted(f"piece {work} {piece}", 1) == 1:
                yield piece

    def tell(self, steps: int, cost: float) -> None:
        """Add steps that are done of the work shared last, and what they cost, to all ranks'."""
        whole = round(cost / _UNIT)
        self._told = (self._told[0] + steps, self._told[1] + whole)
        self._counted(f"steps {self._work}", steps)
        self._counted(f"cost {self._work}", whole)

    def elsewhere(self) -> tuple[int, float]:
        """Return the steps of the work shared last, and their cost, that the others have told."""
        steps = self._counted(f"steps {self._work}", 0)
        cost = self._counted(f"cost {self._work}", 0)
        return steps - self._told[0], (cost - self._told[1]) * _UNIT

    def exchanged(self, rows: Tensor) -> list[Tensor]:
        """Return what every rank has, once all have come here.

        Parameters
        ----------
        rows : torch.Tensor
            float64, of two dimensions, whose lengths may differ between the ranks.
        """
        found = []
        for rank, shape in enumerate(self.gathered(torch.tensor(rows.shape))):
            mine = rank == self.rank
            part = rows.to(self._device) if mine else self._empty(shape.tolist(), rows.dtype)
            if part.numel():
                with self._noticed():
                    dist.broadcast(part, rank)
            found.append(part.cpu())
        return found

    def gathered(self, value: Tensor) -> list[Tensor]:
        """Return every rank's value, all of one shape and type, once all have come here."""
        self._meet()
        parts = [self._empty(value.shape, value.dtype) for _ in range(self.size)]
        with self._noticed():
            dist.all_gather(parts, value.to(self._device))
        return [part.cpu() for part in parts]

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype, device=self._device)

    def _meet(self, limit: float = math.inf) -> None:
        """Wait for all ranks, but not for the dead: a collective operation would hang on them."""
        meeting, start = f"meeting {next(self._meetings)}", time.monotonic()
        arrived = self._counted(meeting, 1)
        while arrived < self.size:
            self.check()
            if time.monotonic() - start > limit:
                raise RankError(f"only {arrived} of {self.size} ranks came; {self._advice()}")
            if self.waiting is not None:
                self.waiting()
            time.sleep(_POLL)
            arrived = self._counted(meeting, 0)

    def _leave(self) -> None:
        """Go when all have finished, rank 0 last: the store may live in its process."""
        self._meet()
        left, start = self._counted("left", 1), time.monotonic()
        while self.rank == 0 and left < self.size and time.monotonic() - start < PATIENCE:
            time.sleep(_POLL)
            left = self._counted("left", 0)

    def _counted(self, name: str, step: int) -> int:
        with self._noticed():
            return int(self._store.add(name, step))

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Say what it means that another rank does not answer."""
        try:
            yield
        except RuntimeError as error:
            self._stop.wait(BEAT)  # another rank may just be telling why
            self.check()
            raise RankError(f"another rank is gone ({error}); {self._advice()}") from error

    def _watch(self) -> None:
        """Give signs of life, and look for those of the others, until stopped."""
        seen = dict.fromkeys(set(range(self.size)) - {self.rank}, (0, time.monotonic()))
        try:
            while not self._stop.wait(BEAT):
                self._store.add(f"beat {self.rank}", 1)
                if self._store.add("failed", 0):
                    self._problem = self._store.get("failure").decode()
                    return
                for rank, (beats, since) in seen.items():
                    now = int(self._store.add(f"beat {rank}", 0))
                    if now > beats:
                        seen[rank] = (now, time.monotonic())
                    elif beats and time.monotonic() - since > PATIENCE:
                        silence = f"no sign of life for {PATIENCE:.0f} s"
                        self._problem = f"rank {rank} has given {silence}"
                        return
        except RuntimeError as error:
            self._problem = f"the process group's store does not answer ({error})"

    def _tell(self, error: BaseException) -> None:
        """Let the others know why this rank stops, if it is the first."""
        try:
            if self._store.add("failing", 1) == 1:
                text = str(error).strip().splitlines() or [""]
                told = f"{type(error).__name__}: {text[0]}" if text[0] else type(error).__name__
                self._store.set("failure", f"rank {self.rank} stopped, {told}")
                self._store.add("failed", 1)
        except RuntimeError:  # nobody is there to be told
            return
