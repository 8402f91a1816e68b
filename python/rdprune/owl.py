"""OWL: more weights for layers with more outliers among |W| ‖X‖."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from torch import Tensor

from rdprune.baselines import Layers, check, named, sizes_of
from rdprune.sharing import shifted

OUTLIER = 5.0
SPREAD = 0.08


def owl(
    layers: Layers,
    kept_total: int,
    squares: Mapping[str, Tensor],
    *,
    outlier: float = OUTLIER,
    spread: float = SPREAD,
) -> dict[str, int]:
    """Shift each layer's density by its share of outliers, within ``2 * spread``.

    Yin et al. 2024, *Outlier Weighed Layerwise Sparsity (OWL)*, section 3: with the scores
    A_ij = ‖X_j‖ |W_ij|, the outlier distribution D_l of a layer is the fraction of its scores above
    M times their mean (equation 1); densities are proportional to D, scaled to a range of 2 λ and
    shifted to the wanted mean.

    The paper has sparsities up to 0.8. Where the density wanted in all is below 2 λ, here λ is
    half of it (likewise near sparsity 0), so that no layer is emptied for its λ alone.

    Parameters
    ----------
    layers : torch.nn.Module or mapping of str to Prunable
        The layers.
    kept_total : int
        Weights to keep in all.
    squares : mapping of str to torch.Tensor
        What `input_squares` returns.
    outlier : float
        M, above 0; the paper's 5.
    spread : float
        λ, in [0, 1]; the paper's 0.08.

    Returns
    -------
    dict of str to int
        Weights to keep in each layer, exactly `kept_total` together.

    Raises
    ------
    ValueError
        If an argument is out of range or `squares` lacks a layer.
    """
    found, total = check(layers, kept_total)
    if outlier <= 0:
        raise ValueError(f"outlier is {outlier}, must be above 0")
    if not 0 <= spread <= 1:
        raise ValueError(f"spread is {spread}, must be between 0 and 1")
    shares = []
    for name, layer in found.items():
        if name not in squares:
            raise ValueError(f"squares has no layer {name!r}")
        scores = squares[name].sqrt() * layer.parameter.detach().abs().double()
        if not scores.isfinite().all():
            raise ValueError(f"layer {name!r}: a weight or an input is not finite")
        above = int((scores > outlier * scores.mean()).count_nonzero())
        shares.append(Fraction(above, scores.numel()))
    sizes = sizes_of(found)
    density = Fraction(total, sum(sizes))
    most = min(2 * Fraction(repr(float(spread))), density, 1 - density)
    low, high = min(shares), max(shares)
    scale = most / (high - low) if high > low else Fraction(0)
    return named(found, shifted([(share - low) * scale for share in shares], sizes, total))
