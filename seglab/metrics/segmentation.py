"""Scores of a dataset, averaged over images and pooled over all pixels, as one torchmetrics Metric."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from seglab.contract import Logits, PerImage, Target, Task, require
from seglab.metrics.counts import EMPTY, FIXED, Counts, count, decide, logit, scores, to_fixed


class SegmentationMetrics(Metric):
    """Overlap, rates and confidence of a dataset, from one pass over the logits of each batch.

    `compute()` returns each score of `scores` as the mean over the images where it is defined and, with the suffix
    `_pooled`, from the counts summed over all pixels; `image_accuracy` and `image_recall` score whether an image has
    any foreground. With several classes each score is the mean over the scored classes; `iou/cup` is that of one class.
    A mean over no images is NaN, as is the pooled overlap of a class that is in no image while other classes are.

    All counts are integers, so that several processes give exactly the same scores as one.
    """

    full_state_update = False  # torchmetrics' forward() may add the states of batches instead of updating twice
    counted: list[Tensor]
    images: list[Tensor]
    losses: list[Tensor]

    def __init__(self, threshold: float = 0.5, empty: str = "correct", task: Task | None = None) -> None:
        super().__init__()
        require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
        logit(threshold)  # raises if it is not a threshold
        self.threshold, self.empty, self.task = threshold, empty, task or Task()
        self.add_state("counted", [], dist_reduce_fx="cat")
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("losses", [], dist_reduce_fx="cat")

    def update(
        self,
        logits: Logits,
        target: Target,
        image: Tensor | None = None,
        valid: Tensor | None = None,
        measured: Tensor | None = None,
        losses: Tensor | None = None,
    ) -> None:
        """Add a batch: logits and target as in `decide`, on any device, without synchronizing.

        `image` (b,) int64 is the number of the image that each sample is a tile of: the counts of its tiles are added
        before scoring, whatever batch or process they came in. Without it each sample is an image. `valid`
        (b,1,*spatial) bool marks the valid pixels; without it all are valid. `measured` is the result of `measure`.
        `losses` (b,) adds `loss` to the scores: the mean over images, with tiles weighted by their valid pixels.
        """
        self.counted.append(self.measure(logits, target, valid) if measured is None else measured)
        if image is not None:
            self.images.append(image)
        if losses is not None:
            self.losses.append(losses)

    def measure(self, logits: Logits, target: Target, valid: Tensor | None = None) -> Tensor:
        """Return the counts to keep of a batch: (b,k,6) int64."""
        batch = count(decide(logits, target, self.threshold, valid, self.task.kind))
        rows = torch.cat([torch.stack(batch[:4]), to_fixed(torch.stack(batch[4:]))]).T
        return rows.unflatten(0, (-1, self.task.channels))

    def compute(self) -> dict[str, Tensor]:
        """Return every score of the dataset as a scalar tensor."""
        no_rows = torch.zeros(0, self.task.channels, 6, dtype=torch.int64, device=self.device)
        rows = dim_zero_cat(self.counted) if len(self.counted) else no_rows  # len: a tensor with several processes
        pixels, place = rows[:, 0, :4].sum(1), None
        if len(self.images):
            numbers, place = dim_zero_cat(self.images).unique(return_inverse=True)  # tiles may be in other processes
            rows = rows.new_zeros(len(numbers), *rows.shape[1:]).index_add_(0, place, rows)
        images, total = unpacked(rows.permute(2, 0, 1)), unpacked(rows.sum(0).T)
        of_images = scores(images, self.empty)
        table = torch.stack(list(of_images.values()))
        means = dict(zip(of_images, to_fixed(table).sum(1) / table.isfinite().sum(1) / FIXED, strict=True))
        # A class without pixels would score 1 while none are predicted, and so decide which checkpoint is the best.
        any_foreground = bool((total.tp + total.fn)[list(self.task.scored)].any())
        pooled = scores(total, "skip" if any_foreground else self.empty)
        by_class = means | {f"{name}_pooled": value for name, value in pooled.items()}
        true, predicted = images.tp + images.fn > 0, images.tp + images.fp > 0  # whether an image has any foreground
        by_class["image_accuracy"] = (true == predicted).sum(0) / len(true)
        by_class["image_recall"] = (true & predicted).sum(0) / true.sum(0)
        result = {"loss": mean_loss(dim_zero_cat(self.losses), pixels, place)} if len(self.losses) else {}
        result |= {name: values[list(self.task.scored)].nanmean() for name, values in by_class.items()}
        if self.task.channels > 1:
            classes = list(enumerate(self.task.classes))
            result |= {f"{name}/{class_}": v[k] for name, v in by_class.items() for k, class_ in classes}
        return result


def mean_loss(losses: PerImage, pixels: Tensor, place: Tensor | None) -> Tensor:
    """Average losses over images; the tiles of an image (those with its `place`) are weighted by valid pixels."""
    means, weights = losses.cpu().double(), pixels.cpu().double()  # a GPU adds fractions in varying order
    if place is not None:
        place = place.cpu()
        weights = weights.where(place.bincount(weights)[place] > 0, 1)  # for an image without valid pixels
        means = place.bincount(means * weights) / place.bincount(weights)
    return means.mean().to(losses)


def unpacked(columns: Tensor) -> Counts:
    """Decode rows (6,...): four counts, and two sums of probabilities in units of 1 / FIXED."""
    return Counts(*columns[:4], *(columns[4:] / FIXED))
