"""He et al.'s small residual networks, and the one that the demo ships trained.

The architecture is that of section 4.2 of He, Zhang, Ren and Sun, *Deep Residual Learning for
Image Recognition*, CVPR 2016: 6n + 2 layers, widths 16, 32 and 64, shortcuts without parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune_core.errors import few

WIDTHS: Final = (16, 32, 64)
CHECKPOINT: Final = Path(__file__).with_name("resnet20_mnist.safetensors")


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Where the block halves the picture, the shortcut takes every second pixel and pads the
    channels with zeros on both sides, so it has no parameters.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return what the next block takes."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.padding:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """A residual network of 6n + 2 layers for small pictures.

    Parameters
    ----------
    depth
        Number of layers with weights: 20, 32, 44, 56, …
    channels
        Channels of the input picture.
    classes
        Number of outputs.
    stride
        Stride of the first convolution: 2 quarters the work on pictures that are easy.

    Raises
    ------
    ValueError
        If ``depth`` is not 6n + 2 for an n of at least 1.
    """

    def __init__(
        self, depth: int = 20, *, channels: int = 3, classes: int = 10, stride: int = 1
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        self.linear = nn.Linear(WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (n, classes), of pictures of shape (n, channels, h, w)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    """Return ``blocks`` blocks, the first of which changes width and resolution."""
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a safetensors file of weights into ``model`` and return it in evaluation mode.

    Parameters
    ----------
    model
        Changed in place.
    path
        File whose tensors have the model's state-dict names; the counters
        ``num_batches_tracked`` may be missing, half precision is widened.

    Raises
    ------
    ValueError
        If names are missing, superfluous, or of another shape.
    OSError
        If the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros_like(tensor))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network: {_unfit(model, state)}") from error
    return model.eval()


def _unfit(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return what is missing, superfluous or of another shape, a few of each by name."""
    own = model.state_dict()
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    found = {
        "missing": [name for name in own if name not in state],
        "not the network's": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    return "; ".join(f"{what}: {few(names)}" for what, names in found.items() if names)


def untrained() -> ResNet:
    """Return the demo's ResNet-20 for 28x28 grey pictures with fresh weights."""
    return ResNet(20, channels=1, stride=2)


def trained() -> nn.Module:
    """Return the demo's ResNet-20 with the weights that :mod:`rdprune.demo.train` wrote.

    The channels come last in memory, which CPUs are a third faster with.
    """
    model = load_weights(untrained(), CHECKPOINT)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
