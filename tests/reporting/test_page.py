"""The report is one file that needs no network, shows the results of the study, and escapes every name."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seglab.reporting import report_figures, report_sections
from seglab.reporting.html import TEMPLATES, Cell, decimal, figure, formula, mean_sd, number, table
from seglab.reporting.load_runs import Sweep, collect
from seglab.reporting.study import Question, Study
from seglab.reporting.write_report import answer, csv, markdown, page, report_command, training_commands, write
from tests.conftest import compose
from tests.reporting.fabricate import FakeLoss, change, write_run, write_sweep

VOID = {"meta", "img", "input", "br", "path", "use", "image", "rect", "circle", "link", "mspace"}


class Balance(HTMLParser):
    """A parser that records tags that are not closed in order."""

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
def html(report):
    return (report / "report.html").read_text()


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
    assert "<title>my &lt;sweep&gt;: which loss?</title>" in html
    assert "tag=&lt;b&gt;" in html
    assert "tag=<b>" not in html


def test_the_verdict_comes_first_and_the_rest_in_order(html):
    order = ["Verdict", "All metrics", "Figures", "The same images", "The losses", "What was compared", "Failed and"]
    places = [html.index(f"<h2>{heading}") for heading in order]
    assert places == sorted(places)
    assert html.index('class="headline"') < places[1]


@pytest.mark.parametrize(
    ("part", "count"),
    [
        ("At the threshold tuned on validation", 1),
        ("All 3 pairs in numbers", 2),
        ("The possible ranks of each loss", 1),
        ("Look 1 at this study, tested at an error rate of 3.5 %", 1),
        (">per_image.csv cannot be read", 1),
        ("bce with seed 3", 1),
        ("8 of 9 runs", 1),
        ('alt="errors of dice on image_00', 4),
        ('alt="probability of bce on image_00', 4),
        ("9 runs on these data took 5 min in total; 1 of them is not compared, see below.", 1),
        ("/checkpoints/best.ckpt</code>", 1),
        ("Mean ± standard deviation over runs (one per seed).", 1),
        ("Student's t over the per-seed differences", 1),
        ("<math", 3),
    ],
)
def test_the_page_shows(html, part, count):
    assert html.count(part) == count


def test_ids_of_the_page_are_unique_although_it_holds_many_figures(html):
    ids = re.findall(r'\bid="([^"]+)"', html)
    sections = [name for name in ids if name.startswith(("b0-", "failed", "reproduce"))]
    assert len(set(sections)) == len(sections) == 9
    for used in set(re.findall(r'(?:url\(|href=")#([^")]+)', html)):
        assert used in ids


def test_figures_are_saved_as_svg_with_their_labels_as_text_inside_of_them(report):
    files = sorted((report / "figures").iterdir())
    names = ["forest", "learning", "precision_recall", "reliability", "seeds"]
    assert [file.name for file in files] == [f"{name}.svg" for name in names]
    for file in files:
        drawn = file.read_text()
        assert re.search(">dice[< ]", drawn), file.name
        width, height = map(float, re.search('viewBox="0 0 ([0-9.]+) ([0-9.]+)"', drawn).groups())
        places = re.findall(r"translate\(([-0-9.]+) ([-0-9.]+)\)", drawn)
        assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in places), file.name


def test_numbers_are_written_as_in_print():
    assert decimal(-0.01234) == "−0.012"
    assert decimal(-0.0001) == "0.000"
    assert decimal(np.nan) == "–"
    assert number(np.nan) == Cell("–", None, "")
    assert mean_sd(0.5, np.nan).shown == "0.500"
    assert mean_sd(18.375, 0.1, best=True) == Cell('18.38 <span class="sd">±0.10</span>', 18.375, "best")
    assert mean_sd(0.000243, 0.00004).shown == '0.000243 <span class="sd">±0.000040</span>'
    assert mean_sd(2.5e-5, np.nan).shown == "0.0000250"
    assert mean_sd(0.0002, 0.3).shown == '0.000 <span class="sd">±0.300</span>'
    assert mean_sd(0.0, 0.0).shown == '0.000 <span class="sd">±0.000</span>'


def test_a_table_carries_its_sort_keys_and_escapes_its_words():
    made = table(["a", "b<"], [["x & y", number(0.12345)], ["z", number(np.nan)]])
    assert '<td class="" data-key="0.12345">0.123</td>' in made
    assert 'data-key=""' in made
    assert "x &amp; y" in made
    assert "b&lt;" in made


def test_titles_headings_and_captions_of_any_page_are_escaped():
    drawn = '<?xml?><svg width="720pt" height="10pt" style="fill:#1c1e21"/>'
    sections = [("<h>", figure(drawn, "a < b. More"))]
    html = TEMPLATES.get_template("page.html.j2").render(title="<t>", sections=sections)
    assert "<title>&lt;t&gt;</title>" in html
    assert "<h2>&lt;h&gt;</h2>" in html
    assert 'aria-label="a &lt; b."' in html
    assert 'style="fill:var(--ink)"' in html
    assert "max-width:960px" in html
    assert "<script></script>" not in html


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        (r"\Big(\frac{a}{b}\Big)^{\gamma}", ["<mfrac>", '<mo stretchy="true" fence="true" form="postfix">)</mo>', "γ"]),
        (r"-t\log p", ['<mspace width="0.167em" /><mi>log</mi><mspace width="0.167em" />']),
        (r"\sum_{\text{a<b>&c}} t'", ["<mo>∑</mo>", "<mtext>a&lt;b&gt;&amp;c</mtext>"]),
    ],
)
def test_a_formula_becomes_mathml_with_stretched_brackets_and_spaced_functions(latex, parts):
    made = formula(f"${latex}$")
    assert made.startswith("<math")
    assert "minsize" not in made  # brackets of fixed size, too small below an exponent in browsers
    assert all(part in made for part in parts)


def test_a_formula_of_another_person_has_no_links():
    assert "href" not in formula(r"\href{javascript:alert(1)}{x}")


def test_csv_and_markdown_agree_with_the_study(study):
    lines = csv([study], study.sweep.runs).splitlines()
    assert lines[0].startswith("loss,data,seeds,iou,iou sd,")
    assert float(lines[1].split(",")[3]) == study.spread["iou", "mean"].iloc[0]
    words = markdown([study], study.sweep.runs)
    assert study.verdicts[0].words in words
    assert f"| dice | {study.spread['iou', 'mean']['dice']:.3f} ±" in words


def test_runs_on_two_datasets_get_separate_parts_and_files_and_are_not_compared(tmp_path, monkeypatch):
    for shift, losses in ((-1, ("bce", "dice")), (1, ("bce", "iou"))):  # the same letters in both titles
        data = {"extra": {"dataset": {"shift": shift}}, "data": {"fingerprint": f"{shift}ffff"}}
        write_sweep(tmp_path / str(shift), [FakeLoss(name) for name in losses], [1, 2], **data)
    _, studies, _ = found = answer([tmp_path], Question())
    monkeypatch.setattr(Study, "figures", lambda study: {"seeds": report_figures.seeds(study.data, "iou")})
    html = write([tmp_path], Question(), found, tmp_path / "out").read_text()
    titles = ["synthetic shift=-1", "synthetic shift=1"]
    assert re.findall(r'<h2 class="benchmark">([^<]+)<', html) == titles
    assert re.findall(r'<li><a href="#b(\d)-verdict">([^<]+)<', html) == list(zip("01", titles, strict=True))
    assert [len(study.verdicts) for study in studies] == [1, 1]
    drawn = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert drawn == {"synthetic-shift-1_seeds.svg", "synthetic-shift-1_2_seeds.svg"}


def test_an_answer_says_which_losses_it_is_not_about(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce", 3.0), FakeLoss("focal", 0.5)], [1, 2])
    write_sweep(tmp_path, [FakeLoss("dice", 2.0), FakeLoss("iou", 1.0)], [3, 4])
    sweep = collect([tmp_path])
    expected = {
        Question(): "There is no verdict on dice and iou: no seed has iou both for them and for bce.",
        Question(against="iou"): "There is no verdict on bce and focal: no seed has iou both for them and for iou.",
    }
    for question, words in expected.items():
        assert Study("data", sweep, question).answer.endswith(words)
    assert "no verdict on" not in Study("data", sweep, Question(question="pairs")).answer
    alone = sweep.runs.assign(used=sweep.runs["label"] != "focal")
    images = sweep.images[sweep.images["label"] != "focal"]
    best_without_a_pair = Study("data", Sweep(alone, images), Question())
    assert best_without_a_pair.answer.endswith("There is no verdict on bce: no seed has iou both for it and for dice.")
    assert best_without_a_pair.calibration == ""


def test_a_report_of_tiles_says_so_and_why_a_metric_of_them_is_undefined(tmp_path):
    folder = write_sweep(tmp_path, [FakeLoss("bce"), FakeLoss("dice")], [1, 2], 9, extra={"dataset": {"fit": "patch"}})
    for file in folder.glob("*/per_image.csv"):
        pd.read_csv(file).assign(object_dice=np.nan).to_csv(file, index=False)
    sweep = collect([folder])
    study = Study("data", sweep, Question(metric="object_dice"))
    lacking = "There is nothing to compare: object Dice is undefined in all test images for bce, dice: tiles cut "
    assert study.answer.startswith(lacking)
    tiles = "Scores were computed on tiles without overlap and summed for each image"
    assert tiles in markdown([study], sweep.runs)
    html = page("x", [study], [{}], sweep.runs, "")
    assert tiles in html
    assert "each picture is the tile with the most foreground, each score that of the whole image" in html
    for file in folder.glob("dice*"):
        change(file, scale="native")  # as in newer runs on patches
    parts = [(name, Study(name, runs, Question()).tiles) for name, runs in collect([folder]).benchmarks()]
    assert [(name.split()[-1], bool(said)) for name, said in parts] == [("scale=run", True), ("scale=native", False)]
    empty = Study("data", sweep, Question(metric="recall", images="empty"))
    assert empty.answer.endswith("recall is undefined in the empty test images for bce, dice.")


def test_the_page_says_the_confidence_and_the_rule_that_were_asked_for(own):
    study = Study("data", collect([own]), Question(confidence=0.9, rule="scaled"))
    html = page("x", [study], [{"forest": '<svg width="9pt" height="9pt"/>'}], study.sweep.runs, "")
    assert "in at least 90 % of studies" in html
    assert "The verdict is about IoU with rule=scaled per image" in html


def test_the_first_picture_has_foreground_where_some_have(own):
    for file in own.glob("*/examples.npz"):
        np.savez(file, **dict(np.load(file)) | {"ids": ["image_000", "image_005", "image_001"]})  # two empty
    [first] = report_sections.pictures(Study("data", collect([own]), Question()))["first"]
    assert first["id"] == "image_001"


def test_all_losses_beside_a_baseline_are_named_however_many(tmp_path):
    write_sweep(tmp_path, [FakeLoss(f"l{k:02d}", 0.5 + 0.1 * k) for k in range(13)], [1, 2], images=4)
    study = Study("data", collect([tmp_path]), Question(against="l06"))
    assert len(study.named) == 12
    best = Study("data", study.sweep, Question(question="pairs"))
    assert {found.pair.first for found in best.named} == {best.labels[0]}


def test_the_page_lists_pairs_of_the_best_losses_if_there_are_very_many(tmp_path, monkeypatch):
    write_sweep(tmp_path, [FakeLoss(f"l{k}", 0.5 * k) for k in range(4)], [1, 2], images=4)
    monkeypatch.setattr(report_sections, "MOST_PAIRS", 2)
    study = Study("data", collect([tmp_path]), Question())
    text = page("many", [study], [{}], study.sweep.runs, "")
    assert "The first 2 of 6 pairs, in the order of the means, in numbers" in text


def test_a_sweep_in_which_nothing_finished_still_gives_a_page(own):
    for folder in own.iterdir():
        change(folder, status="running")
    sweep = collect([own])
    html = page("x", [], [], sweep.runs, "")
    assert "nothing to compare yet" in html
    assert "interrupted; run it again to resume" in html
    assert csv([], sweep.runs) == "loss,data,seeds\n"


def test_the_best_run_is_chosen_by_validation_among_those_of_the_best_loss(own):
    change(own / "dice_s1", monitor={"name": "val/loss", "value": 0.3})
    change(own / "dice_s2", monitor={"name": "val/loss", "value": 0.4})
    change(own / "bce_s1", monitor={"name": "val/loss", "value": 0.1})
    study = Study("data", collect([own]), Question())
    words, file = report_sections.best_run(study)
    assert words == "The best run of dice by val/loss (0.300, seed 1):"
    assert file.endswith("dice_s1/checkpoints/best.ckpt")


def test_the_headline_says_where_a_difference_is_one_of_calibration(own):
    study = Study("data", collect([own]), Question())
    assert study.calibration == ""
    for seed in (1, 2):  # thresholds at which the losses are close
        change(own / f"bce_s{seed}", threshold={"tuned": 0.25})
        change(own / f"dice_s{seed}", threshold={"tuned": 0.9})
    found = Study("data", collect([own]), Question())
    gap, left = (each.means["dice"] - each.means["bce"] for each in (found, found.tuned))
    assert left < -0.01
    assert found.headline == (
        f"{study.answer} Mostly calibration: dice is ahead of bce by {gap:.3f} at the fixed threshold, "
        f"but bce is ahead by {-left:.3f} at thresholds tuned on validation."
    )


def test_a_difference_that_may_be_noise_is_not_called_one_of_calibration(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce", seed_noise=0.8), FakeLoss("dice", seed_noise=0.8)], [1, 2])
    found = Study("data", collect([tmp_path]), Question())
    worse = found.labels[1]
    for seed in (1, 2):
        change(tmp_path / f"{found.labels[0]}_s{seed}", threshold={"tuned": 0.9})
    found = Study("data", collect([tmp_path]), Question())
    gap, left = (each.means[found.labels[0]] - each.means[worse] for each in (found, found.tuned))
    assert gap > 0.01
    assert left < gap / 2
    assert found.calibration == ""


def test_the_tables_say_the_threshold_of_the_runs_or_that_it_is_the_most_probable_class(own):
    drawn = dict.fromkeys(["precision_recall", "reliability"], '<svg width="9pt" height="9pt"/>')

    def heading():
        (study,) = (Study("data", sweep, Question()) for _, sweep in collect([own]).benchmarks())
        shown = page("x", [study], [drawn], study.sweep.runs, "") + markdown([study], study.sweep.runs)
        assert shown.count(study.decision) == 3  # twice in table headings, once in a caption
        assert "threshold 0.5" not in shown
        return study.decision

    facts = {run: json.loads((run / "run.json").read_text()) for run in own.iterdir()}
    for run, known in facts.items():
        change(run, config=known["config"] | {"threshold": 0.3})
    assert heading() == "threshold 0.3"
    change(run, config=known["config"] | {"threshold": 0.4})
    assert heading() == "each run at its own threshold"
    for run, known in facts.items():
        for name in ("histograms.npz", "examples.npz"):  # these have one class
            (run / name).unlink()
        change(run, data=known["data"] | {"task": {"kind": "multiclass", "classes": ["other", "cell"]}})
        pd.read_csv(run / "per_image.csv").assign(**{"class": "cell"}).to_csv(run / "per_image.csv", index=False)
    assert heading() == "the most probable class"
    (sweep,) = (sweep for _, sweep in collect([own]).benchmarks())
    said = "No verdict: mutually exclusive classes have only the rule fixed, got tuned."
    assert Study("data", sweep, Question(rule="tuned")).headline == said


def test_there_is_no_tuned_verdict_where_a_loss_finds_nothing_at_its_tuned_thresholds(own):
    for seed in (1, 2):
        change(own / f"dice_s{seed}", threshold={"tuned": 1.0})
    study = Study("data", collect([own]), Question(metric="precision"))
    assert study.verdicts
    assert study.tuned is None
    assert "At the threshold tuned" not in page("x", [study], [{}], study.sweep.runs, "")


def test_runs_of_seconds_do_not_take_0_minutes():
    assert [report_sections._duration(seconds) for seconds in (14.2, 90, 5400)] == ["14 s", "2 min", "1.5 h"]


def test_options_that_are_lists_or_mappings_are_among_the_settings(own):
    for run in own.iterdir():
        config = json.loads((run / "run.json").read_text())["config"]
        lists = {"bands": [4, 3, 2], "classes": {"water": 0, "house": ["#ff0000", 7]}, "ignore": None}
        change(run, config=config | {"dataset": config["dataset"] | lists})
    settings = "scene disc, size 64, mean [0.5], bands [4, 3, 2], classes {water: 0, house: [#ff0000, 7]}"
    assert report_sections.compared(collect([own]).used)["settings"] == settings


def test_a_missing_fold_is_missed(tmp_path):
    for name, fold in (("bce", 0), ("bce", 1), ("dice", 0)):
        run = write_run(tmp_path / str(fold), FakeLoss(name), 1, extra={"dataset": {"folds": 2, "fold": fold}})
        rows = pd.read_csv(run / "per_image.csv")
        rows.assign(id=rows["id"] + f" of fold {fold}").to_csv(run / "per_image.csv", index=False)
    study = Study("data", collect([tmp_path]), Question())
    shown = page("x", [study], [{}], study.sweep.runs, "")
    assert "Missing, although other losses have such runs: dice with seed 1, fold 1." in shown
    assert "Mean ± standard deviation over runs (one per seed and fold)." in shown
    assert "Student's t over the per-fold differences" in shown
    compared = report_sections.compared(study.sweep.used)
    assert compared["images of fold 0"]  # of one run, as the images of folds differ
    assert compared["settings"].endswith("folds 2")


def test_runs_that_find_nothing_are_reported_beside_the_verdict(own):
    def asked():
        return Study("data", collect([own]), Question())

    assert asked().blind == ""
    rows = pd.read_csv(own / "dice_s2" / "per_image.csv")
    rows["fn"], rows["tn"] = rows["fn"] + rows["tp"], rows["tn"] + rows["fp"]
    rows = rows.assign(tp=0, fp=0, iou=1.0 * (rows["foreground"] == 0), hd95=np.nan)
    rows.to_csv(own / "dice_s2" / "per_image.csv", index=False)
    study = asked()
    assert study.blind == "Nothing is predicted by 1 of 2 runs of dice; the score comes from the empty images alone."
    for other in (Question(metric="hd95"), Question(images="foreground")):  # undefined, and without empty images
        some = replace(study, question=other).blind
        assert some == "Nothing is predicted in any image with foreground by 1 of 2 runs of dice."
    assert study.blind in page("x", [study], [{}], study.sweep.runs, "")
    assert study.blind in markdown([study], study.sweep.runs)
    rows.assign(fp=3 * (rows["foreground"] > 0)).to_csv(own / "dice_s1" / "per_image.csv", index=False)  # all wrong
    assert asked().blind == f"{study.blind} No foreground pixel is predicted correctly by 1 of 2 runs of dice."


def test_classes_that_runs_do_not_find_are_reported_beside_the_verdict_of_the_mean(own):
    task = {"kind": "multiclass", "classes": ["other", "house", "water", "sand", "rock"]}
    recalls = {"bce_s1": (0, 0.2), "bce_s2": (0, 0), "dice_s1": (0.5, 0.2), "dice_s2": (0, 0)}
    for run, (house, water) in recalls.items():
        facts = json.loads((own / run / "run.json").read_text())
        each = {"other": 0, "house": house, "water": water, "sand": None, "rock": house}  # no test image has sand
        metrics = {f"test/recall_pooled/{name}": value for name, value in each.items()}
        change(own / run, data=facts["data"] | {"task": task}, metrics=facts["metrics"] | metrics)
        rows = pd.read_csv(own / run / "per_image.csv")
        if run == "dice_s2":
            rows = rows.assign(tp=0, iou=0)
        pd.concat([rows.assign(**{"class": name}) for name in task["classes"]]).to_csv(own / run / "per_image.csv")
        for name in ("histograms.npz", "examples.npz"):  # these have one class
            (own / run / name).unlink()
    (study,) = (Study("data", sweep, Question()) for _, sweep in collect([own]).benchmarks())
    assert study.blind == (
        "No foreground pixel is predicted correctly by 1 of 2 runs of dice. No pixel of the classes house, rock is "
        "predicted correctly by 2 of 2 runs of bce. No pixel of the class water is predicted correctly by 1 of 2 runs "
        "of bce."
    )
    (study,) = (Study("data", sweep, Question(of_class="water")) for _, sweep in collect([own], "water").benchmarks())
    # all classes have the same rows
    assert study.blind == "No foreground pixel is predicted correctly by 1 of 2 runs of dice."


def test_the_page_says_where_the_spread_comes_from(study):
    shown = report_sections.variance(study)
    assert [name in shown for name in ("images", "losses on images", "seeds", "rest")] == [True] * 4
    one = study.data._replace(values=study.data.values[:, :1])
    assert one.balanced(one.labels)[0].shape == (3, 1, 30)


def test_the_command_of_the_report_is_one_for_a_shell_and_for_hydra():
    question = Question(against="focal gamma=2", delta=0.005)
    command = report_command([Path("my study"), Path("other")], question)
    assert command == "python -m seglab.report 'my study' other 'against=\"focal gamma=2\"' delta=0.005"
    again = compose("report", "roots=[]", *shlex.split(command)[5:])
    assert (again.against, again.delta) == (question.against, question.delta)


GRID = [["dataset=fundus", f"loss={loss}", f"seed={seed}"] for loss, seed in product(("bce", "dice"), (1, 2))]
OWN = [["--config-dir=mine", f"loss={loss}"] for loss in ("squared", "dice")]
ODD = [["loss=bce", "seed=1"], ["loss=bce", "seed=2"], ["loss=dice", "seed=3"]]
MANY = [[f"option{k}={number}" for k in range(12)] for number in range(10)]
MORE = [*ODD[:2], ["loss=focal", "loss.gamma=3", "seed=1"]]


@pytest.mark.parametrize(
    ("overrides", "commands"),
    [
        (GRID, ["-m dataset=fundus loss=bce,dice seed=1,2"]),
        (OWN, ["-m --config-dir=mine loss=squared,dice"]),
        (ODD, map(" ".join, ODD)),
        (MORE, map(" ".join, MORE)),
        (MANY, map(" ".join, MANY)),
        ([["dataset.root=my data"]], ["'dataset.root=my data'"]),
    ],
    ids=["a full grid is one sweep", "own", "no grid", "another parameter", "10^12 runs", "quoted for a shell"],
)
def test_the_commands_that_made_runs(overrides, commands):
    assert training_commands(overrides) == [f"python -m seglab.train {words}" for words in commands]
