"""On a GPU: no synchronisation with the host, the current stream, capture in a graph."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fastprune
from fastprune import ops

pytestmark = pytest.mark.skipif(
    not (fastprune._C.build_info()["cuda"] and torch.cuda.is_available()),
    reason="there is no CUDA device, or fastprune was built without CUDA",
)


@pytest.fixture
def no_sync() -> Iterator[None]:
    """Makes every synchronisation with the host that torch detects raise."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("prune", ["l1", "ln", "global"])
def test_a_step_does_not_wait_for_the_host(prune: str, no_sync: None) -> None:
    module = nn.Linear(300, 200, device="cuda")
    x = torch.ones(4, 300, device="cuda")
    for _ in range(3):
        if prune == "l1":
            fastprune.l1_unstructured(module, "weight", 0.3)
        elif prune == "ln":
            fastprune.ln_structured(module, "weight", 0.3, n=2, dim=0)
        else:
            pairs = [(module, "weight"), (module, "bias")]
            fastprune.global_unstructured(pairs, fastprune.L1Unstructured, amount=0.3)
        module(x).sum().backward()


def test_a_step_can_be_captured_and_replayed() -> None:
    weight = torch.randn(100_003, device="cuda")
    old = torch.ones_like(weight)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        (mask,), (product,) = ops.topk_prune([weight], [old], [weight], 0.4)
        return mask, product

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask, product = step()
    for _ in range(3):
        weight.normal_()
        old.copy_(torch.rand_like(old) > 0.2)
        graph.replay()
        (expected,) = ops.topk_masks([weight.cpu()], [old.cpu()], 0.4)
        assert torch.equal(mask.cpu(), expected)
        assert torch.equal(product.cpu(), expected * weight.cpu())


def test_work_follows_the_current_stream() -> None:
    weight = torch.zeros(1 << 20, device="cuda")
    values = torch.randn(1 << 20)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # so that work on another stream would run too early
        weight.copy_(values.cuda())
        (mask,) = ops.topk_masks([weight], [], 0.5)
    side.synchronize()
    assert torch.equal(mask.cpu(), ops.topk_masks([values], [], 0.5)[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one() -> None:
    values = torch.randn(10_007)
    (mask,) = ops.topk_masks([values.to("cuda:1")], [], 0.5)
    assert mask.device.index == 1
    assert torch.equal(mask.cpu(), ops.topk_masks([values], [], 0.5)[0])
