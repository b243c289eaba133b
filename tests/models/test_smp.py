"""Networks of segmentation-models-pytorch are built by name, load weight files, and raise errors of one sentence."""

import pytest
import torch

from seglab.contract import ContractError
from seglab.models.smp import Smp

SLOW = [pytest.param(arch, marks=pytest.mark.slow) for arch in ("unetplusplus", "pan", "segformer")]


@pytest.mark.parametrize("arch", ["FPN", "deeplabv3plus", *SLOW])
def test_an_architecture_gives_one_logit_per_pixel(arch):
    net = Smp(4, arch=arch, encoder_name="resnet18", prior=0.1)
    assert net(torch.randn(2, 4, 128, 160)).shape == (2, 1, 128, 160)


def test_a_transformer_of_timm_gives_one_logit_per_pixel():
    net = Smp(3, arch="dpt", encoder_name="tu-vit_tiny_patch16_224", options={"dynamic_img_size": True}, prior=0.01)
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_an_encoder_of_patch_14_is_refused_in_one_sentence():
    with pytest.raises(
        ContractError, match=r"encoder_name: expected an encoder with a stride of 8, 16 or 32, got .* with 14; use"
    ):
        Smp(3, arch="dpt", encoder_name="tu-vit_small_patch14_dinov2", options={"dynamic_img_size": True})


@pytest.mark.parametrize("form", ["bare.pth", "lightning.ckpt", "model.safetensors"])
def test_a_local_file_fills_the_encoder_whatever_holds_it(form, tmp_path):
    source = Smp(3, encoder_name="resnet18")
    file = str(tmp_path / form)
    if form == "bare.pth":
        torch.save(source.net.encoder.state_dict(), file)
    elif form == "lightning.ckpt":
        torch.save({"epoch": 3, "state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, file)
    else:
        from safetensors.torch import save_file

        save_file(source.net.state_dict(), file)
    filled = Smp(3, arch="fpn", encoder_name="resnet18", encoder_weights=file)
    image = torch.randn(1, 3, 64, 64)
    ours, theirs = (net.net.encoder.eval()(image)[-1] for net in (filled, source))
    assert torch.equal(ours, theirs)


def test_weights_for_color_serve_gray_images_as_if_each_channel_held_them(tmp_path):
    source = Smp(3, encoder_name="resnet18")
    torch.save(source.net.encoder.state_dict(), tmp_path / "color.pth")
    gray = Smp(1, encoder_name="resnet18", encoder_weights=str(tmp_path / "color.pth"))
    image = torch.randn(1, 1, 32, 32)
    ours, theirs = gray.net.encoder.eval()(image)[-1], source.net.encoder.eval()(image.expand(1, 3, 32, 32))[-1]
    torch.testing.assert_close(ours, theirs)


def test_weights_for_four_channels_serve_four_without_the_counters_of_batch_norms(tmp_path):
    source = Smp(4, encoder_name="resnet18")
    state = {k: v for k, v in source.net.encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "four.pth")
    filled = Smp(4, encoder_name="resnet18", encoder_weights=str(tmp_path / "four.pth"))
    image = torch.randn(1, 4, 32, 32)
    assert torch.equal(*(net.net.encoder.eval()(image)[-1] for net in (filled, source)))


def test_a_file_that_is_absent_broken_or_of_another_encoder_is_one_sentence(tmp_path):
    with pytest.raises(ContractError, match=r"encoder_weights: .* got nowhere\.pth \(no such file\)"):
        Smp(3, encoder_weights="nowhere.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ContractError, match="expected a file of weights"):
        Smp(3, encoder_weights=str(tmp_path / "text.pth"))
    torch.save(Smp(3, encoder_name="resnet18").state_dict(), tmp_path / "resnet18.pth")
    for other, fault in (
        ("resnet34", "without 80 of them, the first being layer1.2.conv1.weight"),
        ("mobilenet_v2", "without .* of them"),
    ):
        with pytest.raises(ContractError, match=fault):
            Smp(3, encoder_name=other, encoder_weights=str(tmp_path / "resnet18.pth"))


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ContractError, match=r"expected weights imagenet of resnet18 from the hub.*local file or null"):
        Smp(3, encoder_name="resnet18", encoder_weights="imagenet")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arch": "unett"}, "arch: expected a name such as unet, .*, got unett"),
        ({"encoder_name": "resnet35"}, "encoder_name: expected a name such as resnet.*resnet34.*, got resnet35"),
        ({"encoder_name": "tu-nonsense"}, "compatible arch, .*nonsense"),
        ({"options": {"decoder_attention": 1}}, "options: expected a name such as decoder_attention_type"),
    ],
)
def test_names_that_the_library_lacks_are_one_sentence(options, sentence):
    with pytest.raises(ContractError, match=sentence):
        Smp(3, **options)


def test_nets_that_take_fewer_sizes_say_so():
    with pytest.raises(ContractError, match=r"divisible by 32, got 100x100; set dataset.size=96"):
        Smp(3, arch="linknet", encoder_name="resnet18")(torch.zeros(1, 3, 100, 100))
    with pytest.raises(ContractError, match=r"at least 128, divisible by 16, got 64x64; set dataset.size=128"):
        Smp(3, arch="pan", encoder_name="resnet18")(torch.zeros(1, 3, 64, 64))
