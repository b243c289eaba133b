from dataclasses import replace

import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.datasets.synthetic import Synthetic, misdraw
from seglab.data.datasets.synthetic_scenes import SCENES
from seglab.data.decode import decode_item

scenes = pytest.mark.parametrize("scene", SCENES)
one_class = pytest.mark.parametrize("scene", [name for name, scene in SCENES.items() if scene.task.channels == 1])


def pictures(dataset, split="train"):
    return [decode_item(item, dataset)[:2] for item in dataset.items() if item.split == split]


@scenes
def test_image_k_is_the_same_however_many_there_are(scene):
    few, many = Synthetic(scene=scene, train=2, val=1, test=2), Synthetic(scene=scene, train=5, val=3, test=4)
    for split in ("train", "val", "test"):
        for (image, mask), (image2, mask2) in zip(pictures(few, split), pictures(many, split), strict=False):
            np.testing.assert_array_equal(image, image2)
            np.testing.assert_array_equal(mask, mask2)


@scenes
def test_all_images_differ_and_another_seed_makes_others(scene):
    options = Synthetic(scene=scene, train=6, val=2, test=2)
    seen = {decode_item(item, d)[0].tobytes() for d in (options, replace(options, image_seed=1)) for item in d.items()}
    assert len(seen) == 20


@pytest.mark.parametrize(
    ("scene", "low", "high", "empty"),
    [("disc", 0.03, 0.1, 0), ("lesion", 0.003, 0.03, 0.3), ("ships", 0.0005, 0.012, 0.6)],
)
def test_foreground_and_empty_images_are_those_of_the_scene(scene, low, high, empty):
    fractions = np.array([mask.mean() for _, mask in pictures(Synthetic(scene=scene, train=50))])
    full = fractions[fractions > 0]
    assert low <= full.min() * 1.3
    assert full.max() <= high * 1.3
    assert abs((fractions == 0).mean() - empty) < 0.17


@one_class
def test_the_foreground_option_moves_the_mean(scene):
    fractions = [mask.mean() for _, mask in pictures(Synthetic(scene=scene, train=20, foreground=0.05, empty=0))]
    assert 0.03 < np.mean(fractions) < 0.07


def test_the_empty_option_empties_all_or_none():
    assert not any(mask.any() for _, mask in pictures(Synthetic(scene="disc", train=5, empty=1)))
    assert all(mask.any() for _, mask in pictures(Synthetic(scene="ships", train=10, empty=0)))


def test_label_noise_spoils_training_masks_alone_at_its_rate():
    clean, noisy, half = (Synthetic(train=24, val=4, test=4, label_noise=rate) for rate in (0, 1, 0.5))
    for split in ("train", "val", "test"):
        pairs = list(zip(pictures(clean, split), pictures(noisy, split), strict=True))
        assert all((a[0] == b[0]).all() for a, b in pairs)
        assert all((a[1] == b[1]).all() for a, b in pairs) == (split != "train")
    spoilt = [(a[1] != b[1]).any() for a, b in zip(pictures(clean), pictures(half), strict=True)]
    assert 6 <= sum(spoilt) <= 18  # of 24 discs, one per image


def test_a_wrong_object_is_missing_flipped_grown_or_shrunk():
    truth = np.zeros((40, 40), np.float32)
    truth[5:13, 20:28] = 1
    seen = set()
    for seed in range(40):
        drawn = misdraw(truth, 1.0, np.random.default_rng(seed))
        inside, size = (drawn * truth).sum(), drawn.sum()
        seen.add("missing" if not size else "flipped" if not inside else "grown" if size > 64 else "shrunk")
        if not inside:
            assert size in (0, 64)
        else:
            assert size != 64
            assert inside == min(size, 64)
    assert seen == {"missing", "flipped", "grown", "shrunk"}
    assert (misdraw(truth, 0.0, np.random.default_rng(0)) == truth).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scene": "moon"}, "scene to be one of disc, disc_cup, organ, lesion, ships, got moon"),
        ({"size": 8}, "size of at least 32"),
        ({"empty": 1.5}, r"empty in \[0, 1\]"),
        ({"foreground": 0.0}, r"foreground in \(0, 0.3\], got 0.0"),
        ({"mean": (0.1, 0.2)}, r"mean to be auto, or a list of 1 or 3 numbers, got \(0.1, 0.2\)"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(options, sentence):
    with pytest.raises(ContractError, match=sentence):
        Synthetic(**options)
