"""Several classes in every command, and padding that does not count as background."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglab.contract import ContractError, Task
from seglab.engine.initial_weights import start_from
from seglab.engine.trained_run import open_run
from seglab.evaluate import evaluate
from seglab.export import export
from seglab.models.unet import UNet
from seglab.predict import predict
from seglab.report import report
from seglab.surface import opened
from seglab.train import train
from tests.conftest import OF_FILES, SMALL, compose, facts_of
from tests.data.fabricate import write_image, write_scenes

SCENES = {"organ": ("background", "organ", "lesion"), "disc_cup": ("disc", "cup")}


@pytest.fixture(scope="module", params=SCENES)
def trained(request, tmp_path_factory):
    """A run on a scene of several classes, in its own study."""
    folder = tmp_path_factory.mktemp(request.param) / "study" / "run"
    train(compose("train", *SMALL, f"dataset.scene={request.param}", "loss=dice", folder=folder), folder)
    return request.param, folder


@pytest.mark.slow
def test_every_command_takes_several_classes(trained, tmp_path):
    scene, run = trained
    classes, facts = SCENES[scene], facts_of(run)
    assert facts["data"]["task"]["classes"] == list(classes)
    assert {f"test/iou/{name}" for name in classes} <= set(facts["metrics"])
    rows = pd.read_csv(run / "per_image.csv")
    assert list(rows["class"]) == list(classes) * 6

    (again,) = evaluate(compose("evaluate", f"run={run}", "device=cpu"), tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(again / "per_image.csv"), rows, rtol=1e-5)

    write_image(tmp_path / "in/a.png", np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    words = (f"run={run}", f"input={tmp_path}/in", f"output={tmp_path}/out", "format=[mask,probability,objects]")
    out = predict(compose("predict", *words, "threshold=tuned", "device=cpu"), tmp_path)
    maps = np.stack([np.array(Image.open(out / f"probabilities/{name}/a.png")) for name in classes]) / 65535
    if scene == "organ":
        np.testing.assert_allclose(maps.sum(0), 1, atol=1e-3)
        numbers = np.array(Image.open(out / "masks/a.png"))
        assert (maps.max(0) - np.take_along_axis(maps, numbers[None].astype(int), 0)[0] < 1e-4).all()
    else:
        tuned = facts["threshold"]["tuned"]
        for name, map_ in zip(classes, maps, strict=True):
            mask = np.array(Image.open(out / f"masks/{name}/a.png")) > 0
            np.testing.assert_array_equal(mask, np.rint(map_ * 65535) >= np.ceil(tuned[name] * 65535))
    assert set(pd.read_csv(out / "objects.csv")["class"]) <= set(classes)

    file = export(compose("export", f"run={run}", f"output={tmp_path}/m.onnx"), tmp_path)
    readme = file.with_name("m.onnx.md").read_text()
    assert ("argmax" in readme) == (scene == "organ")
    assert "Check: on test images of the run (1) and on resized copies, the file" in readme
    hub = export(compose("export", f"run={run}", "format=hub", f"output={tmp_path}/hub"), tmp_path)
    card = (hub / "README.md").read_text()
    assert sum(line.startswith("| ") for line in card.splitlines()) < 40
    assert f"| {classes[1]} | {facts['metrics'][f'test/iou/{classes[1]}']:.4g} |" in card
    code = card.split("```")[1].removeprefix("python")
    made = {}
    exec(code.replace("FOLDER", str(hub)).replace("IMAGE", f"{tmp_path}/in/a.png"), made)
    name, shape = ("label", (40, 50)) if scene == "organ" else ("mask", (2, 40, 50))
    assert made[name].shape == shape
    with pytest.raises(ContractError, match="surface: expected data of one class"):
        opened(compose("surface", "view=pixels", f"runs=[{run}]"))


@pytest.mark.slow
def test_a_report_is_of_the_mean_or_of_one_class(trained, tmp_path):
    scene, run = trained
    metrics = facts_of(run)["metrics"]
    name = SCENES[scene][1]
    for words, key in (((), "test/iou"), ((f"class={name}",), f"test/iou/{name}")):
        page = report(compose("report", f"roots=[{run.parent}]", f"output={tmp_path}", *words), tmp_path)
        table = pd.read_csv(tmp_path / "table.csv")
        assert table["iou"][0] == pytest.approx(metrics[key])
    assert ("Confusion matrices, in % of the test pixels" in page.read_text()) == (scene == "organ")
    words = (f"roots=[{run.parent}]", "class=moon", f"output={tmp_path}")
    with pytest.raises(ContractError, match="report: expected class as one of"):
        report(compose("report", *words), tmp_path)


@pytest.mark.slow
def test_a_run_of_another_task_is_one_sentence(trained, tmp_path):
    words = (f"run={trained[1]}", "dataset.scene=disc", "device=cpu")
    with pytest.raises(ContractError, match="expected data of the run's task"):
        evaluate(compose("evaluate", *(f"+{w}" if "scene" in w else w for w in words)), tmp_path)
    net = UNet(in_channels=3, base=4, depth=2)
    with pytest.raises(ContractError, match=r"task \(multi\w+: .*\), got binary: foreground; set init_include") as e:
        start_from(net, str(trained[1]), task=Task())
    assert ", ".join(SCENES[trained[0]]) in str(e.value)
    facts = start_from(net, str(trained[1]), ["down.*"], Task())
    assert facts["loaded"] == facts["weights"] - len(facts["left"])
    assert not any(name.startswith("down.") for name in facts["left"])
    assert open_run(trained[1]).module().task.channels == len(SCENES[trained[0]])


def test_a_finished_run_is_known_again_whatever_the_order_of_its_classes(tmp_path, monkeypatch):
    root = write_scenes(tmp_path / "data", 10)
    words = (*OF_FILES, "dataset=folder", f"dataset.root={root}", "dataset.classes={water: 0, house: 255}")
    cfg = compose("train", *words, "dataset.cache_dir=null", folder=tmp_path / "run")
    value = train(cfg, tmp_path / "run")
    monkeypatch.setattr("seglab.train.train_and_measure", None)
    assert train(cfg, tmp_path / "run") == value
