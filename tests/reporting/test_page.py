import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from seglab.reporting.gallery import gallery, one_seed, picture, read_examples
from seglab.reporting.html import Cell, decimal, formula, number, table, text
from seglab.reporting.load_runs import collect
from seglab.reporting.study import Question, Study
from seglab.reporting.write_report import csv, markdown, write
from tests.reporting.fabricate import FakeLoss, write_sweep

VOID = {"meta", "img", "input", "br", "path", "use", "image", "rect", "circle", "link"}


class Balance(HTMLParser):
    """Every opened tag is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.faults.append(tag)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    losses = [FakeLoss("bce", 0.6), FakeLoss("dice", 1.5), FakeLoss("focal", 0.9, 0.1, {"gamma": 2.0, "tag": "<b>"})]
    write_sweep(root, losses, [1, 2, 3])
    (root / "bce_s3" / "per_image.csv").unlink()
    sweep = collect([root])
    studies = [Study(title, board, Question(resamples=300)) for title, board in sweep.boards()]
    return write(root, "my <sweep>", studies, sweep.runs, "python -m seglab.report x").read_text()


def test_the_page_is_one_file_without_a_network(html):
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "@import" not in html
    assert not re.search(r"url\((?!#|data:)", html)
    assert len(html) < 3_000_000


def test_the_page_is_balanced_and_its_names_are_escaped(html):
    parser = Balance()
    parser.feed(html)
    assert parser.faults == []
    assert parser.open == []
    assert "<h1>my &lt;sweep&gt;</h1>" in html
    assert "tag=&lt;b&gt;" in html


def test_the_verdict_comes_first_and_the_rest_in_order(html):
    order = ["Verdict", "Every metric", "Figures", "The same images", "The losses", "What was compared", "What failed"]
    places = [html.index(f"<h2>{heading}") for heading in order]
    assert places == sorted(places)
    assert html.index('class="headline"') < places[1]


def test_the_verdict_is_said_again_at_the_tuned_threshold(html):
    section = html[html.index('id="b0-verdict"') : html.index('id="b0-metrics"')]
    assert "At the threshold tuned on validation" in section
    assert section.count("pairs in numbers") == 2


def test_failed_and_missing_runs_are_told(html):
    assert "per_image.csv cannot be read" in html
    assert "bce with seed 3" in html
    assert "8 of 9 runs" in html


def test_ids_of_the_page_are_unique_although_it_holds_many_figures(html):
    ids = re.findall(r'\bid="([^"]+)"', html)
    sections = [name for name in ids if name.startswith(("b0-", "failed", "again"))]
    assert len(set(sections)) == len(sections) == 9
    for used in set(re.findall(r'(?:url\(|href=")#([^")]+)', html)):
        assert used in ids


def test_figures_take_the_colours_of_the_page(html):
    assert html.count("<svg") >= 8
    assert "var(--c0)" in html
    assert "#0072b2" not in html.split("<main>")[1]


def test_the_same_images_are_shown_under_every_loss(html):
    assert html.count('alt="errors of dice on image_00') == 3
    assert html.count('alt="probability of bce on image_00') == 3


def test_pictures_are_small_and_keep_their_shape():
    for shape in ((500, 250, 3), (500, 250, 1), (500, 250)):
        address = picture(np.full(shape, 200, np.uint8))
        image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
        assert image.size == (88, 176)


def test_probabilities_may_be_bytes_or_floats(tmp_path):
    for name, values in (("a", np.full((1, 2, 2), 255, np.uint8)), ("b", np.ones((1, 2, 2), np.float16))):
        (tmp_path / name).mkdir()
        images, truths = np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2))
        file = tmp_path / name / "examples.npz"
        np.savez(file, ids=np.array(["x"]), images=images, truths=truths, probabilities=values)
        assert read_examples(tmp_path / name)["x"]["probability"].max() == 1.0
    assert read_examples(tmp_path / "nowhere") == {}


def test_the_gallery_shows_the_seed_that_most_losses_share(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce")], [1, 2])
    write_sweep(tmp_path, [FakeLoss("dice"), FakeLoss("iou")], [2, 3])
    sweep = collect([tmp_path])
    chosen = one_seed(sweep.used, ["bce", "dice", "iou"])
    assert {int(run["seed"]) for run in chosen.values()} == {2}
    labels, rows = gallery(chosen, sweep.images, "iou")
    assert labels == ["bce", "dice", "iou"]
    assert [row["id"] for row in rows] == ["image_001", "image_002", "image_003"]
    row = sweep.images.query("label == 'dice' and seed == 2 and id == 'image_002'")
    assert rows[1]["cells"]["dice"]["score"] == row["iou"].item()


def test_numbers_are_written_as_in_print():
    assert decimal(-0.01234) == "−0.012"
    assert decimal(-0.0001) == "0.000"
    assert number(float("nan")) == Cell("–", None, "")


def test_a_table_carries_its_sort_keys_and_escapes_its_words():
    made = table(["a", "b<"], [[text("x & y"), number(0.12345)], [text("z"), number(np.nan)]])
    assert 'data-key="0.12345"' in made
    assert 'data-key=""' in made
    assert "x &amp; y" in made
    assert "b&lt;" in made


@pytest.mark.parametrize(
    "latex", [r"\frac1N\sum_i\Big(\tfrac12 p_i\log q\Big)^{\gamma}", r"\lVert p-t\rVert", r"1-\frac{2tp}{2tp+fp+fn}"]
)
def test_a_formula_becomes_a_drawing(latex):
    assert "<svg" in formula(latex, "f")


def test_a_formula_that_cannot_be_set_is_shown_as_written():
    assert formula(r"\begin{cases}a<b\end{cases}", "f") == r"<code>\begin{cases}a&lt;b\end{cases}</code>"


def test_csv_and_markdown_agree_with_the_study(tmp_path):
    sweep = collect([write_sweep(tmp_path, [FakeLoss("bce"), FakeLoss("dice", 2.0)], [1, 2])])
    study = next(Study(title, board, Question(resamples=300)) for title, board in sweep.boards())
    lines = csv([study], sweep.runs).splitlines()
    assert lines[0].startswith("loss,data,seeds,iou,iou sd,")
    assert float(lines[1].split(",")[3]) == study.spread["iou", "mean"].iloc[0]
    words = markdown([study], sweep.runs)
    assert study.verdicts[0].words in words
    assert f"| dice | {study.spread['iou', 'mean']['dice']:.3f} ±" in words


def test_runs_on_two_data_sets_get_a_part_each_and_are_not_compared(tmp_path):
    write_sweep(tmp_path / "a", [FakeLoss("bce"), FakeLoss("dice")], [1, 2])
    write_sweep(tmp_path / "b", [FakeLoss("bce"), FakeLoss("iou")], [1, 2])
    for file in (tmp_path / "b").rglob("run.json"):
        file.write_text(file.read_text().replace("0ad80aae", "ffffffff"))
    sweep = collect([tmp_path])
    studies = [Study(title, board, Question(resamples=300)) for title, board in sweep.boards()]
    html = write(tmp_path / "out", "both", studies, sweep.runs, "").read_text()
    assert re.findall(r'<h2 class="board">([^<]+)<', html) == ["synthetic 0ad80a", "synthetic ffffff"]
    assert [len(study.verdicts) for study in studies] == [1, 1]
    assert {path.name.split("_")[0] for path in (tmp_path / "out" / "figures").iterdir()} == {
        "synthetic-0ad80a",
        "synthetic-ffffff",
    }


def test_a_sweep_in_which_nothing_finished_still_gives_a_page(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce")], [1])
    (tmp_path / "bce_s1" / "run.json").write_text('{"status": "running", "config": {}, "seed": 1}')
    sweep = collect([tmp_path])
    html = write(tmp_path, "x", [], sweep.runs, "").read_text()
    assert "nothing to compare yet" in html
    assert "ended without a word" in html
