"""An exported file gives the probabilities of the run for every size it promises, without seglab."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from seglab.api import Run
from seglab.contract import ContractError
from seglab.data.datasets.cbis_ddsm import breast_box
from seglab.data.decode import convert, view_image
from seglab.engine.trained_run import TrainedRun, open_run
from seglab.export import export, readme
from seglab.images.resize import fit, resize, to_units
from seglab.inference import export as exporting
from seglab.inference.export import Deployed, Exported, write
from seglab.inference.hub import card as hub_card
from seglab.inference.hub import without_places, write_hub
from tests.conftest import python
from tests.engine.untrained import write_run


def call(configure, run, kind="onnx"):
    return export(configure("export", f"run={run}", f"format={kind}"), run)


def opened(file):
    """Open an exported file as its README describes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image.numpy()})[0]


def says(run, image):
    with torch.no_grad():
        return open_run(run).module()(image).sigmoid()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_file_agrees_with_the_run_on_sizes_it_has_never_seen(configure, tmp_path):
    run = write_run(tmp_path / "run", "dataset.size=64", "dataset.mean=[0.4,0.5,0.6]", "dataset.std=[0.2]")
    file = call(configure, run)
    page = file.with_name(f"{file.name}.md").read_text()
    assert "any number of images, with sides of at least 64 that are divisible by 32. Resize" in page
    assert "on images of random noise (4) and on resized copies, the file differs from PyTorch by at most" in page
    assert len(page.splitlines()) <= 20
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()  # as in a trace of the calls
    for shape in ((1, 3, 64, 64), (5, 3, 128, 96)):
        image = torch.rand(shape) * 255
        np.testing.assert_allclose(opened(file)(image), says(run, image), atol=1e-5)


@pytest.mark.slow
def test_an_export_reports_nothing_over_the_network(tmp_path, monkeypatch):
    for name in ("ORT_DISABLE_TELEMETRY", "CI"):
        monkeypatch.delenv(name, raising=False)
    run = python("-c", "import seglab.inference.export, onnxruntime", cwd=tmp_path, HOME=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))  # the id under which it reports


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("limits", "values"),
    [
        ((-1000.0, 3000.0), np.arange(-1500, 750, dtype=np.int16)),  # a CT
        ("full", np.arange(2250).astype(np.uint8)),
        ("full", np.arange(0, 45000, 20, np.uint16)),
    ],
)
def test_who_follows_the_page_beside_a_file_gets_the_numbers_of_predict(tmp_path, bits, limits, values):
    run = open_run(write_run(tmp_path / "run", f"dataset.bits={bits}", "dataset.channels=1"))
    run.facts["data"]["range"] = limits
    page = readme(run, Exported(tmp_path / "m.onnx", "any", 1, 0.0), "images", 0.5)
    found = {"values": values.reshape(45, 50), "np": np}
    for line in page.split("```")[1].splitlines()[3:7]:
        exec(line, found)
        if "resize" in line:
            found["image"] = cv2.resize(found["image"], (32, 32), interpolation=cv2.INTER_AREA)
    expected = to_units(fit(convert(values.reshape(45, 50), run.dataset()), 32, "resize")).reshape(1, 1, 32, 32)
    np.testing.assert_array_equal(found["batch"], expected)


@pytest.mark.parametrize(("window", "reduce"), [("percentile", 2), ("percentile", 1), ("full", 2)])
def test_the_page_says_how_films_are_windowed_cut_and_reduced(tmp_path, window, reduce):
    run = open_run(write_run(tmp_path / "run", "dataset.channels=1"))
    film = {"_target_": "seglab.data.datasets.cbis_ddsm.CbisDdsm", "root": ".", "crop": True}
    run.facts["data"]["raw"] = film | {"window": window, "reduce": reduce}
    data, file = run.raw_dataset(), str(tmp_path / "film.png")
    values = np.random.default_rng(0).integers(2000, 60000, (100, 80), np.uint16)
    values[:, :20] = values[:, 70:] = 0
    cv2.imwrite(file, values)
    page = readme(run, Exported(tmp_path / "m.onnx", "any", 1, 0.0), "images", 0.3515625)
    assert "invert MONOCHROME1, so that the background is dark; crop to the breast" in page
    assert page.count("mask = probability >= 0.3515625") == 1
    found = {"values": values, "np": np}
    lines = page.split("```")[1].splitlines()
    exec(lines[3], found)
    found["values"] = values[breast_box(values)]
    small = tuple(side // reduce for side in found["values"].shape[::-1])
    if "Reduce `values` by a factor of 2" in page:
        found["values"] = cv2.resize(found["values"], small, interpolation=cv2.INTER_AREA)
    exec(lines[4], found)
    if "Reduce the first `image`, as uint16, by a factor of 2" in page:
        found["image"] = cv2.resize(found["image"].astype(np.uint16), small, interpolation=cv2.INTER_AREA)
    exec(lines[5], found)
    found["image"] = resize(found["image"], 32, 32)
    exec(lines[6], found)
    expected = to_units(view_image(data.decode(file)[data.region(file)], data)).reshape(1, 1, 32, 32)
    np.testing.assert_array_equal(found["batch"], expected)


def test_the_page_says_how_an_image_is_brought_to_the_model_and_the_map_back(tmp_path):
    said = {}
    for fit_, more in (("resize", ()), ("pad", ("dataset.reduce=2",)), ("patch", ())):
        run = open_run(write_run(tmp_path / fit_, f"dataset.fit={fit_}", *more))
        said[fit_] = readme(run, Exported(tmp_path / "m.onnx", "any", 1, 0.0), "images", 0.5)
    assert "Resize the whole image to 32x32 pixels, as in training: " in said["resize"]
    assert (
        "Resize the whole reduced image to fit into 32x32 pixels in proportion, and center it on black, " in said["pad"]
    )
    back = "Remove the padding, and resize the rest of the map to the size of the reduced image in the same way"
    assert f"{back}, then resize it to the size in the file, and only then apply the last line" in said["pad"]
    assert "Average the maps of overlapping tiles, and only then apply the last line of the code" in said["patch"]
    values = "apply the EXIF orientation; bands in RGB order, gray three times; scale the stored bits of DICOM to 16;"
    assert all(values in page for page in said.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (["model.padding=valid", "dataset.size=72"], "sides of at least 72 that are divisible by 8"),
        (
            ["model=smp", "model.encoder_name=resnet18", "dataset.size=64"],
            "sides of at least 64 that are divisible by 32",
        ),
    ],
)
def test_every_kind_of_model_becomes_an_onnx_file(configure, tmp_path, model, sizes):
    run = write_run(tmp_path / "run", *model)
    file = call(configure, run)
    assert sizes in file.with_name(f"{file.name}.md").read_text()
    image = torch.rand(3, 3, 96, 128) * 255
    np.testing.assert_allclose(opened(file)(image), says(run, image), atol=1e-4)


class Stubborn(nn.Module):
    """A model whose output depends on the image size."""

    def forward(self, image):
        return image[:, :1] * (int(image.shape[2]) / 64) - 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_size_is_promised_only_where_the_file_was_seen_to_agree(tmp_path):
    """The size of the example is a constant in the file, so sizes at which the results differ are not promised."""
    module = open_run(write_run(tmp_path / "run")).module()
    module.model = Stubborn()
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    made = write(Deployed(module), images, tmp_path / "m.onnx")
    assert made.sizes == "any number of images of 64x64 pixels"


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    module = open_run(write_run(tmp_path / "run")).module()
    images = np.zeros((2, 3, 32, 32), np.float32)
    monkeypatch.setattr(exporting, "save", lambda net, some, *_: lambda given: given[:, :1])
    with pytest.raises(ContractError, match=r"that agrees with PyTorch to 0\.0001, got a difference of 0"):
        write(Deployed(module), images, tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_card_says_what_was_found_about_its_run_and_not_about_runs_on_other_data(trained_study, tmp_path):
    def look(said, *runs):
        return [{"said": said, "runs": dict.fromkeys(runs, "0")}]

    run = TrainedRun(tmp_path / "dice", open_run(trained_study / "dice").facts)
    for name in ("dice", "study/dice"):
        looks = {
            "eyes": look("Dice is.", "bce", name),
            "ships": look("None.", "far"),
            "all": look("Over 2.", "a: dice"),
        }
        (tmp_path / "looks.json").write_text(json.dumps(looks))
        assert hub_card(run).endswith("## Verdict\n\nDice is. Over 2.\n")
    (tmp_path / "looks.json").write_text(json.dumps({"ships": look("None.", "far")}))
    assert hub_card(run).endswith("This run has not been compared with other runs.\n")


def test_an_export_replaces_no_run_and_no_folder(configure, tmp_path):
    study = tmp_path / "study"
    one, other = (write_run(study / name) for name in ("one", "other"))
    before = (other / "run.json").read_bytes()
    for place, got in ((other, other), (one, one), (study, one)):
        with pytest.raises(ContractError, match=rf"output: expected a folder without runs, got {got}/run\.json; set"):
            export(configure("export", f"run={one}", "format=hub", f"output={place}"), tmp_path)
    assert (other / "run.json").read_bytes() == before
    assert not (study / "run.json").exists()
    with pytest.raises(
        ContractError, match=r"output: expected a file, got the folder .*study; set output=.*model\.onnx"
    ):
        export(configure("export", f"run={one}", f"output={study}"), tmp_path)


def test_an_image_that_is_checked_twice_counts_once(tmp_path, monkeypatch):
    module = open_run(write_run(tmp_path / "run")).module()

    def save(net, some, file, shapes):
        file.touch()
        return lambda given: net(torch.from_numpy(given)).numpy()

    monkeypatch.setattr(exporting, "save", save)
    assert write(Deployed(module), np.zeros((2, 3, 32, 32), np.float32), tmp_path / "m.onnx").checked == 1


def test_an_unknown_format_and_several_runs_are_one_sentence(configure, tmp_path):
    with pytest.raises(ContractError, match=r"export: expected one run, got \['A', 'B'\]; export each run separately"):
        export(configure("export", "run=[A,B]"), tmp_path)
    with pytest.raises(ContractError, match="run: expected the folder of a run, got none; set run=outputs/STUDY/RUN"):
        export(configure("export"), tmp_path)
    with pytest.raises(ContractError, match="format as one of onnx, hub"):
        call(configure, tmp_path, "tflite")


def test_a_hub_folder_opens_like_the_run_and_tells_nothing_of_the_machine(configure, trained_study, tmp_path):
    run, hub = trained_study / "dice", tmp_path / "my-model"
    export(configure("export", f"run={run}", "format=hub", f"output={hub}"), tmp_path)
    assert sorted(file.name for file in hub.iterdir()) == ["README.md", "model.safetensors", "run.json"]
    assert str(trained_study) not in (hub / "run.json").read_text()
    options = {"images": "/home/me/eyes", "masks": {"cup": "~/cups"}, "splits": ["train.json", 1]}
    assert without_places(options) == {"images": "eyes", "masks": {"cup": "cups"}, "splits": ["train.json", 1]}
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    [there], [here] = Run(hub).predict([image]), Run(run).predict([image])
    np.testing.assert_array_equal(there, here)
    assert (Run(hub).best, Run(run).best) == (hub / "model.safetensors", run / "checkpoints/best.ckpt")
    with pytest.raises(
        ContractError, match=r"metrics\.csv as it was written, got no file; this is an exported copy; open"
    ):
        _ = Run(hub).history
    card = (hub / "README.md").read_text()
    assert f"| iou | {open_run(run).outcome['metrics']['test/iou']:.4g} |" in card
    assert "This run has not been compared with other runs." in card
    assert "input=IMAGES output=masks threshold=tuned`" in card  # the code before it uses that threshold too
    assert f"by seglab {open_run(run).facts['versions']['seglab']}." in card
    assert "computed at the threshold 0.5 on images resized to 32x32 pixels; distances are in these pixels." in card
    of_prepared = open_run(run)
    of_prepared.facts["scale"] = "native"  # as for runs on patches
    assert "The metrics are computed at the threshold 0.5 on whole images at their own size." in hub_card(of_prepared)
    films = {"_target_": "seglab.data.datasets.folder.Folder", "root": ".", "images": "/home/me/films"}
    of_prepared.facts["data"]["raw"] = films
    assert open_run(write_hub(of_prepared, tmp_path / "prepared")).facts["data"]["raw"] == films | {"images": "films"}
