"""What a module of a network gives or takes, compared in place of the network's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rdprune.batches import Forward, call

INPUT = ":input"


class _FoundError(Exception):
    """Ends a pass where the features are known."""


def features(name: str, forward: Forward | None = None) -> Forward:
    """Make a ``forward=`` that returns the output of one module, such as features before a head.

    The pass ends there. A layer behind the module has no part in it: `measure` says that it never
    runs, and to add it to ``ignore``.

    Parameters
    ----------
    name : str
        The module, ``"avgpool"``; with ``":input"`` what it is called with, ``"fc:input"``.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model.

    Returns
    -------
    callable
        ``(model, batch)`` to what the module gave. It raises a ValueError if the model has no such
        module or does not call it.

    Examples
    --------
    >>> import rdprune, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> rdprune.features("2:input")(model, torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """
    path = name.removesuffix(INPUT)

    def found(model: nn.Module, batch: Any) -> Any:
        module = dict(model.named_modules()).get(path)
        if module is None:
            raise ValueError(f"features: the model has no module {path!r}")
        kept: list[Any] = []

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else next(iter(kwargs.values()), None))
            raise _FoundError

        def behind(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            kept.append(output)
            raise _FoundError

        if name.endswith(INPUT):
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = module.register_forward_hook(behind)
        try:
            (forward or call)(model, batch)
        except _FoundError:
            return kept[0]
        finally:
            handle.remove()
        raise ValueError(f"features: the model does not call its module {path!r}")

    found.__qualname__ = f"features({name!r})"
    found.features = name  # type: ignore[attr-defined]
    return found


def features_of(forward: Forward | None) -> str:
    """Return the name that `features` was given, empty for any other ``forward``."""
    return str(getattr(forward, "features", ""))


def in_question(metadata: Mapping[str, Any], forward: Forward | None) -> Forward | None:
    """Return `forward`, or by default the features that were measured, if any."""
    name = metadata.get("features", "")
    return features(name) if forward is None and name else forward
