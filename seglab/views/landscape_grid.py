"""Losses and IoU at many places of a plane, all from the same forward passes; an interrupted grid resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.files import write_text
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.views.run_inputs import Autocast, forward
from seglab.views.weight_planes import Plane, Point


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Put every weight and buffer back as it was, bit by bit, and whether it was in training."""
    state, training = {name: x.clone() for name, x in model.state_dict().items()}, model.training
    try:
        yield
    finally:
        model.load_state_dict(state)
        model.train(training)


@dataclass(frozen=True)
class LandscapeGrid:
    """Measures a module on some batches at places of planes, and writes a row for each place to a file as it comes.

    Places follow one another: all of a row at once, by torch.func.vmap, took twice as long on a CPU.

    Attributes:
        threshold: of the IoU.
        file: a CSV file; its first line is the fingerprint.
        fingerprint: of all that is measured; rows of the same one are kept and not measured again.
    """

    batches: Sequence[Batch]
    losses: Mapping[str, Loss]
    threshold: float
    file: Path
    fingerprint: str

    @property
    def measured(self) -> list[str]:
        """The names of the values: each loss and the IoU."""
        return [*self.losses, "IoU"]

    def known(self) -> pd.DataFrame:
        """The rows that are there already, without a truncated last line."""
        first, *lines = self.file.read_text(encoding="utf-8").split("\n") if self.file.exists() else [""]
        rows = [line.split(",") for line in lines[1:-1]] if first == f"# {self.fingerprint}" else []
        numbers = ["a", "b", *self.measured]
        return pd.DataFrame(rows, columns=["plane", *numbers]).astype(dict.fromkeys(numbers, float))

    def measure(
        self, module: SegModule, plane: Plane, places: Sequence[Point], autocast: Autocast = nullcontext
    ) -> pd.DataFrame:
        """A row for each place, with index (a, b): the mean of each loss over the images, and the mean IoU."""
        table = self.known()
        kept = table.to_csv(index=False, lineterminator="\n", float_format="%.17g")
        write_text(self.file, f"# {self.fingerprint}\n{kept}")
        title, places = plane.title.replace(",", ";"), list(dict.fromkeys(places))
        done = set(table.loc[table["plane"] == title, ["a", "b"]].itertuples(index=False, name=None))
        missing = [place for place in places if place not in done]
        with preserve_state(module), self.file.open("a", encoding="utf-8") as out:
            for a, b in tqdm(missing, f"landscape {title}", unit="place", disable=None):
                values = self.at(module, plane, a, b, autocast)
                out.write(",".join([title, *(f"{value:.17g}" for value in (a, b, *values))]) + "\n")
                out.flush()
        table = self.known()
        return table[table["plane"] == title].set_index(["a", "b"])[self.measured].reindex(places)

    @torch.no_grad()
    def at(self, module: SegModule, plane: Plane, a: float, b: float, autocast: Autocast) -> list[float]:
        """The means at one place, whose weights stay in the module."""
        module.model.load_state_dict(plane.at(a, b), strict=False)
        total = torch.zeros(len(self.measured), dtype=torch.float64)
        for batch in self.batches:
            logits, target = forward(module, batch["image"], autocast), batch["target"]
            values = [
                loss(logits, target, **{name: batch[name] for name in loss.needs}) for loss in self.losses.values()
            ]
            values.append(scores(counts(logits, target, self.threshold))["iou"])
            total += torch.stack([value.double().sum() for value in values])
        return (total / sum(len(batch["id"]) for batch in self.batches)).tolist()
