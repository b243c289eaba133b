"""Training and validation steps as CUDA graphs: one call starts all kernels of a step."""

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from seglab.engine.config import one_line

log = logging.getLogger(__name__)

Inputs = tuple[Tensor | None, ...]
Work = Callable[..., tuple[Tensor, ...]]

MOST = 8  # graphs that a run keeps; inputs of still more shapes are computed kernel by kernel


def refuse_to_wait(yes: bool) -> None:
    """Let whatever makes the host wait for the GPU, such as `item`, raise a RuntimeError from now on, or no longer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error" if yes else "default")


class CudaGraph:
    """What `work` computes of inputs of one shape, recorded once and repeated on the same memory.

    The inputs are copied to where the first ones lay; the outputs and the gradients lie in the same place after each
    call. The two trial passes before the recording leave buffers and random numbers as they were. Raises a RuntimeError
    where `work` reads a number from the device.
    """

    def __init__(self, work: Work, inputs: Inputs, model: nn.Module, pool: Any) -> None:
        self.inputs = tuple(x if x is None else x.clone() for x in inputs)
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.graph = torch.cuda.CUDAGraph()
        before, numbers = [buffer.clone() for buffer in model.buffers()], torch.cuda.get_rng_state()
        side = torch.cuda.Stream()  # where torch wants the passes before a recording
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for refuses in (False, True):  # what libraries do when first called may wait for the device
                    refuse_to_wait(refuses)
                    model.zero_grad()
                    work(*self.inputs)
            refuse_to_wait(False)
            torch.cuda.current_stream().wait_stream(side)
            model.zero_grad()  # so that the recorded pass allocates them, in the memory of the graph
            with torch.cuda.graph(self.graph, pool=pool):
                self.outputs = work(*self.inputs)
            self.gradients = [weight.grad for weight in self.parameters]
        finally:
            refuse_to_wait(False)  # once more, where a trial pass has failed
            torch.cuda.current_stream().wait_stream(side)
            with torch.no_grad():
                for buffer, kept in zip(model.buffers(), before, strict=True):
                    buffer.copy_(kept)
            torch.cuda.set_rng_state(numbers)

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        for place, x in zip(self.inputs, inputs, strict=True):
            if place is not None and x is not None:
                place.copy_(x)
        self.graph.replay()
        return self.outputs

    def set_gradients(self) -> None:
        """Give each parameter the gradient of the latest call."""
        for weight, gradient in zip(self.parameters, self.gradients, strict=True):
            weight.grad = gradient


class Graphs:
    """Repeats steps on a GPU as CUDA graphs, one for each kind of step and shape of its inputs.

    Args:
        model: whose parameters and buffers the steps use; while graphs are in use they must stay where they are.
        record: makes a graph; another one in tests.
    """

    def __init__(self, model: nn.Module, record: Callable[..., Any] = CudaGraph) -> None:
        self.model, self.record = model, record
        self.pool: Any = torch.cuda.graph_pool_handle() if record is CudaGraph else None  # no two run at once
        self.known: dict[Any, Any] = {}
        self.usable = True
        self.latest: Any = None

    def __call__(self, kind: Iterable[Any], work: Work, inputs: Inputs) -> tuple[Tensor, ...] | None:
        """The outputs of `work(*inputs)`, valid until the next call; None where it has to be called without a graph.

        kind: objects that tell steps apart, compared by identity: whether it trains, the loss.
        """
        shapes = tuple(None if x is None else (x.shape, x.stride(), x.dtype) for x in inputs)
        key = (*map(id, kind), shapes)
        if key not in self.known and self.usable and len(self.known) < MOST:
            try:
                self.known[key] = self.record(work, inputs, self.model, self.pool), kind  # an id is kept by its object
            except torch.OutOfMemoryError:  # a RuntimeError, too, but no reason to go on without graphs
                raise
            except RuntimeError as error:
                self.usable = False
                reason = one_line(error)
                log.info("cuda_graph: steps are computed kernel by kernel, since they cannot be recorded (%s)", reason)
        if key not in self.known:
            return None
        self.latest = self.known[key][0]
        return self.latest(inputs)
