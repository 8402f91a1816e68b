"""Distortion and responses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdprune.criteria import Beside, parse
from rdprune.distortion import Reference


def _outputs(seed, shapes=((3, 4), (2, 4))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_mse_and_max_by_hand():
    """Errors are means over a sample's elements: here 2.5 and 8, of which the mean is 5.25."""
    dense = [torch.zeros(1, 2), torch.zeros(1, 2)]
    other = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])]
    assert Reference(dense).measure(other).distortion == 5.25
    assert Reference(dense, distortion="max").measure(other).distortion == 8.0


@pytest.mark.parametrize("kind", ["mse", "max"])
def test_against_numpy(kind):
    """Both kinds equal numpy's in float64, over batches of unequal size."""
    dense, other = _outputs(0), _outputs(1)
    difference = np.concatenate(other).astype(float) - np.concatenate(dense).astype(float)
    errors = (difference**2).mean(axis=1)
    expected = errors.mean() if kind == "mse" else errors.max()
    found = Reference(dense, distortion=kind).measure(other).distortion
    assert found == pytest.approx(expected, rel=1e-14)


def test_identity_projection_holds_the_differences():
    """With room for all elements a response is the difference, its mean square the mse."""
    dense, other = _outputs(0), _outputs(1)
    reference = Reference(dense, projection=1000)
    measured = reference.measure(other)
    difference = np.concatenate(other).reshape(-1) - np.concatenate(dense).reshape(-1)
    assert reference.projection == 20
    np.testing.assert_allclose(measured.response, difference, rtol=1e-6)
    assert np.mean(measured.response.astype(float) ** 2) == pytest.approx(measured.distortion, 1e-6)


def test_identity_projection_weighs_samples_alike():
    """Samples with different numbers of elements count the same in the response and in the mse."""
    shapes = ((2, 3), (1, 50))
    measured = Reference(_outputs(0, shapes), projection=100).measure(_outputs(1, shapes))
    assert np.mean(measured.response.astype(float) ** 2) == pytest.approx(measured.distortion, 1e-6)


def test_projection_is_unbiased():
    """The mean square of responses, averaged over many seeds, is the mse within three sigma."""
    dense, other = _outputs(0, ((10, 20),)), _outputs(1, ((10, 20),))
    mse = Reference(dense).measure(other).distortion
    estimates = []
    for seed in range(400):
        measured = Reference(dense, projection=16, seed=seed).measure(other)
        assert measured.response.shape == (16,)
        estimates.append(np.mean(measured.response.astype(float) ** 2))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(mse, abs=3 * error)


def test_projection_is_linear_and_repeats():
    """One seed gives one linear map: the response of a sum is the sum of the responses."""
    dense = [torch.zeros(10, 20)]
    a, b = _outputs(0, ((10, 20),)), _outputs(1, ((10, 20),))
    reference = Reference(dense, projection=16, seed=3)
    total = reference.measure([a[0] + b[0]]).response
    np.testing.assert_allclose(
        total, reference.measure(a).response + reference.measure(b).response, atol=1e-5
    )
    again = Reference(dense, projection=16, seed=3).measure(a).response
    assert np.array_equal(again, reference.measure(a).response)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_dense_output_must_be_finite(value):
    """A dense output that is not finite is refused, naming the batch."""
    dense = _outputs(0)
    dense[1][0, 0] = value
    with pytest.raises(ValueError, match="dense model's output on batch 1 is not finite"):
        Reference(dense)


def test_shape_must_stay():
    """An output of another shape than the dense one's is refused."""
    with pytest.raises(ValueError, match=r"batch 0 has shape \(3, 1\), the dense model's has"):
        Reference(_outputs(0)).measure(_outputs(0, ((3, 1), (2, 4))))


def test_unknown_kind():
    """A distortion that does not exist is refused with the choice."""
    with pytest.raises(ValueError, match="distortion is 'psnr', must be one of mse, nmse, max"):
        Reference(_outputs(0), distortion="psnr")


@pytest.mark.parametrize("kind", ["mse", "max", "cvar:0.4", "kl:2", "cosine", "nmse", "kl,max"])
def test_errors_belong_to_the_distortion(kind):
    """The kept errors of the samples reduce to the distortion, bit for bit."""
    measured = Reference(_outputs(0), distortion=kind).measure(_outputs(1))
    assert measured.errors.dtype == np.float64
    assert measured.errors.shape == (5,)
    assert measured.distortion == parse(kind).reduction(measured.errors)


@pytest.mark.parametrize("kind", ["mse", "nmse", "kl", "kl:3", "cosine"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 4, 2, 2)])
def test_responses_estimate_the_distortion(kind, shape):
    """For small changes the mean square of a response is the distortion, to second order."""
    dense = _outputs(0, (shape,))
    other = [dense[0] + 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))]
    measured = Reference(dense, distortion=kind, projection=1000).measure(other)
    square = np.mean(measured.response.astype(float) ** 2)
    assert measured.distortion > 0
    assert square == pytest.approx(measured.distortion, rel=5e-3)


@pytest.mark.parametrize("kind", ["mse", "nmse", "cosine"])
def test_some_responses_are_exact(kind):
    """Large changes, too: an output that shrinks costs nothing, one that turns round most."""
    dense = _outputs(0, ((3, 4),))
    reference = Reference(dense, distortion=kind, projection=1000)
    for other in (_outputs(1, ((3, 4),)), [-dense[0]], [0.1 * dense[0] + 3]):
        measured = reference.measure(other)
        square = np.mean(measured.response.astype(float) ** 2)
        assert square == pytest.approx(measured.distortion, rel=1e-5, abs=1e-10)


def test_a_constant_output_is_seen():
    """Standardised logits of a network that says nothing are all lost, and so is the response."""
    dense = _outputs(0, ((3, 4),))
    measured = Reference(dense, distortion="nmse", projection=1000).measure([0 * dense[0]])
    assert measured.distortion == pytest.approx(1)
    assert np.mean(measured.response.astype(float) ** 2) == pytest.approx(1)


def _labelled(kind, shape, scale):
    """A dense output with confident and mistaken positions, labels, weights, and a change."""
    generator = torch.Generator().manual_seed(2)
    dense = scale * torch.randn(shape, generator=generator)
    places = (shape[0], *shape[2:]) if len(shape) > 3 else shape[:-1]
    classes = shape[1] if len(shape) > 3 else shape[-1]
    labels = torch.randint(classes, places, generator=generator)
    weights = None
    if "@" in kind:
        weights = torch.rand(places, generator=generator, dtype=torch.float64)
        labels[0, 0] = -100
    beside = [Beside(labels if kind.startswith("loss") else None, weights)]
    return dense, beside, torch.randn(shape, generator=generator)


@pytest.mark.parametrize("kind", ["mse@w", "nmse@w", "kl:2@w", "cosine@w"])
@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 2, 2)])
def test_weighted_responses_estimate_the_distortion(kind, shape):
    """Weights of positions are in the responses as they are in the distortion."""
    dense, beside, change = _labelled(kind, shape, 1.0)
    reference = Reference([dense], distortion=kind, projection=1000, beside=beside)
    measured = reference.measure([dense + 1e-3 * change])
    square = np.mean(measured.response.astype(float) ** 2)
    assert measured.distortion > 0
    assert square == pytest.approx(measured.distortion, rel=5e-3)


@pytest.mark.parametrize("kind", ["loss", "loss@w"])
@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 4, 2, 2)])
def test_the_loss_is_a_square_about_an_offset(kind, shape):
    """Rise of the cross-entropy = |offset + response|² - |offset|², up to third order.

    Its error falls by eight when the change is halved, also where it has a slope.
    """
    dense, beside, change = _labelled(kind, shape, 2.0)
    reference = Reference([dense], distortion=kind, projection=1000, beside=beside)
    constant = np.mean(reference.offset**2)
    wrong = []
    for size in (0.08, 0.04):
        measured = reference.measure([dense + size * change])
        square = np.mean((reference.offset + measured.response) ** 2) - constant
        wrong.append(abs(square - measured.distortion))
        assert measured.distortion == pytest.approx(square, rel=0.1)
    assert wrong[1] < wrong[0] / 6


def test_the_loss_where_the_labels_are_improbable():
    """Where the offset would be huge it is 10, and what is too much is a² / 400."""
    dense, beside, change = _labelled("loss", (6, 4), 20.0)
    reference = Reference([dense], distortion="loss", projection=1000, beside=beside)
    assert np.mean(reference.offset**2) == pytest.approx(100)
    measured = reference.measure([dense + 1e-2 * change])
    square = np.mean((reference.offset + measured.response) ** 2) - 100
    rise = measured.distortion
    assert square == pytest.approx(rise + rise**2 / 400, abs=1e-4 * abs(rise))


def test_a_loss_without_slope_has_no_offset_to_speak_of():
    """A label of probability one leaves an offset of zero, and responses that are finite."""
    dense = torch.tensor([[200.0, -600.0]])
    beside = [Beside(torch.tensor([0]))]
    reference = Reference([dense], distortion="loss", projection=8, beside=beside)
    assert not reference.offset.any()
    assert not reference.measure([dense + 1]).response.any()


def test_one_loss_a_sample_has_its_first_order():
    """A forward that returns the losses: what is known is that they add."""
    reference = Reference([torch.tensor([1.0, 2.0])], distortion="loss", projection=8)
    measured = reference.measure([torch.tensor([1.5, 1.7])])
    square = np.mean((reference.offset + measured.response) ** 2) - 100
    assert square == pytest.approx(0.1 + 0.1**2 / 400, rel=1e-4)


def test_unchanged_is_the_measurement_of_the_dense_outputs():
    """What `unchanged` says without measuring is what measuring the dense outputs gives."""
    dense = _outputs(0)
    reference = Reference(dense, projection=6)
    said, measured = reference.unchanged(), reference.measure(dense)
    assert said.distortion == measured.distortion == 0.0
    assert np.array_equal(said.response, measured.response)
    assert np.array_equal(said.errors, measured.errors)


def test_a_callable_is_of_what_it_gives_beyond_the_dense_outputs():
    """A loss that is not 0 for the dense network is the rise above it, sample by sample."""
    dense, other = _outputs(0), _outputs(1)
    right = {len(out): torch.arange(len(out)) for out in dense}

    def loss(_, output):
        return torch.nn.functional.cross_entropy(output, right[len(output)], reduction="none")

    reference = Reference(dense, distortion=loss)
    pairs = zip(dense, other, strict=True)
    expected = [loss(None, b).double() - loss(None, a).double() for a, b in pairs]
    assert reference.measure(other).errors.tolist() == torch.cat(expected).tolist()
    assert reference.measure(dense).errors.tolist() == reference.unchanged().errors.tolist()
    with pytest.raises(ValueError, match=r"<lambda>' is not finite for the dense outputs"):
        Reference(dense, distortion=lambda a, b: torch.full((len(a),), torch.nan))


def test_reference_is_a_copy():
    """A model that writes all its outputs to one buffer does not overwrite the reference."""
    buffer = torch.zeros(2, 2)
    reference = Reference([buffer])
    buffer += 3
    assert reference.measure([buffer]).distortion == 9.0
