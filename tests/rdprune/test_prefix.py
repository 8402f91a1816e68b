"""Prefix reuse, against the plain loop, bit for bit."""

from __future__ import annotations

import ctypes
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.batches import Runner, preserved
from rdprune.demo.network import ResNet
from rdprune.distortion import Reference
from rdprune.layers import prunable
from rdprune.measuring import measure
from rdprune.prefix import Prefix

LEVELS = (0.0, 0.2, 0.5, 0.7, 0.9, 1.0)


def _data(*shape: int, count: int = 2, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def _both(model, batches, **options):
    """Measure plainly and with reuse; every number of the tables must be the same."""
    options = {"levels": LEVELS, "progress": False, **options}
    plain = measure(model, batches, reuse=False, **options)
    reused = measure(model, batches, **options)
    assert reused.names == plain.names
    assert reused.options == plain.options
    assert reused.metadata == plain.metadata
    for pair in zip(plain.distortion, reused.distortion, strict=True):
        assert pair[0].tobytes() == pair[1].tobytes()
    for pair in zip(plain.responses, reused.responses, strict=True):
        assert pair[0].tobytes() == pair[1].tobytes()
    for pair in zip(plain.errors or [], reused.errors or [], strict=True):
        assert pair[0].tobytes() == pair[1].tobytes()
    assert any(row[-1] > 0 for row in plain.distortion)


def _shares(model, batches, **options):
    """Which part of a pass is left for each layer, and what the records were seen to take."""
    runner = Runner(model, tuple(batches))
    with preserved(model):
        reference = Reference(runner.outputs())
        layers = prunable(model)
        prefix = Prefix(runner, reference, layers, **options)
        left, most, ran = {}, 0, {}
        with prefix.installed():
            for name in prefix.order:
                left[name] = prefix.prepare(layers[name])
                most = max(most, prefix.nbytes)
                assert not left[name] or prefix.agrees(layers[name], reference.unchanged())
                ran[name] = _operations(prefix.reusing if left[name] else prefix.plain)
    return left, most, ran


def _operations(runner: Runner) -> int:
    """Multiplications in one pass."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        for _ in runner.outputs():
            pass
    return counter.get_total_flops()


@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_residual_network(recovery):
    """A residual network with functional shortcuts gives the plain loop's table."""
    torch.manual_seed(0)
    model = ResNet(14, stride=2)
    _both(model, _data(4, 3, 16, 16), recovery=recovery, ignore=["layer1.1", "layer2.1"])


def test_later_layers_cost_less():
    """The work that is left for a layer falls along the network, to the last layer's own."""
    torch.manual_seed(0)
    model = ResNet(8, stride=2)
    reused, _, ran = _shares(model, _data(3, 3, 16, 16))
    counts = list(ran.values())
    assert counts == sorted(counts, reverse=True)
    assert [name for name, done in reused.items() if not done] == ["conv1.weight"]
    # 2 batches of 3 samples, 64 inputs, 10 outputs; two operations each.
    assert ran["linear.weight"] == 2 * 2 * 3 * 64 * 10


@pytest.mark.parametrize("memory", [0, 20_000, 60_000])
def test_memory_limit(memory):
    """Records never take more than the limit, and the table is the same under any."""
    torch.manual_seed(0)
    model = ResNet(8, stride=2)
    batches = _data(3, 3, 16, 16, count=3)
    reused, most, _ = _shares(model, batches, memory=memory)
    assert most <= memory
    assert any(reused.values()) == (memory > 0)
    _both(model, batches, reuse_memory=memory)


def test_limit_holds_while_recording(monkeypatch):
    """At every moment of recording, old and new records together stay within the limit."""
    torch.manual_seed(0)
    model = ResNet(8, stride=2)
    seen = []
    settle = Prefix._settle

    def watched(self):
        settle(self)
        seen.append(self.nbytes)

    monkeypatch.setattr(Prefix, "_settle", watched)
    _shares(model, _data(3, 3, 16, 16, count=4), memory=70_000)
    assert 50_000 < max(seen) <= 70_000


@pytest.mark.parametrize("fast_path", [True, False])
def test_transformer(fast_path):
    """A transformer encoder gives the plain loop's table, with and without its fused kernel."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        _both(model, _data(2, 5, 8))
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class Base(nn.Module):
    """Three linear layers that the models below put to odd uses."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.c = nn.Linear(6, 6)


class Functional(Base):
    """Functional code between the modules, which reads and reshapes, with a skip connection."""

    def forward(self, x):
        y = functional.gelu(self.a(x))
        gate = y.mean(dim=1, keepdim=True).sigmoid()
        z = self.b(y.flip(1).contiguous()) * gate
        if float(y.sum()) > -1e9:
            z = z + y
        return self.c(z) + y[:, :6]


class Twice(Base):
    """A module called several times, on its own output and within another."""

    def __init__(self):
        super().__init__()
        self.nested = nn.Sequential(self.a, nn.Tanh(), self.a)

    def forward(self, x):
        return self.c(self.a(self.b(self.nested(self.a(x)))))


class Backwards(Base):
    """Runs its layers in another order than it names them."""

    def forward(self, x):
        return self.a(torch.tanh(self.b(torch.tanh(self.c(x)))))


class Noisy(Base):
    """Dropout that is always on, in a module and in functional code."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(self.a, Dropping(), nn.Tanh())

    def forward(self, x):
        x = functional.dropout(self.b(self.block(x)), 0.2, training=True)
        return self.c(x) + torch.rand(())


class Dropping(nn.Module):
    """Dropout left on."""

    def forward(self, x):
        return functional.dropout(x, 0.3, training=True)


class OwnGenerator(Base):
    """Draws from a generator of its own, which every pass moves on."""

    def __init__(self):
        super().__init__()
        self.noise = Noise()

    def forward(self, x):
        return self.c(self.b(self.noise(self.a(x))))


class Noise(nn.Module):
    """Adds noise of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        self.generator.manual_seed(3)
        return x + torch.rand(x.shape, generator=self.generator)


class Counting(Base):
    """Counts its calls in buffers, attributes and lists, and keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.counter = Counter()

    def forward(self, x):
        return self.c(torch.tanh(self.b(self.counter(self.a(x)))))


class Counter(nn.Module):
    """Changes itself in every way."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0
        self.seen = []

    def forward(self, x):
        self.count += 1
        self.calls += 1
        self.seen.append(self.calls)
        self.last = x
        return 2 * x


class Inplace(Base):
    """In-place operations on inputs and on outputs of modules."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(self.b, nn.ReLU(inplace=True))
        self.same = nn.Identity()

    def forward(self, x):
        y = self.a(x)
        self.relu(y)
        z = self.same(y)
        z.mul_(1.5)
        w = self.block(y)
        w += y
        return self.c(w) + z


class Containers(Base):
    """Modules that return tuples, dicts, nothing, numbers and objects."""

    def __init__(self):
        super().__init__()
        self.pair = Wrapped(self.a, lambda y, x: (y, {"x": y * 2, "n": 3, "none": None}))
        self.thing = Wrapped(self.b, lambda y, x: Thing(y))
        self.repeated = Wrapped(nn.Tanh(), lambda y, x: [y, y])
        self.view = Wrapped(nn.Tanh(), lambda y, x: y[:, ::2])

    def forward(self, x):
        y, extra = self.pair(x)
        y = y * extra["n"] + extra["x"]
        z = self.thing(y).value
        first, second = self.repeated(z)
        first.add_(1)
        return self.c(z + first * second + y) + self.view(y).sum(dim=1, keepdim=True)


class Wrapped(nn.Module):
    """A module whose output is wrapped."""

    def __init__(self, inner, wrap):
        super().__init__()
        self.inner = inner
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.inner(x), x)


@dataclass
class Thing:
    """No tensor and no container."""

    value: Tensor


class Filling(Base):
    """Modules that write to a list, a dict or an object that they are given."""

    def __init__(self):
        super().__init__()
        self.first = Writing(self.a)
        self.second = Writing(self.b)

    def forward(self, x):
        found, thing = [], Thing(x)
        x = self.second(self.first(x, found, thing), found, thing)
        return self.c(x + thing.value) + sum(found)


class Writing(nn.Module):
    """Writes to its arguments."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, found, thing):
        x = torch.tanh(self.inner(x))
        found.append(x * 2)
        thing.value = thing.value + x
        return x


class Peeking(Base):
    """Uses a layer's weight before its module runs, and another without any module."""

    def forward(self, x):
        scale = self.c.weight.norm()
        return functional.linear(torch.tanh(self.a(x)) * scale, self.b.weight) + self.c(x)


class Tied(Base):
    """A weight shared between the first and the last module."""

    def __init__(self):
        super().__init__()
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Branching(Base):
    """Takes another way for each batch."""

    def forward(self, x):
        if len(x) > 3:
            return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))
        return self.a(torch.tanh(self.c(x)))


class Catching(Base):
    """Catches an error of one of its modules."""

    def __init__(self):
        super().__init__()
        self.wrong = nn.Linear(7, 6)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        try:
            y = self.wrong(y)
        except RuntimeError:
            y = self.b(y)
        return self.c(y)


MODELS = [
    Functional,
    Twice,
    Backwards,
    Noisy,
    OwnGenerator,
    Counting,
    Inplace,
    Containers,
    Filling,
    Peeking,
    Tied,
    Branching,
]


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_odd_models(kind, fingerprint):
    """Whatever modules do, the table is the plain loop's and the model is left as it was."""
    torch.manual_seed(0)
    model = kind()
    batches = _data(4, 6) + _data(3, 6, seed=1)
    before = fingerprint(model)
    _both(model, batches, keep_errors=True)
    assert fingerprint(model) == before


def test_a_caught_error():
    """A module that fails in every pass, and whose error the model catches, changes nothing."""
    torch.manual_seed(0)
    _both(Catching(), _data(4, 6), ignore="wrong", layers=["b", "c"])


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_odd_models_are_reused_too(kind):
    """Odd modules are left to run, and others around them still give their records."""
    torch.manual_seed(0)
    model = kind()
    reused, _, ran = _shares(model, _data(4, 6) + _data(3, 6, seed=1))
    assert any(reused.values())
    assert min(ran.values()) < max(ran.values())


def test_hooks_of_others_keep_running():
    """A user's hook sees every pass: its module's recorded output, and itself inside of others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 6))
    seen = []
    handle = model[0][0].register_forward_hook(
        lambda module, inputs, output: seen.append(output.sum().item())
    )
    passes = []

    def forward(model, batch):
        output = model(batch)
        passes.append(len(seen))
        return output

    measure(model, _data(4, 6, count=1), layers="1", levels=LEVELS, forward=forward, progress=False)
    handle.remove()
    assert passes == list(range(1, len(passes) + 1))
    assert len(set(seen)) == 1


def test_the_users_forward_attribute_is_kept():
    """A forward that somebody put on the instance is followed, and is there again afterwards."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    original = model[0].forward

    def doubled(x):
        return 2 * original(x)

    model[0].forward = doubled
    _both(model, _data(4, 6))
    assert vars(model[0])["forward"] is doubled
    assert "forward" not in vars(model[1])


class Drifting(Base):
    """Gives another output in each pass, by a counter that nobody puts back."""

    def __init__(self):
        super().__init__()
        self.counter = Counter()

    def forward(self, x):
        x = self.counter(self.a(x))
        return self.c(x + self.counter.count)


class Hidden(Base):
    """Uses a weight in a way that no operation shows."""

    def forward(self, x):
        x = self.a(x)
        address = self.c.weight.data_ptr()
        values = np.ctypeslib.as_array((ctypes.c_float * 36).from_address(address))
        scale = float(np.abs(values).sum())
        return self.c(self.scaled(x, scale))

    def __init__(self):
        super().__init__()
        self.scaled = Scaled()


class Scaled(nn.Module):
    """Multiplies by a number."""

    def forward(self, x, scale):
        return x * scale


class Meddling(Base):
    """A module that changes another one."""

    def __init__(self):
        super().__init__()
        self.meddler = Meddler(self.b)

    def forward(self, x):
        return self.c(self.b(self.meddler(self.a(x))))


class Meddler(nn.Module):
    """Writes to a module that is not its own."""

    def __init__(self, other):
        super().__init__()
        self.other = [other]

    def forward(self, x):
        self.other[0].note = x
        return x * 2


FALLBACKS = [
    (Drifting, "not the same in every pass"),
    (Hidden, "not the same in every pass"),
    (Meddling, "module 'b' is changed by another"),
]


@pytest.mark.parametrize(("kind", "message"), FALLBACKS, ids=lambda x: getattr(x, "__name__", ""))
def test_what_cannot_be_reused_is_measured_plainly(kind, message):
    """Where a check fails, one warning says so and the table is the plain loop's.

    That the dense outputs are not the same twice is said besides, with reuse and without.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _both(kind(), _data(4, 6), ignore="b")
    said = [str(warning.message) for warning in caught]
    others = [text for text in said if "from one pass to the next" in text]
    assert len(others) == (2 if kind is Drifting else 0)
    (rest,) = (text for text in said if text not in others)
    assert message in rest


def _scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Linear(6, 6))


class Around(nn.Module):
    """A layer after another module."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.last = nn.Linear(6, 6)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_scripted, "module 'inner' is a ScriptModule"),
        (lambda: nn.DataParallel(nn.Linear(6, 6)), "module 'inner' is a DataParallel"),
    ],
    ids=["scripted", "parallel"],
)
def test_modules_that_cannot_be_followed(make, message):
    """A model with a module whose forward cannot be replaced is measured plainly, and said so."""
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match=message):
        _both(Around(make()), _data(4, 6), layers="last")


def test_compiled_models_are_run_whole():
    """A module marked for compilation is not taken apart."""
    torch.manual_seed(0)
    model = Around(nn.Linear(6, 6))
    model.inner.compile(backend="eager")
    with pytest.warns(RuntimeWarning, match="module 'inner' is compiled"):
        Prefix(Runner(model, tuple(_data(4, 6))), None, {})


def test_global_hooks():
    """Hooks that torch runs around all modules are somebody's, so every module runs."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.warns(RuntimeWarning, match="hooks that run around every module"):
            _both(model, _data(4, 6))
    finally:
        handle.remove()


@pytest.mark.parametrize("after", [2, 4, 6, 8, 11])
def test_interrupted(network, batches, fingerprint, interrupting, after):
    """An interrupt while tracing, recording, checking or replaying leaves the model as it was."""
    before = fingerprint(network)
    with pytest.raises(KeyboardInterrupt):
        measure(
            network,
            batches,
            levels=LEVELS,
            forward=interrupting(after, KeyboardInterrupt()),
            progress=False,
        )
    assert fingerprint(network) == before
