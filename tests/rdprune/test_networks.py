"""Every kind of network: measured as by the plain loop, left alone, masked, verified, stripped."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from architectures import TINY, Case, autocast_forward, make, minilm, plain_copy
from rdprune.batches import device_of
from rdprune.layers import prunable
from rdprune.masking import apply_, masks, strip_
from rdprune.measuring import measure
from rdprune.verifying import verify
from rdprune_core import allocate

LEVELS = (0.0, 0.4, 0.75)


@pytest.fixture(params=[*TINY, "minilm"])
def case(request):
    """Return each network in turn."""
    return minilm(8) if request.param == "minilm" else make(request.param)


def _measure(case, **options):
    arguments = {"levels": LEVELS, "progress": False, **(case.arguments or {}), **options}
    # Compiled modules cannot be replaced by their records, which would be said in a warning.
    arguments["reuse"] = not hasattr(case.model, "_orig_mod")
    return measure(case.model, case.batches, forward=case.forward, **arguments)


def _keep_largest(weight, level):
    """Zero all but the largest magnitudes, by a stable sort in numpy."""
    values = weight.detach().double().numpy().reshape(-1).copy()
    order = np.argsort(-np.abs(values), kind="stable")
    values[order[len(values) - round(level * len(values)) :]] = 0
    weight.data.copy_(torch.from_numpy(values).reshape(weight.shape).to(weight.dtype))


def _run(model, case):
    """Outputs on all batches in float64, picked by hand."""
    outputs = []
    with torch.no_grad():
        for batch in copy.deepcopy(case.batches):
            if case.forward is not None:
                output = case.forward(model, batch)
            elif isinstance(batch, dict):
                output = model(**{k: v for k, v in batch.items() if k != "labels"})
            else:
                output = model(batch)
            if hasattr(output, "logits"):
                output = output.logits
            elif hasattr(output, "last_hidden_state"):
                output = output.last_hidden_state
            elif isinstance(output, dict):
                output = output["state"]
            elif isinstance(output, tuple):
                output = (
                    output[1] if torch.is_tensor(output[1]) and output[0] == 7 else output[0][1]
                )
            outputs.append(output.double())
    return outputs


def _same(case):
    """Approximately no error: masked attention leaves the fast path, whose bfloat16 differs."""
    tolerance = 1e-4 if case.forward is autocast_forward else 1e-10
    return pytest.approx(0, abs=tolerance)


def _error(outputs, others):
    samples = [((a - b) ** 2).flatten(1).mean(1) for a, b in zip(outputs, others, strict=True)]
    return float(torch.cat(samples).mean())


def test_the_table_equals_the_plain_loops(case):
    """Every distortion is that of a copy whose smallest weights were set to zero by hand."""
    table = _measure(case)
    assert sorted(table.names) == sorted(case.layers)
    dense = plain_copy(case.model)
    outputs = _run(dense, case)
    for i, name in enumerate(table.names):
        assert table.distortion[i][0] == 0.0
        for k in (1, 2):
            pruned = plain_copy(case.model)
            weight = pruned.get_parameter(name)
            _keep_largest(weight, LEVELS[k])
            assert int((weight != 0).sum()) == table.costs["params"][i][k]
            expected = _error(_run(pruned, case), outputs)
            assert expected > 0
            assert table.distortion[i][k] == pytest.approx(expected, rel=1e-5)


def test_the_model_is_left_as_it_was(case, fingerprint):
    """Measuring and verifying change no weight, buffer, mode, hook, attribute or random state."""
    model = getattr(case.model, "_orig_mod", case.model)
    model.train()
    before = fingerprint(model)
    allocation = allocate(_measure(case), sparsity=0.6)
    verify(case.model, case.batches, allocation, forward=case.forward)
    assert fingerprint(model) == before


def test_masks_are_effective_counted_and_removed(case):
    """Masked, the network is the hand-pruned one; stripped too, with the dense model's names."""
    table = _measure(case)
    allocation = allocate(table, sparsity=0.6)
    dense = plain_copy(case.model)
    by_hand = plain_copy(case.model)
    for name, label in zip(allocation.names, allocation.options, strict=True):
        _keep_largest(by_hand.get_parameter(name), float(label))
    expected, keys = _run(by_hand, case), list(case.model.state_dict())
    assert _error(expected, _run(dense, case)) > 0
    report = verify(case.model, case.batches, allocation, forward=case.forward)
    assert report.kept_total == report.expected_total == allocation.cost["params"]
    assert report.true == pytest.approx(_error(expected, _run(dense, case)), rel=1e-5)

    apply_(case.model, allocation)
    assert _error(_run(case.model, case), expected) == _same(case)
    masked = verify(case.model, case.batches, allocation, forward=case.forward)
    assert masked.kept == report.kept
    tolerance = 0.02 if case.forward is autocast_forward else 1e-5
    assert masked.true == pytest.approx(report.true, rel=tolerance)

    strip_(case.model)
    assert list(case.model.state_dict()) == keys
    assert _error(_run(case.model, case), expected) == _same(case)
    layers = prunable(case.model, **(case.arguments or {}))
    for name, kept in report.kept.items():
        assert int(layers[name].parameter.count_nonzero()) == kept
    again = verify(case.model, case.batches, allocation, forward=case.forward, dense=dense)
    assert again.true == pytest.approx(report.true, rel=1e-5)


def test_masks_follow_the_weights(case):
    """A weight that training changes is masked anew in the next pass, in both modes."""
    allocation = allocate(_measure(case), sparsity=0.6)
    wanted = masks(case.model, allocation)
    apply_(case.model, allocation)
    by_hand = plain_copy(case.model)
    strip_(by_hand)
    originals = {n: layer.parameter for n, layer in prunable(case.model).items()}
    for name, layer in prunable(by_hand, **(case.arguments or {})).items():
        if name in originals:
            originals[name].data.neg_()
            layer.parameter.data.copy_(originals[name] * wanted[name])
    assert _error(_run(case.model, case), _run(by_hand, case)) == _same(case)


@pytest.mark.parametrize("name", ["lstm", "encoder", "cross_attention", "experts", "tied"])
def test_masked_weights_train(name):
    """A step of gradient descent moves the kept weights and leaves the removed ones at zero."""
    case = make(name)
    model = case.model
    allocation = allocate(_measure(case), sparsity=0.6)
    wanted = masks(model, allocation)
    before = {n: layer.parameter.detach().clone() for n, layer in prunable(model).items()}
    apply_(model, allocation)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(case.batches[0])
        while not torch.is_tensor(output):
            values = vars(output).values() if hasattr(output, "load") else output
            output = next(
                v for v in reversed(list(values)) if not torch.is_tensor(v) or v.is_floating_point()
            )
        output.square().mean().backward()
        optimizer.step()
    copy.deepcopy(model)
    strip_(model)
    for key, layer in prunable(model).items():
        changed = (layer.parameter != before[key])[wanted[key]]
        assert not layer.parameter[~wanted[key]].any(), key
        assert changed.any(), key


def test_a_failed_apply_leaves_recurrent_weights_whole(monkeypatch):
    """When masking fails half-way the recurrent module's own list of weights is restored too."""
    case = make("lstm")
    allocation = allocate(_measure(case), sparsity=0.6)
    recurrent = case.model.recurrent
    before, outputs = list(recurrent._flat_weights), _run(case.model, case)
    real = torch.nn.utils.prune.custom_from_mask
    calls = []

    def failing(module, name, mask):
        calls.append(name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(module, name, mask)

    monkeypatch.setattr(torch.nn.utils.prune, "custom_from_mask", failing)
    with pytest.raises(KeyboardInterrupt):
        apply_(case.model, allocation)
    assert all(a is b for a, b in zip(recurrent._flat_weights, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(_run(case.model, case), outputs, strict=True))


def test_autocast_around_the_call_does_not_keep_old_weights():
    """Measured inside an autocast block, which caches casts of weights, the table is the same."""
    case = make("autocast")
    expected = _measure(case)
    with torch.autocast("cpu", torch.bfloat16):
        case = Case(case.model, case.batches, case.layers)
        found = _measure(case)
    for a, b in zip(found.distortion, expected.distortion, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loss_of_a_language_model():
    """The rise of the loss of the next token is that of Hugging Face's own loss."""
    case = make("gpt2")
    table = _measure(case, distortion="loss:next")
    dense = case.model
    for i, name in enumerate(table.names):
        pruned = plain_copy(dense)
        _keep_largest(pruned.get_parameter(name), LEVELS[2])
        with torch.no_grad():
            rise = [float(pruned(**b).loss - dense(**b).loss) for b in case.batches]
        assert table.distortion[i][2] == pytest.approx(np.mean(rise), abs=1e-5)
    with pytest.raises(ValueError, match="say distortion='loss:next'"):
        _measure(case, distortion="loss")


def test_offloaded_weights_do_not_take_the_inputs():
    """Inputs go to the first device that holds something, not to the meta device."""
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    assert device_of(model).type == "cpu"
    assert device_of(nn.Linear(2, 2, device="meta")).type == "cpu"
