"""The error of one sample, against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.nn import functional as F

from rdprune.criteria import parse


def _pair(*shape):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for _ in range(2))


def _errors(kind, dense, output, labels=None):
    return parse(kind).errors(dense, output, labels).numpy()


@pytest.mark.parametrize("temperature", [1, 2, 0.5])
def test_kl_against_scipy(temperature):
    """The divergence equals SciPy's, of dense from pruned, the mean over a sample's positions."""
    dense, output = _pair(3, 4, 7)
    p, q = (softmax(z.double().numpy() / temperature, axis=-1) for z in (dense, output))
    found = _errors(f"kl:{temperature}", dense, output)
    np.testing.assert_allclose(found, rel_entr(p, q).sum(-1).mean(-1), rtol=1e-12)


def test_cosine_against_torch():
    """One minus torch's cosine; two zero vectors are equal, zero and another are not."""
    dense, output = _pair(3, 7)
    expected = 1 - F.cosine_similarity(dense.double(), output.double())
    np.testing.assert_allclose(_errors("cosine", dense, output), expected, rtol=1e-12)
    zero = torch.zeros(1, 7)
    assert _errors("cosine", zero, zero) == 0
    assert _errors("cosine", zero, dense[:1]) == 1


def test_scale_does_not_matter_to_the_cosine():
    """An embedding that is longer but points the same way has no error."""
    dense, _ = _pair(3, 7)
    assert abs(_errors("cosine", dense, 3 * dense)).max() < 1e-15


def test_nmse_is_of_standardised_logits():
    """It is twice one minus Pearson's correlation; neither a shift nor a scale matters."""
    dense, output = _pair(3, 7)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(dense, output, strict=True)]
    np.testing.assert_allclose(_errors("nmse", dense, output), 2 - 2 * np.array(correlation))
    assert abs(_errors("nmse", dense, 3 * dense + 1)).max() < 1e-12
    constant = torch.full((1, 7), 2.0)
    assert _errors("nmse", constant, constant) == 0
    assert _errors("nmse", constant, dense[:1]) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["mse", "nmse", "kl:2", "cosine", "loss"])
def test_weights_are_of_positions(kind):
    """A weighted error is the weighted mean of what single positions have."""
    dense, output = _pair(2, 3, 5)
    labels = torch.tensor([[1, 4, 0], [2, 2, 3]])
    weights = torch.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 0.5]], dtype=torch.float64)
    single = np.stack(
        [_errors(kind, dense[:, t], output[:, t], labels[:, t]) for t in range(3)], axis=1
    )
    expected = (single * weights.numpy()).sum(1) / weights.numpy().sum(1)
    found = parse(f"{kind}@here").errors(dense, output, labels, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_weights_and_unlabelled_positions():
    """What has no label counts for nothing, whatever its weight."""
    dense, output = _pair(1, 3, 5)
    labels, weights = torch.tensor([[1, -100, 0]]), torch.tensor([[1.0, 9.0, 3.0]]).double()
    found = parse("loss@w").errors(dense, output, labels, weights)
    rest = [0, 2]
    expected = parse("loss@w").errors(
        dense[:, rest], output[:, rest], labels[:, rest], weights[:, rest]
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("shape", "weights", "message"),
    [
        ((2, 3, 5), None, "the weights are absent"),
        ((2, 3, 5), torch.ones(2, 5), r"of shape \(2, 5\), must be one for each position"),
        ((2, 5), torch.ones(2), r"of shape \(2,\), must be one for each position"),
        ((2, 3, 5), torch.tensor([[1.0, 1, 1], [0, 0, 0]]), "no position of positive weight"),
    ],
)
def test_weights_that_do_not_fit(shape, weights, message):
    """Weights that are absent, of another shape, or all zero in a sample are refused."""
    with pytest.raises(ValueError, match=message):
        parse("mse@w").errors(*_pair(*shape), None, weights)


@pytest.mark.parametrize("kind", ["nmse", "kl", "cosine"])
def test_maps_have_their_classes_first(kind):
    """Of an output (n, classes, h, w) each pixel is a position."""
    dense, output = _pair(2, 5, 3, 3)
    flat = [z.permute(0, 2, 3, 1).reshape(2, 9, 5) for z in (dense, output)]
    np.testing.assert_array_equal(_errors(kind, dense, output), _errors(kind, *flat))


def test_loss_is_the_rise_of_the_cross_entropy():
    """Classes, tokens with some unlabelled and maps: torch's cross-entropy, sample by sample."""
    dense, output = _pair(4, 6)
    labels = torch.tensor([0, 5, 2, 2])
    expected = [F.cross_entropy(z.double(), labels, reduction="none") for z in (output, dense)]
    found = _errors("loss", dense, output, labels)
    np.testing.assert_allclose(found, expected[0] - expected[1], rtol=1e-12)
    dense, output = _pair(2, 3, 6)
    labels = torch.tensor([[1, -100, 3], [-100, -100, 5]])
    expected = [
        torch.stack([F.cross_entropy(z[i].double(), labels[i]) for i in range(2)])
        for z in (output, dense)
    ]
    found = _errors("loss", dense, output, labels)
    np.testing.assert_allclose(found, expected[0] - expected[1], rtol=1e-12)
    maps = [z.permute(0, 2, 1).reshape(2, 6, 3, 1) for z in (dense, output)]
    np.testing.assert_allclose(_errors("loss", *maps, labels[..., None]), found, rtol=1e-12)


def test_one_number_a_sample_is_the_loss_itself():
    """A forward that returns each sample's loss needs no labels; a fall is negative."""
    dense, output = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.0])
    assert _errors("loss", dense, output).tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        ((2, 3), None, "needs integer labels"),
        ((2, 3), torch.tensor([[0], [1]]), r"labels have shape \(2, 1\), the output has \(2, 3\)"),
        ((2, 3), torch.tensor([0, 3]), "must be -100 or below 3"),
        ((2, 3), torch.tensor([0, -1]), "must be -100 or below 3"),
        ((2, 3), torch.tensor([0, -100]), "a sample has no label"),
    ],
)
def test_labels_that_do_not_fit(output, labels, message):
    """Labels that are absent, of another shape or out of range are refused."""
    with pytest.raises(ValueError, match=message):
        _errors("loss", *_pair(*output), labels)


@pytest.mark.parametrize("kind", ["nmse", "kl", "cosine"])
def test_one_number_has_no_direction(kind):
    """A divergence or a cosine of one number a sample is refused."""
    with pytest.raises(ValueError, match="needs an output of shape"):
        _errors(kind, *_pair(3))


def test_callable():
    """A callable gets both outputs, and its answers are the errors."""
    dense, output = _pair(3, 7)

    def largest(before, after):
        return (after - before).abs().amax(dim=1)

    criterion = parse(largest)
    assert criterion.name.startswith("callable:")
    assert criterion.name.endswith("largest")
    assert torch.equal(
        criterion.errors(dense, output, None), (output - dense).abs().amax(1).double()
    )


@pytest.mark.parametrize("answer", [1.0, torch.zeros(2), torch.zeros(3, 1)])
def test_a_callable_must_return_one_error_a_sample(answer):
    """Anything but a tensor (n,) is refused."""
    with pytest.raises(ValueError, match=r"must return a tensor of shape \(3,\)"):
        parse(lambda before, after: answer).errors(*_pair(3, 7), None)


@pytest.mark.parametrize(
    "name",
    [
        "mse", "max", "cvar:0.1", "kl", "kl:2,max", "cosine,cvar:0.5", "loss:next", "loss",
        "nmse,max", "mse@w", "kl:2@attention_mask,cvar:0.1", "loss:next@2",
    ],
)  # fmt: skip
def test_names_are_read_back(name):
    """A criterion is called what it was read from."""
    assert parse(name).name == name
    assert parse(name.replace(",", " , ")).name == name


@pytest.mark.parametrize(
    "name",
    [
        "", "psnr", "mse:2", "kl:0", "kl:-1", "kl:", "kl:inf", "loss:last", "max,max", "mse@",
        "max@w", 3,
    ],
)  # fmt: skip
def test_unknown_names(name):
    """What is no distortion is refused."""
    with pytest.raises(ValueError, match="distortion is"):
        parse(name)


def test_a_callable_cannot_be_read_back():
    """The name of a callable, out of a table, asks for the callable."""
    with pytest.raises(ValueError, match="give distortion= the callable again"):
        parse("callable:mine")
    with pytest.raises(ValueError, match="reduction is 'median'"):
        parse("kl,median")
