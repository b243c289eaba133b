"""Augmentation, batched and by albumentations: set by the key alone, with the same geometry for image and labels."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest

from seglab.benchmarks.gpu import light_chain
from seglab.contract import ContractError
from seglab.data.augment import Chain
from seglab.data.batch_augment import Draws, Light, Strong, combine, displacements, gaussian_blur, normal

ALL = dict.fromkeys(("flip", "rotate90", "tone", "warp", "bend", "gamma", "noise", "blur"), 1.0)
STILL = dict.fromkeys(ALL, 0.0)


@pytest.fixture
def batch():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8))
    return image, (image[:, :1] > 200).to(torch.uint8)


def apply(augment, image, target, pairs, valid=None):
    return augment(image.clone(), target.clone(), valid, 1, pairs)


def test_random_numbers_are_uniform_and_those_of_neighbors_are_unrelated():
    numbers = Draws(3, [(epoch, index) for epoch in range(40) for index in range(50)]).numbers
    assert kstest(numbers.flatten(), "uniform").pvalue > 1e-3
    correlation = torch.corrcoef(numbers.T) - torch.eye(numbers.shape[1])
    assert correlation.abs().max() < 0.1
    assert abs(torch.corrcoef(torch.stack((numbers[:-1, 0], numbers[1:, 0])))[0, 1]) < 0.1
    field = normal(combine(torch.arange(2, dtype=torch.int32), 1), (64, 64))
    assert kstest(field.flatten(), "norm").pvalue > 1e-3
    field = displacements(combine(torch.arange(300, dtype=torch.int32), 1), 32, 40)
    assert field.shape == (300, 2, 32, 40)
    assert field.std((0, 1)).numpy() == pytest.approx(1.76, rel=0.25)


@pytest.mark.parametrize("augment", [Light(), Strong(), light_chain()], ids=["light", "strong", "chain"])
def test_a_sample_changes_in_the_same_way_in_any_batch(augment, batch):
    image, target = batch
    pairs = [(3, index) for index in range(6)]
    together = apply(augment, image, target, pairs)
    assert together[0].shape == image.shape
    assert together[1].shape == target.shape
    order = [4, 0, 5, 2]
    others = apply(augment, image[order], target[order], [pairs[k] for k in order])
    for a, b in zip(together[:2], others[:2], strict=True):
        torch.testing.assert_close(a[order], b, rtol=1e-5, atol=1e-3)
    assert not torch.equal(apply(augment, image, target, [(4, index) for index in range(6)])[0], together[0])


@pytest.mark.parametrize("augment", [Light(tone=0), light_chain()], ids=["light", "chain"])
def test_image_labels_and_valid_move_together(augment, batch):
    image, _ = batch
    image[:, 1] = (image[:, 0] > 200).to(torch.uint8)  # the labels as a channel, so tones must stay
    steps = {name: step for name, step in getattr(augment, "steps", {}).items() if "Contrast" not in name}
    augment = Chain(steps=steps) if steps else augment
    for epoch in range(4):
        pairs = [(epoch, index) for index in range(6)]
        moved, target, valid = apply(augment, image, image[:, 1:2], pairs, valid=image[:, 2:] > 100)
        assert torch.equal(moved[:, 1:2], target)
        assert torch.equal(moved[:, 2:] > 100, valid)


def test_turns_and_flips_are_the_eight_symmetries_as_often_as_they_should_be():
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3).expand(4000, 1, 3, 3)
    moved, _, _ = Light(tone=0)(image.clone(), image, None, 1, [(0, index) for index in range(4000)])
    symmetries = [torch.rot90(x, k, (0, 1)) for k in range(4) for x in (image[0, 0], image[0, 0].flip(1))]
    counts = [int((moved[:, 0] == symmetry).all(2).all(1).sum()) for symmetry in symmetries]
    assert sum(counts) == 4000
    # With probability 1/2 there are 0 to 3 quarter turns, equally likely: 250 or 750 are expected
    assert all(abs(count - (750 if k in (0, 1, 4, 5) else 250)) < 100 for k, count in enumerate(counts)), counts


@pytest.mark.parametrize("valid", [None, torch.ones(8, 1, 32, 32, dtype=torch.bool)], ids=["all count", "a mask"])
def test_labels_keep_their_values_and_what_comes_from_outside_is_background_and_not_valid(valid):
    image = torch.full((8, 1, 32, 32), 255, dtype=torch.uint8)
    target = torch.full((8, 2, 32, 32), 3, dtype=torch.uint8)
    moved, labels, counted = Strong(**STILL | {"warp": 1.0})(image, target, valid, 1, [(0, k) for k in range(8)])
    assert labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {0, 3}
    assert counted.dtype == torch.bool
    assert torch.equal(labels[:, :1] == 3, counted)
    assert (moved[counted] > 127).all()
    assert (moved[~counted] < 128).all()


def test_a_warp_is_the_affine_map_that_it_says():
    """The center of a bright square lands where its matrix maps it."""
    strong, pairs = Strong(**STILL | {"warp": 1.0}), [(0, index) for index in range(20)]
    image = torch.zeros(20, 1, 65, 65, dtype=torch.uint8)
    image[:, :, 30:35, 44:49] = 255  # 14 pixels right of the image center
    moved, _, _ = strong(image, image, None, 1, pairs)
    expected = strong.matrices(Draws(1, pairs)) @ torch.tensor([14.0, 0.0])
    places = torch.arange(65.0) - 32
    moments = [(moved[:, 0].sum(axis) * places).sum(1) for axis in (1, 2)]
    found = torch.stack(moments, 1) / moved[:, 0].sum((1, 2))[:, None]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_gamma_and_noise_have_the_strengths_that_they_say():
    image, pairs = torch.full((200, 1, 32, 32), 128, dtype=torch.uint8), [(0, index) for index in range(200)]
    curved, _, _ = Strong(**STILL | {"gamma": 1.0})(image.clone(), image, None, 1, pairs)
    exponent = (curved[:, 0, 0, 0] / 255).log() / np.log(128 / 255)
    assert kstest(exponent, "uniform", (0.8, 0.4)).pvalue > 1e-3
    noisy, _, _ = Strong(**STILL | {"noise": 1.0})(image.clone(), image, None, 1, pairs)
    assert kstest(noisy.std((1, 2, 3)) / 255, "uniform", (0.01, 0.04)).pvalue > 1e-3
    assert float(noisy.mean()) == pytest.approx(128, abs=0.1)


def test_smoothing_keeps_a_constant_and_has_the_width_it_says():
    x = torch.ones(2, 1, 40, 24)
    torch.testing.assert_close(gaussian_blur(x, torch.tensor([0.5, 8.0])), x)
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20, 20] = 1
    row = gaussian_blur(x, torch.tensor([2.0]))[0, 0].sum(0)
    assert float((row * (torch.arange(41) - 20.0) ** 2).sum().sqrt()) == pytest.approx(2, abs=0.01)


def features(augment, count):
    """Return how an image with an off-center bar changed: tones, noise, and the position, angle and area of the bar."""
    image = torch.full((1, 1, 64, 64), 90, dtype=torch.uint8)
    image[..., 20:26, 24:48] = 200
    found = []
    for start in range(0, count, 20):
        pairs = [(start, index) for index in range(20)]
        batch = image.expand(20, -1, -1, -1).clone()
        moved, labels, _ = augment(batch, (batch > 150).to(torch.uint8), None, 7, pairs)
        for picture, label in zip(moved[:, 0].float().numpy(), labels[:, 0].numpy(), strict=True):
            ys, xs = label.nonzero()
            angle = 0.5 * np.arctan2(2 * np.cov(xs, ys)[0, 1], np.var(xs) - np.var(ys))
            inside, rough = picture[label == 1], np.diff(picture[28:36, 28:36]).std()
            found.append([picture[30:34, 30:34].mean(), inside.mean(), rough, xs.mean(), ys.mean(), angle, len(xs)])
    return np.array(found)


def strong_chain():
    """Return the transforms of Strong as albumentations implements them."""
    import albumentations as A

    steps = [
        A.Affine(scale=(0.8, 1.2), rotate=(-30, 30), shear=(-5, 5), p=0.5),
        A.ElasticTransform(alpha=50, sigma=8, p=0.2),
        A.RandomGamma(p=0.2),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.2),
        A.GaussianBlur(p=0.1),
    ]
    return Chain(steps=light_chain().steps | {type(step).__name__: step for step in steps})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"), [(Light(), light_chain), (Strong(), strong_chain)], ids=["light", "strong"]
)
def test_the_changes_have_the_distributions_of_albumentations(ours, theirs):
    names = ("background", "object", "noise", "x", "y", "angle", "area")
    for name, mine, others in zip(names, features(ours, 600).T, features(theirs(), 600).T, strict=True):
        assert ks_2samp(np.round(mine), np.round(others)).statistic < 0.1, name


OTHER_SHAPES = {
    "RandomCrop": {"height": 8, "width": 8},
    "PadIfNeeded": {"min_height": 40},
    "ToGray": {"num_output_channels": 1},
}


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_a_transform_that_changes_size_or_channels_is_refused_with_both(name):
    import albumentations as A

    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    chain = Chain(steps={"flip": A.HorizontalFlip(), "last": getattr(A, name)(p=0.01, **OTHER_SHAPES[name])})
    words = rf"augment: {name}: expected an image of 32x32.* as before, got .*; set the size .* dataset.size"
    with pytest.raises(ContractError, match=words):
        chain.check(image, mask)
    with pytest.raises(ContractError, match=r"an augmentation, got Normalize; seglab normalizes.*leave it out"):
        Chain(steps={"last": A.Normalize()})
