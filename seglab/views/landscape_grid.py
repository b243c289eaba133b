"""Losses and IoU at many places of a plane, all from the same forward passes; goes on where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.views.weight_planes import Plane, Point

BATCHNORM = {
    "moved": "the running statistics of BatchNorm move over the plane with the weights (variances in their logarithm)",
    "kept": "the running statistics of BatchNorm are those of the centre",
    "recomputed": "the statistics of BatchNorm were computed anew at each place from these images",
}


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Put every weight and buffer back as it was, bit by bit, and whether it was in training."""
    state, training = {name: x.clone() for name, x in model.state_dict().items()}, model.training
    try:
        yield
    finally:
        model.load_state_dict(state)
        model.train(training)


class LandscapeGrid:
    """Measures a module on some batches at places of planes, and writes a row for each place to a file as it comes.

    The first line of the file is `mark`, which says what is measured; rows below another mark are thrown away, rows
    below the same one are kept and not measured again. Places follow one another: all of a row at once, by
    torch.func.vmap, took twice as long on a CPU.

    Attributes:
        forward, rest: seconds spent in forward passes and in losses and IoU.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        losses: Mapping[str, Loss],
        batchnorm: str,
        threshold: float,
        file: Path,
        mark: str,
    ) -> None:
        self.batches, self.losses, self.batchnorm, self.threshold = batches, losses, batchnorm, threshold
        self.file, self.mark = file, f"# {mark}"
        self.forward = self.rest = 0.0
        self.measured = [*losses, "IoU"]
        self.columns = ["plane", "a", "b", *self.measured]

    def known(self) -> pd.DataFrame:
        """The rows that are there already; a last line that was torn is not."""
        if not self.file.exists():
            return pd.DataFrame(columns=self.columns)
        mark, *lines = self.file.read_text(encoding="utf-8").split("\n")
        if mark != self.mark or len(lines) < 2:
            return pd.DataFrame(columns=self.columns)
        rows = [line.split(",") for line in lines[1:-1]]  # what follows the last line break is torn, or nothing
        table = pd.DataFrame(rows, columns=self.columns)
        return table.astype(dict.fromkeys(self.columns[1:], float))

    def measure(self, module: SegModule, plane: Plane, places: Sequence[Point]) -> pd.DataFrame:
        """A row for each place: plane, a, b, the mean of each loss over the images, and the mean IoU."""
        table = self.known()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        kept = table.to_csv(index=False, lineterminator="\n", float_format="%.17g")
        self.file.write_text(f"{self.mark}\n{kept}", encoding="utf-8")
        title = plane.title.replace(",", ";")
        done = {(row.a, row.b) for row in table[table["plane"] == title].itertuples()}
        todo = [place for place in dict.fromkeys(places) if place not in done]
        with preserve_state(module), self.file.open("a", encoding="utf-8") as out:
            for a, b in tqdm(todo, f"landscape {title}", unit="place", disable=None):
                values = self.one(module, plane, a, b)
                out.write(",".join([title, *(f"{value:.17g}" for value in (a, b, *values))]) + "\n")
                out.flush()
        table = self.known()
        return table[table["plane"] == title].set_index(["a", "b"]).loc[list(dict.fromkeys(places))].reset_index()

    @torch.no_grad()
    def one(self, module: SegModule, plane: Plane, a: float, b: float) -> list[float]:
        """The means at one place, whose weights stay in the module."""
        place = plane.at(a, b)
        if self.batchnorm == "kept":
            place |= {name: plane.centre[name] for name, _ in module.model.named_buffers() if name in place}
        module.model.load_state_dict(place, strict=False)
        if self.batchnorm == "recomputed":
            recompute(module, self.batches)
        total = torch.zeros(len(self.losses) + 1, dtype=torch.float64)
        for batch in self.batches:
            start = time.perf_counter()
            logits = module(batch["image"]).float()
            middle = time.perf_counter()
            total += self.sums(logits, batch)
            self.forward, self.rest = self.forward + middle - start, self.rest + time.perf_counter() - middle
        return (total / sum(len(batch["id"]) for batch in self.batches)).tolist()

    def sums(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Each loss and the IoU, added up over the images of a batch."""
        target = batch["target"]
        values = [loss(logits, target, **{need: batch[need] for need in loss.needs}) for loss in self.losses.values()]
        iou = scores(counts(logits, target, self.threshold))["iou"]
        return torch.stack([value.double().sum() for value in (*values, iou)])

    def cost(self) -> str:
        """What the losses and the IoU cost beside the forward passes that they share."""
        if not self.forward:
            return "All places were measured before."
        share = (self.forward + self.rest) / self.forward
        return f"{len(self.losses)} losses and the IoU took {share:.2f} times the forward passes alone."


def recompute(module: SegModule, batches: Sequence[Batch]) -> None:
    """Compute the statistics of every BatchNorm anew, as the mean over the batches (Izmailov et al. 2018, SWA)."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for batch in batches:
        module(batch["image"])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
