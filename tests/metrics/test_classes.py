"""Scores of several classes equal those of each class alone, and ignored pixels do not change them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional import classification as reference

from seglab.contract import ContractError, Task
from seglab.engine.per_image import ImageTable, means
from seglab.metrics.counts import confusion, counts, decide, histogram, scores
from seglab.metrics.segmentation import SegmentationMetrics
from seglab.reporting.class_rows import rows_per_image, tuned_threshold

MULTICLASS = Task("multiclass", ("background", "organ", "lesion"))
MULTILABEL = Task("multilabel", ("disc", "cup", "rim"))


def batch(task, number=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(number, 3, 8, 10, generator=generator)
    if task.kind == "multiclass":
        return logits, torch.randint(0, 3, (number, 1, 8, 10), generator=generator, dtype=torch.uint8)
    return logits, (torch.rand(number, 3, 8, 10, generator=generator) < 0.3).to(torch.uint8)


def one_class(task, logits, target, k):
    """Return the predictions of class k as logits and target of a binary task."""
    if task.kind == "multilabel":
        return logits[:, k : k + 1], target[:, k : k + 1]
    return torch.where(logits.argmax(1, keepdim=True) == k, 1.0, -1.0), (target == k).to(torch.uint8)


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL], ids=lambda task: task.kind)
def test_each_class_scores_as_a_binary_task_and_the_mean_is_over_the_scored(task):
    logits, target = batch(task)
    metric = SegmentationMetrics(task=task)
    metric.update(logits, target)
    found = metric.compute()
    each = []
    for k, name in enumerate(task.classes):
        expected = scores(counts(*one_class(task, logits, target, k)))["iou"].nanmean()
        assert found[f"iou/{name}"].item() == pytest.approx(expected.item(), abs=1e-6)
        each.append(expected)
    assert found["iou"].item() == pytest.approx(torch.stack(each)[list(task.scored)].mean().item(), abs=1e-6)


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL, Task()], ids=lambda task: task.kind)
def test_pixels_that_do_not_count_change_no_score(task):
    logits, target = batch(task)
    logits, target = (logits[:, :1], target[:, :1]) if task.kind == "binary" else (logits, target)
    valid = torch.ones(len(logits), 1, 8, 10, dtype=torch.bool)
    valid[..., 7:] = False  # 30 %
    wrong = logits.clone()
    wrong[..., 7:9], wrong[..., 9:] = 9.0, torch.nan
    whole, cut = (SegmentationMetrics(task=task) for _ in range(2))
    whole.update(wrong, target, valid=valid)
    cut.update(logits[..., :7], target[..., :7])
    for name, value in cut.compute().items():
        assert whole.compute()[name].item() == pytest.approx(value.item(), abs=1e-6, nan_ok=True), name
    left, right = decide(wrong, target, 0.5, valid, task.kind), decide(logits[..., :7], target[..., :7], kind=task.kind)
    assert torch.equal(histogram(left), histogram(right))


def test_multiclass_numbers_are_torchmetrics():
    logits, target = batch(MULTICLASS)
    metric = SegmentationMetrics(task=MULTICLASS)
    metric.update(logits, target)
    ours = confusion(logits, target).sum(0)
    assert torch.equal(ours, reference.multiclass_confusion_matrix(logits, target[:, 0].long(), 3))
    jaccard = reference.multiclass_jaccard_index(logits, target[:, 0].long(), 3, average=None)
    pooled = [metric.compute()[f"iou_pooled/{name}"].item() for name in MULTICLASS.classes]
    np.testing.assert_allclose(pooled, jaccard.numpy(), atol=1e-6)


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL], ids=lambda task: task.kind)
def test_a_class_that_no_image_has_is_left_out_of_the_pooled_mean(task):
    logits, target = batch(task)
    absent = task.scored[-1]
    target = target.where(target != absent, 0) if task.kind == "multiclass" else target.clone()
    if task.kind == "multilabel":
        target[:, absent] = 0
    logits[:, absent] = -9.0  # it is never predicted
    metric = SegmentationMetrics(task=task)
    metric.update(logits, target)
    found = {name: value.item() for name, value in metric.compute().items()}
    one, *others = (found[f"iou_pooled/{task.classes[k]}"] for k in (absent, *task.scored[:-1]))
    assert np.isnan(one)
    assert found["iou_pooled"] == pytest.approx(np.mean(others))
    metric.reset()
    metric.update(logits, 0 * target)  # without any class, the rule for empty images applies
    assert not np.isnan(metric.compute()[f"iou_pooled/{task.classes[absent]}"].item())


def test_thresholds_may_differ_between_classes():
    logits, target = batch(MULTILABEL)
    found = decide(logits, target, (0.2, 0.5, 0.9), kind="multilabel").predicted.view(5, 3, 8, 10)
    expected = logits.sigmoid() >= torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL], ids=lambda task: task.kind)
def test_the_table_has_a_row_per_image_and_class_and_the_report_one_per_image(task):
    logits, target = batch(task)
    names = [f"im{k}" for k in range(5)]
    table = ImageTable(dict.fromkeys(names, "g"), 0.5, "correct", outlines=False, task=task)
    table.add(torch.zeros(5), logits, target, names)
    rows, arrays = table.table(), table.arrays("test")
    assert list(rows["class"][:3]) == list(task.classes)
    assert arrays["test"].shape == (5, 3, 2, 256)
    assert ("test_confusion" in arrays) == (task.kind == "multiclass")
    mean, one = rows_per_image(rows, task), rows_per_image(rows, task, task.classes[1])
    assert list(mean["id"]) == list(one["id"]) == names
    scored = rows[rows["class"].isin([task.classes[k] for k in task.scored])]
    np.testing.assert_allclose(mean["iou"], scored.groupby("id", sort=False)["iou"].mean())
    assert means(rows, task)["iou"] == pytest.approx(mean["iou"].mean())
    assert means(rows, task)[f"iou/{task.classes[1]}"] == pytest.approx(one["iou"].mean())
    tuned = tuned_threshold(arrays["test"], task, "correct")
    assert tuned is None if task.kind == "multiclass" else set(tuned) == set(task.classes)
    with pytest.raises(ContractError, match="class as one of"):
        rows_per_image(rows, task, "moon")


def test_an_image_has_the_mean_over_its_classes_and_no_distance_where_one_of_them_was_not_found():
    rows = pd.DataFrame({"id": list("aabbcc"), "group": list("aabbcc"), "class": ["disc", "cup"] * 3})
    rows["foreground"] = [9, 4, 9, 4, 9, 0]  # c has no cup
    rows["tp"], rows["fp"] = [9, 4, 9, 0, 9, 0], [9, 0, 0, 0, 0, 2]
    rows["hd95"] = [1.0, 3.0, 1.0, np.nan, 1.0, np.nan]
    means = rows_per_image(rows, Task("multilabel", ("disc", "cup")))
    assert list(means["found/area_error"]) == [(1 + 0) / 2, (0 - 1) / 2, 0]  # not the error of the summed areas
    assert list(means["found/nothing"]) == [0, 0.5, 0]
    np.testing.assert_array_equal(means["hd95"], [2.0, np.nan, 1.0])
