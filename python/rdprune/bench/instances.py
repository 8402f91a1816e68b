"""What the solvers are timed on: layer sizes of known networks, under curves of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from rdprune_core import RDTable

Floats = NDArray[np.float64]
Layer = tuple[int, int]  # weights, and how often each is used: once for every output position

SPARSITIES: Final = (0.5, 0.8, 0.95)
MAIN_CURVE: Final = "noisy"
MENUS: Final = {"2:4": (4, 2, 1), "bits": (16, 8, 4, 2)}
TOKENS: Final = 2048  # positions of the language models


@dataclass(frozen=True, slots=True)
class Shape:
    """The prunable layers of a network: all weights of convolutions and linear layers.

    Attributes
    ----------
    name : str
    layers : tuple of (weights, positions)
        Multiply-accumulates are their product.
    levels : int
        Evenly spaced sparsities of every layer, 0 and 1 among them.
    """

    name: str
    layers: tuple[Layer, ...]
    levels: int = 101

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Weights of every layer; (L,)."""
        return np.array([weights for weights, _ in self.layers], np.int64)

    @property
    def macs(self) -> NDArray[np.int64]:
        """Multiply-accumulates of every layer for one input; (L,)."""
        return np.array([weights * positions for weights, positions in self.layers], np.int64)


@dataclass(frozen=True, slots=True)
class Instance:
    """One table with one budget."""

    shape: str
    curve: str
    sparsity: float
    table: RDTable = field(repr=False)

    @property
    def budget(self) -> int:
        """Of the first cost: 1 - sparsity of the way from the cheapest allocation to the dense."""
        cost = next(iter(self.table.costs))
        options = self.table.flat_cost(cost)
        least = int(np.minimum.reduceat(options, self.table.offsets[:-1]).sum())
        span = int(self.table.dense[cost].sum()) - least
        return least + int(span * (1 - self.sparsity) + 1e-6)


# ------------------------------------------------------------------------------------- shapes


def _resnet32() -> list[Layer]:
    """CIFAR ResNet of He et al. (2016), n = 5; its shortcuts have no weights."""
    layers = [(3 * 16 * 9, 32 * 32)]
    before = 16
    for width, side in ((16, 32), (32, 16), (64, 8)):
        layers += [(before * width * 9, side * side)] + [(width * width * 9, side * side)] * 9
        before = width
    return [*layers, (64 * 10, 1)]


def _resnet50() -> list[Layer]:
    """ResNet-50 for ImageNet with the stride in the 3 x 3 convolutions, as torchvision has it."""
    layers = [(3 * 64 * 49, 112 * 112)]
    before, side = 64, 56
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            after = side // stride if block == 0 else side
            layers += [
                (before * width, side * side),
                (width * width * 9, after * after),
                (width * width * 4, after * after),
            ]
            if block == 0:
                layers.append((before * width * 4, after * after))
            before, side = width * 4, after
    return [*layers, (2048 * 1000, 1)]


def _vgg16() -> list[Layer]:
    """VGG-16 for ImageNet, configuration D of Simonyan and Zisserman (2015)."""
    layers: list[Layer] = []
    before = 3
    stages = ((64, 2, 224), (128, 2, 112), (256, 3, 56), (512, 3, 28), (512, 3, 14))
    for width, count, side in stages:
        for _ in range(count):
            layers.append((before * width * 9, side * side))
            before = width
    return [*layers, (512 * 49 * 4096, 1), (4096 * 4096, 1), (4096 * 1000, 1)]


def _deit_b() -> list[Layer]:
    """DeiT-B (ViT-B/16 at 224): patches, 12 blocks of qkv, projection and MLP, head."""
    width, tokens = 768, 197
    block = [width * 3 * width, width * width, width * 4 * width, 4 * width * width]
    inner = [(weights, tokens) for weights in block * 12]
    return [(3 * 16 * 16 * width, 196), *inner, (width * 1000, 1)]


def _llama(blocks: int, width: int, keys: int, hidden: int) -> list[Layer]:
    """Blocks of q, k, v, o, gate, up, down; embeddings are not pruned."""
    square, narrow, mlp = width * width, width * keys, width * hidden
    return [(n, TOKENS) for n in (square, narrow, narrow, square, mlp, mlp, mlp)] * blocks


_SHAPES: Final[dict[str, tuple[Callable[[], list[Layer]], int]]] = {
    "ResNet-32": (_resnet32, 101),
    "VGG-16": (_vgg16, 101),
    "DeiT-B": (_deit_b, 101),
    "ResNet-50": (_resnet50, 101),
    "ResNet-50/1001": (_resnet50, 1001),
    "7B": (lambda: _llama(32, 4096, 4096, 11008), 101),
    "70B": (lambda: _llama(80, 8192, 1024, 28672), 101),
    "405B": (lambda: _llama(126, 16384, 1024, 53248), 101),
}
SHAPES: Final = tuple(_SHAPES)


@cache
def find_shape(name: str) -> Shape:
    """Return a shape by its name in `SHAPES`.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in _SHAPES:
        raise ValueError(f"unknown shape {name!r}; there are {', '.join(SHAPES)}")
    make, levels = _SHAPES[name]
    return Shape(name, tuple(make()), levels)


def llama_like(blocks: int, levels: int) -> Shape:
    """Return a network like 7B with another number of blocks and levels."""
    return Shape(f"7B of {blocks} blocks", tuple(_llama(blocks, 4096, 4096, 11008)), levels)


# ------------------------------------------------------------------------------------- curves
# Each takes sparsities (K,) and a generator, and returns distortions (K,), 0 at sparsity 0. Layers
# differ by four orders of magnitude in scale and by powers from 2 to 5 in form.


def _smooth(levels: Floats, rng: np.random.Generator) -> Floats:
    scale = 10 ** rng.uniform(-4, 0)
    return np.asarray(scale * levels ** rng.uniform(2, 5))


def _noisy(levels: Floats, rng: np.random.Generator) -> Floats:
    return _smooth(levels, rng) * (1 + 0.05 * rng.standard_normal(len(levels)))


def _non_monotone(levels: Floats, rng: np.random.Generator) -> Floats:
    """Waves deep enough that pruning more often distorts less."""
    wave = np.sin(2 * np.pi * (rng.uniform(2, 6) * levels + rng.uniform()))
    return _noisy(levels, rng) * (1 + 0.5 * wave)


def _staircase(levels: Floats, rng: np.random.Generator) -> Floats:
    """Ten steps: what pruning whole channels or heads looks like."""
    return _smooth(np.ceil(levels * 10 - 1e-9) / 10, rng)


def _flat(levels: Floats, rng: np.random.Generator) -> Floats:
    """Exactly nothing lost up to some sparsity: ties without end."""
    start = rng.uniform(0.05, 0.6)
    return _smooth(np.maximum(levels - start, 0) / (1 - start), rng)


_CURVES: Final[dict[str, Callable[[Floats, np.random.Generator], Floats]]] = {
    "noisy": _noisy,
    "smooth": _smooth,
    "non-monotone": _non_monotone,
    "staircase": _staircase,
    "flat": _flat,
    "equal": _noisy,
    "2:4": _noisy,
    "bits": _noisy,
}
CURVES: Final = tuple(_CURVES)
ABOUT: Final = {
    "noisy": "rising curves with 5 % noise",
    "smooth": "smooth convex curves",
    "non-monotone": "waves: pruning more often distorts less",
    "staircase": "ten steps a layer",
    "flat": "nothing lost up to some sparsity",
    "equal": "all layers of the same size, 5 % noise",
    "2:4": "three options: dense, 2:4, 1:4",
    "bits": "four options: 16, 8, 4, 2 bits",
    "measured": "tables from files",
}


def applies(shape: str, curve: str) -> bool:
    """Whether the pair is an instance of its own: menus know nothing of levels."""
    return not (curve in MENUS and find_shape(shape).levels != 101)


def make_table(shape: Shape, curve: str, seed: int) -> RDTable:
    """Make the table of a shape, a curve and a seed; the same one every time.

    Parameters
    ----------
    shape : Shape
    curve : str
        One of `CURVES`.
    seed : int

    Returns
    -------
    RDTable
        With one cost, ``"params"``; for the curve ``"bits"`` it counts bits.

    Raises
    ------
    ValueError
        If there is no such curve.
    """
    if curve not in _CURVES:
        raise ValueError(f"unknown curve {curve!r}; there are {', '.join(CURVES)}")
    rng = np.random.default_rng([seed, crc32(f"{shape.name} {curve}".encode())])
    sizes = shape.sizes
    if curve == "equal":
        sizes = np.full(len(sizes), sizes.sum() // len(sizes))
    if curve in MENUS:
        units = np.array(MENUS[curve], np.int64)
        levels = 1 - units / units[0]
        whole = units[0] if curve == "bits" else 1
        cost = sizes[:, None] * whole * units // units[0]
    else:
        levels = np.linspace(0.0, 1.0, shape.levels)
        cost = sizes[:, None] - np.rint(levels * sizes[:, None]).astype(np.int64)
    distortion = [_CURVES[curve](levels, rng) for _ in sizes]
    return RDTable.from_arrays(cost, distortion)
