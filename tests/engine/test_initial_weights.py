"""A model starts from another's weights: those that fit and are asked for, and it says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import nn

from seglab.contract import ContractError
from seglab.engine.initial_weights import describe, start_from
from seglab.train import train
from tests.conftest import SMALL


class Net(nn.Module):
    """An encoder of two layers and a head, under names of their own."""

    def __init__(self, channels: int = 3, out: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, out, 1)


def saved(folder: Path, state: dict[str, torch.Tensor], kind: str) -> str:
    """Write a state as trainers do."""
    if kind == "safetensors":
        save_file(state, folder / "w.safetensors")
        return str(folder / "w.safetensors")
    under = {"lightning": "model.", "parallel": "module.", "bare": ""}[kind]
    state = {under + name: value for name, value in state.items()}
    torch.save({"state_dict": state, "epoch": 3} if kind == "lightning" else state, folder / "w.ckpt")
    return str(folder / "w.ckpt")


@pytest.mark.parametrize("kind", ["lightning", "parallel", "bare", "safetensors"])
def test_every_weight_and_buffer_of_a_like_model_is_loaded(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    there, here = Net(), Net()
    there.encoder[1].running_mean += 5
    facts = start_from(here, saved(tmp_path, there.state_dict(), kind))
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in here.state_dict().items())
    assert (facts["loaded"], facts["weights"], facts["left_out"]) == (9, 9, 0)
    assert not any(facts[kind] for kind in ("missing", "reshaped", "unexpected"))


def test_what_does_not_fit_is_named_and_keeps_its_first_values(tmp_path: Path) -> None:
    there, here = Net(channels=3), Net(channels=1)
    state = there.state_dict()
    del state["head.bias"]
    state["aux.weight"] = torch.zeros(2)
    before = {name: value.clone() for name, value in here.state_dict().items()}
    facts = start_from(here, saved(tmp_path, state, "lightning"))
    assert facts["missing"] == ["head.bias"]
    assert facts["unexpected"] == ["aux.weight"]
    assert facts["reshaped"] == {"encoder.0.weight": [[4, 3, 3, 3], [4, 1, 3, 3]]}
    assert facts["loaded"] == 7
    after = here.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in ("head.bias", "encoder.0.weight"))
    assert torch.equal(after["head.weight"], there.head.weight)
    said = describe(facts)
    for words in ("7 of 9 weights", "1 missing there: head.bias", "(4x3x3x3 there, 4x1x3x3 here)", "aux.weight"):
        assert words in said


@pytest.mark.parametrize("pattern", ["encoder.*", "*.encoder.*", "net.encoder.*"])
def test_patterns_choose_by_the_models_names_from_any_dot_on(tmp_path: Path, pattern: str) -> None:
    there, here = nn.ModuleDict({"net": Net()}), nn.ModuleDict({"net": Net()})
    head = here["net"].head.weight.clone()
    facts = start_from(here, saved(tmp_path, there.state_dict(), "lightning"), [pattern])
    assert torch.equal(here["net"].encoder[0].weight, there["net"].encoder[0].weight)
    assert torch.equal(here["net"].head.weight, head)
    assert (facts["loaded"], facts["left_out"], facts["missing"]) == (7, 2, [])
    assert "2 not in init_include" in describe(facts)


def test_no_random_number_is_drawn(tmp_path: Path) -> None:
    file, here = saved(tmp_path, Net().state_dict(), "bare"), Net()
    before = torch.get_rng_state()
    start_from(here, file)
    assert torch.equal(torch.get_rng_state(), before)


def test_where_nothing_can_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    other = saved(tmp_path, {"down.weight": torch.zeros(1)}, "bare")
    (tmp_path / "text.ckpt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    for source, include, words in (
        (other, None, r"weights that fit, such as encoder.0.weight.*got 1 others such as down.weight"),
        (str(tmp_path / "gone"), None, "the folder of a run, or a .ckpt or .safetensors file"),
        (str(tmp_path), None, "a run.json written by"),
        (str(tmp_path / "text.ckpt"), None, "a file of weights, got .*text.ckpt"),
        (str(tmp_path / "text.safetensors"), None, "a file of weights, got .*text.safetensors"),
        (other, ["encodr.*"], r"init_include: expected a pattern of names such as encoder.0.weight.*got encodr"),
    ):
        with pytest.raises(ContractError, match=words) as fault:
            start_from(Net(), source, include)
        assert "\n" not in str(fault.value)


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def weights(folder: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_starts_from_another_with_larger_images_and_another_loss(
    configure: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts with the other's weights and, interrupted, resumes from its own."""
    from seglab.engine.module import SegModule

    first, second = tmp_path / "first", tmp_path / "second"
    train(configure("train", *SMALL, "trainer.max_epochs=1", folder=first), first)
    still = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "model.norm=batch")
    words = (*SMALL, *still, "dataset.size=64", "loss=iou", f"init_from={first}")
    step = SegModule.training_step

    def killed(self: SegModule, batch: dict, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegModule, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(configure("train", *words, folder=second), second)
    monkeypatch.undo()
    learned = {name: value for name, value in weights(first).items() if "running" not in name and "batches" not in name}
    assert all(torch.equal(weights(second, "last")[name], value) for name, value in learned.items())
    began = facts_of(second)["initial"]
    assert began["loaded"] == began["weights"] == len(weights(first))
    (first / "checkpoints/best.ckpt").rename(first / "checkpoints/kept.ckpt")
    train(configure("train", *words, folder=second), second)  # nothing to load any more, and nothing is
    assert facts_of(second)["initial"] == began
    train(configure("train", *words, folder=second), second)  # finished: skipped
    torch.save({"state_dict": {}}, first / "checkpoints/best.ckpt")
    with pytest.raises(ContractError, match=r"the weights that it began with, got a file that has changed since"):
        train(configure("train", *words, folder=second), second)


def test_where_a_run_starts_is_part_of_the_experiment(configure: Callable[..., DictConfig]) -> None:
    from seglab.engine.config import identity

    marks = {identity(configure("train", *words)) for words in ((), ("init_from=a",), ("init_from=b",))}
    marks.add(identity(configure("train", "init_from=a", "init_include=[down.*]")))
    assert len(marks) == 4


def test_paired_runs_of_a_start_see_the_same_images_in_the_same_order(
    configure: Callable[..., DictConfig], tmp_path: Path
) -> None:
    from seglab.engine.run import Run
    from seglab.train import load_data, make_module

    torch.save({}, tmp_path / "w.ckpt")
    seen = []
    for start in ("null", str(tmp_path / "w.ckpt")):
        cfg = configure("train", *SMALL, f"init_from={start}", folder=tmp_path)
        made = Run(tmp_path / "run")
        data = load_data(cfg, made)
        if start == "null":
            module = make_module(cfg, data, made)
            torch.save({name: value + 1 for name, value in module.model.state_dict().items()}, tmp_path / "w.ckpt")
        else:
            module = make_module(cfg, data, made)
            assert made.facts["initial"]["loaded"] == made.facts["initial"]["weights"]
        seen.append((next(iter(data.loader("train"))), torch.rand(2)))
    (images, numbers), (others, more) = seen
    assert images["id"] == others["id"]
    assert torch.equal(images["image"], others["image"])
    assert torch.equal(numbers, more)
