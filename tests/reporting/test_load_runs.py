import errno
import json
import os

import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.files import csv_text, file_facts, write_text
from seglab.reporting.load_runs import collect
from seglab.reporting.metrics_table import per_run
from seglab.reporting.study import Question
from seglab.reporting.write_report import answer, write
from tests.reporting.fabricate import FakeLoss, change, write_run, write_sweep

BCE, DICE = FakeLoss("bce"), FakeLoss("dice", 1.5)
HALF = "id,group,class,pixels,foreground,iou\na,a,foreground,9,1,0.5\n"
"""A table of images without counts of pixels."""


def test_a_sweep_becomes_one_row_per_run_and_one_row_per_image_of_each_run(own):
    sweep = collect([own])
    assert sweep.runs[["label", "seed"]].to_numpy().tolist() == [["bce", 1], ["bce", 2], ["dice", 1], ["dice", 2]]
    assert len(sweep.images) == 120
    one = pd.read_csv(own / "dice_s2" / "per_image.csv")
    same = sweep.images.query("label == 'dice' and seed == 2")
    assert same["iou"].tolist() == one["iou"].tolist()
    assert sweep.runs["test/iou"].iloc[3] == pytest.approx(one["iou"].mean())


def test_scores_that_are_undefined_in_every_run_are_undefined_in_the_report(own, tmp_path):
    for folder in own.iterdir():
        change(folder, metrics=dict.fromkeys(json.loads((folder / "run.json").read_text())["metrics"]))
    assert collect([own]).runs["test/iou"].dtype == float
    write([own], Question(), answer([own], Question()), tmp_path)
    assert "dice" in (tmp_path / "report.html").read_text()


def test_a_run_that_is_a_link_is_one_of_the_study_and_links_in_a_circle_have_an_end(own, tmp_path_factory):
    place = tmp_path_factory.mktemp("large") / "dice_s2"
    (own / "dice_s2").rename(place)
    (own / "dice_s2").symlink_to(place)
    (own / "again").symlink_to(own)
    assert sorted(collect([own]).used["name"]) == ["bce_s1", "bce_s2", "dice_s1", "dice_s2"]


def test_a_folder_that_may_not_be_read_is_named(own, monkeypatch):
    scan = os.scandir

    def forbidding(folder):
        if str(folder) == str(own / "dice_s2"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidding)  # root is never denied permission
    (own / "dice_s2/run.json").unlink()
    sweep = collect([own])
    assert sweep.used["name"].tolist() == ["bce_s1", "bce_s2", "dice_s1"]
    assert sweep.runs.set_index("name")["problem"]["dice_s2"].startswith("run.json cannot be read: ")


RUN, IMAGES = "run.json", "per_image.csv"


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        (RUN, {"status": "failed", "error": {"kind": "OutOfMemory", "message": "no\nmore"}}, "OutOfMemory: no"),
        (RUN, {"status": "failed", "error": {"kind": "ContractError", "message": "a: b", "traceback": None}}, "a: b"),
        (RUN, {"status": "running"}, "interrupted; run it again to resume"),  # its process has died
        (RUN, {"status": "interrupted"}, "interrupted; run it again to resume"),
        (RUN, {"data": {"task": {"kind": "regression"}}}, "expected kind to be one of"),
        (RUN, {"data": {"task": {"kind": "binary", "unit": "mm"}}}, "Task.__init__() got an unexpected"),
        (RUN, '{"name": "truncated', "run.json cannot be read"),
        (RUN, "[1, 2]", "run.json is not that of a training run"),
        (RUN, '{"config": [1]}', "run.json is not that of a training run"),
        (RUN, "[" * 10**5, "run.json cannot be read"),
        (RUN, {"data": 5}, "run.json is not that of a training run"),
        (IMAGES, None, "per_image.csv cannot be read: No such file or directory"),
        (IMAGES, "", "per_image.csv cannot be read"),
        (IMAGES, "a,b\n1,2\n", "per_image.csv cannot be read: no column class, foreground"),
        (IMAGES, "id,group,foreground,iou\n", "per_image.csv cannot be read: no column class, fp"),
        (IMAGES, HALF, "per_image.csv cannot be read: no column fp, tp"),
    ],
)
def test_a_failed_damaged_or_foreign_run_is_a_problem_of_that_run_only(own, file, content, problem):
    if isinstance(content, dict):
        change(own / "bce_s1", **content)
    elif content is None:
        (own / "bce_s1" / file).unlink()
    else:
        (own / "bce_s1" / file).write_text(content)
    sweep = collect([own])
    assert sweep.runs.set_index("name")["problem"]["bce_s1"].startswith(problem)
    assert sweep.used["name"].tolist() == ["bce_s2", "dice_s1", "dice_s2"]


def test_a_run_of_version_1_is_left_out_by_that_name_and_no_verdict_waits_for_it(own):
    change(own / "bce_s1", status="interrupted", versions={"torch": "2.15.0"})
    change(own / "bce_s2", versions={"torch": "2.15.0"})
    sweep = collect([own])
    problem = "made by seglab 1, whose runs this version cannot open; init_from=RUN/checkpoints/best.ckpt loads its "
    assert sweep.reasons == f"2 {problem}weights"
    assert sweep.waiting == []
    assert sweep.used["name"].tolist() == ["dice_s1", "dice_s2"]


def test_a_run_whose_files_are_not_as_they_were_written_is_left_out(own):
    file = own / "bce_s1" / "histograms.npz"
    change(own / "bce_s1", files={file.name: file_facts(file)})
    assert len(collect([own]).used) == 4
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    sweep = collect([own])
    assert sweep.used["name"].tolist() == ["bce_s2", "dice_s1", "dice_s2"]
    assert sweep.runs["problem"].iloc[0].startswith("expected histograms.npz as it was written, got a file of ")


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_a_column_of_texts_is_no_metric(tmp_path, kind):
    classes = ["a", "b"][: 1 + (kind == "multilabel")]
    folder = write_run(tmp_path, BCE, 1, data={"task": {"kind": kind, "classes": classes}})
    rows = pd.read_csv(folder / "per_image.csv").assign(scanner="X")
    pd.concat([rows.assign(**{"class": name}) for name in classes]).to_csv(folder / "per_image.csv", index=False)
    sweep = collect([tmp_path])
    assert per_run(sweep, {}, pd.DataFrame({"run": []}))["iou"].item() == pytest.approx(rows["iou"].mean())


def test_nothing_to_read_is_one_sentence(tmp_path):
    with pytest.raises(ContractError, match=r"folders with a run\.json"):
        collect([tmp_path])
    with pytest.raises(ContractError, match="report: expected an existing folder, got"):
        collect([tmp_path / "absent"])


def test_names_of_images_stay_text(tmp_path):
    folder = write_run(tmp_path, BCE, 1)
    names = ["NA", "null", *(f"{i:03d}" for i in range(2, 30))]
    rows = pd.read_csv(folder / "per_image.csv").assign(id=names, group="01")
    rows.to_csv(folder / "per_image.csv", index=False)
    images = collect([tmp_path]).images
    assert images["id"].tolist() == names
    assert images["group"].iloc[0] == "01"


@pytest.mark.parametrize("names", [("1", "2"), ("NA", "None"), ("-a", "b")])
@pytest.mark.parametrize("group", ["p", None])
def test_classes_have_any_name_and_their_images_any_group_or_none(tmp_path, names, group):
    folder = write_run(tmp_path, BCE, 1, data={"task": {"kind": "multilabel", "classes": names}})
    rows = pd.read_csv(folder / "per_image.csv").assign(group=group)
    parts = [rows.assign(**{"class": name, "iou": iou}) for name, iou in zip(names, (0.2, 0.6), strict=True)]
    write_text(folder / "per_image.csv", csv_text(pd.concat(parts)))
    for name, iou in ((None, 0.4), (names[0], 0.2), (names[1], 0.6)):
        images = collect([tmp_path], name).images
        assert len(images) == 30
        assert images["iou"].tolist() == pytest.approx([iou] * 30)


def test_a_run_without_the_class_asked_for_is_left_out_unless_none_has_it(own):
    task = {"kind": "multilabel", "classes": ["disc", "cup"]}
    for run in ("bce_s1", "bce_s2", "dice_s1"):
        change(own / run, data={"task": task})
        rows = pd.read_csv(own / run / "per_image.csv")
        both = pd.concat([rows.assign(**{"class": name}) for name in task["classes"]])
        both.to_csv(own / run / "per_image.csv", index=False)
    change(own / "bce_s2", status="failed", error={"kind": "OutOfMemory", "message": "no"}, data=None)
    runs = collect([own], "cup").runs.set_index("name")
    assert runs["problem"].tolist() == ["", "OutOfMemory: no", "", "expected class as one of foreground, got cup"]
    with pytest.raises(ContractError, match="report: expected class as one of disc, cup, foreground, got moon"):
        collect([own], "moon")


def test_the_last_of_two_runs_of_an_experiment_counts(tmp_path):
    old = write_run(tmp_path / "old", BCE, 1)
    write_run(tmp_path / "new", BCE, 1, finished="2026-12-01T00:00:00+00:00")
    sweep = collect([tmp_path])
    assert sweep.used["folder"].iloc[0].parent.name == "new"
    told = f"superseded by new/{old.name}, which finished last, with {{}} scores"
    assert sweep.runs["problem"].tolist()[1] == told.format("equal")
    change(old, files={})
    (old / "per_image.csv").write_text((old / "per_image.csv").read_text().replace("0.", "0.0"))
    assert collect([tmp_path]).runs["problem"].tolist()[1] == told.format("different")


def test_runs_on_different_data_are_never_in_one_benchmark(tmp_path):
    write_sweep(tmp_path / "a", [BCE, DICE], [1], extra={"dataset": {"target": "disc", "size": 64}})
    other = {"extra": {"dataset": {"target": "cup"}}, "data": {"fingerprint": "ffff"}}
    write_sweep(tmp_path / "b", [BCE, DICE], [1], **other)
    parts = dict(collect([tmp_path]).benchmarks())
    assert list(parts) == ["synthetic target=disc", "synthetic target=cup"]
    assert [len(part.used) for part in parts.values()] == [2, 2]
    assert set(parts["synthetic target=cup"].images["label"]) == {"bce", "dice"}


def test_a_dataset_that_occurs_once_has_its_own_name_and_changed_files_are_numbered(tmp_path):
    write_run(tmp_path, BCE, 1)
    assert [title for title, _ in collect([tmp_path]).benchmarks()] == ["synthetic"]
    write_run(tmp_path / "later", BCE, 1, data={"fingerprint": "ffff"})
    assert [title for title, _ in collect([tmp_path]).benchmarks()] == ["synthetic, data 1", "synthetic, data 2"]


def test_a_run_that_has_not_read_its_data_yet_is_waited_for_with_its_dataset(tmp_path):
    write_run(tmp_path, BCE, 1)
    write_run(tmp_path, DICE, 1, status="running", data=None)
    ((_, part),) = collect([tmp_path]).benchmarks()
    assert part.waiting == ["dice_s1"]
    assert part.benchmark == "synthetic 0ad80a"


def test_folds_of_one_experiment_are_runs_of_one_loss(tmp_path):
    for fold in (0, 1):
        write_run(tmp_path / str(fold), BCE, 1, extra={"dataset": {"folds": 5, "fold": fold}})
    sweep = collect([tmp_path])
    assert sweep.used[["label", "fold"]].to_numpy().tolist() == [["bce", 0], ["bce", 1]]
    assert sorted(sweep.images["fold"].unique()) == [0, 1]
