from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.plots import paint_errors
from seglab.reporting.run_figures import Example, curves, examples


def history(folder: Path, **columns: list[float]) -> Path:
    path = folder / "metrics.csv"
    pd.DataFrame({"epoch": range(3), **columns}).to_csv(path, index=False)
    return path


def example(size: tuple[int, int] = (20, 30), channels: int = 3) -> Example:
    truth = np.zeros(size, np.uint8)
    truth[5:10, 5:10] = 1
    return Example("best\nIoU 1.00", np.full((*size, channels), 200, np.uint8), truth, truth * 0.9)


def test_curves_show_train_and_validation_lines_under_their_names(tmp_path):
    table = history(
        tmp_path, **{"train/iou": [0.1, 0.2, 0.3], "val/iou": [0.1, 0.15, 0.2], "train/loss": [1, 0.5, 0.2]}
    )
    svg = curves(table, tmp_path / "curves.svg").read_text()
    for word in ("Loss", "IoU", "Pixel accuracy", "Foreground confidence", "Background confidence", "train", "epoch"):
        assert f">{word}<" in svg


def test_curves_show_the_parameters_that_move_and_where_the_next_loss_began(tmp_path):
    plain = history(tmp_path, **{"val/iou": [0.1, 0.2, 0.3]})
    still = curves(plain, tmp_path / "still.svg").read_text()
    moving = {"loss/pos_weight": [20, 10, 1], "loss/stage": [1, 1, 2]}
    moved = curves(history(tmp_path, **{"val/iou": [0.1, 0.2, 0.3], **moving}), tmp_path / "moved.svg").read_text()
    for word in ("Parameters of the loss", "pos_weight", "next loss"):
        assert f">{word}<" in moved
        assert f">{word}<" not in still
    assert moved.count("stroke-dasharray: 1,1.65") == 7 + 1  # a dotted line in each panel, and in the legend
    assert ">stage<" not in moved


def test_curves_show_where_the_gradient_falls(tmp_path):
    shares = {f"train/gradient_{name}": [0.5, 0.4, 0.3] for name in ("foreground", "edge", "hard")}
    svg = curves(history(tmp_path, **shares), tmp_path / "curves.svg").read_text()
    for word in ("Fraction of the gradient", "foreground", "edge", "hard"):
        assert f">{word}<" in svg


def test_curves_survive_missing_columns_empty_cells_and_a_single_epoch(tmp_path):
    table = history(tmp_path, **{"val/iou": [np.nan, 0.4, np.nan], "train/iou": [np.nan] * 3})
    picture = matplotlib.image.imread(curves(table, tmp_path / "curves.png"))
    assert picture.shape[1] > picture.shape[0] > 100


def test_curves_say_what_a_foreign_table_lacks(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ContractError, match="a column named epoch"):
        curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_errors_paint_hits_false_alarms_and_misses_in_three_colours():
    image, truth, probability = (
        np.zeros((1, 4, 3), np.uint8),
        np.array([[1, 0, 1, 0]]),
        np.array([[0.5, 0.9, 0.1, 0.2]]),
    )
    painted = paint_errors(image, truth, probability)[0].astype(int)
    white, orange, blue, nothing = painted
    assert min(white) == max(white) > 150
    assert orange[0] > orange[1] > orange[2]
    assert blue[2] > blue[1] > blue[0]
    assert nothing.tolist() == [0, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_draw_grey_and_colour_images_one_a_row(tmp_path, channels):
    one = matplotlib.image.imread(examples([example(channels=channels)], tmp_path / "one.png"))
    three = matplotlib.image.imread(examples([example(channels=channels)] * 3, tmp_path / "three.png"))
    assert three.shape[0] > 2 * one.shape[0]
    assert three.shape[1] == one.shape[1]


def test_examples_refuse_an_empty_list(tmp_path):
    with pytest.raises(ContractError, match="at least one image"):
        examples([], tmp_path / "none.png")


def test_a_picture_is_written_whole_and_leaves_no_partial_file(tmp_path):
    examples([example()], tmp_path / "new" / "examples.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["examples.png"]
