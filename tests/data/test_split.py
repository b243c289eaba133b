import json

import pytest

from seglab.contract import ContractError
from seglab.data.dataset import Item
from seglab.data.split import SPLITS, split_by_fold, split_by_group, split_from_file


def items(count, groups=None, split=""):
    return [Item(f"i{k:03d}", f"g{k % (groups or count)}", split=split) for k in range(count)]


def groups(items):
    return {item.group for item in items}


def test_no_group_is_in_two_splits_and_no_item_is_lost():
    splits = split_by_group(items(120, groups=30), 0.2, 0.2, 0)
    apart = [groups(some) for some in (splits.train, splits.val, splits.test)]
    assert sum(map(len, apart)) == len(set.union(*apart)) == 30
    assert (len(splits.all()), len(splits.test), len(splits.val)) == (120, 24, round(0.2 * 96 / 4) * 4)


def test_the_split_depends_on_its_seed_and_not_on_the_order_and_few_new_images_move_few_old_ones():
    there, back = (split_by_group(some, 0.2, 0.2, 3).ids() for some in (items(50), items(50)[::-1]))
    assert all(sorted(there[name]) == sorted(back[name]) for name in there)
    assert split_by_group(items(50), 0.2, 0.2, 0).ids() != there
    before = {i.id for i in split_by_group(items(200), 0.2, 0.2, 0).test}
    after = {i.id for i in split_by_group(items(205), 0.2, 0.2, 0).test}
    assert len(before & after) >= 36


@pytest.mark.parametrize(
    ("count", "val_fraction", "sizes"), [(3, 0.15, [1, 1, 1]), (3, 0.0, [2, 0, 1]), (1, 0.15, [1, 0, 0])]
)
def test_each_split_gets_one_of_a_few_images_if_it_is_to_get_any(count, val_fraction, sizes):
    assert [len(ids) for ids in split_by_group(items(count), val_fraction, 0.15, 0).ids().values()] == sizes


def test_an_own_test_set_is_kept_and_its_patients_leave_the_training():
    test = [Item("t0", "g3", split="test"), Item("t1", "x", split="test")]
    splits = split_by_group([*items(10, split="train"), *test], 0.3, 0.5, 0)
    assert [i.id for i in splits.test] == ["t0", "t1"]
    assert [i.id for i in splits.conflicting] == ["i003"]
    assert len(splits.train) + len(splits.val) == 9


NAMED = {"train": ["i000", "i001"], "val": ["i002"], "test": ["i003"]}


@pytest.mark.parametrize(("before", "ending"), [("", ""), ("images/", ".png"), ("./data/images/", ".JPG")])
def test_lists_hold_ids_or_names_of_files(tmp_path, before, ending):
    listed = {split: [f"{before}{name}{ending}" for name in names] for split, names in NAMED.items()}
    (tmp_path / "lists").mkdir()
    for split, names in listed.items():
        (tmp_path / f"lists/{split}.txt").write_bytes("".join(f"{name}\r\n" for name in names).encode())
    (tmp_path / "split.json").write_text(json.dumps(listed))
    for path in ("lists", "lists/val.txt", "split.json"):
        assert split_from_file(items(60), str(tmp_path / path)).ids() == NAMED


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["b\u00e4r.png", "p/scan.nii.gz", "c"], ["b\u00e4r", "scan", "c"]),
        (["a.1", "a.2", "p/a"], ["a.1", "a.2", "p/a"]),
        (["x/a.1.png", "a.2", "images/p/a.png"], ["a.1", "a.2", "p/a"]),
    ],
)
def test_lists_hold_umlauts_names_with_dots_and_endings_of_two_parts(tmp_path, names, ids):
    for split, name in zip(SPLITS, names, strict=True):
        (tmp_path / f"{split}.txt").write_text(name, encoding="utf-8-sig")
    known = [Item(name, name) for name in ("b\u00e4r", "scan", "c", "a", "a.1", "a.2", "p/a")]
    assert split_from_file(known, str(tmp_path)).ids() == {split: [id] for split, id in zip(SPLITS, ids, strict=True)}
    (tmp_path / "other.txt").touch()
    with pytest.raises(ContractError, match=r"the lists train.txt, val.txt and test.txt, got other.txt$"):
        split_from_file(known, str(tmp_path / "other.txt"))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("b\u00e4r.json", "\u00e4", r"expected a text file in UTF-8, got another encoding; save it as UTF-8"),
        ("a.json", '{"train": ["/", "..", ""], "val": [], "test": []}', r"got 3 unknown, the first: /, \.\., "),
        ("two.json", '{"train": ["i000"], "val": []}', "got an object with the keys train, val$"),
        ("ids.json", '{"train": [0], "val": [1], "test": [2]}', "got an object with the keys train, val, test$"),
        ("train.txt", "i000", r"lists train.txt, val.txt and test.txt, got no val.txt and no test.txt"),
        ("table.csv", "name,split\ni000,train", r"a JSON object of train, val and test.*got other content"),
        ("a.json", '{"train": ["i000", "nobody"], "val": [], "test": []}', "ids of this dataset, got 1 unknown, the"),
        ("a.json", '{"train": ["i000"], "val": ["i000"], "test": []}', "every id to occur once, got 1 in two places"),
        ("a.json", '{"train": ["i000"], "val": ["i002"], "test": []}', "each group to be in one split, got 1 in two"),
    ],
)
def test_other_shapes_of_a_split_are_refused(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ContractError, match=sentence):
        split_from_file(items(4, groups=2), str(tmp_path / name))


def test_a_stratified_draw_gives_each_split_of_both_kinds():
    known, some = items(60), {f"i{k:03d}" for k in range(0, 60, 10)}
    for seed in range(20):
        splits = split_by_group(known, 0.2, 0.2, seed, some)
        ids = splits.ids()
        assert all(some & set(ids[split]) and set(ids[split]) - some for split in ids)
        assert sorted(name for names in ids.values() for name in names) == [item.id for item in known]


def test_every_image_is_tested_in_one_fold_whatever_split_it_was_in_and_no_group_is_divided():
    some = [*items(60, groups=24), *[Item(f"t{k}", f"t{k // 2}", split="test") for k in range(10)]]
    with_foreground = {item.id for item in some if int(item.group[1:]) % 3 == 0}
    splits = [split_by_fold(some, 5, fold, 0.2, 0, with_foreground) for fold in range(5)]
    assert sorted(item.id for each in splits for item in each.test) == sorted(item.id for item in some)
    for each in splits:
        assert not groups(each.test) & groups([*each.train, *each.val])
        assert sorted(item.id for item in each.all()) == sorted(item.id for item in some)
        assert 11 <= len(each.test) <= 17
        assert 3 <= len([item for item in each.test if item.id in with_foreground]) <= 8
        assert each.val


def test_another_seed_makes_other_folds_and_too_many_folds_are_refused():
    first, second = (split_by_fold(items(40), 4, 0, 0.2, seed).ids() for seed in (0, 1))
    assert first["test"] != second["test"]
    with pytest.raises(ContractError, match=r"at most as many folds as groups \(3\), got 5"):
        split_by_fold(items(9, groups=3), 5, 0, 0.2, 0)
    alone = [split_by_fold(items(9, groups=3), 3, fold, 0.2, 0) for fold in range(3)]
    assert [len(groups(each.test)) for each in alone] == [1, 1, 1]
