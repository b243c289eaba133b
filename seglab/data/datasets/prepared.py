"""A folder of decoded images, made once from raw files of any format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglab.contract import Task
from seglab.data.dataset import Dataset, Item
from seglab.data.store import open_store, raw_of, task_of


@dataclass(frozen=True, kw_only=True)
class Prepared(Dataset):
    """A folder made by `python -m seglab.prepare`; it gives the same splits and results as the raw files.

    root: the folder. Images that could not be read when it was made are left out silently.
    """

    root: str
    on_bad_item: str = "skip"

    @property
    def task(self) -> Task:
        return task_of(Path(os.path.expanduser(self.root)))

    @property
    def raw(self) -> dict[str, Any] | None:
        return raw_of(Path(os.path.expanduser(self.root)))

    def file_warnings(self, items: Sequence[Item]) -> list[str]:
        if self.raw:
            return []
        text = "the folder does not record how its source files were read: a model trained on it reads other files"
        return [f"{text} without their crop, window or reduce; run the same seglab.prepare again to add it in seconds"]

    def items(self) -> list[Item]:
        return open_store(Path(os.path.expanduser(self.root)))
