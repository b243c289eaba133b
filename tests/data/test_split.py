import json

import pytest

from seglab.contract import ContractError
from seglab.data.dataset import Item
from seglab.data.split import split_by_group, split_from_file


def items(count, groups=None, split=""):
    return [Item(f"i{k:03d}", f"g{k % (groups or count)}", split=split) for k in range(count)]


def groups(items):
    return {item.group for item in items}


def test_no_group_lies_on_two_sides_and_no_item_is_lost():
    splits = split_by_group(items(120, groups=30), 0.2, 0.2, 0)
    assert not groups(splits.train) & groups(splits.val)
    assert not groups(splits.train) & groups(splits.test)
    assert not groups(splits.val) & groups(splits.test)
    assert len(splits.all()) == 120
    assert len(splits.test) == 24
    assert len(splits.val) == round(0.2 * 96 / 4) * 4


def test_the_split_does_not_depend_on_the_order_of_the_items():
    there, back = (split_by_group(some, 0.2, 0.2, 3).ids() for some in (items(50), items(50)[::-1]))
    assert all(sorted(there[name]) == sorted(back[name]) for name in there)


def test_another_split_seed_makes_another_split():
    assert split_by_group(items(50), 0.2, 0.2, 0).ids() != split_by_group(items(50), 0.2, 0.2, 1).ids()


def test_a_few_new_images_move_few_of_the_old_ones():
    before = {i.id for i in split_by_group(items(200), 0.2, 0.2, 0).test}
    after = {i.id for i in split_by_group(items(205), 0.2, 0.2, 0).test}
    assert len(before & after) >= 36


@pytest.mark.parametrize(
    ("count", "val_fraction", "sizes"), [(3, 0.15, [1, 1, 1]), (3, 0.0, [2, 0, 1]), (1, 0.15, [1, 0, 0])]
)
def test_of_a_few_images_each_split_gets_one_if_it_is_to_get_any(count, val_fraction, sizes):
    assert [len(ids) for ids in split_by_group(items(count), val_fraction, 0.15, 0).ids().values()] == sizes


def test_an_own_test_set_is_kept_and_its_patients_leave_the_training():
    test = [Item("t0", "g3", split="test"), Item("t1", "x", split="test")]
    splits = split_by_group([*items(10, split="train"), *test], 0.3, 0.5, 0)
    assert [i.id for i in splits.test] == ["t0", "t1"]
    assert [i.id for i in splits.conflicting] == ["i003"]
    assert len(splits.train) + len(splits.val) == 9


def test_a_frozen_split_comes_back_as_it_was(tmp_path):
    splits = split_by_group(items(40), 0.2, 0.2, 5)
    file = tmp_path / "split.json"
    file.write_text(json.dumps(splits.ids()))
    assert split_from_file(items(60), str(file)).ids() == splits.ids()


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"train": ["i000", "nobody"], "val": [], "test": []}, "ids of this data set, got 1 unknown ones"),
        ({"train": ["i000"], "val": ["i000"], "test": []}, "every id once"),
        ({"train": ["i000"], "val": ["i002"], "test": []}, "each group in one split"),
        ({"train": []}, "a JSON object of train, val and test"),
    ],
)
def test_a_wrong_split_file_is_one_sentence(tmp_path, named, sentence):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(named))
    with pytest.raises(ContractError, match=sentence):
        split_from_file(items(4, groups=2), str(file))
