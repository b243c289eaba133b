from seglab.reporting.gallery import gallery, one_seed
from seglab.reporting.load_runs import collect
from tests.reporting.fabricate import FakeLoss, write_sweep


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
