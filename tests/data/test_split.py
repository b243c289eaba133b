import json

import pytest

from seglab.contract import ContractError
from seglab.data.items import Item
from seglab.data.split import from_file, split


def items(count, groups=None, part=""):
    return [Item(f"i{k:03d}", f"g{k % (groups or count)}", split=part) for k in range(count)]


def groups(part):
    return {item.group for item in part}


def test_no_group_lies_on_two_sides_and_no_item_is_lost():
    parts = split(items(120, groups=30), 0.2, 0.2, 0)
    assert not groups(parts.train) & groups(parts.val)
    assert not groups(parts.train) & groups(parts.test)
    assert not groups(parts.val) & groups(parts.test)
    assert len(parts.all()) == 120
    assert len(parts.test) == 24
    assert len(parts.val) == round(0.2 * 96 / 4) * 4


def test_the_split_does_not_hang_on_the_order_of_the_items():
    there, back = split(items(50), 0.2, 0.2, 3), split(items(50)[::-1], 0.2, 0.2, 3)
    assert {i.id for i in there.test} == {i.id for i in back.test}
    assert {i.id for i in there.val} == {i.id for i in back.val}


def test_another_split_seed_makes_another_split():
    assert split(items(50), 0.2, 0.2, 0).ids() != split(items(50), 0.2, 0.2, 1).ids()


def test_a_few_new_images_move_few_of_the_old_ones():
    before = {i.id for i in split(items(200), 0.2, 0.2, 0).test}
    after = {i.id for i in split(items(205), 0.2, 0.2, 0).test}
    assert len(before & after) >= 36


def test_of_a_few_images_each_part_gets_one_if_it_is_to_get_any():
    assert [len(part) for part in split(items(3), 0.15, 0.15, 0).ids().values()] == [1, 1, 1]
    assert [len(part) for part in split(items(3), 0.0, 0.15, 0).ids().values()] == [2, 0, 1]
    assert [len(part) for part in split(items(1), 0.15, 0.15, 0).ids().values()] == [1, 0, 0]


def test_an_own_test_part_is_kept_and_its_patients_leave_the_training():
    test = [Item("t0", "g3", split="test"), Item("t1", "x", split="test")]
    parts = split([*items(10, part="train"), *test], 0.3, 0.5, 0)
    assert [i.id for i in parts.test] == ["t0", "t1"]
    assert [i.id for i in parts.conflicting] == ["i003"]
    assert len(parts.train) + len(parts.val) == 9


def test_a_frozen_split_comes_back_as_it_was(tmp_path):
    parts = split(items(40), 0.2, 0.2, 5)
    file = tmp_path / "split.json"
    file.write_text(json.dumps(parts.ids()))
    assert from_file(items(60), str(file)).ids() == parts.ids()


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"train": ["i000", "nobody"], "val": [], "test": []}, "ids of this data set, got 1 unknown ones"),
        ({"train": ["i000"], "val": ["i000"], "test": []}, "every id once"),
        ({"train": ["i000"], "val": ["i002"], "test": []}, "each group in one part"),
        ({"train": []}, "a JSON object of train, val and test"),
    ],
)
def test_a_wrong_split_file_is_one_sentence(tmp_path, named, sentence):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(named))
    with pytest.raises(ContractError, match=sentence):
        from_file(items(4, groups=2), str(file))
