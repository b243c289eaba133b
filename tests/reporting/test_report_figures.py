import matplotlib as mpl
import matplotlib.style
import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.plots import COLORS, svg
from seglab.reporting import report_figures
from seglab.reporting.gallery import gallery, one_run_each, which_runs
from seglab.reporting.load_runs import Sweep, collect
from seglab.reporting.study import Question, Study
from tests.reporting.fabricate import FakeLoss, write_run, write_sweep


def test_the_learning_curve_is_that_over_all_pixels_the_mean_over_seeds():
    pooled = [0, 0.2, 0.2, 0.6]  # two epochs of two seeds
    histories = pd.DataFrame({"label": "bce", "epoch": [0, 1] * 2, "val/iou": 0.9, "val/iou_pooled": pooled})
    axis = report_figures.learning(histories, ["bce"]).axes[0]
    assert axis.get_title(loc="left") == "IoU over all pixels"
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.4])
    assert axis.lines[0].get_xdata().tolist() == [1, 2]  # finished epochs, counted as in the log


def test_a_loss_keeps_its_color_where_another_has_no_history():
    histories = pd.DataFrame({"label": ["bce", "focal"], "epoch": 0, "val/iou_pooled": [0.2, 0.4]})
    axis = report_figures.learning(histories, ["bce", "dice", "focal"]).axes[0]
    assert [line.get_color() for line in axis.lines] == [COLORS[0], COLORS[2]]


def test_the_style_sheet_of_the_caller_does_not_change_a_figure():
    histories = pd.DataFrame({"label": "bce", "epoch": [0, 1], "val/iou_pooled": [0.2, 0.4]})
    expected = svg(report_figures.learning(histories, ["bce"]), "one")
    with mpl.rc_context({"text.usetex": True, "figure.figsize": (2, 2)}), mpl.style.context("dark_background"):
        assert svg(report_figures.learning(histories, ["bce"]), "one") == expected


def test_one_run_draws_what_one_run_can_show(sweep):
    runs, images = (table[(table["label"] == "bce") & (table["seed"] == 1)] for table in (sweep.runs, sweep.images))
    drawn = Study("one", Sweep(runs, images), Question()).figures()
    assert set(drawn) == {"seeds", "learning", "precision_recall", "reliability"}


def test_the_question_may_be_about_images_with_foreground_or_without(sweep):
    counts = [len(Study("", sweep, Question(images=which)).data.ids) for which in ("all", "foreground", "empty")]
    assert counts == [30, 24, 6]


def test_a_question_about_images_that_are_not_there_is_one_sentence(sweep):
    whole = Sweep(sweep.runs, sweep.images.assign(foreground=5))
    with pytest.raises(ContractError, match="the empty test images"):
        _ = Study("", whole, Question(images="empty")).data


def test_the_gallery_shows_the_seed_that_most_losses_share(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce")], [1, 2])
    write_sweep(tmp_path, [FakeLoss("dice"), FakeLoss("iou")], [2, 3])
    sweep = collect([tmp_path])
    chosen = one_run_each(sweep.used, ["bce", "dice", "iou"])
    assert {int(run["seed"]) for run in chosen.values()} == {2}
    labels, rows = gallery(chosen, sweep.images, "iou")
    assert labels == ["bce", "dice", "iou"]
    assert [row["id"] for row in rows] == ["image_001", "image_002", "image_003"]
    row = sweep.images.query("label == 'dice' and seed == 2 and id == 'image_002'")
    assert rows[1]["cells"]["dice"]["score"] == row["iou"].item()


def test_the_gallery_shows_the_images_of_one_fold_under_every_loss(tmp_path):
    runs = (("bce", 1, 0), ("bce", 1, 1), ("dice", 1, 1), ("dice", 1, 2), ("iou", 2, 1), ("ssim", 3, 2))
    for name, seed, fold in runs:
        write_run(tmp_path / str(fold), FakeLoss(name), seed, extra={"dataset": {"folds": 3, "fold": fold}})
    runs = collect([tmp_path]).used
    chosen = one_run_each(runs[runs["label"] != "ssim"], ["iou", "bce", "dice"])
    which = {label: (run["seed"], run["fold"]) for label, run in chosen.items()}
    assert which == {"iou": (2, 1), "bce": (1, 1), "dice": (1, 1)}
    assert which_runs({label: chosen[label] for label in ("bce", "dice")}) == "Seed 1, fold 1"
    assert which_runs(chosen) == "Seed 2, fold 1 (iou); seed 1, fold 1 (bce, dice)"
    assert which_runs(one_run_each(runs, ["dice", "ssim"])) == (
        "Seed 1, fold 1 (dice); seed 3, fold 2 (ssim); no fold has a run of every loss, so the images differ"
    )
