import functools

import pandas as pd
import pytest

from seglab.contract import NOT_IN_IDENTITY
from seglab.reporting.run_labels import differences, differing, flat, label

SCHEDULE = {"pos_weight": {"to": 1, "shape": "cosine", "epochs": 30}}
SLOW, FAST = {"optimizer": {"lr": 0.001}}, {"optimizer": {"lr": 0.01}}


def runs(*rows):
    """Return a table with one run per (loss, seed, configuration, choices); the last two are optional."""
    frame = pd.DataFrame({"seed": [row[1] for row in rows], "benchmark": "data", "used": True})
    loss = {"loss": {"_target_": "a.Loss", "smooth": 1.0}}
    frame["config"] = [{"seed": row[1]} | loss | (row[2] if len(row) > 2 else {}) for row in rows]
    frame["choices"] = [{"loss": row[0], "model": "unet"} | (row[3] if len(row) > 3 else {}) for row in rows]
    return frame.assign(label=label(frame))


FOCAL = {"_target_": "a.Focal", "alpha": 0.25}
DICE = {"_target_": "seglab.losses.overlap.GeneralizedDice", "smooth": 0.0}
IOU = {"_target_": "seglab.losses.overlap.IoU", "empty": "formula"}
SWITCH = {"_target_": "seglab.losses.schedule.Switch", "first": {"_target_": "seglab.losses.cross_entropy.BCE"}}
PAIRS = [(0.0, 1.0), (1.0, 0.0)]
EXTERNAL = {"_target_": "seglab.losses.external.External", "title": None}
FUNCTIONS = [
    {"function": {"_target_": "monai.losses.DiceLoss"}},
    {"function": {"_target_": "monai.losses.GeneralizedDiceLoss", "w_type": "square"}},
    {"function": {"_target_": "ours.Loss"}, "title": "Our Dice"},
    {"function": {"_target_": "monai.losses.DiceLoss", "squared_pred": True}},
]
EMA = {"ema": {"_target_": "a.EMA"}}
ARMS = [("grown", 1, "outputs/begun_s1"), ("whole", 1, None), ("grown", 2, "outputs/begun_s2"), ("whole", 2, None)]
CASES = {
    "the parameters of a loss that vary and no others": (
        [("bce", 1), *(("focal", 1, {"loss": FOCAL | {"gamma": gamma}}) for gamma in (0.0, 2.0))],
        ["bce", "focal gamma=0", "focal gamma=2"],
    ),
    "the end of a schedule of the loss": (
        [("bce", 1, {"schedule": SCHEDULE}), ("bce", 1, {"schedule": {}})],
        ["bce pos_weight to 1", "bce"],
    ),
    "what else distinguishes runs of one seed": (
        [("bce", 1, SLOW), ("bce", 1, FAST), ("dice", 1, SLOW), ("dice", 1, FAST)],
        ["bce · lr=0.001", "bce · lr=0.01", "dice · lr=0.001", "dice · lr=0.01"],
    ),
    "a list as on the command line": (
        [("bce", 1, {"tune": {"lr": rates}}) for rates in ([0.1], [0.1, 0.2])],
        ["bce · lr=[0.1]", "bce · lr=[0.1,0.2]"],
    ),
    "the arm of an experiment, whatever differs from seed to seed": (
        [("bce", seed, {"init_from": begun}, {"experiment/grow": arm}) for arm, seed, begun in ARMS],
        ["bce · grown", "bce · whole", "bce · grown", "bce · whole"],
    ),
    "the title or the function of an external loss": (
        [("external", 1, {"loss": EXTERNAL | more}) for more in FUNCTIONS],
        ["DiceLoss", "GeneralizedDiceLoss", "Our Dice", "DiceLoss squared_pred=True"],
    ),
    "the package of a function where two have one name": (
        [("external", 1, {"loss": EXTERNAL | {"function": {"_target_": f"{of}.DiceLoss"}}}) for of in ("monai", "smp")],
        ["DiceLoss function=monai.DiceLoss", "DiceLoss function=smp.DiceLoss"],
    ),
    "the losses of a switch, without the parameters that one of them lacks": (
        [("switch", 1, {"loss": SWITCH | {"second": second}}) for second in (DICE, IOU, DICE | {"smooth": 1.0})],
        ["switch bce -> generalized_dice smooth=0", "switch bce -> iou", "switch bce -> generalized_dice smooth=1"],
    ),
    "as much of a parameter's name as tells it from others": (
        [("switch", 1, {"loss": {"first": DICE | {"smooth": a}, "second": DICE | {"smooth": b}}}) for a, b in PAIRS],
        ["switch first.smooth=0 second.smooth=1", "switch first.smooth=1 second.smooth=0"],
    ),
    "as many digits as tell two values apart": (
        [("bce", seed, {"loss": {"_target_": "a.Loss", "smooth": 1 + seed * 1e-7}}) for seed in (1, 2)],
        ["bce smooth=1.0000001", "bce smooth=1.0000002"],
    ),
    "a class that differs although the choice is the same": (
        [("bce", 1, {"optimizer": {"_target_": f"torch.optim.{name}"}}) for name in ("Adam", "SGD")],
        ["bce · optimizer=Adam", "bce · optimizer=SGD"],
    ),
    "a callback that trains otherwise": (
        [("bce", 1, {"callbacks": {"snapshots": {"_target_": "a.Snapshots"}}}), ("bce", 1, {"callbacks": EMA})],
        ["bce", "bce · ema=EMA"],
    ),
    "no callback that only watches": (
        [("bce", 1, {"callbacks": {"snapshots": {"_target_": "a.Snapshots"}}}), ("bce", 1)],
        ["bce", "bce"],
    ),
    "neither paths nor the device nor seeds": (
        [("bce", 1, {"trainer": {"accelerator": "gpu"}, "workers": 4}), ("dice", 2)],
        ["bce", "dice"],
    ),
    "nothing that makes no other experiment": (
        [
            ("bce", 1, functools.reduce(lambda node, key: {key: node}, reversed(name.split(".")), [k]))
            for k, name in enumerate(sorted(NOT_IN_IDENTITY - {"trainer.devices", "trainer.num_nodes"}))
        ],
        ["bce"] * (len(NOT_IN_IDENTITY) - 2),
    ),
    "how many processes train together, as each has batches of its own": (
        [("bce", 1, {"trainer": more}) for more in ({"devices": 1}, {"devices": "2"}, {"devices": 1, "num_nodes": 2})],
        ["bce · devices=1", "bce · devices=2", "bce · devices=2"],
    ),
}


@pytest.mark.parametrize(("made", "labels"), CASES.values(), ids=CASES)
def test_a_label_has(made, labels):
    found = runs(*made)
    assert found["label"].tolist() == labels
    assert set(differences(found)) <= {"init_from"}  # the labels name all other differences


def test_settings_that_differ_together_with_the_loss_are_listed_and_not_in_the_label():
    found = runs(("bce", 1, FAST), ("bce", 2, FAST), ("dice", 1, SLOW))
    assert found["label"].tolist() == ["bce", "bce", "dice"]
    assert differences(found) == {"optimizer.lr": {"0.01": ["bce"], "0.001": ["dice"]}}


def test_options_that_select_no_images_are_not_named_as_the_difference():
    found = [{"split_seed": seed, "mean": [seed], "cache_gb": seed, "root": str(seed)} for seed in (0, 1)]
    assert differing([{"dataset": each} for each in found], "dataset.") == "dataset.split_seed=0,1"


def test_flat_gives_dotted_keys():
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": "[1,2]", "e": None}


def test_a_run_that_failed_adds_no_words_to_the_labels_of_others():
    found = runs(("focal", 1), ("focal", 2, {"loss": FOCAL | {"gamma": -1.0}, "optimizer": {"lr": 9.0}}), ("focal", 2))
    assert label(found.assign(used=[True, False, True])) == ["focal", "focal", "focal"]
