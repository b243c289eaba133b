"""Steps recorded as CUDA graphs; here a fake recording that computes each replay stands in for the GPU's."""

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from seglab.engine.graphs import Graphs
from seglab.engine.module import SegModule
from tests.conftest import assert_same_tables, train_small


class Recording:
    """A fake CUDA graph: it computes on the memory of the first inputs and returns the memory of the first outputs."""

    def __init__(self, work, inputs, model, pool):
        self.work, self.model = work, model
        self.inputs = [x if x is None else x.clone() for x in inputs]
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.outputs = []

    def __call__(self, inputs):
        for place, x in zip(self.inputs, inputs, strict=True):
            if place is not None:
                place.copy_(x)
        self.model.zero_grad()
        results = self.work(*self.inputs)
        self.gradients = [weight.grad for weight in self.parameters]
        self.outputs = self.outputs or [torch.empty_like(x) for x in results]
        for place, x in zip(self.outputs, results, strict=True):
            place.copy_(x)
        return self.outputs

    def set_gradients(self):
        for weight, gradient in zip(self.parameters, self.gradients, strict=True):
            weight.grad = gradient


class Thawing(Callback):
    """Train the first convolution from the second epoch on."""

    def on_train_epoch_start(self, trainer, module):
        next(module.model.parameters()).requires_grad = trainer.current_epoch > 0


DEEP = ("dataset.fit=pad", "model.depth=3", "model.deep_supervision=true")
ACCUMULATING = "+callbacks.x={_target_:pytorch_lightning.callbacks.GradientAccumulationScheduler,scheduling:{1:2}}"
THAWING = (f"+callbacks.x._target_={__name__}.Thawing", "monitor=val/loss")
MAPS = ("loss=boundary", "trainer.gradient_clip_val=0.1")


@pytest.mark.parametrize(
    "words",
    [
        (),
        (ACCUMULATING, "monitor=val/loss"),
        THAWING,
        pytest.param(MAPS, marks=pytest.mark.slow),
        pytest.param(DEEP, marks=pytest.mark.slow),
    ],
)
def test_a_run_of_recorded_steps_is_that_of_computed_ones(words, tmp_path, monkeypatch):
    plain = train_small(tmp_path / "plain", *words)
    recorded = []

    def begin(module):
        module.graphs = Graphs(module, Recording)
        recorded.append(module.graphs)

    monkeypatch.setattr(SegModule, "on_train_start", begin)
    graphs = train_small(tmp_path / "graphs", *words)
    assert len(recorded[0].known) >= 2  # training and validation
    assert_same_tables(plain, graphs)


def test_a_step_that_cannot_be_recorded_is_computed_and_said_once(caplog):
    def refuse(*_):
        raise RuntimeError("reads a number\nin C++")

    graphs = Graphs(nn.Linear(1, 1), refuse)
    with caplog.at_level("INFO"):
        assert [graphs((graphs,), abs, (torch.ones(size),)) for size in (1, 2)] == [None, None]
    [said] = caplog.messages
    assert said == "cuda_graph: steps are computed kernel by kernel, since they cannot be recorded (reads a number)"


def test_a_graph_belongs_to_one_shape_and_one_loss():
    graphs, one, other = Graphs(nn.Linear(1, 1), Recording), object(), object()

    def double(x):
        return (2 * x,)

    for kind, size, count in ((one, 1, 1), (one, 1, 1), (one, 2, 2), (other, 2, 3), (one, 1, 3)):
        x = torch.rand(size)
        (value,) = graphs((kind,), double, (x,))
        torch.testing.assert_close(value, 2 * x)
        assert len(graphs.known) == count
