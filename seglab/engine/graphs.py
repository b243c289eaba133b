"""Training and validation steps as CUDA graphs: one call launches all kernels of a step."""

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

MOST = 8  # largest number of graphs per run; steps with further input shapes run kernel by kernel


def forbid_waiting(forbidden: bool) -> None:
    """Make every operation that synchronizes with the GPU, such as `item`, raise a RuntimeError; or allow it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")


class CudaGraph:
    """The computation `work` for inputs of one shape, recorded once and replayed on the same memory.

    The inputs are copied to the memory of the first ones; outputs and gradients are in the same memory after each call.
    The two warm-up passes before the recording leave buffers and the random state unchanged. Raises a RuntimeError if
    `work` reads a value from the device.
    """

    def __init__(self, work: Work, inputs: Inputs, model: nn.Module, pool: Any) -> None:
        self.inputs = tuple(x if x is None else x.clone() for x in inputs)
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.graph = torch.cuda.CUDAGraph()
        buffers, random_state = [buffer.clone() for buffer in model.buffers()], torch.cuda.get_rng_state()
        side = torch.cuda.Stream()  # torch requires one for the warm-up passes
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for forbidden in (False, True):  # libraries may synchronize when first called
                    forbid_waiting(forbidden)
                    model.zero_grad()
                    work(*self.inputs)
            forbid_waiting(False)
            torch.cuda.current_stream().wait_stream(side)
            model.zero_grad()  # so that the recorded pass allocates gradients in the memory of the graph
            with torch.cuda.graph(self.graph, pool=pool):
                self.outputs = work(*self.inputs)
            self.gradients = [weight.grad for weight in self.parameters]
        finally:
            forbid_waiting(False)  # again, in case a warm-up pass failed
            torch.cuda.current_stream().wait_stream(side)
            with torch.no_grad():
                for buffer, saved in zip(model.buffers(), buffers, strict=True):
                    buffer.copy_(saved)
            torch.cuda.set_rng_state(random_state)

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        for memory, x in zip(self.inputs, inputs, strict=True):
            if memory is not None and x is not None:
                memory.copy_(x)
        self.graph.replay()
        return self.outputs

    def set_gradients(self) -> None:
        """Set each parameter's gradient to that of the latest call."""
        for weight, gradient in zip(self.parameters, self.gradients, strict=True):
            weight.grad = gradient


class Graphs:
    """Replay steps on a GPU as CUDA graphs, one graph for each kind of step and shape of its inputs.

    Args:
        model: the model of the steps; its parameters and buffers must stay in place while graphs are in use.
        record: the function that makes a graph; tests replace it.
    """

    def __init__(self, model: nn.Module, record: Callable[..., Any] = CudaGraph) -> None:
        self.model, self.record, self.parameters = model, record, list(model.parameters())
        self.pool: Any = torch.cuda.graph_pool_handle() if record is CudaGraph else None  # no two graphs run at once
        self.known: dict[Any, Any] = {}
        self.usable = True
        self.latest: Any = None

    def __call__(self, kind: Iterable[Any], work: Work, inputs: Inputs) -> tuple[Tensor, ...] | None:
        """Return the outputs of `work(*inputs)`, valid until the next call; None if it must be called without a graph.

        kind: objects that distinguish steps, compared by identity: the meter (training or validation) and the loss.
        """
        shapes = tuple(None if x is None else (x.shape, x.stride(), x.dtype) for x in inputs)
        trained = tuple(weight.requires_grad for weight in self.parameters)  # callbacks may freeze some
        key = (*map(id, kind), shapes, trained)
        if key not in self.known and self.usable and len(self.known) < MOST:
            try:
                self.known[key] = self.record(work, inputs, self.model, self.pool), kind  # kept: its ids stay valid
            except torch.OutOfMemoryError:  # also a RuntimeError, but no reason to continue without graphs
                raise
            except RuntimeError as error:
                self.usable = False
                reason = one_line(error)
                log.info("cuda_graph: steps are computed kernel by kernel, since they cannot be recorded (%s)", reason)
        if key not in self.known:
            return None
        self.latest = self.known[key][0]
        return self.latest(inputs)
