"""`python -m seglab.loss_catalog`: list every loss; `python -m seglab.loss_catalog docs`: write docs/losses.md."""

from __future__ import annotations

import argparse
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.contract import KINDS
from seglab.engine.config import CONF, build

if TYPE_CHECKING:
    from seglab.losses.base import Loss

FAMILIES = ["pixel", "region", "boundary and order", "compound", "external"]
MARGINS = [-6 + 0.25 * k for k in range(49)]
HEAD = """# The losses

Generated from the cards in the code by `python -m seglab.loss_catalog docs`; a test checks that it is up to date.

Notation: logit z, p = sigmoid(z), q = sigmoid(-z), target t, N pixels; tp = Σpt, fp = Σp(1-t), fn = Σqt, tn = Σq(1-t).
Each formula is for one class; the text below it says how several classes are combined. Every loss returns one number
per image and can be used on its own: `from seglab.losses import Dice`. [The contract](concepts/losses.md) explains
`class_weights`. The curves are for an image of 144 pixels, 12 of them foreground, all predicted with the same margin,
from wrong (left) to correct (right): the value, and the sum of the gradient over the foreground (orange, solid) and
over the background (blue, dashed).
"""


def losses() -> dict[str, Loss]:
    """Build every loss of conf/loss with its defaults, sorted by family and name."""
    from omegaconf import OmegaConf

    files = sorted((CONF / "loss").glob("*.yaml"))
    catalog: dict[str, Loss] = {file.stem: build(OmegaConf.load(file)) for file in files}
    return dict(sorted(catalog.items(), key=lambda item: FAMILIES.index(item[1].card.family)))


def table() -> list[tuple[str, ...]]:
    """Return a header and one row per loss: its option, title, family, tasks, labels and paper."""
    head = ("loss=", "title", "family", "tasks", "labels", "paper")
    rows: list[tuple[str, ...]] = [head]
    for name, loss in losses().items():
        card, labels = loss.card, "soft" if loss.soft else "hard"
        tasks = "all" if loss.tasks == KINDS else ", ".join(loss.tasks)
        rows.append((name, card.title, card.family, tasks, labels, card.paper))
    return rows


def page() -> str:
    """Return the text of docs/losses.md."""
    head, *rows = (row[:5] for row in table())  # the section of each loss names its paper
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    parts, family = [HEAD, "\n".join(lines)], ""
    for name, loss in losses().items():
        if loss.card.family != family:
            family = loss.card.family
            parts.append(f"\n## {family.capitalize()}\n")
        parts.append(section(name, loss))
    return "\n".join(parts)


def section(name: str, loss: Loss) -> str:
    """Return the section of the page about one loss."""
    card = loss.card
    soft = "not supported" if not loss.soft else "supported; the minimum is at p = t" if card.proper else "supported"
    yaml = (CONF / "loss" / f"{name}.yaml").read_text().splitlines()
    presets = [line[2:] for line in yaml if line.startswith("# Preset: ")]
    summary = presets[0] if presets else cleandoc(type(loss).__doc__ or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"### {card.title}: `loss={name}`", "", summary, "", f"$${card.formula}$$", ""]
    lines += [f"![curves](losses/{name}.svg)", "", f"- Paper: {card.paper}", f"- Empty mask: {card.empty}"]
    lines += [f"- Tasks: {', '.join(loss.tasks)}. {card.many}", f"- Soft labels: {soft}"]
    lines += [] if card.zero else ["- A perfect prediction does not cost exactly 0."]
    lines += ["- The loss can be negative."] if card.signed else []
    return "\n".join([*lines, f"- Other libraries: {card.differs}", ""])


def curves(loss: Loss) -> dict[str, list[float]]:
    """Compute the value and summed gradients of a loss for each margin, the same for all pixels of one image.

    A multiclass loss gets an image of two classes, with the logits 0 and z.
    """
    import numpy as np
    import torch

    from seglab.data.distance_maps import MAPS

    mask = np.zeros((12, 12), np.uint8)
    mask[4:7, 4:8] = 1  # 12 of 144 pixels
    maps = {name: torch.from_numpy(MAPS[name](mask))[None, None].double() for name in loss.needs}
    target = torch.from_numpy(mask)[None, None]
    fitted = loss.with_class_frequency([12 / 144] if loss.task != "multiclass" else [132 / 144, 12 / 144])
    drawn: dict[str, list[float]] = {"value": [], "foreground": [], "background": []}
    for margin in MARGINS:
        z = ((2.0 * target.double() - 1) * margin).requires_grad_()  # every pixel is wrong if the margin is below 0
        logits = z if loss.task != "multiclass" else torch.cat([torch.zeros_like(z), z], 1)
        value = fitted(logits, target, **maps).sum()
        (gradient,) = torch.autograd.grad(value, z)
        drawn["value"].append(value.item())
        drawn["foreground"].append(float(-gradient[target == 1].sum()))
        drawn["background"].append(float(gradient[target == 0].sum()))
    return drawn


def picture(name: str, drawn: dict[str, list[float]]) -> str:
    """Draw two small graphs, of the value and of the two gradients, and return them as SVG text."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from seglab.plots import COLORS, INK, STYLE, svg

    panels = {
        "value": {"value": (INK, "-")},
        "gradient": {"foreground": (COLORS[3], "-"), "background": (COLORS[0], "--")},
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 1.5), layout="constrained")
        for axes, (title, lines) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            values = [0.0, *(value for line in lines for value in drawn[line])]
            low, high = min(values), max(values)
            axes.set(title=f"{title}, {low:.3g} to {high:.3g}; margin -6 to 6", xticks=(), yticks=())
            for line, (color, dash) in lines.items():
                axes.plot(MARGINS, drawn[line], dash, color=color)
        return svg(figure, name)


def write(docs: Path) -> None:
    """Write losses.md and losses/NAME.svg into a folder."""
    (docs / "losses").mkdir(parents=True, exist_ok=True)
    (docs / "losses.md").write_text(page())
    for name, loss in losses().items():
        (docs / "losses" / f"{name}.svg").write_text(picture(name, curves(loss)))


def main() -> None:
    """Print the table, or write the page if a folder is given."""
    parser = argparse.ArgumentParser("python -m seglab.loss_catalog", description="List the losses of the package.")
    parser.add_argument("folder", nargs="?", help="write losses.md and the curves of each loss to this folder instead")
    if folder := parser.parse_args().folder:
        write(Path(folder))
        return
    rows = table()
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    for row in rows:
        print("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5][:60]]).rstrip())


if __name__ == "__main__":
    main()
