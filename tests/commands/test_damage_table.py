"""The outcome of every command for every damaged file of a run; the table of docs/findings/damage.md."""

import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.engine.config import ConfigError
from seglab.evaluate import evaluate
from seglab.export import export
from seglab.predict import predict
from seglab.report import report
from seglab.reporting.study import Study
from seglab.train import train
from tests.commands.conftest import DAMAGES, LONGER
from tests.conftest import SMALL, compose, train_small
from tests.data.fabricate import scene, write_image

TABLE = Path(__file__).parents[2] / "docs/findings/damage.md"
FILES = ("run.json", "metrics.csv", "per_image.csv", "histograms.npz", "decisions.npz", "examples.npz")
FILES += ("split.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt")


def rows(file):
    return pd.read_csv(file).drop(columns="seconds", errors="ignore").astype(object).fillna("").to_dict("records")


def trained(folder, out):
    train(compose("train", *SMALL, *LONGER, folder=folder), folder)
    return rows(folder / "metrics.csv"), rows(folder / "per_image.csv")


def reported(folder, out):
    report(compose("report", f"roots=[{folder.parent}]", f"output={out}"), out)
    return rows(out / "table.csv")


def evaluated(folder, out):
    (found,) = evaluate(compose("evaluate", f"run={folder}", "pictures=false"), out)
    return rows(found / "per_image.csv")


def predicted(folder, out):
    words = (f"run={folder}", f"input={folder.parents[1] / 'image.png'}", f"output={out}", "threshold=tuned")
    predict(compose("predict", *words, "format=[mask,probability]"), out)
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.png"))}


def exported(folder, out):
    export(compose("export", f"run={folder}", "format=hub", f"output={out}"), out)
    return (out / "model.safetensors").read_bytes()


COMMANDS = {"resume": trained, "again": trained, "report": reported, "evaluate": evaluated, "predict": predicted}
COMMANDS |= {"export": exported}


@pytest.fixture(scope="module")
def copied(undisturbed, interrupted, tmp_path_factory):
    """Return a function that copies a run to damage into a new study, for a report together with another run."""
    other = train_small(tmp_path_factory.mktemp("other") / "run", *LONGER, "seed=2")

    def copy(command, to):
        write_image(to / "image.png", scene(0)[0])
        if command == "report":
            shutil.copytree(other, to / "study/other")
        return Path(shutil.copytree(interrupted if command == "resume" else undisturbed, to / "study/run"))

    return copy


@pytest.fixture(scope="module")
def right(copied, tmp_path_factory):
    """The results of each command for undamaged runs, and of a report with one run left out."""
    made, to = {}, tmp_path_factory.mktemp("right")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "figures", lambda self: {})
        for name, command in COMMANDS.items():
            made[name] = command(copied(name, to / name), to / name / "out")
        shutil.rmtree(copied("report", to / "one"))
        made["left out"] = reported(to / "one/study/run", to / "one/out")
    assert made["resume"] == made["again"]
    return made


def outcome(run, right, name, file, said):
    """Return the outcome of a command in the words of the table; wrong outcomes have words that it lacks."""
    said.clear()
    try:
        result = run()
    except (ContractError, ConfigError) as error:
        return "refused" if file in str(error) and "\n" not in str(error) else f"an unclear sentence: {error}"
    if result == right[name]:
        return "same, warned" if f"{file} is damaged" in said.text else "same"
    told = "run is left out: " in said.text and file in said.text
    return "left out" if name == "report" and result == right["left out"] and told else "other numbers in silence"


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_no_damaged_file_gives_a_traceback_or_other_numbers_in_silence(
    copied, right, file, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Study, "figures", lambda self: {})
    lines = []
    for damage in DAMAGES:
        cells = []
        for name, command in COMMANDS.items():
            folder, out = copied(name, tmp_path / f"{damage}-{name}"), tmp_path / f"{damage}-{name}/out"
            if not (folder / file).exists():
                cells.append("-")
                continue
            DAMAGES[damage](folder / file)
            cells.append(outcome(partial(command, folder, out), right, name, file, caplog))
        lines.append(f"| `{file}` | {damage} | {' | '.join(cells)} |")
    assert set(lines) <= set(TABLE.read_text().splitlines())
