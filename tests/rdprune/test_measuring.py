"""Measuring, against an independent recomputation, and what it leaves behind."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rdprune.criteria import parse
from rdprune.masking import apply_
from rdprune.measuring import measure
from rdprune.verifying import verify
from rdprune_core import RDTable, allocate

LEVELS = (0.0, 0.3, 0.55, 1.0)


def _naive(model, batches, name, level, *, kind="mse", batchnorm=False):
    """Distortion of one option, by a copy of the model and numpy only."""
    pruned = copy.deepcopy(model)
    weight = pruned.get_parameter(name)
    flat = weight.detach().numpy().reshape(-1)
    kept = flat.size - round(level * flat.size)
    order = sorted(range(flat.size), key=lambda i: (-abs(flat[i]), i))
    mask = np.zeros(flat.size, dtype=bool)
    mask[order[:kept]] = True
    weight.data = torch.from_numpy(np.where(mask, flat, 0)).reshape(weight.shape)
    errors = []
    for network in (model, pruned):
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            if batchnorm and isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None
        with torch.no_grad():
            outputs = [network(batch[0]).double().numpy() for batch in batches]
        errors.append(np.concatenate(outputs))
    error = ((errors[1] - errors[0]) ** 2).mean(axis=1)
    return error.mean() if kind == "mse" else error.max()


@pytest.mark.parametrize("kind", ["mse", "max"])
@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_distortion_equals_the_naive_loop(network, batches, kind, recovery):
    """Every distortion equals the one of a copied and hand-masked model."""
    table = measure(
        network, batches, levels=LEVELS, distortion=kind, recovery=recovery, progress=False
    )
    for name, options, distortion in zip(table.names, table.options, table.distortion, strict=True):
        for label, found in zip(options, distortion, strict=True):
            expected = _naive(
                network, batches, name, float(label), kind=kind, batchnorm=recovery == "batchnorm"
            )
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-30), (name, label)


def test_costs_are_exact(network, batches):
    """Costs are the weights that a mask keeps, and MACs in proportion, rounded up."""
    table = measure(network, batches, levels=101, progress=False)
    macs = {"conv1.weight": 36 * 36, "conv2.weight": 108 * 16, "linear.weight": 30}
    for i, name in enumerate(table.names):
        numel = network.get_parameter(name).numel()
        kept = [numel - round(float(label) * numel) for label in table.options[i]]
        assert table.costs["params"][i].tolist() == kept
        assert table.costs["macs"][i].tolist() == [math.ceil(macs[name] * k / numel) for k in kept]
        assert table.dense["params"][i] == numel
        assert table.dense["macs"][i] == macs[name]
        assert table.options[i][35] == "0.35"
        assert table.distortion[i][0] == 0.0


def test_metadata(network, batches):
    """The metadata says what was measured and how."""
    table = measure(network, batches, levels=3, responses=7, seed=5, progress=False)
    metadata = table.metadata
    assert metadata["model"]["class"].endswith("Network")
    del metadata["model"], metadata["rdprune"]
    assert metadata == {
        "distortion": "mse",
        "recovery": "none",
        "samples": 10,
        "outputs": 50,
        "seed": 5,
        "projection": 7,
        "shapes": {
            "conv1.weight": [4, 1, 3, 3],
            "conv2.weight": [6, 2, 3, 3],
            "linear.weight": [5, 6],
        },
        "mask": "unstructured-magnitude",
    }


def test_responses_belong_to_the_distortions(network, batches):
    """With room for all outputs the mean square of each response is its distortion."""
    table = measure(network, batches, levels=LEVELS, responses=256, progress=False)
    for responses, distortion in zip(table.responses, table.distortion, strict=True):
        assert responses.shape == (4, 50)
        np.testing.assert_allclose(
            (responses.astype(float) ** 2).mean(axis=1), distortion, rtol=1e-6
        )


@pytest.mark.parametrize("kind", ["mse", "max", "cvar:0.3", "kl:2", "cosine", "loss", "loss,max"])
def test_every_criterion_equals_the_plain_loop(network, batches, kind):
    """Distortions and kept errors equal those of a copied, hand-masked model's outputs."""
    table = measure(
        network, batches, levels=LEVELS, distortion=kind, keep_errors=True, progress=False
    )
    criterion = parse(kind)
    dense = copy.deepcopy(network).eval()
    for name, labels, rows, distortion in zip(
        table.names, table.options, table.errors, table.distortion, strict=True
    ):
        for label, found, value in zip(labels, rows, distortion, strict=True):
            pruned = copy.deepcopy(network).eval()
            weight = pruned.get_parameter(name)
            amount = round(float(label) * weight.numel())
            with torch.no_grad():
                mask = prune.L1Unstructured(amount).compute_mask(weight, torch.ones_like(weight))
                weight.mul_(mask)
                expected = torch.cat(
                    [criterion.errors(dense(x), pruned(x), truth) for x, truth in batches]
                ).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
            assert value == criterion.reduction(found)


def test_a_callable_distortion(network, batches):
    """A callable's errors fill the table, which says its name; verifying needs it again."""

    def largest(dense, output):
        return (output - dense).abs().amax(dim=1)

    table = measure(network, batches, levels=3, distortion=largest, progress=False)
    assert table.metadata["distortion"].startswith("callable:")
    allocation = allocate(table, sparsity=0.5)
    with pytest.raises(ValueError, match="give distortion= the callable again"):
        verify(network, batches, allocation)
    assert verify(network, batches, allocation, distortion=largest).true > 0


def test_errors_are_kept_only_if_asked_for(network, batches, tmp_path):
    """They come back from the file, and a table without them has none."""
    assert measure(network, batches, levels=3, progress=False).errors is None
    table = measure(network, batches, levels=3, keep_errors=True, progress=False)
    assert [rows.shape for rows in table.errors] == [(3, 10)] * 3
    table.save(tmp_path / "table.npz")
    again = RDTable.load(tmp_path / "table.npz")
    assert all(np.array_equal(a, b) for a, b in zip(again.errors, table.errors, strict=True))


def test_no_responses(network, batches):
    """`responses=0` measures none."""
    table = measure(network, batches, levels=3, responses=0, progress=False)
    assert table.responses is None
    assert table.metadata["projection"] == 0


def test_measuring_repeats(network, batches, tmp_path):
    """The same call gives the same table, and a table survives its file."""
    first, second = (measure(network, iter(batches), levels=5, progress=False) for _ in range(2))
    first.save(tmp_path / "table.npz")
    for other in (second, RDTable.load(tmp_path / "table.npz")):
        assert other.metadata == first.metadata
        for a, b in zip(
            first.distortion + first.responses, other.distortion + other.responses, strict=True
        ):
            assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("levels", "labels"),
    [
        (3, ["0.0", "0.5", "1.0"]),
        (np.int64(2), ["0.0", "1.0"]),
        ([0.9, 0.35, 0.35], ["0.0", "0.35", "0.9"]),
        ((0.1 + 0.2, 0.3, 1), ["0.0", "0.3", "1.0"]),
        (np.linspace(0, 1, 3), ["0.0", "0.5", "1.0"]),
    ],
)
def test_levels(batches, network, levels, labels):
    """Levels are evenly spaced or given; they are sorted, unique, and 0 is always there."""
    table = measure(network, batches, levels=levels, layers="linear", progress=False)
    assert list(table.options[0]) == labels


def test_equal_counts_are_measured_once(network, batches):
    """Levels that keep the same weights cost one pass: a layer of 30 weights takes 30, not 100."""
    passes = 0

    def forward(model, batch):
        nonlocal passes
        passes += 1
        return model(batch[0])

    measure(network, batches[:1], layers="linear", forward=forward, reuse=False, progress=False)
    assert passes == 2 + 30


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recovery", ["none", "batchnorm"])
def test_model_is_left_as_found(network, batches, fingerprint, training, recovery):
    """After success everything about the model and torch's generators is as before."""
    network.linear.train(training)
    before = fingerprint(network)
    measure(network, batches, levels=4, recovery=recovery, progress=False)
    assert fingerprint(network) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")], ids=repr)
@pytest.mark.parametrize("after", [0, 1, 3, 4, 7, 15])
def test_model_is_left_as_found_after_an_error(
    network, batches, fingerprint, interrupting, error, after
):
    """After an exception or an interrupt at any point everything is as before, too."""
    before = fingerprint(network)
    with pytest.raises(type(error)):
        measure(
            network,
            batches,
            levels=4,
            recovery="batchnorm",
            forward=interrupting(after, error),
            progress=False,
        )
    assert fingerprint(network) == before


def test_pending_graph_can_still_be_differentiated(network, batches):
    """Measuring between a forward and a backward pass does not invalidate the graph."""
    loss = network.eval()(batches[0][0]).sum()
    measure(network, batches, levels=3, progress=False)
    loss.backward()
    assert network.conv2.weight.grad is not None


def test_shared_weight_is_pruned_in_all_uses(tied, tokens):
    """Masking a shared weight changes both the embedding and the head."""
    table = measure(tied, tokens, levels=LEVELS, progress=False)
    assert table.names == ("embedding.weight", "hidden.weight")
    weight = tied.head.weight.detach()
    pruned = copy.deepcopy(tied)
    kept = int(table.costs["params"][0][2])
    threshold = weight.abs().reshape(-1).sort(descending=True).values[kept - 1]
    pruned.head.weight.data[weight.abs() < threshold] = 0
    assert pruned.embedding.weight is pruned.head.weight
    with torch.no_grad():
        errors = [(pruned(x) - tied(x)).double().square().mean() for x in tokens]
    assert table.distortion[0][2] == pytest.approx(float(sum(errors) / 2), rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 4, 3), (5, 3, 9)),
        (nn.Conv3d(2, 3, 2), (5, 2, 4, 4, 4)),
        (nn.ConvTranspose1d(3, 4, 3, stride=2), (5, 3, 6)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (5, 4, 5, 5)),
        (nn.ConvTranspose3d(2, 3, 2), (5, 2, 3, 3, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_layer_types(layer, shape, fingerprint):
    """Distortions of the other convolutions equal the naive loop's, too."""
    model = nn.Sequential(layer, nn.Flatten(start_dim=1))
    batches = [(torch.randn(shape, generator=torch.Generator().manual_seed(0)),)]
    before = fingerprint(model)
    table = measure(model, batches, levels=LEVELS, progress=False)
    assert fingerprint(model) == before
    for label, found in zip(table.options[0], table.distortion[0], strict=True):
        assert found == pytest.approx(_naive(model, batches, "0.weight", float(label)), rel=1e-9)


def test_attention_runs():
    """A transformer layer is measured, its packed and its never-called projection included."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    batches = [torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))]
    table = measure(model, batches, levels=3, progress=False)
    assert table.names[:2] == ("self_attn.in_proj_weight", "self_attn.out_proj.weight")
    assert all(row[-1] > 0 for row in table.distortion)


class Idle(nn.Module):
    """A model with a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(3, 2)
        self.idle = nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


class Fragile(Idle):
    """A model whose output is not finite once its weights are gone."""

    def forward(self, x):
        return self.used(x) / self.used.weight.abs().sum()


def _nan_weight():
    model = Idle()
    model.used.weight.data[0, 0] = math.nan
    model.forward = lambda x: torch.nan_to_num(model.used(x))
    return model


def _masked():
    model = Idle()
    prune.l1_unstructured(model.used, "weight", 1)
    return model


def test_float64_outputs_are_compared_in_float64():
    """A change far below float32's rounding of the output is measured."""
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-9, 1.0]]))
        model.bias.fill_(1)
    batches = [torch.ones(4, 2, dtype=torch.float64)]
    table = measure(model, batches, levels=[0.5], progress=False)
    assert table.distortion[0][1] == pytest.approx(1e-18, rel=1e-6)


X = [torch.ones(4, 3)]
BAD = [
    (Idle(), X, {}, "layer 'idle.weight' never runs on the batches"),
    (Idle(), X, {}, "add 'idle.weight' to ignore"),
    (Fragile(), X, {"ignore": "idle"}, "layer 'used.weight', option '1.0': the distortion is"),
    (Idle(), [X[0] * math.nan], {"ignore": "idle"}, "the dense model's output on batch 0 is not"),
    (_nan_weight(), X, {"ignore": "idle"}, "weight of layer 'used.weight' contains NaN"),
    (_masked(), X, {"ignore": "idle"}, "layer 'used.weight' carries a mask: applied already"),
    (Idle(), [], {"ignore": "idle"}, "batches is empty"),
    (Idle(), X[0], {"ignore": "idle"}, "batches is a Tensor"),
    (Idle(), X, {"ignore": "ilde"}, "ignore entry 'ilde' matches no layer; did you mean 'idle"),
    (Idle(), X, {"layers": "other"}, "layers entry 'other' matches no layer"),
    (Idle(), X, {"ignore": "*"}, "model has no layer to measure"),
    (nn.Identity(), X, {}, "model has no layer to measure"),
    (Idle(), X, {"levels": 1}, "levels is 1, must be at least 2"),
    (Idle(), X, {"levels": True}, "levels is True, must be an integer, a sequence of sparsities"),
    (Idle(), X, {"levels": 0.5}, "levels is 0.5, must be an integer, a sequence"),
    (Idle(), X, {"levels": "0.5"}, "levels is '0.5', must be an integer, a sequence"),
    (Idle(), X, {"levels": "falling:"}, "levels is 'falling:', must be an integer, a sequence"),
    (Idle(), X, {"levels": "falling:2"}, "levels is 'falling:2', must be at least 3 levels"),
    (Idle(), X, {"levels": [0.5, 1.5]}, "levels holds 1.5, must hold sparsities in [0, 1]"),
    (Idle(), X, {"levels": [math.nan]}, "levels holds nan"),
    (Idle(), X, {"levels": ["a", "b"]}, "levels holds 'a', must hold sparsities in [0, 1]"),
    (Idle(), X, {"levels": [0]}, "levels holds no sparsity above 0"),
    (Idle(), X, {"distortion": "psnr"}, "distortion is 'psnr', must be one of mse, nmse, max"),
    (
        Idle(),
        X,
        {"recovery": "biases"},
        "recovery is 'biases', must be one of none, least-squares, bias",
    ),
    (Idle(), X, {"recovery": "batchnorm", "ignore": "idle"}, "no BatchNorm statistics"),
    (Idle(), X, {"responses": -1}, "responses is -1, must not be negative"),
    (Idle(), X, {"reuse_memory": -1}, "reuse_memory is -1, must not be negative"),
    (Idle(), X, {"seed": -1}, "seed is -1, must be between 0 and 2**32 - 1"),
]


@pytest.mark.parametrize(("model", "batches", "options", "message"), BAD)
def test_bad_input(model, batches, options, message, fingerprint):
    """Every bad input gives a message of one line that names it, and leaves the model alone."""
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r".") as caught:
        measure(model, batches, **{"levels": 3, "progress": False, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fingerprint(model) == before


def test_applied_model_is_refused(network, batches, allocation_of):
    """A model that carries an allocation's masks is not measured again."""
    table = measure(network, batches, levels=3, progress=False)
    apply_(network, allocation_of(table, {"linear.weight": "0.5"}))
    with pytest.raises(ValueError, match="applied already; strip_ first"):
        measure(network, batches, levels=3, progress=False)


def test_progress_is_on_stderr_only(network, batches, capsys):
    """The progress bar names the layer on stderr; without it nothing is printed."""
    measure(network, batches, levels=3)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "linear.weight" in shown.err
    measure(network, batches, levels=3, progress=False)
    assert capsys.readouterr() == ("", "")


def test_metadata_is_json(network, batches):
    """The metadata can be written as JSON."""
    table = measure(network, batches, levels=2, progress=False)
    assert json.loads(json.dumps(table.metadata)) == table.metadata


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("weight", r"so does the weight '0\.weight'"),
        ("batch", "so does the batch"),
        ("neither", "the weights and the batch hold none"),
    ],
)
def test_where_nan_comes_from(damage: str, reason: str) -> None:
    """A dense output that is not finite names a weight, or the batch, or neither."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    batch = torch.ones(2, 4)
    if damage == "neither":
        model[1].bias.data.fill_(3e38)
        model[1].weight.data.fill_(3e38)
        model[0].weight.data.fill_(1.0)
    else:
        (model[0].weight.data if damage == "weight" else batch)[0, 0] = torch.nan
    with pytest.raises(ValueError, match=rf"output on batch 0 is not finite.*{reason}"):
        measure(model, [batch], levels=3, progress=False)


@pytest.mark.parametrize("size", [0.0, 1e-4, 0.1])
def test_outputs_that_are_not_the_same_twice_are_said(network, batches, size):
    """Noise that is not torch's is in all distortions; rounding is not worth a word."""
    noise = np.random.default_rng(0)

    def forward(model, batch):
        output = model(batch)
        drawn = torch.from_numpy(noise.standard_normal(output.shape)).float()
        return output + size * output.std() * drawn

    options = {"levels": 3, "forward": forward, "reuse": False, "progress": False}
    if size < 0.01:
        measure(network, [batches[0][0]], **options)
        return
    with pytest.warns(RuntimeWarning, match=r"outputs differ by \d+\.\d% from one pass"):
        measure(network, [batches[0][0]], **options)


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_other_kernels_are_no_noise():
    """An encoder's fast path fills padding with zeros, which counting operations does not."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=True).eval()
    mask = torch.arange(6)[None] >= torch.tensor([6, 3, 2, 4])[:, None]
    batch = torch.randn(4, 6, 8), mask
    options = {
        "levels": 3, "forward": lambda m, b: m(b[0], src_key_padding_mask=b[1]), "progress": False,
        "layers": ["layers.0.linear1.weight"],
    }  # fmt: skip
    plain = measure(model, [batch], reuse=False, **options)
    found = measure(model, [batch], **options)
    assert found.distortion[0].tolist() == plain.distortion[0].tolist()


@pytest.mark.filterwarnings("ignore:prefix reuse:RuntimeWarning")
def test_fits_are_timed_without_a_trace():
    """A pass that is only timed leaves the model's buffers as they were."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            self.passes += 1
            return self.last(self.first(x).tanh()) * (1 + 1e-4 * self.passes)

    torch.manual_seed(0)
    model = Counting().eval()
    options = {"levels": 5, "recovery": "least-squares", "progress": False}
    plain = measure(model, [torch.randn(9, 6)], reuse=False, **options)
    torch.manual_seed(0)
    model = Counting().eval()
    found = measure(model, [torch.randn(9, 6)], **options)
    for rows, others in zip(plain.distortion, found.distortion, strict=True):
        assert rows.tolist() == others.tolist()


def test_a_batch_that_does_not_fit_is_named():
    """What torch says of a shape comes with the batch and its shape."""
    wrong = [torch.ones(4, 3), (torch.ones(4, 2), torch.ones(4))]
    with pytest.raises(RuntimeError, match=r"^batch 1, a tuple of 2, the first of shape \(4, 2\)"):
        measure(nn.Linear(3, 2), wrong, progress=False)


def test_a_state_dict_is_no_model() -> None:
    """What holds the weights alone is called by its type."""
    with pytest.raises(ValueError, match=r"model is a OrderedDict, must be a torch\.nn\.Module"):
        measure(nn.Linear(2, 1).state_dict(), [torch.ones(1, 2)])  # type: ignore[arg-type]
