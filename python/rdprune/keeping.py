"""Keeping the zeros of a pruned model through training, and failing loudly when they are lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn

from rdprune.layers import Prunable, named_layers, prunable


class SparsityLostError(ValueError):
    """A weight that a mask removes is not zero.

    Attributes
    ----------
    filled : dict of str to int
        Number of such weights in each layer that has any.
    """

    def __init__(self, filled: Mapping[str, int]) -> None:
        super().__init__(dict(filled))
        self.filled = dict(filled)

    def __str__(self) -> str:
        worst = sorted(self.filled, key=lambda name: -self.filled[name])
        shown = ", ".join(f"{name!r} {self.filled[name]}" for name in worst[:5])
        more = f" and {len(worst) - 5} layers more" if len(worst) > 5 else ""
        return (
            f"{sum(self.filled.values())} pruned weights are no longer zero: {shown}{more}; "
            "train under the masks, or put the zeros back with restore=True"
        )


class _Handle(Protocol):
    def remove(self) -> None: ...


def zero_masks(
    model: nn.Module,
    *,
    ignore: str | Iterable[str] = (),
    layers: str | Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Masks that keep what is not zero now: those of a model after `strip_`.

    Parameters
    ----------
    model : torch.nn.Module
        A pruned model without `torch.nn.utils.prune` masks.
    ignore, layers : str or iterable of str
        Layers to leave out, or the only ones; see `prunable`.

    Returns
    -------
    dict of str to torch.Tensor
        bool, by parameter name, for the layers that have a zero.

    Raises
    ------
    ValueError
        If a layer is masked, or none has a zero.
    """
    found = {}
    for name, layer in prunable(model, ignore=ignore, layers=layers).items():
        if layer.masked:
            raise ValueError(f"layer {name!r} carries a mask, which holds by itself; strip_ first")
        mask = layer.parameter.detach() != 0
        if not mask.all():
            found[name] = mask
    if not found:
        raise ValueError("model has no weight of zero: it is not pruned")
    return found


def verify_sparsity_(
    model: nn.Module, masks: Mapping[str, Tensor], *, restore: bool = False
) -> dict[str, int]:
    """Check that every weight that the masks remove is zero.

    A fine-tune without the masks, or merging LoRA's low-rank update into the weights, fills
    zeros in again; nothing else would say so.

    Parameters
    ----------
    model : torch.nn.Module
        After `strip_`, or under the masks of `apply_` (then the masks are compared).
    masks : mapping of str to torch.Tensor
        bool masks by parameter name, as from `masks`, `load_masks` or `zero_masks`.
    restore : bool
        Write the zeros back where they are lost, instead of raising.

    Returns
    -------
    dict of str to int
        Weights that the masks keep in each layer.

    Raises
    ------
    SparsityLostError
        If a removed weight is not zero and `restore` is false.
    ValueError
        If the masks do not fit the model, or a layer's `torch.nn.utils.prune` mask keeps more and
        `restore` is true.
    """
    layers = _fitting(model, masks)
    filled = {}
    for name, layer in layers.items():
        lost = _lost(layer, masks[name].to(layer.parameter.device))
        if not lost.any():
            continue
        if restore and layer.masked:
            raise ValueError(f"layer {name!r} carries a mask that keeps more; strip_ first")
        filled[name] = int(lost.count_nonzero())
        if restore:
            layer.parameter.data.masked_fill_(lost, 0)
    if filled and not restore:
        raise SparsityLostError(filled)
    return {name: int(masks[name].count_nonzero()) for name in layers}


class MaskKeeper:
    """Keeps the zeros of a stripped model through a plain training loop.

    Parameters
    ----------
    model : torch.nn.Module
        The model after `strip_`; under `torch.nn.utils.prune` masks no keeper is needed.
    masks : mapping of str to torch.Tensor, optional
        bool masks by parameter name; those of `zero_masks` by default.

    Raises
    ------
    ValueError
        If the masks do not fit the model.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> model.weight.data = torch.tensor([[0.0, 1.0]])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    >>> with MaskKeeper(model).attached(optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> model.weight[0, 0].item()
    0.0
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> None:
        self.model = model
        self.masks = dict(zero_masks(model) if masks is None else masks)
        self._layers = _fitting(model, self.masks)
        for name, layer in self._layers.items():
            if layer.masked:
                raise ValueError(
                    f"layer {name!r} carries a mask, which holds by itself; strip_ first"
                )
        self._handles: list[_Handle] = []

    def apply_(self) -> None:
        """Write zeros where the masks remove; call it after every optimiser step."""
        for name, layer in self._layers.items():
            mask = self.masks[name]
            if mask.device != layer.parameter.device:
                mask = self.masks[name] = mask.to(layer.parameter.device)
            layer.parameter.data.masked_fill_(~mask, 0)

    def verify(self) -> dict[str, int]:
        """Check the zeros as `verify_sparsity_` does."""
        return verify_sparsity_(self.model, self.masks)

    def attached(self, *optimizers: torch.optim.Optimizer) -> MaskKeeper:
        """Call `apply_` after every step of these optimisers, until `detach`."""
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self.apply_()))
        return self

    def detach(self) -> None:
        """Leave the optimisers alone again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> MaskKeeper:
        self.apply_()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()
        if kind is None:
            self.verify()


def _fitting(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Prunable]:
    if not isinstance(masks, Mapping):
        kind = type(masks).__name__
        raise ValueError(f"masks is a {kind}, must be bool masks by parameter name: rdprune.masks")
    if not masks:
        raise ValueError("masks is empty: there is nothing to keep")
    layers = named_layers(model, masks, "masks")
    for name, layer in layers.items():
        mask = masks[name]
        if mask.dtype != torch.bool or mask.shape != layer.parameter.shape:
            raise ValueError(
                f"mask of layer {name!r} is {mask.dtype} of shape {tuple(mask.shape)}, must be "
                f"bool of shape {tuple(layer.parameter.shape)}"
            )
    return layers


def _lost(layer: Prunable, mask: Tensor) -> Tensor:
    """Where a weight is removed by the mask, and yet not zero in the network."""
    weight = layer.parameter.detach()
    if not layer.masked:
        return ~mask & (weight != 0)
    kept = torch.zeros_like(mask)
    for module, attribute, _ in layer.owners:
        buffer = module._buffers.get(f"{attribute}_mask")
        kept |= torch.ones_like(mask) if buffer is None else buffer != 0
    # 0 times inf is NaN, so that a mask does not remove what is not finite.
    return ~mask & (kept | ~weight.isfinite())
