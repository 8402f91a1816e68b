"""What comes in to each weight: the sum of the squares of the inputs that it multiplies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.batches import Forward, Runner, preserved, read
from rdprune.kinds import LAYER_TYPES
from rdprune.layers import Prunable
from rdprune.recovery import recovered

_TRANSPOSED = {
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
    nn.ConvTranspose3d: functional.conv_transpose3d,
}


def input_squares(
    model: nn.Module,
    layers: Mapping[str, Prunable],
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    recovery: str = "none",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Sum, over all samples and positions, the squares of the inputs that each weight multiplies.

    For a linear layer this is ‖X_j‖² of input j, the same in each row (Sun et al. 2024, *A Simple
    and Effective Pruning Approach for Large Language Models*, section 3); for a convolution the
    same of its matrix form, in which every kernel position has its own inputs. It is computed as
    the derivative by W of the sum of the outputs for the squared inputs. The model is left as it
    was.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    layers : mapping of str to Prunable
        Its layers.
    batches : iterable
        Calibration batches, as for `measure`.
    forward : callable, optional
        ``forward(model, batch)`` replaces the call of the model.
    recovery : str
        State in which the network runs, as for `measure`.
    seed : int
        Of what the model itself draws.

    Returns
    -------
    dict of str to torch.Tensor
        float64, shape of the weight, on its device.

    Raises
    ------
    ValueError
        If a layer's modules are never called, so that its inputs are not seen.
    """
    data = read(batches)
    sums: dict[str, Tensor] = {}
    with recovered(model, recovery), preserved(model), _listening(layers, sums):
        for _ in Runner(model, data, forward, seed).outputs():
            pass
    for name in layers:
        if name not in sums:
            raise ValueError(
                f"layer {name!r}: its module is never called on the batches, or is no linear "
                f"layer or convolution, so its inputs are not seen; add {name!r} to ignore"
            )
    return sums


@contextmanager
def _listening(layers: Mapping[str, Prunable], sums: dict[str, Tensor]) -> Iterator[None]:
    handles = []
    try:
        for name, layer in layers.items():
            for module, attribute, _ in layer.owners:
                if not isinstance(module, LAYER_TYPES) or attribute != "weight":
                    continue

                def note(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    given = args[0] if args else kwargs["input"]
                    found = _squares(module, layers[name].parameter, given)
                    sums[name] = sums[name] + found if name in sums else found

                handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _squares(module: nn.Module, weight: Tensor, given: Tensor) -> Tensor:
    squared = given.detach().to(torch.promote_types(given.dtype, torch.float32)).square()
    if isinstance(module, nn.Linear):
        flat = squared.reshape(-1, weight.shape[1]).sum(dim=0, dtype=torch.float64)
        return flat.expand(weight.shape).clone()
    with torch.enable_grad():
        kernel = torch.zeros_like(weight, dtype=squared.dtype).requires_grad_()
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            function = next(f for kind, f in _TRANSPOSED.items() if isinstance(module, kind))
            options = (module.padding, module.output_padding, module.groups, module.dilation)
            output = function(squared, kernel, None, module.stride, *options)  # type: ignore[arg-type]
        else:
            output = module._conv_forward(squared, kernel, None)  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(output.sum(), kernel)
    return gradient.double()
