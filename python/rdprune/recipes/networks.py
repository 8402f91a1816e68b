"""The recipes' networks: this project's CIFAR ResNets, the others from torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

import torch
from torch import nn

from rdprune.demo.network import ResNet

Build = Callable[[int, int, bool], nn.Module]
"""Takes the number of classes, the pixels of a side and whether to load public weights."""


def library(name: str) -> Any:
    """Import torchvision or timm, or a module of theirs.

    Raises
    ------
    ImportError
        If it is not installed, or does not work with this torch; says what to do.
    """
    root = name.split(".")[0]
    try:
        return import_module(name)
    except ImportError as error:
        message = f"{root} is missing: pip install 'rdprune-core[networks]' ({error})"
        raise ImportError(message, name=root) from error
    except (RuntimeError, OSError) as error:  # its binary part was built for another torch
        message = f"{root} does not work with torch {torch.__version__}: {error}"
        raise ImportError(message, name=root) from error


def _resnet(depth: int) -> Build:
    def build(classes: int, _pixels: int, pretrained: bool) -> nn.Module:
        _refuse(pretrained, f"resnet{depth}")
        return ResNet(depth, classes=classes)

    return build


def _cifar_vgg16(classes: int, _pixels: int, pretrained: bool) -> nn.Module:
    """VGG-16's convolutions, and one linear layer on their average."""
    _refuse(pretrained, "cifar-vgg16")
    features = library("torchvision.models").vgg16_bn().features
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    return nn.Sequential(features, *head)


def _cifar_densenet121(classes: int, _pixels: int, pretrained: bool) -> nn.Module:
    """DenseNet-121 that begins with a 3x3 convolution and no pooling."""
    _refuse(pretrained, "cifar-densenet121")
    model: nn.Module = library("torchvision.models").densenet121(num_classes=classes)
    features = model.get_submodule("features")
    features.register_module("conv0", nn.Conv2d(3, 64, 3, padding=1, bias=False))
    features.register_module("pool0", nn.Identity())
    return model


def _cifar_efficientnet_b0(classes: int, _pixels: int, pretrained: bool) -> nn.Module:
    """EfficientNet-B0 whose first convolution keeps the resolution."""
    _refuse(pretrained, "cifar-efficientnet-b0")
    model: nn.Module = library("torchvision.models").efficientnet_b0(num_classes=classes)
    first = model.get_submodule("features.0.0")
    assert isinstance(first, nn.Conv2d)
    first.stride = (1, 1)
    return model


def _torchvision(name: str) -> Build:
    def build(classes: int, _pixels: int, pretrained: bool) -> nn.Module:
        weights = "DEFAULT" if pretrained else None
        model: nn.Module = getattr(library("torchvision.models"), name)(
            num_classes=classes, weights=weights
        )
        return model

    return build


def _deit_base(classes: int, pixels: int, pretrained: bool) -> nn.Module:
    model: nn.Module = library("timm").create_model(
        "deit_base_patch16_224", pretrained=pretrained, num_classes=classes, img_size=pixels
    )
    return model


NETWORKS: Final[Mapping[str, Build]] = {
    "resnet20": _resnet(20),
    "resnet32": _resnet(32),
    "resnet56": _resnet(56),
    "cifar-vgg16": _cifar_vgg16,
    "cifar-densenet121": _cifar_densenet121,
    "cifar-efficientnet-b0": _cifar_efficientnet_b0,
    "vgg16-bn": _torchvision("vgg16_bn"),
    "resnet50": _torchvision("resnet50"),
    "deit-base": _deit_base,
}


def _refuse(pretrained: bool, network: str) -> None:
    if pretrained:
        raise ValueError(f"there are no public weights of {network}: name a file")
