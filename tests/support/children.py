"""What tests run in another process, which must be able to import it."""

from typing import Any

from torch import Tensor, nn


def forward_and_backward(module: nn.Module, x: Tensor, answers: Any) -> None:
    """Answer with output, gradients and pruned weights, as lists of numbers."""
    out = module(x)
    out.square().sum().backward()
    gradients = [None if p.grad is None else p.grad.tolist() for p in module.parameters()]
    answers.put((out.tolist(), gradients, [b.is_shared() for b in module.buffers()]))
