"""The sections of the report, each from one Study: what it says in words, tables and figures."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd

from seglab.reporting.captions import BLOCK_NOTE, CAPTIONS, METHOD, PAIRS_NOTE, PLACES_NOTE
from seglab.reporting.gallery import gallery, one_seed
from seglab.reporting.html import Cell, decimal, figure, formula, number, table, text
from seglab.reporting.metrics_table import BLOCKS, title, worse_if_higher
from seglab.reporting.report_figures import SAID
from seglab.reporting.run_labels import differences
from seglab.reporting.study import IMAGES, Study
from seglab.reporting.verdict import Verdict, depends_on_threshold, headline, smallest_difference, usual_noise


def verdict(study: Study) -> str:
    """The verdict in words, pair by pair, at the fixed and the tuned threshold, and what the sweep could have seen."""
    items = "".join(_item(found) for found in study.named)
    blind = f"<p><strong>{escape(study.blind)}</strong></p>" if study.blind else ""
    return (
        f'<p class="headline">{escape(headline(study.verdicts))}</p>{blind}<ul class="verdicts">{items}</ul>'
        f"{_reach(study)}{_every(study)}{_places(study)}{_at_tuned(study)}"
    )


def _every(study: Study) -> str:
    if not study.verdicts:
        return ""
    return f"<details><summary>All {len(study.verdicts)} pairs in numbers</summary>{pairs(study.verdicts)}</details>"


def _at_tuned(study: Study) -> str:
    """The verdict once more, with each run at its own threshold: what a loss is worth apart from its calibration."""
    if study.tuned is None or not study.verdicts:
        return ""
    warning = depends_on_threshold(study.verdicts, study.tuned.verdicts)
    return (
        f"<h3>At the threshold tuned on validation</h3><p><strong>{escape(warning)}</strong> "
        f"{escape(headline(study.tuned.verdicts))}</p>{_every(study.tuned)}"
    )


def _item(found: Verdict) -> str:
    return f'<li><span class="tag {found.kind}">{SAID[found.kind]}</span><span>{escape(found.words)}</span></li>'


def pairs(verdicts: list[Verdict]) -> str:
    """Every pair with its interval and tests."""
    head = [
        "pair",
        "verdict",
        "difference",
        "low",
        "high",
        "p",
        "p (Holm)",
        "p over images",
        "more seeds",
        "seeds",
        "images",
    ]
    rows = []
    for found in verdicts:
        pair = found.pair
        more = Cell("over 50", 1e9) if found.more_seeds is None else number(found.more_seeds, 0)
        rows.append(
            [
                text(f"{pair.first} − {pair.second}"),
                Cell(SAID[found.kind], SAID[found.kind], f"text {found.kind}"),
                *(number(value) for value in (pair.difference, pair.low, pair.high)),
                *(_p(value) for value in (pair.p, pair.p_holm, pair.p_images)),
                more if found.kind == "unknown" else Cell("–"),
                number(pair.seeds, 0),
                number(pair.images, 0),
            ]
        )
    return table(head, rows) + f'<p class="note">{PAIRS_NOTE}</p>'


def _p(value: float) -> Cell:
    return Cell("&lt;0.001", value) if value < 0.001 else number(value)


def _reach(study: Study) -> str:
    noise = usual_noise([found.pair for found in study.verdicts])
    if noise is None:
        return ""
    pairs_count, have = len(study.verdicts), int(np.median([found.pair.seeds for found in study.verdicts]))
    alpha = (1 - study.question.confidence) / pairs_count
    seen = {seeds: smallest_difference(noise, seeds=seeds, alpha=alpha) for seeds in (have, have + 2, have + 7)}
    (_, now), (two, then), (seven, later) = seen.items()
    name = title(study.question.metric)
    return (
        f"<p>With {have} seeds this sweep finds a true difference of <strong>{now:.3f}</strong> in {name} "
        f"four times out of five; with {two} seeds it would find {then:.3f}, with {seven} seeds {later:.3f}.</p>"
    )


def _places(study: Study) -> str:
    if study.places.empty or len(study.labels) < 2:
        return ""
    shown = study.places.iloc[:, :8]
    rows = [
        [text(label), *(_share(value) for value in shares)]
        for label, shares in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    head = ["place", *(str(place) for place in shown.columns)]
    return f'<h3>How stable the ranking is</h3>{table(head, rows)}<p class="note">{PLACES_NOTE}</p>'


def _share(value: float) -> Cell:
    return Cell(f"{100 * value:.0f} %" if value >= 0.005 else "·", value)


def metrics(study: Study) -> str:
    """Every metric: mean and standard deviation over seeds, block by block."""
    spread = study.spread
    parts = [
        '<label class="filter">Show only losses whose name has<input type="search" placeholder="dice gamma=2"></label>'
    ]
    for name, keys in BLOCKS.items():
        have = [key for key in keys if (key, "mean") in spread]
        if have:
            parts.append(f"<h3>{escape(name)}</h3>" + _block(spread, have))
    parts.append(f'<p class="note">{BLOCK_NOTE}</p>')
    return "".join(parts)


def _block(spread: pd.DataFrame, keys: list[str]) -> str:
    best = {}
    for key in keys:
        means = spread[key, "mean"]
        if key != "tuned/threshold" and means.nunique() > 1:
            best[key] = means.min() if worse_if_higher(key) else means.max()
    rows = []
    for label, row in spread.iterrows():
        cells = [mean_sd(row[key, "mean"], row[key, "sd"], row[key, "mean"] == best.get(key)) for key in keys]
        rows.append([text(label), *cells])
    return table(["loss", *(title(key) for key in keys)], rows)


def mean_sd(mean: float, sd: float, best: bool = False) -> Cell:
    """A cell with a mean and its standard deviation over seeds."""
    if not np.isfinite(mean):
        return Cell("–")
    digits = 3 if abs(mean) < 2 else 2
    spread = f' <span class="sd">±{sd:.{digits}f}</span>' if np.isfinite(sd) else ""
    return Cell(decimal(mean, digits) + spread, mean, "best" if best else "")


def figures(drawn: dict[str, str]) -> str:
    """The figures (texts of SVG files by name) in reading order, the two square ones side by side."""
    shown = {name: figure(drawn[name], CAPTIONS[name]) for name in CAPTIONS if name in drawn}
    square = [shown.pop(name) for name in ("precision_recall", "reliability") if name in shown]
    side_by_side = [f'<div class="pair">{"".join(square)}</div>'] if square else []
    last = [shown.pop("wins")] if "wins" in shown else []
    return "".join([*shown.values(), *side_by_side, *last])


def pictures(study: Study) -> str:
    """The same test images under every loss."""
    chosen = one_seed(study.board.used, study.labels)
    metric = study.question.metric
    labels, rows = gallery(chosen, study.board.images, metric)
    if not rows:
        return '<p class="note">No run kept example images (examples.npz).</p>'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("image", "truth", *labels))
    body = "".join(_picture_row(row, labels, title(metric)) for row in rows)
    seeds = sorted({int(run["seed"]) for run in chosen.values()})
    return (
        '<div class="gallery"><p class="toggle">'
        '<label><input type="radio" name="show" value="e" checked> errors</label>'
        '<label><input type="radio" name="show" value="p"> probability</label></p>'
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="legend"><i style="background:#fff"></i>true positive<i style="background:#e69f00"></i>false positive'
        f'<i style="background:#56b4e9"></i>false negative. Seed {", ".join(map(str, seeds))}; the images are '
        "chosen by their foreground alone, from the smallest to the largest.</p></div>"
    )


def _picture_row(row: dict, labels: list[str], metric: str) -> str:
    name = escape(row["id"])
    cells = [f'<th scope="row"><img src="{row["image"]}" alt="{name}"><span class="cap">{name}</span></th>']
    cells.append(f'<td><img src="{row["truth"]}" alt="truth of {name}"></td>')
    for label in labels:
        cell = row["cells"].get(label)
        if cell is None:
            cells.append("<td>–</td>")
            continue
        said = escape(f"{label} on {row['id']}", quote=True)
        score = decimal(cell["score"]) if np.isfinite(cell["score"]) else "–"
        cells.append(
            f'<td><img class="e" src="{cell["errors"]}" alt="errors of {said}"><img class="p" '
            f'src="{cell["probability"]}" alt="probability of {said}"><span class="cap">{metric} {score}</span></td>'
        )
    return f"<tr>{''.join(cells)}</tr>"


def cards(study: Study) -> str:
    """What each loss is: title, formula, paper, and the parameters it ran with."""
    shown = []
    for place, (label, runs) in enumerate(study.board.used.groupby("label", sort=False)):
        run = runs.iloc[0]
        card = run["card"] if isinstance(run["card"], dict) else {}
        values = {key: value for key, value in (run["config"].get("loss") or {}).items() if not key.startswith("_")}
        knobs = ", ".join(f"{key}={value}" for key, value in values.items())
        lines = [f"<h3>{escape(label)}</h3><p>{escape(str(card.get('title', '')))}"]
        lines.append(f'<span class="note"> {escape(str(card.get("family", "")))}</span></p>')
        if card.get("formula"):
            lines.append(formula(card["formula"], f"formula{place}"))
        if knobs:
            lines.append(f"<p><code>{escape(knobs)}</code></p>")
        lines += [f'<p class="note">{escape(card[key])}</p>' for key in ("paper", "empty", "differs") if card.get(key)]
        shown.append((label, f'<article class="card">{"".join(lines)}</article>'))
    order = {label: place for place, label in enumerate(study.labels)}
    shown.sort(key=lambda entry: order.get(entry[0], len(order)))
    return f'<div class="cards">{"".join(html for _, html in shown)}</div>'


def compared(study: Study) -> str:
    """What was compared: data, model, seeds, versions; and what differs besides the loss."""
    runs = study.board.used
    first, data = runs.iloc[0], runs.iloc[0]["data"]
    settings = {key: value for key, value in (first["config"].get("dataset") or {}).items() if key[0] != "_"}
    entries = {
        "data": f"{first['dataset']}, fingerprint {data.get('fingerprint', 'unknown')}",
        "settings": _words({key: value for key, value in settings.items() if not isinstance(value, list | dict)}),
        "images": ", ".join(f"{count} {part}" for part, count in (data.get("images") or {}).items()),
        "without foreground": ", ".join(f"{count} {part}" for part, count in (data.get("empty_masks") or {}).items()),
        "foreground": f"{100 * data['foreground']:.3g} % of the training pixels" if data.get("foreground") else "",
        "model": ", ".join(sorted(set(runs["model"]))),
        "seeds": ", ".join(map(str, sorted(set(runs["seed"])))),
        "runs": f"{len(runs)}, {_duration(runs['seconds'].sum())} in all" if "seconds" in runs else str(len(runs)),
        "code": "; ".join(sorted({_commit(git) for git in runs["git"]})),
        "versions": "; ".join(sorted({_words(versions) for versions in runs.get("versions", [])})),
        "machine": "; ".join(sorted({_words(host) for host in runs.get("host", [])})),
    }
    shown = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in entries.items() if value)
    return f"<dl>{shown}</dl>{_unlike(runs)}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _commit(git: object) -> str:
    if not isinstance(git, dict):
        return "not in git"
    return f"commit {git.get('commit', '')[:10]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _words(facts: object) -> str:
    return (
        ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
        if isinstance(facts, dict)
        else ""
    )


def _unlike(runs: pd.DataFrame) -> str:
    """A warning where runs differ in more than the loss."""
    found = differences(runs)
    commits = {_commit(git) for git in runs["git"]}
    if len(commits) > 1:
        found["code"] = {commit: sorted(set(runs["label"][runs["git"].map(_commit) == commit])) for commit in commits}
    if not found:
        return "<p>The runs differ in nothing but what their names say.</p>"
    rows = [
        [text(key), text("; ".join(f"{value} ({', '.join(labels)})" for value, labels in values.items()))]
        for key, values in found.items()
    ]
    return "<p>Besides what their names say, the runs differ in:</p>" + table(["setting", "values"], rows)


def method(study: Study) -> str:
    """How the verdict is reached, for readers who want to check it."""
    ask = study.question
    filled = METHOD.format(
        metric=title(ask.metric),
        images=IMAGES[ask.images],
        draws=f"{ask.resamples:,}",
        alpha=f"{1 - ask.confidence:.2g}",
        pairs=len(study.verdicts),
        confidence=f"{ask.confidence:.0%}",
        delta=f"{ask.delta:g}",
    )
    return f"<p>{filled}</p>"
