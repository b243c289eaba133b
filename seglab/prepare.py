"""`python -m seglab.prepare`: decode a dataset once into files that training memory-maps, or audit it."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import require
from seglab.engine.cli import command
from seglab.engine.config import build, check, check_root, to_container
from seglab.files import write_json

if TYPE_CHECKING:
    from seglab.data.dataset import Dataset

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> int:
    """Prepare or audit the dataset of `cfg`, as `cfg.mode` says; return the number of usable images."""
    check_root(cfg)
    check(cfg)
    require(cfg.mode in ("prepare", "audit"), "mode", "prepare or audit", cfg.mode)
    dataset = build(cfg.dataset)
    return inspect(dataset, folder) if cfg.mode == "audit" else prepare(dataset, to_container(cfg.dataset), folder)


def prepare(dataset: Dataset, node: dict[str, Any], folder: Path) -> int:
    """Decode every image at its own size into `folder`, except those already there; `node` configures the dataset."""
    from seglab.data import store
    from seglab.data.prepare_data import raise_on_faults

    listed = dataset.items()
    raise_on_faults([item.fault for item in listed if item.fault], len(listed), dataset)
    items = store.build(listed, replace(dataset, fit="patch"), folder, complete=True)  # patch: images keep their size
    skipped = [item.fault or f"{item.id}: {item.left_out}" for item in items if item.fault or item.left_out]
    got = f"none; reason 1 of {len(skipped)}: {skipped[0]}" if skipped else "none"
    require(len(skipped) < len(items), "dataset", "usable images", got)
    store.note_raw(folder, node | {"root": ".", "cache_dir": None, "split_file": None})  # wherever the files are
    size = (folder / store.PIXELS).stat().st_size
    log.info("%s: %d images, %d left out, %.2f GB", folder, len(items) - len(skipped), len(skipped), size / 1e9)
    for reason in skipped[:5]:
        log.info("  left out: %s", reason)
    for sentence in dataset.file_warnings(listed):
        log.warning("data: %s", sentence)
    log.info("python -m seglab.train dataset=prepared %s", shlex.join([f"dataset.root={folder}", *options(dataset)]))
    return len(items) - len(skipped)


def options(dataset: Dataset) -> Iterator[str]:
    """Yield the options with which training on the prepared folder sees the same images as training on the raw data."""
    from seglab.data.datasets.prepared import Prepared

    for field in fields(Prepared):
        value = getattr(dataset, field.name, None)
        # The folder is reduced already, and unreadable images are left out of it
        if field.name not in ("root", "reduce", "on_bad_item") and value != field.default:
            value = list(value) if isinstance(value, tuple) else value
            text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace('"', "")
            yield f"dataset.{field.name}={text}"


def inspect(dataset: Dataset, folder: Path) -> int:
    """Log and write an audit of the dataset; raise ContractError if no image can be read or two splits share one."""
    from seglab.data.audit import audit
    from seglab.reporting.audit_figure import overview

    result = audit(dataset)
    write_json(folder / "audit.json", result.facts)
    write_json(folder / "split.json", result.splits.ids())
    overview(result.samples, type(dataset).__name__, folder / "audit.png", dataset.task)
    width = max(len(name) for name in result.facts)
    for name, fact in result.facts.items():
        log.info("%-*s  %s", width, name.replace("_", " "), spell(fact))
    keep = f"dataset.split_file={folder / 'split.json'} keeps this split"
    log.info("%s: audit.json, audit.png and split.json; %s", folder, keep)
    count, faults = sum(result.facts["images"].values()), result.facts["unreadable_first"]
    got = f"none; error 1 of {result.facts['unreadable']}: {faults[0]}" if faults else "none"
    require(count > 0, "dataset", "readable images", got)
    got = f"{len(result.leaks)} pairs: {'; '.join(result.leaks[:3])}"
    require(not result.leaks, "dataset", "no image in two splits", got, "see audit.json")
    return count


def spell(fact: object) -> str:
    """Format a fact on one line, floats with three significant digits and those from 100 on as whole numbers."""
    if isinstance(fact, dict):
        return ", ".join(f"{key} {spell(value)}" for key, value in fact.items()) or "-"
    if isinstance(fact, list):
        return "; ".join(map(str, fact[:5])) or "-"
    if isinstance(fact, float):
        return f"{fact:.0f}" if abs(fact) >= 100 else f"{fact:.3g}"
    return str(fact)


main = command("prepare")(run)

if __name__ == "__main__":
    main()
