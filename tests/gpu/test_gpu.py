"""Results on a GPU compared with results on a CPU; skipped without a GPU."""

import pandas as pd
import pytest
import torch

from seglab.contract import ContractError, Task
from seglab.data.batch_augment import Strong
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.module import DataModule
from seglab.engine.config import CONF, build
from tests.conftest import assert_same_tables, epochs_of, killed, train_small

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "loss").glob("*.yaml")))
def test_a_loss_on_the_gpu_is_that_of_the_cpu_in_float64(name):
    from omegaconf import OmegaConf

    loss = build(OmegaConf.load(CONF / "loss" / f"{name}.yaml"))
    if loss.needs or "binary" not in loss.tasks:
        pytest.skip("needs maps, or other labels")
    loss = loss.with_task(Task()).with_class_frequency([0.1])
    logits = 4 * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1)) < 0.1).to(torch.uint8)
    torch.testing.assert_close(
        loss(logits.cuda(), target.cuda()).double().cpu(), loss(logits.double(), target), rtol=1e-4, atol=1e-5
    )


def test_batches_that_are_made_on_the_gpu_are_those_of_the_cpu_up_to_rounding():
    made = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        data = DataModule(Synthetic(size=64, train=8, val=2, test=2), Strong(), store="device", device=device)
        made.append(next(iter(data.loader("train"))))
    assert made[1]["image"].device.type == "cuda"
    assert made[0]["id"] == made[1]["id"]
    torch.testing.assert_close(made[1]["image"].cpu(), made[0]["image"], rtol=0, atol=0.5)
    assert (made[1]["target"].cpu() != made[0]["target"]).float().mean() < 1e-3


def test_data_lie_on_the_gpu_by_themselves():
    data = DataModule(Synthetic(size=64, train=8, val=2, test=2), store="auto", device=torch.device("cuda"))
    assert data.held_on("train") == torch.device("cuda")


def test_a_run_that_was_interrupted_ends_with_the_bits_of_one_that_was_not(tmp_path):
    words = ("trainer.accelerator=gpu", "trainer.deterministic=true", "trainer.max_epochs=3")
    train_small(tmp_path / "whole", *words)
    with killed(epoch=2):
        train_small(tmp_path / "cut", *words)
    train_small(tmp_path / "cut", *words)
    assert_same_tables(tmp_path / "whole", tmp_path / "cut")


def test_bf16_finds_what_float32_finds(tmp_path):
    words = ("trainer.accelerator=gpu", "trainer.max_epochs=30", "scheduler=none")
    folders = [train_small(tmp_path / kind, *words, f"trainer.precision={kind}") for kind in ("32-true", "bf16-mixed")]
    first, second = (pd.read_csv(folder / "per_image.csv")["iou"].mean() for folder in folders)
    assert second == pytest.approx(first, abs=0.1)


WAITS = {"blob", "hausdorff", "per_component"}
"""Losses that read object counts or distances on the host, so that their steps are not recorded as CUDA graphs."""


@pytest.mark.parametrize("task", [Task(), Task("multiclass", ("back", "disc", "cup"))], ids=lambda task: task.kind)
def test_a_recorded_step_has_the_bits_of_a_computed_one_with_any_loss(task):
    from omegaconf import OmegaConf

    from seglab.engine.graphs import CudaGraph
    from seglab.models.unet import UNet

    generator, refused, k = torch.Generator().manual_seed(0), set(), task.channels
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator).cuda()
    target = torch.randint(0, max(2, k), (4, 1, 64, 64), generator=generator).to(torch.uint8).cuda()
    for path in sorted((CONF / "loss").glob("*.yaml")):
        loss = build(OmegaConf.load(path))
        if task.kind not in loss.tasks:
            continue
        loss = loss.with_task(task).with_class_frequency([0.1] if k == 1 else [0.9, 0.07, 0.03])
        maps = [torch.randint(0, 3, (4, k, 64, 64), generator=generator).float().cuda() for _ in loss.needs]
        net = UNet(in_channels=3, base=4, depth=2, out_channels=k).cuda()

        def work(image, target, *maps, net=net, loss=loss):
            logits = net(image / 255)
            losses = loss(logits, target, None, **dict(zip(loss.needs, maps, strict=True)))
            losses.mean().backward()
            return losses.detach(), logits.detach()

        before = [buffer.clone() for buffer in net.buffers()]
        try:
            graph = CudaGraph(work, (image, target, *maps), net, None)
        except RuntimeError:
            refused.add(path.stem)
            continue
        assert all(map(torch.equal, before, net.buffers())), path.stem
        losses, logits = (x.clone() for x in graph((image, target, *maps)))
        graph.set_gradients()
        gradients = [weight.grad.clone() for weight in net.parameters()]
        net.zero_grad()
        expected = work(image, target, *maps)
        assert torch.equal(logits, expected[1]), path.stem
        torch.testing.assert_close(losses, expected[0], rtol=1e-5, atol=1e-6, msg=path.stem)
        for weight, gradient in zip(net.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-6, msg=path.stem)
    assert refused == WAITS


KINDS = [("callbacks=ema",), ("model.deep_supervision=true", "model.depth=3"), ("loss=per_component",)]


@pytest.mark.parametrize("options", KINDS)
def test_a_run_of_cuda_graphs_is_that_of_steps_without(options, tmp_path):
    words = ("trainer.accelerator=gpu", "trainer.deterministic=true", "trainer.max_epochs=3", *options)
    folders = [train_small(tmp_path / kind, *words, f"cuda_graph={kind}") for kind in ("true", "false")]
    tables = [epochs_of(folder) for folder in folders]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # raised by the compiler itself
def test_compiled_steps_find_what_others_find(tmp_path):
    words = ("trainer.accelerator=gpu", "trainer.max_epochs=3", "trainer.precision=32-true")
    folders = [train_small(tmp_path / kind, *words, f"compile={kind}") for kind in ("true", "false")]
    losses = [epochs_of(folder)["train/loss"] for folder in folders]
    pd.testing.assert_series_equal(*losses, rtol=1e-2)


def test_too_large_a_step_is_one_sentence(tmp_path):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2e8) / total)
    try:
        with pytest.raises(ContractError, match=r"fits into GPU memory, got .*; lower batch_size"):
            train_small(tmp_path, "trainer.accelerator=gpu", "dataset.size=512", "model.base=32")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_one_device_by_ddp_gives_what_it_gives_without(tmp_path):
    words = ("trainer.accelerator=gpu", "trainer.deterministic=true")
    folders = [train_small(tmp_path / kind, *words, f"trainer.strategy={kind}") for kind in ("auto", "ddp")]
    tables = [pd.read_csv(folder / "per_image.csv") for folder in folders]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)
