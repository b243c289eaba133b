import numpy as np

from seglab.reporting.gallery import gallery, one_seed, read_examples
from seglab.reporting.load_runs import collect
from tests.reporting.fabricate import FakeLoss, write_sweep


def test_probabilities_may_be_bytes_or_floats(tmp_path):
    for name, values in (("a", np.full((1, 2, 2), 255, np.uint8)), ("b", np.ones((1, 2, 2), np.float16))):
        (tmp_path / name).mkdir()
        images, truths = np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2))
        file = tmp_path / name / "examples.npz"
        np.savez(file, ids=np.array(["x"]), images=images, truths=truths, probabilities=values)
        assert read_examples(tmp_path / name)["x"]["probability"].max() == 1.0
    assert read_examples(tmp_path / "nowhere") == {}


def test_the_gallery_shows_the_seed_that_most_losses_share(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce")], [1, 2])
    write_sweep(tmp_path, [FakeLoss("dice"), FakeLoss("iou")], [2, 3])
    sweep = collect([tmp_path])
    chosen = one_seed(sweep.used, ["bce", "dice", "iou"])
    assert {int(run["seed"]) for run in chosen.values()} == {2}
    labels, rows = gallery(chosen, sweep.images, "iou")
    assert labels == ["bce", "dice", "iou"]
    assert [row["id"] for row in rows] == ["image_001", "image_002", "image_003"]
    row = sweep.images.query("label == 'dice' and seed == 2 and id == 'image_002'")
    assert rows[1]["cells"]["dice"]["score"] == row["iou"].item()
