import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from seglab.plots import outlined, paint_errors, write_png
from seglab.reporting.run_figures import Example, curves, examples


def drawn(folder, name="curves.svg", **columns):
    """Draw the curves of a metrics.csv with three epochs and the given columns."""
    pd.DataFrame({"epoch": range(3), **columns}).to_csv(folder / "metrics.csv", index=False)
    return curves(folder / "metrics.csv", folder / name)


def words_of(svg, *words):
    return {word for word in words if f">{word}<" in svg.read_text()}


def example(channels=3):
    truth = np.zeros((20, 30), np.uint8)
    truth[5:10, 5:10] = 1
    return Example("best\nIoU 1.00", np.full((20, 30, channels), 200, np.uint8), truth, truth * 0.9)


def test_curves_show_every_quantity_that_was_measured_under_its_name(tmp_path):
    lines = {f"{split}/{key}": [0.3, 0.2, 0.1] for split in ("train", "val") for key in ("loss", "iou", "accuracy")}
    schedule = {"loss/pos_weight": [20, 10, 1], "loss/stage": [1, 1, 2]}
    panels = ("Loss", "IoU", "Pixel accuracy", "Foreground confidence", "Background confidence")
    always = (*panels, "train", "val", "epoch")
    moving = ("Parameters of the loss", "pos_weight", "next loss")
    still = drawn(tmp_path, "still.svg", **lines)
    assert words_of(still, *always, *moving) == set(always)
    moved = drawn(tmp_path, "moved.svg", **lines, **schedule)
    assert words_of(moved, *always, *moving, "stage") == {*always, *moving}
    assert moved.read_text().count("stroke-dasharray: 1,1.65") == 6 + 1  # one line in each panel and one in the legend


def test_curves_survive_missing_columns_empty_cells_and_a_single_epoch(tmp_path):
    out = drawn(tmp_path, "curves.png", **{"val/iou": [np.nan, 0.4, np.nan], "train/iou": [np.nan] * 3})
    picture = matplotlib.image.imread(out)
    assert picture.shape[1] > picture.shape[0] > 100


@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_is_read_as_it_was_written(channels, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, channels), dtype=np.uint8)
    read = matplotlib.image.imread(write_png(pixels, tmp_path / "a.png"))
    assert (np.round(255 * read) == pixels[..., :3]).all()


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_the_border_of_the_true_foreground_is_drawn_on_the_image(channels):
    image = np.full((7, 7, channels) if channels else (7, 7), 50, np.uint8)
    truth = np.zeros((7, 7))
    truth[2:, 2:] = 1  # touches the image border
    drawn = (outlined(image, truth) != 50).any(axis=2)
    expected = truth.astype(bool)
    expected[3:6, 3:6] = False
    assert (drawn == expected).all()


def test_errors_are_painted_in_three_colors():
    probability = np.array([[0.5, 0.9, 0.1, 0.2]])
    painted = paint_errors(np.zeros((1, 4, 3), np.uint8), np.array([[1, 0, 1, 0]]), probability)[0].astype(int)
    white, orange, blue, nothing = painted
    assert min(white) == max(white) > 150
    assert orange[0] > orange[1] > orange[2]
    assert blue[2] > blue[1] > blue[0]
    assert nothing.tolist() == [0, 0, 0]
    wrong = np.array([[0.0, 1.0, 0.0]]).T[..., None]  # class 2 predicted as class 1 is an error of both
    truth = np.array([[0, 0, 1]]).T[..., None]
    painted = paint_errors(np.zeros((1, 1, 3), np.uint8), truth, wrong, kind="multiclass")
    assert (painted == orange).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_draw_gray_and_color_images_one_per_row(tmp_path, channels):
    one = matplotlib.image.imread(examples([example(channels)], tmp_path / "new" / "one.png"))
    three = matplotlib.image.imread(examples([example(channels)] * 3, tmp_path / "new" / "three.png"))
    assert three.shape[0] > 2 * one.shape[0]
    assert three.shape[1] == one.shape[1]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["one.png", "three.png"]  # no partial file
