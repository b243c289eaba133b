import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.augment import Augment, Chain, Light, Strong


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 48, 3), np.uint8)
    return image, (image[..., 0] > 200).astype(np.uint8)


@pytest.mark.parametrize("augment", [Light(), Strong()], ids=["light", "strong"])
def test_the_key_alone_decides(augment, pair):
    keys = [(1, epoch, index) for epoch in range(2) for index in range(4)]
    once = [augment(*pair, key) for key in keys]
    again = [type(augment)()(*pair, key) for key in reversed(keys)][::-1]
    for (image, mask), (image2, mask2) in zip(once, again, strict=True):
        np.testing.assert_array_equal(image, image2)
        np.testing.assert_array_equal(mask, mask2)
    assert len({image.tobytes() for image, _ in once}) >= 7


def test_image_and_mask_move_together(pair):
    image, mask = pair
    for k in range(20):
        moved, truth = Light(tone=0)(image, mask, (0, 0, k))
        np.testing.assert_array_equal(truth, moved[..., 0] > 200)


def test_the_two_flips_are_drawn_apart(pair):
    flips = Light(rotate90=0, tone=0)
    image, mask = pair
    outcomes = {flips(image, mask, (0, 0, k))[0].tobytes() for k in range(40)}
    assert outcomes == {f.tobytes() for f in (image, image[::-1], image[:, ::-1], image[::-1, ::-1])}


def test_masks_stay_binary(pair):
    for k in range(10):
        assert set(np.unique(Strong()(*pair, (0, 0, k))[1])) <= {0, 1}


def test_gray_images_keep_their_one_channel(pair):
    image, mask = pair
    assert Strong()(image[..., :1], mask, (0, 0, 1))[0].shape == (48, 48, 1)


def test_no_augmentation_has_no_transforms():
    assert Augment().transforms() == []


def test_a_misspelled_argument_of_albumentations_is_an_error():
    import albumentations as A

    with pytest.raises(UserWarning, match="not valid for transform"):
        Chain(steps={"flip": A.HorizontalFlip(probability=1)})


def test_a_chain_runs_what_it_is_given(pair):
    import albumentations as A

    moved, _ = Chain(steps={"flip": A.HorizontalFlip(p=1)})(*pair, (0, 0, 0))
    np.testing.assert_array_equal(moved, pair[0][:, ::-1])


def test_a_probability_out_of_range_is_one_sentence():
    with pytest.raises(ContractError, match=r"flip in \[0, 1\], got 2"):
        Light(flip=2)
