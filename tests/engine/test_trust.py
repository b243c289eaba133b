"""Opening an untrusted run builds only known classes, whatever its run.json contains."""

import pytest

from seglab.contract import ContractError
from seglab.engine.trained_run import open_run
from seglab.engine.validation import require_trusted
from tests.conftest import facts_of
from tests.engine.untrained import write_run
from tests.reporting.fabricate import change


@pytest.mark.parametrize(
    "target",
    [
        "pandas.read_pickle",
        "pathlib.Path.write_text",
        "os.system",
        "seglab.files.write_text",  # not in a folder of classes for runs
        "seglab.images.image_io.read_image",  # a function
        "torch.nn.modules.module.warnings.warn",  # imported by a trusted module
        "torch.nnx.Conv2d",
        "monai.losses.PerceptualLoss",  # runs hubconf.py of a folder named by its cache_dir
    ],
)
def test_only_classes_of_known_packages_are_built(target):
    node = {"terms": [{"loss": {"_target_": target, "path": "x"}}]}
    with pytest.raises(ContractError, match=rf"run a: expected classes of trusted packages, got {target}; .*trust=\["):
        require_trusted(node, "run a")


def test_classes_of_runs_are_trusted_and_so_are_modules_that_the_user_names():
    for target in ("torch.optim.AdamW", "torch.optim.lr_scheduler.CosineAnnealingLR", "seglab.models.unet.UNet"):
        require_trusted({"_target_": target, "_partial_": True}, "run a")
    require_trusted({"_target_": "mymodule.losses.Mine"}, "run a", ["mymodule"])
    with pytest.raises(ContractError, match="without interpolations"):
        require_trusted({"_target_": "torch.optim.SGD", "name": "${oc.env:HOME}"}, "run a")
    with pytest.raises(ContractError, match=r"got mymodule2\.Mine"):
        require_trusted({"_target_": "mymodule2.Mine"}, "run a", ["mymodule"])


def test_all_modules_that_a_run_needs_are_named_at_once():
    nodes = {"model": {"_target_": "mine.nets.Net"}, "loss": {"_target_": "other.Loss"}}
    with pytest.raises(ContractError, match=r"got mine.nets.Net, other.Loss; .* add trust=\[known,mine.nets,other\]"):
        require_trusted(nodes, "run a", ["known"])


def test_a_trusted_module_that_cannot_be_imported_is_one_whole_sentence(tmp_path):
    folder = write_run(tmp_path / "own")
    change(folder, config=facts_of(folder)["config"] | {"loss": {"_target_": "mylosses.squared", "weight": 2}})
    said = r"loading 'mylosses.squared': .*No module named 'mylosses'.*; install it, or"
    with pytest.raises(ContractError, match=said):
        open_run(folder, ["mylosses"]).loss()


def test_a_hostile_run_is_refused_when_it_is_opened(tmp_path):
    folder, victim = write_run(tmp_path / "evil"), tmp_path / "victim"
    config = facts_of(folder)["config"]
    hostile = {"_target_": "pathlib.Path.write_text", "self": str(victim), "data": "gotcha"}
    for part in ("model", "loss", "dataset", "optimizer", "scheduler"):
        change(folder, config=config | {part: hostile})
        with pytest.raises(ContractError, match=r"pathlib\.Path\.write_text"):
            open_run(folder)
    assert not victim.exists()
