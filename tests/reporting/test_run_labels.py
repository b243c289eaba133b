import pandas as pd
import pytest

from seglab.reporting.run_labels import differences, flat, label

SCHEDULE = {"pos_weight": {"to": 1, "shape": "cosine", "epochs": 30}}
SLOW, FAST = {"optimizer": {"lr": 0.001}}, {"optimizer": {"lr": 0.01}}


def runs(*rows):
    """One run for each (loss, seed, configuration, choices); the last two may be left out."""
    frame = pd.DataFrame({"seed": [row[1] for row in rows], "benchmark": "data"})
    loss = {"loss": {"_target_": "a.Loss", "smooth": 1.0}}
    frame["config"] = [{"seed": row[1]} | loss | (row[2] if len(row) > 2 else {}) for row in rows]
    frame["choices"] = [{"loss": row[0], "model": "unet"} | (row[3] if len(row) > 3 else {}) for row in rows]
    return frame.assign(label=label(frame))


FOCAL = {"_target_": "a.Focal", "alpha": 0.25}
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
    "the arm of an experiment, whatever differs from seed to seed": (
        [("bce", seed, {"init_from": begun}, {"experiment/grow": arm}) for arm, seed, begun in ARMS],
        ["bce · grown", "bce · whole", "bce · grown", "bce · whole"],
    ),
    "neither paths nor devices nor seeds": (
        [("bce", 1, {"trainer": {"accelerator": "gpu"}, "workers": 4}), ("dice", 2)],
        ["bce", "dice"],
    ),
}


@pytest.mark.parametrize(("made", "labels"), CASES.values(), ids=CASES)
def test_a_label_has(made, labels):
    found = runs(*made)
    assert found["label"].tolist() == labels
    assert set(differences(found)) <= {"init_from"}  # the labels say it all


def test_what_differs_together_with_the_loss_is_listed_and_not_in_the_label():
    found = runs(("bce", 1, FAST), ("bce", 2, FAST), ("dice", 1, SLOW))
    assert found["label"].tolist() == ["bce", "bce", "dice"]
    assert differences(found) == {"optimizer.lr": {"0.01": ["bce"], "0.001": ["dice"]}}


def test_flat_gives_dotted_keys():
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": ("1", "2"), "e": None}
