"""Errors of their own kind, all ``ValueError``, and lists in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class InfeasibleBudgetError(ValueError):
    """No allocation keeps within the budget and the constraints.

    Attributes
    ----------
    least : dict of str to int
        The least reachable total of each budgeted cost under the constraints, each taken alone.
        Empty if the constraints alone leave a layer without an option.
    """

    def __init__(self, message: str, least: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.least = dict(least or {})


class FileFormatError(ValueError):
    """A file is damaged, cut short, or not of the kind that was expected."""


def few(parts: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """Join the first parts of a message, and say how many more there are."""
    shown = separator.join(parts[:most])
    return f"{shown} and {len(parts) - most} more" if len(parts) > most else shown
