import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.plots import COLORS
from seglab.reporting import report_figures
from seglab.reporting.load_runs import Sweep
from seglab.reporting.study import Question, Study


def test_the_learning_curve_is_that_over_all_pixels_the_mean_over_seeds():
    pooled = [0, 0.2, 0.2, 0.6]  # of two seeds
    histories = pd.DataFrame({"label": "bce", "epoch": [0, 1] * 2, "val/iou": 0.9, "val/iou_pooled": pooled})
    axis = report_figures.learning(histories, ["bce"]).axes[0]
    assert axis.get_title(loc="left") == "IoU over all pixels"
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.4])
    assert axis.lines[0].get_xdata().tolist() == [1, 2]  # epochs that are done, as the log counts them


def test_a_loss_keeps_its_color_where_another_has_no_history():
    histories = pd.DataFrame({"label": ["bce", "focal"], "epoch": 0, "val/iou_pooled": [0.2, 0.4]})
    axis = report_figures.learning(histories, ["bce", "dice", "focal"]).axes[0]
    assert [line.get_color() for line in axis.lines] == [COLORS[0], COLORS[2]]


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
