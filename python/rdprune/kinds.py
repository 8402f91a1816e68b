"""Which parameters are weights that can be pruned, and of what kind they are."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

LINEAR_TYPES: tuple[type[nn.Module], ...] = (nn.Linear,)
CONVOLUTION_TYPES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
LAYER_TYPES = LINEAR_TYPES + CONVOLUTION_TYPES
_EMBEDDING_TYPES = (nn.Embedding, nn.EmbeddingBag)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_CONTAINERS = (nn.ParameterList, nn.ParameterDict)

DEFAULT_KINDS = ("linear", "convolution", "recurrent", "attention", "experts")
"""What is pruned unless `layers` says otherwise."""

OPTIONAL_KINDS = ("embedding", "parameter")
"""What is pruned only if `layers` names it."""


def kind_of(module: nn.Module, attribute: str, dimensions: tuple[int, ...]) -> str | None:
    """Kind of a module's parameter, None for what is no weight.

    Parameters
    ----------
    module : torch.nn.Module
        The module that holds it.
    attribute : str
        Its name in the module.
    dimensions : tuple of int
        Its shape, () if it has none yet.

    Returns
    -------
    str or None
        ``"linear"``, ``"convolution"``, ``"recurrent"``, ``"attention"``, ``"embedding"``: what
        torch's own modules (and ``Conv1D`` of Hugging Face) multiply by or look up.
        ``"experts"``: three dimensions of at least two, in a module that torch does not define:
        a stack of matrices, as fused mixtures of experts have them. ``"parameter"``: any other of
        two or more dimensions.
    """
    if attribute in weight_names(module):
        if isinstance(module, nn.MultiheadAttention):
            return "attention"
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            return "recurrent"
        if isinstance(module, _EMBEDDING_TYPES):
            return "embedding"
        return "convolution" if isinstance(module, CONVOLUTION_TYPES) else "linear"
    if isinstance(module, ParametrizationList) or len(dimensions) < 2:
        return None
    own = isinstance(module, _CONTAINERS) or not type(module).__module__.startswith("torch.")
    stacked = len(dimensions) == 3 and min(dimensions) > 1
    return "experts" if own and stacked and not attribute.endswith("bias") else "parameter"


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """Attributes of a module of a known type that are its weights."""
    if multiplies_once(module) or isinstance(module, _EMBEDDING_TYPES):
        return ("weight",)
    if isinstance(module, nn.RNNBase):
        return tuple(n for n in module._flat_weights_names if n.startswith("weight_"))
    if isinstance(module, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(module, nn.MultiheadAttention):
        same = module._qkv_same_embed_dim
        return _ATTENTION_WEIGHTS[:1] if same else _ATTENTION_WEIGHTS[1:]
    return ()


def multiplies_once(module: nn.Module) -> bool:
    """Whether all that a module multiplies it multiplies by its ``weight``."""
    return isinstance(module, LAYER_TYPES) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is transformers' ``Conv1D``, a linear layer with its weight transposed."""
    # By name, so that transformers need not be installed.
    return any(
        (kind.__module__, kind.__qualname__) == ("transformers.pytorch_utils", "Conv1D")
        for kind in type(module).__mro__
    )
