"""The contents of batches, which depend on seed, epoch and index alone."""

import pickle

import numpy as np
import pytest
import torch

from seglab.contract import ContractError, sentence
from seglab.data.batch_augment import Strong
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.distance_maps import MAPS, distance
from seglab.data.module import DataModule
from seglab.data.sampler import EpochBatches

SMALL = {"size": 32, "train": 11, "val": 4, "test": 5}


def epoch(number, **options):
    loader = DataModule(Synthetic(**SMALL), Strong(), batch_size=4, **options).loader("train")
    loader.sampler.set_epoch(number)
    batches = list(loader)
    return [name for batch in batches for name in batch["id"]], torch.cat([batch["image"] for batch in batches])


def test_a_batch_is_what_the_engine_expects():
    module = DataModule(Synthetic(**SMALL), batch_size=4, needs=("distance", "gap"))
    batch = next(iter(module.loader("train")))
    assert batch["image"].dtype == batch["target"].dtype == torch.uint8
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["target"].shape == batch["distance"].shape == batch["gap"].shape == (4, 1, 32, 32)
    assert batch["distance"].dtype == torch.float32
    assert batch["index"].dtype == torch.int64
    assert [module.splits.train[k].id for k in batch["index"]] == batch["id"]
    np.testing.assert_array_equal(batch["distance"][2, 0], distance(batch["target"][2, 0].numpy()))


def test_maps_are_of_the_soft_target_from_one_half_on():
    batch = next(iter(DataModule(Synthetic(**SMALL, soft=True), batch_size=4, needs=tuple(MAPS)).loader("train")))
    assert ((batch["target"] > 0) & (batch["target"] < 0.5)).any()
    for name, make in MAPS.items():
        for mask, made in zip(batch["target"][:, 0].numpy(), batch[name][:, 0].numpy(), strict=True):
            np.testing.assert_array_equal(made, make((mask >= 0.5).astype(np.uint8)), err_msg=name)
            np.testing.assert_array_equal(made, make(mask), err_msg=name)


def test_epochs_differ_in_order_and_in_augmentation():
    names, images = epoch(0)
    names1, images1 = epoch(1)
    assert names != names1
    assert sorted(names) == sorted(names1)
    same = [torch.equal(images[names.index(name)], images1[names1.index(name)]) for name in names]
    assert sum(same) <= 2
    assert epoch(0, seed=2)[0] != names


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_change_nothing():
    names, images = epoch(3)
    names2, images2 = epoch(3, workers=2)
    assert names == names2
    assert torch.equal(images, images2)
    samples = DataModule(Synthetic(**SMALL), Strong()).samples("train")  # pickled if processes are not forked
    assert torch.equal(pickle.loads(pickle.dumps(samples))[[(0, 1)]]["image"], samples[[(0, 1)]]["image"])


@pytest.mark.parametrize("scene", [{}, {"soft": True}])
def test_data_in_memory_and_on_a_device_give_the_batches_of_the_disk(scene):
    made = []
    for options in ({"store": "disk"}, {"store": "memory", "workers": 2}, {"store": "device"}, {"store": "auto"}):
        module = DataModule(Synthetic(**SMALL, **scene), Strong(), batch_size=4, needs=("distance",), **options)
        assert (module.held_on("train") is not None) == (options["store"] in ("memory", "device"))
        loader = module.loader("train")
        loader.sampler.set_epoch(2)
        made.append(list(loader))
    for batches in made[1:]:
        for batch, true in zip(batches, made[0], strict=True):
            assert batch["id"] == true["id"]
            assert batch["image"].is_contiguous(memory_format=torch.channels_last)
            for key in ("image", "target", "index", "distance"):
                assert torch.equal(batch[key], true[key]), key


def test_a_batch_that_does_not_fit_into_shared_memory_is_one_sentence(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory: No space left on device")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # the workers are forked
    with pytest.raises(ContractError) as fault:
        list(DataModule(Synthetic(**SMALL), workers=1).loader("val"))
    assert sentence(fault.value).startswith("workers: expected room for batches in shared memory, got unable")


def test_two_runs_of_a_process_share_the_images_that_it_holds_and_another_dataset_replaces_them():
    from seglab.data import loading

    first, again = (DataModule(Synthetic(**SMALL), store="memory").loader("train").dataset for _ in range(2))
    assert first.held[0].data_ptr() == again.held[0].data_ptr()
    DataModule(Synthetic(**SMALL, image_seed=9), store="memory").loader("val")
    assert list(loading._held) == ["val"]


def test_runs_of_a_process_on_several_folds_each_see_the_images_of_their_own():
    for fold in (0, 1, 0):
        one, other = (DataModule(Synthetic(**SMALL, folds=3, fold=fold), store=place) for place in ("disk", "memory"))
        for split in ("train", "test"):
            batch, held = (data.loader(split).dataset[[(0, 0), (0, 1)]] for data in (one, other))
            assert batch["id"] == held["id"]
            assert torch.equal(batch["image"], held["image"])


def test_evaluation_is_in_order_and_never_augmented():
    module = DataModule(Synthetic(**SMALL), Strong(), batch_size=4)
    loader = module.loader("test")
    first = torch.cat([batch["image"] for batch in loader])
    loader.sampler.set_epoch(5)
    assert torch.equal(first, torch.cat([batch["image"] for batch in loader]))
    assert [name for batch in loader for name in batch["id"]] == [item.id for item in module.splits.test]


def test_processes_share_an_epoch(monkeypatch):
    from torch import distributed

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)

    def in_each_process(make):
        for rank in range(3):
            monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
            yield list(make())

    train = list(in_each_process(lambda: EpochBatches(11, 0, True, 1, 3)))
    assert {len(batches) for batches in train} == {4}
    assert {index for batches in train for batch in batches for _, index in batch} == set(range(11))
    for size in (1, 2, 3, 4):
        each = list(in_each_process(lambda size=size: EpochBatches(11, 0, False, size, 3)))
        assert len({len(batches) for batches in each}) == 1  # else one process waits forever
        lengths = [len(batch) for batches in each for batch in batches]
        assert min(lengths) > 0
        assert max(lengths) <= max(size, 2)  # 4 images in three batches of size 1: one batch has two
        assert sorted(index for batches in each for batch in batches for _, index in batch) == list(range(11))

    assert len(EpochBatches(2, 0, True, 4, 3)) == 1
    every = EpochBatches(11, 0, False, 2, 3)
    every.limit(len(every), int)  # all batches of each process are all images
    assert every.length == 11


@pytest.mark.parametrize(
    ("images", "size", "train", "test"),
    [
        (9, 4, [4, 5], [4, 4, 1]),
        (10, 4, [4, 4, 2], [4, 4, 2]),
        (1, 4, [1], [1]),
        (3, 2, [3], [2, 1]),
        (2, 1, [1, 1], [1, 1]),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before_it_in_training_only(images, size, train, test):
    for shuffle, lengths in ((True, train), (False, test)):
        batches = EpochBatches(images, 0, shuffle, size)
        assert [len(batch) for batch in batches] == lengths
        assert len(batches) == len(lengths)
        assert batches.joins == (lengths[-1] > size)
        assert sorted(index for batch in batches for _, index in batch) == list(range(images))


def test_a_limit_of_batches_takes_all_tiles_of_the_last_image():
    batches = EpochBatches(7, seed=0, shuffle=False, batch_size=2)
    batches.limit(2, [0, 0, 1, 1, 1, 1, 2].__getitem__)
    assert [index for batch in batches for _, index in batch] == [0, 1, 2, 3, 4, 5]
