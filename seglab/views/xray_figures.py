"""Figures and sentences of an X-ray: where the gradient of each loss falls, and warnings."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglab.plots import FAINT, INK, WIDTH, styled, two_sided
from seglab.reporting.html import bullets, note
from seglab.views.view_page import Section, ViewPage, number_table, panels

FEW_PIXELS, MOST_OF_GRADIENT, WEAK_GRADIENT = 0.02, 0.9, 1e-3
"""Limits for warnings: fractions of the pixels and of the gradient, and a gradient for which cross-entropy has 0.9."""

EMPTY = (
    "A mask without foreground for which the model predicts nothing (probability 0.02 everywhere), or an object that"
    " does not exist (probability 0.9). The gradient is the mean of dL/dlogit over the false-positive pixels times the"
    " number of pixels: how strongly the loss acts against false positives. For cross-entropy it is 0.9."
)


def page(
    tables: Mapping[str, pd.DataFrame], warned: Sequence[str], qualities: Mapping[str, float], edge: int
) -> ViewPage:
    """Return the page of an X-ray from the tables that xray.py makes; `qualities` maps stages to soft IoUs."""
    about_regions = (
        "Each cell shows the percentage of |dL/dlogit|, summed over all images, in the region of its column; the first"
        " row shows the percentage of the pixels in that region. Blue: a larger percentage than that of the pixels,"
        f" orange: a smaller one. The edge is {edge} pixels wide on both sides of the outline. The probability of the"
        " true class is below 0.5 in hard pixels and at least 0.9 in easy ones; small objects are up to median size."
        f" Soft IoU of predictions: {'; '.join(f'{name} {value:.2g}' for name, value in qualities.items())}. All except"
        " the untrained and the trained predictions are simulated from the truth."
    )
    empty, norms, regions_figure = tables["empty"], tables["norms"], draw_regions(tables["regions"])
    fractions = norms.pivot(index="loss", columns="stage", values="fraction_for_90_percent")
    fractions = 100 * fractions.loc[empty["loss"], norms["stage"].unique()]  # in the requested order, since pivot sorts
    about_concentration = note("Smallest percentage of the pixels that holds 90 % of the gradient.")
    heads = ["loss", "loss, nothing found", "loss, false positive", "gradient on the false positive"]
    sections = [
        Section("Warnings", bullets(warned) if warned else note("None.")),
        Section("Where the gradient falls", figure=regions_figure, name="regions", caption=about_regions),
        Section("Concentration of the gradient", about_concentration + number_table(fractions.reset_index(), 2)),
        Section("Empty images", note(EMPTY) + number_table(empty.set_axis(heads, axis=1))),
    ]
    return ViewPage("Gradient X-ray", sections, tables)


def percent(fraction: float) -> str:
    """Format a fraction as a percentage, short enough for a cell."""
    if not np.isfinite(fraction):
        return "–"
    if 0 < fraction < 5e-5:
        return "<0.01"
    return f"{100 * fraction:.2g}" if fraction < 0.0995 else f"{100 * fraction:.0f}"


@styled
def draw_regions(regions: pd.DataFrame) -> Figure:
    """Draw a table per stage: the gradient's share of each region, colored by its ratio to the share of the pixels."""
    losses = list(regions["loss"].unique())
    stages = dict(list(regions.groupby("stage", sort=False)))
    figure, axes = panels(len(stages), 2, WIDTH / 2, 0.85 + 0.24 * (len(losses) + 1), sharey=True)
    for axis, (stage, part) in zip(axes, stages.items(), strict=True):
        names = part["region"].unique()
        gradient = part.pivot(index="loss", columns="region", values="gradient").loc[losses, names]
        _draw_table(axis, part.drop_duplicates("region").set_index("region")["pixels"], gradient)
        axis.set_title(str(stage).capitalize())
        axis.set_yticks(range(len(losses) + 1), ["% of the pixels", *losses])
    return figure


def _draw_table(axis: Axes, pixels: pd.Series, gradient: pd.DataFrame) -> None:
    """Draw one table: the fraction of the pixels in each region, and below it that of the gradient of each loss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log10(gradient.to_numpy() / pixels.to_numpy()).clip(-1.5, 1.5)  # a region may have no pixels
    colors = np.vstack([np.full(len(pixels), np.nan), ratio])  # no color in the row of pixels
    axis.imshow(colors, cmap=two_sided(), vmin=-1.5, vmax=1.5, aspect="auto")
    for row, values in enumerate([pixels.to_numpy(), *gradient.to_numpy()]):
        for column, value in enumerate(values):
            color = FAINT if row == 0 else INK
            axis.text(column, row, percent(value), ha="center", va="center", fontsize=7.5, color=color)
    heads = [str(name).replace(" ", "\n").replace("ground", "-\nground") for name in pixels.index]  # fore-, background
    axis.set_xticks(range(len(heads)), heads)
    axis.tick_params(length=0, labelcolor=INK, labeltop=True, labelbottom=False)
    axis.axhline(0.5, color=FAINT, lw=0.8)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)


def warnings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return sentences that a user should know before choosing a loss, from the tables of xray.py."""
    return [*_on_empty(tables["empty"]), *_few_pixels(tables["norms"]), *_regions(tables["regions"])]


def _on_empty(empty: pd.DataFrame) -> Iterator[str]:
    for loss, without, value, gradient in empty.itertuples(index=False):
        if abs(gradient) < WEAK_GRADIENT:
            yield f"{loss}: no gradient against false positives on empty images ({gradient:.1g}; bce has 0.9)"
        elif gradient < 0:
            yield f"{loss}: rewards false positives on empty images"
        if without > max(0.1, 0.5 * abs(value)):
            yield (
                f"{loss}: costs {without:.2g} on an empty image that is predicted correctly, "
                f"and {value:.2g} with a false positive"
            )


def _few_pixels(norms: pd.DataFrame) -> Iterator[str]:
    for stage, loss, _, norm, fraction in norms.itertuples(index=False):
        if stage in ("half-trained", "trained") and fraction <= FEW_PIXELS:
            yield f"{loss}, {stage}: 90 % of the gradient is on {100 * fraction:.2g} % of the pixels"
        if stage in ("half-trained", "trained") and norm == 0:
            yield f"{loss}, {stage}: no gradient at all"


def _regions(regions: pd.DataFrame) -> Iterator[str]:
    untrained = regions[(regions["stage"] == "untrained") & (regions["region"] == "background")]
    blind = untrained.loc[untrained["gradient"] > MOST_OF_GRADIENT, "loss"]
    if len(blind):
        yield f"untrained: over {100 * MOST_OF_GRADIENT:g} % of the gradient is on the background ({', '.join(blind)})"
    half_trained = regions[regions["stage"] == "half-trained"].set_index("region")
    for loss, part in half_trained.groupby("loss", sort=False):
        gradient, pixels = part["gradient"], part["pixels"]
        if gradient["hard"] < pixels["hard"]:
            yield (
                f"{loss}, half-trained: misclassified pixels have smaller gradients than others "
                f"({100 * gradient['hard']:.2g} % of the gradient, {100 * pixels['hard']:.2g} % of the pixels)"
            )
        small, large = (gradient[key] / pixels[key] if pixels[key] else 0 for key in ("small objects", "large objects"))
        if min(small, large) > 0 and max(small / large, large / small) > 3:
            more, less = ("small", "large") if small > large else ("large", "small")
            times = max(small / large, large / small)
            yield f"{loss}, half-trained: pixels of {more} objects have {times:.2g} times the gradient of {less} ones"
