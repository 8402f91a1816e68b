"""What of a traced pass need not run again before a layer's weight is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdprune.records import Record
from rdprune.tracing import NEVER, BatchTrace, Call


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do in one batch before a layer's weight is used.

    Attributes
    ----------
    first : int
        When the weight is used first.
    calls : tuple of Call
        Those that begin before, in order, less what is inside of replaced ones.
    replaced, needed : frozenset of Call
        Those that give their records, and of them those whose output is looked at.
    nbytes : int
        Of the records.
    seconds : float
        What the replaced ones took.
    """

    first: int
    calls: tuple[Call, ...]
    replaced: frozenset[Call]
    needed: frozenset[Call]
    nbytes: int
    seconds: float
    index: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A call that is expected: its record, if it has one, and whether to keep one."""

    call: Call
    record: Record | None
    keep: bool = False


def plan_of(batch: BatchTrace, name: str) -> Plan:
    """Return what to do in a traced batch before a layer's weight is used."""
    first = batch.first_use.get(name, NEVER)
    calls: list[Call] = []
    replaced: set[Call] = set()

    def visit(found: Sequence[Call]) -> None:
        for call in found:
            if call.begin > first:
                return
            calls.append(call)
            if call.end < first and call.replaceable:
                replaced.add(call)
            else:
                visit(call.children)

    visit(batch.calls)
    needed = frozenset(
        call for call in replaced if any(not _inside(reader, replaced) for reader in call.readers)
    )
    return Plan(
        first,
        tuple(calls),
        frozenset(replaced),
        needed,
        sum(call.nbytes for call in needed),
        sum(call.seconds for call in replaced),
    )


def _inside(call: Call | None, calls: set[Call]) -> bool:
    """Whether a call is one of the calls or was made in one of them."""
    while call is not None:
        if call in calls:
            return True
        call = call.parent
    return False
