"""masked_muls_: tensors that kernels do not take, several devices, and wrong arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from fastprune import ops
from fastprune.packing import packed
from support import reference
from support.compare import assert_same_bits
from support.inputs import mask, name, values
from support.targets import Target

ZEROING = ["bool", "packed"]


def made(kind: str, kept: Tensor) -> Tensor:
    return packed(kept) if kind == "packed" else kept.to(getattr(torch, kind))


def random(kind: str, shape: Any, device: str) -> Tensor:
    return made(kind, mask("random", shape, torch.bool)).to(device)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64], ids=name)
@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
def test_dtypes_without_kernels(target: Target, mask_kind: str, dtype: torch.dtype) -> None:
    t = torch.randn(3, 10, device=target.device).to(dtype)
    other = torch.randn(3, 10, device=target.device)
    m = random(mask_kind, (3, 10), target.device)
    expected = reference.masked_muls_([t, other], [m, m])
    target.ops.masked_muls_([t, other], [m, m])
    assert torch.equal(t.cpu(), expected[0])
    assert torch.equal(other.cpu(), expected[1])


@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
@pytest.mark.parametrize("sparse_dims", [1, 2])
def test_sparse_gradients(device: str, mask_kind: str, sparse_dims: int) -> None:
    dense = torch.randn(6, 5, device=device) * (torch.arange(6).view(6, 1) % 2).to(device)
    if mask_kind != "float32":  # a product would keep it
        dense[1, 2] = float("nan")
    t = dense.to_sparse(sparse_dims)
    twice = torch.sparse_coo_tensor(  # not coalesced
        torch.cat([t.indices()] * 2, 1), torch.cat([t.values()] * 2), t.shape, check_invariants=True
    )
    kept = mask("random", (6, 5), torch.bool)
    kept[1, 2] = False
    m = made(mask_kind, kept).to(device)
    ops.masked_muls_([t, twice], [m, m])
    expected = dense.cpu().where(kept, 0)
    assert torch.equal(t.to_dense().cpu(), expected)
    assert torch.equal(twice.to_dense().cpu(), 2 * expected)


def test_mixed_devices(device: str) -> None:
    t, u = values("normal", 1025, torch.float32), values("normal", (3, 100), torch.float16)
    t, u = t.to(device), u.to(device)
    m, n = random("bool", 1025, device), random("packed", (3, 100), device)
    v, w = values("normal", 9, torch.float32), random("packed", 9, "cpu")
    expected = reference.masked_muls_([t, v, u], [m, w, n])
    ops.masked_muls_([t, v, u], [m, w, n])
    for actual, each in zip([t, v, u], expected, strict=True):
        assert_same_bits(actual.cpu(), each)
    v, there = values("normal", 9, torch.float32), torch.ones(9, device="meta")
    (expected_here,) = reference.masked_muls_([v], [w])
    ops.masked_muls_([there, v], [torch.ones(9, device="meta"), w])
    assert_same_bits(v, expected_here)


def test_empty_list() -> None:
    assert ops.masked_muls_([], []) == []
    with pytest.raises(RuntimeError, match="as many masks as tensors, 0, got 1"):
        ops.masked_muls_([], [torch.ones(3)])


# ---- errors: nothing has changed then ----

T = torch.ones(3, 20)
SHAPES = r"masks\[1\].*ts\[1\], \[3, 20\].*uint8 of shape \[3, 3\]"
ERRORS: list[tuple[Tensor, str]] = [
    (torch.zeros(20, 3), SHAPES + r".*Float of shape \[20, 3\]"),
    (torch.zeros(20), SHAPES + r".*Float of shape \[20\]"),
    (torch.zeros(3, 3, dtype=torch.bool), SHAPES + r".*Bool of shape \[3, 3\]"),
    (torch.zeros(3, 2, dtype=torch.uint8), SHAPES + r".*Byte of shape \[3, 2\]"),
    (torch.zeros(9, dtype=torch.uint8), SHAPES + r".*Byte of shape \[9\]"),
    (torch.zeros(3, 3, dtype=torch.int8), SHAPES + r".*Char of shape \[3, 3\]"),
    (torch.zeros(3, 20, device="meta"), r"masks\[1\].*device of ts\[1\].*meta"),
    (torch.zeros(3, 20).bool().to_sparse(), r"masks\[1\] to be strided"),
]


@pytest.mark.parametrize(("wrong", "message"), ERRORS, ids=[e[1][-25:] for e in ERRORS])
@pytest.mark.parametrize("grad", [False, True])
def test_wrong_masks(target: Target, wrong: Tensor, message: str, grad: bool) -> None:
    ts = [T.to(target.device, copy=True) for _ in range(2)]
    first = torch.zeros(3, 20, dtype=torch.bool, device=target.device)
    wrong = wrong if wrong.is_meta else wrong.to(target.device)
    with torch.no_grad(), pytest.raises(RuntimeError) as caught:
        target.ops.masked_muls_([t.requires_grad_(grad) for t in ts], [first, wrong])
    if not wrong.is_meta and not wrong.is_sparse:  # else the dispatcher may refuse first
        assert re.search(message, str(caught.value)), str(caught.value)
    for t in ts:
        assert t._version == 0
        assert (t == 1).all()


def test_lists_of_other_lengths(target: Target) -> None:
    t = T.to(target.device, copy=True)
    with pytest.raises(RuntimeError, match="as many masks as tensors, 2, got 1"):
        target.ops.masked_muls_([t, t], [torch.zeros_like(t)])
    assert (t == 1).all()


def test_tensors_that_overlap_themselves(target: Target) -> None:
    t, wide = T.to(target.device, copy=True), torch.ones(1, 20, device=target.device).expand(3, 20)
    none = torch.zeros(3, 20, dtype=torch.bool, device=target.device)
    with pytest.raises(RuntimeError, match="more than one element"):
        target.ops.masked_muls_([t, wide], [none, none])
    assert (t == 1).all()
    assert (wide == 1).all()
