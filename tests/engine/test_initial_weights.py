"""A model starts from the weights of another: those that fit and are selected, which are reported."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seglab.contract import ContractError
from seglab.engine.initial_weights import start_from
from seglab.engine.run import Run
from seglab.train import load_data, make_module
from tests.conftest import SMALL, facts_of, killed, train_small, weights_of


class Net(nn.Module):
    """A network with an encoder of two layers and a head."""

    def __init__(self, channels=3, out=1, width=4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width))
        self.head = nn.Conv2d(width, out, 1)


def saved(folder, state, kind):
    """Write a state in the format of a trainer; return the path."""
    if kind == "safetensors":
        save_file(state, folder / "w.safetensors")
        return str(folder / "w.safetensors")
    under = {"lightning": "model.", "parallel": "module.", "bare": ""}[kind]
    state = {under + name: value for name, value in state.items()}
    torch.save({"state_dict": state, "epoch": 3} if kind == "lightning" else state, folder / "w.ckpt")
    return str(folder / "w.ckpt")


@pytest.mark.parametrize("kind", ["lightning", "parallel", "bare", "safetensors"])
def test_every_weight_and_buffer_of_a_like_model_is_loaded(tmp_path, kind):
    torch.manual_seed(0)
    there, here = Net(), Net()
    there.encoder[1].running_mean += 5
    facts = start_from(here, saved(tmp_path, there.state_dict(), kind))
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in here.state_dict().items())
    assert (facts["loaded"], facts["weights"], facts["left"]) == (9, 9, [])


def test_weights_that_do_not_fit_are_named_and_keep_their_initial_values(tmp_path):
    there, here = Net(channels=3), Net(channels=1)
    state = there.state_dict()
    del state["head.bias"]
    state["aux.weight"] = torch.zeros(2)
    before = {name: value.clone() for name, value in here.state_dict().items()}
    facts = start_from(here, saved(tmp_path, state, "lightning"))
    assert facts["left"] == ["encoder.0.weight", "head.bias"]  # of another shape, and missing in the file
    assert facts["loaded"] == 7
    after = here.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in ("head.bias", "encoder.0.weight"))
    assert torch.equal(after["head.weight"], there.head.weight)


def test_a_model_of_another_width_is_refused_and_one_with_another_head_is_not(tmp_path):
    file = saved(tmp_path, Net(width=8).state_dict(), "lightning")
    said = r"others, such as \(8, 3, 3, 3\) instead of \(4, 3, 3, 3\) for encoder\.0\.weight; set the options of model"
    with pytest.raises(ContractError, match=said):
        start_from(Net(), file)
    assert start_from(Net(width=8, out=2), file)["left"] == ["head.weight", "head.bias"]


def test_patterns_choose_by_the_models_names_from_any_dot_on(tmp_path):
    for pattern in ("encoder.*", "*.encoder.*", "net.encoder.*"):
        there, here = nn.ModuleDict({"net": Net()}), nn.ModuleDict({"net": Net()})
        head = here["net"].head.weight.clone()
        facts = start_from(here, saved(tmp_path, there.state_dict(), "lightning"), [pattern])
        assert torch.equal(here["net"].encoder[0].weight, there["net"].encoder[0].weight)
        assert torch.equal(here["net"].head.weight, head)
        assert (facts["loaded"], facts["left"]) == (7, ["net.head.weight", "net.head.bias"])


def test_a_source_of_which_nothing_can_be_loaded_is_one_sentence(tmp_path):
    other = saved(tmp_path, {"down.weight": torch.zeros(1)}, "bare")
    (tmp_path / "text.ckpt").write_text("no weights")
    for source, include, words in (
        (other, None, r"weights that fit, such as encoder.0.weight.*got 1 others, such as down.weight"),
        (str(tmp_path), None, "a run.json written by"),
        (str(tmp_path / "text.ckpt"), None, "a file of weights, got .*text.ckpt"),
        (2024, None, "init_from: expected the folder of a run, or a .ckpt or .safetensors file, got 2024"),
        (other, ["encodr.*"], r"init_include: expected a pattern of names such as encoder.0.weight.*got encodr"),
    ):
        with pytest.raises(ContractError, match=words) as fault:
            start_from(Net(), source, include)
        assert "\n" not in str(fault.value)


@pytest.mark.slow
def test_a_run_starts_from_another_with_larger_images_and_another_loss(tmp_path):
    """The run starts with the weights of the first and, after an interruption, resumes from its own."""
    first, second = train_small(tmp_path / "first", "trainer.max_epochs=1"), tmp_path / "second"
    still = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "model.norm=batch")
    words = (*still, "dataset.size=64", "loss=iou", f"init_from={first}")
    with killed(epoch=1):
        train_small(second, *words)
    best, own = first / "checkpoints/best.ckpt", weights_of(second / "checkpoints/last.ckpt")
    for name, value in weights_of(best).items():
        assert "running" in name or "batches" in name or torch.equal(own[name], value)
    began = facts_of(second)["initial"]
    assert began["loaded"] == began["weights"] == len(own)
    best.rename(first / "checkpoints/kept.ckpt")
    train_small(second, *words)  # resumes without the file
    assert facts_of(second)["initial"] == began
    train_small(second, *words)  # finished, so skipped
    torch.save({"state_dict": {}}, best)
    with pytest.raises(ContractError, match=r"its initial weights, got a file that has changed since"):
        train_small(second, *words)


def test_runs_that_differ_in_loss_or_start_are_paired(configure, tmp_path):
    """Every loss has the same initial weights, the same images in the same order, and the same random numbers."""
    file, seen = tmp_path / "w.ckpt", []
    torch.save({}, file)
    for words in (["loss=bce"], ["loss=tversky"], ["loss=bce", f"init_from={file}"]):
        cfg, made = configure("train", *SMALL, *words, folder=tmp_path), Run(tmp_path / "run")
        data = load_data(cfg, made)
        module = make_module(cfg, data, made)
        seen.append((module.model.state_dict(), next(iter(data.loader("train"))), torch.rand(2)))
        torch.save({name: value + 1 for name, value in seen[0][0].items()}, file)
    assert made.facts["initial"]["loaded"] == made.facts["initial"]["weights"]
    first, images, numbers = seen[0]
    for _, others, more in seen[1:]:
        assert images["id"] == others["id"]
        assert torch.equal(images["image"], others["image"])
        assert torch.equal(numbers, more)
    assert all(torch.equal(weight, seen[1][0][name]) for name, weight in first.items())
    assert all(torch.equal(weight + 1, seen[2][0][name]) for name, weight in first.items())
