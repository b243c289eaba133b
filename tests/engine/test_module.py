"""The module trains with the loss in float32, stops at a loss of NaN, and is unchanged by a dry run."""

import copy
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision, Precision
from torch import nn
from torch.utils.data import DataLoader

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, Decoded
from seglab.data.loading import Samples
from seglab.data.sampler import EpochBatches
from seglab.data.sources import Whole
from seglab.engine.dry_run import dry_run
from seglab.engine.module import Normalize, SegModule
from seglab.images.labels import Seen
from seglab.losses import BCE, External, LogitAdjusted, Sum, Term
from seglab.losses.base import Loss
from tests.conftest import train_small


class Tiny(nn.Module):
    """A network with BatchNorm and dropout, that is, everything that a dry run could change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1)
        )

    def forward(self, image):
        return self.layers(image)


@dataclass(frozen=True, kw_only=True)
class Poisoned(Loss):
    """A loss that is NaN for the second image."""

    def value(self, x):
        return x.z.mean((1, 2)) * torch.tensor([1.0, float("nan")])


def module(loss=None):
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return SegModule(Tiny(), loss or BCE(), optimizer, mean=[0.5], std=[0.25])


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 2, (2, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return {"image": image, "target": target, "id": ["one", "two"], "index": torch.arange(2)}


def test_normalizing_is_the_textbook_formula():
    image = batch()["image"]
    mean, std = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    normalized = Normalize([0.1, 0.5, 0.9], [0.2, 0.3, 0.4])(image)
    torch.testing.assert_close(normalized, (image / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_a_loss_that_is_nan_stops_the_run_and_names_its_images():
    with pytest.raises(ContractError, match=r"loss: expected a finite number, got nan; in epoch 0 for two; lower"):
        module(Poisoned()).training_step(batch(), 0)
    with pytest.raises(
        ContractError, match=r"leaves a frequency above 0 for the background, got 1.0; in epoch 0 for one, two$"
    ):
        module(LogitAdjusted(prior=1.0)).training_step(batch(), 0)  # no learning rate helps


def test_a_batch_or_a_loss_of_another_trainer_is_one_sentence():
    for given, got in (({"image": 0, "mask": 0}, "image, mask"), ([0, 0], "list")):
        with pytest.raises(ContractError, match=f"expected batches with id, image, index, target, got {got}"):
            module().validation_step(given, 0)
    sentence = r"SegModule: expected a seglab loss, got \w+; wrap any callable in seglab\.losses\.External"
    for other in (BCE().as_module(), nn.BCEWithLogitsLoss()):
        with pytest.raises(ContractError, match=sentence):
            module(other)


def test_the_weights_of_foreign_code_follow_the_module_and_are_not_in_its_checkpoint():
    function = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    terms = {"a": Term(loss=External(function=function), weight=1.0)}
    moved = module(Sum(terms=terms)).to("meta")
    assert function.pos_weight.device.type == "meta"
    assert moved.state_dict().keys() == module().state_dict().keys()


def test_losses_that_are_looked_at_later_name_the_images_of_the_first_bad_step():
    """On a GPU the losses of many steps are read together; all steps after the first bad one are bad."""
    later, nan = module(), float("nan")
    later._unchecked = [(torch.tensor([1.0, 2.0]), ["a", "b"]), (torch.tensor([1.0, nan]), ["c", "d"])]
    later._unchecked += [(torch.tensor([nan, nan]), ["e", "f"])]
    with pytest.raises(ContractError, match=r"got nan; in epoch 0 for d; lower"):
        later.raise_if_not_finite()
    later.raise_if_not_finite()


def test_the_loss_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        losses, logits = module().step(batch())
    assert logits.dtype == torch.bfloat16
    assert losses.dtype == torch.float32


def test_gradients_are_clipped_in_every_precision_with_a_fused_optimizer():
    """Lightning refuses to clip if a fused optimizer may have to unscale the gradients."""
    for precision, scaler in (("32-true", None), ("bf16-mixed", None), ("bf16-mixed", "a scaler")):
        clipped = module()
        plugin = MixedPrecision(precision, "cpu") if precision == "bf16-mixed" else Precision()
        clipped._trainer = SimpleNamespace(precision_plugin=plugin)
        optimizer = torch.optim.AdamW(clipped.model.parameters(), fused=True)
        (100 * clipped.step(batch())[0].mean()).backward()
        plugin.scaler = scaler
        if scaler is None:
            clipped.configure_gradient_clipping(optimizer, 0.5)
            norm = torch.linalg.vector_norm(torch.cat([w.grad.flatten() for w in clipped.model.parameters()]))
            assert norm.item() == pytest.approx(0.5, rel=1e-4)
        else:
            with pytest.raises(ContractError, match=r"gradient_clip_val: .* set optimizer\.fused=null"):
                clipped.configure_gradient_clipping(optimizer, 0.5)
            clipped.configure_gradient_clipping(optimizer, None)


def three_samples():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), "uint8")
    masks = (images[..., 0] > 128).astype("uint8")
    pairs = zip(images, masks, strict=True)
    decoded = [Decoded(partial(Seen, *pair, None), (8, 8), 0.5, masks[0], {}) for pair in pairs]
    return Samples(Whole(decoded, Dataset(size=8)), ["a", "b", "c"], None, (), 1)


def loader_of(samples):
    return DataLoader(samples, batch_size=None, sampler=EpochBatches(len(samples), 1, True, 1))


def test_a_dry_run_leaves_weights_statistics_and_random_state_as_they_were():
    trained = module()
    before, state = copy.deepcopy(trained.state_dict()), torch.get_rng_state()
    dry_run(trained, loader_of(three_samples()), torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in trained.parameters())
    assert trained.train_meter.metrics.update_count == 0


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda z, t: ((z - t) ** 2).mean().detach(), "a value with a gradient, got one without"),
        (lambda z, t: (z.sum() + t.sum()) * torch.nan, "finite values for logits, got nan, nan, nan; set loss.takes"),
    ],
)
def test_an_external_loss_without_gradient_or_value_is_one_sentence(function, fault):
    trained = module(loss=External(function=function))
    with pytest.raises(ContractError, match=fault):
        dry_run(trained, loader_of(three_samples()), torch.device("cpu"))


def test_a_dry_run_that_passed_is_not_repeated_for_its_key():
    bad = module(loss=External(function=lambda z, t: (z.sum() + t.sum()) * torch.nan))
    dry_run(module(), loader_of(three_samples()), torch.device("cpu"), "bce")
    dry_run(bad, loader_of(three_samples()), torch.device("cpu"), "bce")
    for _ in range(2):  # a failed dry run is not cached
        with pytest.raises(ContractError, match="finite"):
            dry_run(bad, loader_of(three_samples()), torch.device("cpu"), "external")


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_a_run_resumes_where_there_are_other_gpus_than_where_it_was_saved(monkeypatch, gpus):
    numbers = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: numbers.append((device, int(state))))
    states = {"cpu": torch.get_rng_state(), "gpu": [torch.tensor(5), torch.tensor(6)]}
    module().on_load_checkpoint({"random_state": states, "schedule": {}})
    assert numbers == [(0, 5), (1, 6)][:gpus]


def test_a_gpu_without_memory_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB. GPU 0 has 2 GiB.")

    monkeypatch.setattr(SegModule, "training_step", full)
    with pytest.raises(ContractError, match="memory, got CUDA out of memory; lower batch_size"):
        train_small(tmp_path)
