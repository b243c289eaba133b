import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.plots import line_styles, save, svg
from seglab.reporting import report_figures
from seglab.reporting.load_runs import collect
from seglab.reporting.stats import Cube
from seglab.reporting.study import Question, Study
from tests.reporting.fabricate import FakeLoss, write_sweep


def study(root, losses, seeds, **ask):
    board = next(iter(dict(collect([write_sweep(root, losses, seeds)]).boards()).values()))
    return Study("board", board, Question(resamples=300, **ask))


def test_cliques_are_the_longest_stretches_without_a_found_difference():
    order = ["a", "b", "c", "d"]
    assert report_figures.cliques(order, set()) == [(0, 3)]
    assert report_figures.cliques(order, {frozenset("ad")}) == [(0, 2), (1, 3)]
    assert report_figures.cliques(order, {frozenset("ab"), frozenset("ac"), frozenset("ad")}) == [(1, 3)]
    everything = {frozenset((x, y)) for x in order for y in order if x != y}
    assert report_figures.cliques(order, everything) == []


def test_mean_ranks_share_ties_and_count_one_as_best():
    values = np.array([[[0.9, 0.5]], [[0.1, 0.5]]])
    data = Cube(["a", "b"], [1], ["x", "y"], np.array(["x", "y"]), values)
    assert report_figures.mean_ranks(data).to_dict() == {"a": 1.25, "b": 1.75}
    assert report_figures.mean_ranks(data, lower_is_better=True).to_dict() == {"b": 1.25, "a": 1.75}


def test_win_shares_count_images_and_halve_ties():
    images = pd.DataFrame(
        {
            "id": list("wxyzwxyz"),
            "label": ["a"] * 4 + ["b"] * 4,
            "foreground": [1, 2, 3, 4] * 2,
            "pixels": 10,
            "iou": [0.5, 0.9, 0.2, 0.7, 0.5, 0.8, 0.3, np.nan],
        }
    )
    shares = report_figures.win_shares(images, ["a", "b"], "iou")
    assert [shares[quarter][0, 1] for quarter in list(shares)[:3]] == [0.5, 1.0, 0.0]
    assert np.isnan(shares["largest quarter"][0, 1])
    assert shares["smallest quarter"][1, 0] == 0.5


def test_every_figure_is_drawn_as_png_and_as_svg_with_its_labels_as_text(tmp_path):
    losses = [FakeLoss("bce", 0.6), FakeLoss("dice", 1.5), FakeLoss("focal", 0.9, 0.1, {"gamma": 2.0})]
    drawn = study(tmp_path / "runs", losses, [1, 2]).figures()
    assert set(drawn) == {"seeds", "learning", "forest", "ranks", "precision_recall", "reliability", "wins"}
    for name, figure in drawn.items():
        text = svg(figure, name)
        assert ">dice<" in text or ">dice " in text, name
        assert matplotlib.image.imread(save(figure, tmp_path / f"{name}.png")).min() < 0.5


def test_the_learning_curve_is_that_over_all_pixels_the_mean_over_seeds():
    runs = [
        pd.DataFrame({"epoch": [0, 1], "val/iou": 0.9, "val/iou_pooled": pooled}) for pooled in ([0, 0.2], [0.2, 0.6])
    ]
    axis = report_figures.learning({"bce": runs}).axes[0]
    assert axis.get_title(loc="left") == "IoU over all pixels"
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.4])


def test_one_run_draws_what_one_run_can_show(tmp_path):
    drawn = study(tmp_path, [FakeLoss("bce")], [1]).figures()
    assert set(drawn) == {"seeds", "learning", "precision_recall", "reliability"}


def test_twenty_losses_still_get_a_look_of_their_own():
    looks = line_styles([f"l{k}" for k in range(20)])
    assert len({(look["color"], look["linestyle"]) for look in looks.values()}) == 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": "some"}, "images"),
        ({"delta": -1.0}, "delta"),
        ({"confidence": 95.0}, "confidence"),
        ({"resamples": 3}, "resamples"),
    ],
)
def test_a_question_that_makes_no_sense_is_one_sentence(wrong, message):
    with pytest.raises(ContractError, match=message):
        Question(**wrong)


def test_the_question_may_be_about_images_with_foreground_or_without(tmp_path):
    losses = [FakeLoss("bce"), FakeLoss("dice")]
    whole = study(tmp_path / "a", losses, [1, 2])
    some = study(tmp_path / "b", losses, [1, 2], images="foreground")
    empty = study(tmp_path / "c", losses, [1, 2], images="empty")
    assert (len(whole.data.ids), len(some.data.ids), len(empty.data.ids)) == (30, 24, 6)


def test_a_question_about_images_that_are_not_there_is_one_sentence(tmp_path):
    asked = study(tmp_path, [FakeLoss("bce"), FakeLoss("dice")], [1, 2], images="empty")
    asked.board.images["foreground"] = 5
    with pytest.raises(ContractError, match="the empty test images"):
        _ = asked.data
