"""Operators of another namespace have the signatures of fastprune.ops, without a list of them."""

from __future__ import annotations

import inspect

import pytest
import torch

import fastprune
from support.targets import NamespaceOps

OPS = sorted(
    schema.name.removeprefix("fastprune::")
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("fastprune::")
)


@pytest.mark.parametrize("name", OPS)
def test_every_operator_has_a_wrapper_of_its_name(name: str) -> None:
    assert inspect.isfunction(getattr(fastprune.ops, name))
    assert callable(getattr(NamespaceOps("fastprune"), name))


def test_calls_give_what_the_wrappers_give() -> None:
    ops = NamespaceOps("fastprune")
    t, old = torch.randn(40, 30), (torch.rand(40, 30) < 0.5).float()
    for options in ({}, {"active_only": False}, {"largest": True, "dtype": torch.bool}):
        (actual,) = ops.topk_masks([t], [], 0.3, **options)
        (expected,) = fastprune.ops.topk_masks([t], [], 0.3, **options)
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)
    masks, products = ops.topk_prune([t], [old], ts=[t], amount=7)
    assert torch.equal(products[0], t * masks[0])
    norms = ops.channel_norms(t, 1, dim=0)  # an int where the schema says float
    assert torch.equal(norms, fastprune.ops.channel_norms(t, 1, 0))
    assert ops.masked_mul_(t, old) is t


def test_calls_are_checked_against_the_wrapper() -> None:
    ops = NamespaceOps("fastprune")
    t = torch.ones(3)
    with pytest.raises(TypeError, match="missing a required argument: 'mask'"):
        ops.masked_mul(t)
    with pytest.raises(TypeError, match="too many positional"):
        ops.topk_masks([t], [], 0.5, (), True)  # a keyword, though the schema takes it by position
    with pytest.raises(AttributeError, match="no_such_op"):
        _ = ops.no_such_op


def test_a_wrapper_that_does_not_fit_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    def masked_mul(mask: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    monkeypatch.setattr(fastprune.ops, "masked_mul", masked_mul)
    with pytest.raises(TypeError, match=r"takes \['mask', 't'\], its schema \['t', 'mask'\]"):
        _ = NamespaceOps("fastprune").masked_mul
