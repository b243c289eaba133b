"""Any module as a model: the logits are found among its outputs and resized to the image size."""

import pytest
import torch
from torch import nn

from seglab.contract import ContractError
from seglab.models.external import External


class Several(nn.Module):
    """A model that returns its image at half the size, several times."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, image):
        half = image[:, :1, ::2, ::2]
        return {"aux": -half, "out": half} if self.kind is dict else (-half, half)


@pytest.mark.parametrize(("kind", "output"), [(dict, "out"), (tuple, 1)])
def test_the_named_output_is_resized_to_the_image(kind, output):
    image = torch.randn(2, 3, 8, 12)
    expected = nn.functional.interpolate(image[:, :1, ::2, ::2], (8, 12), mode="bilinear")
    assert torch.equal(External(Several(kind), output)(image), expected)


@pytest.mark.parametrize(
    ("module", "output", "said"),
    [
        (Several(dict), None, "model: module: expected a tensor of logits, got aux, out; select .* model.output=KEY"),
        (Several(dict), "logits", "model: output: expected .* 'logits', got aux, out; set model.output to"),
        (nn.Flatten(2), None, r"model: module: expected logits \(b, classes, h, w\), got \(1, 3, 64\)"),
        (Several(tuple), 7, "model: output: expected .* 7, got tuple"),
    ],
)
def test_other_outputs_are_one_sentence(module, output, said):
    with pytest.raises(ContractError, match=said):
        External(module, output)(torch.zeros(1, 3, 8, 8))


def test_a_model_that_is_not_a_module_is_refused():
    with pytest.raises(ContractError, match=r"model: module: expected an nn\.Module, got function"):
        External(lambda image: image)
