"""NMStructured and nm_structured: in containers, with scores and factors, on any tensor."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune.groups import ranked_values
from support import reference
from support.compare import assert_same_bits
from support.inputs import FLOATS, KINDS, mask, values


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(16, 6)


def test_prunes_trains_and_is_removed() -> None:
    module = prune.nm_structured(linear(), "weight", 2, 4)
    (expected,) = reference.nm_masks([module.weight_orig], [], 2, 4, 1)
    assert torch.equal(module.weight_mask, expected)
    assert_same_bits(module.weight.detach(), (module.weight_orig * expected).detach())
    assert prune.check_nm(module.weight, 2, 4)
    assert not prune.check_nm(module.weight_orig, 2, 4)
    module(torch.randn(3, 16)).square().sum().backward()
    assert torch.equal(module.weight_orig.grad != 0, expected != 0)
    twin = copy.deepcopy(module)
    assert torch.equal(twin.weight_mask, expected)
    prune.remove(module, "weight")
    assert prune.check_nm(module.weight, 2, 4)


@pytest.mark.parametrize("theirs", [False, True])
def test_stacked(theirs: bool) -> None:
    """Built upon an unstructured mask, in our container and in upstream's."""
    module, t = linear(), linear().weight.detach()
    old = torch.ones_like(t)
    method = prune.NMStructured(2, 4)
    if theirs:
        upstream.l1_unstructured(module, "weight", 0.3)
        old = module.weight_mask
        container = upstream.PruningContainer()
        container._tensor_name = "weight"
        method._tensor_name = "weight"
        container.add_pruning_method(method)
        new = container.compute_mask(t * old, old.clone())
    else:
        prune.l1_unstructured(module, "weight", 0.3)
        old = module.weight_mask
        prune.nm_structured(module, "weight", 2, 4)
        new = module.weight_mask
    (expected,) = reference.nm_masks([t], [old], 2, 4, 1)
    assert torch.equal(new, expected)
    assert not new[old == 0].any()


def test_a_round_on_top_of_it() -> None:
    module = prune.nm_structured(linear(), "weight", 2, 4)
    before = module.weight_mask
    prune.l1_unstructured(module, "weight", 0.5)
    assert int(module.weight_mask.sum()) == 24
    assert not module.weight_mask[before == 0].any()


class Taylor(prune.NMStructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        assert t.grad is not None
        return t * t.grad


def test_scores_are_ranked_by_value() -> None:
    def taylor(t: Tensor, mask: Tensor | None) -> Tensor:
        assert t.grad is not None
        return t * t.grad

    first, second = linear(), linear()
    for module in (first, second):
        module(torch.ones(2, 16)).square().sum().backward()
    weight = first.weight.detach().clone()
    expected = reference.nm_masks([weight * first.weight.grad], [], 1, 4, 1, is_signed=True)[0]
    Taylor.apply(first, "weight", 1, 4)
    prune.nm_structured(second, "weight", 1, 4, score=taylor)
    assert torch.equal(first.weight_mask, expected)
    assert torch.equal(second.weight_mask, expected)


@pytest.mark.parametrize("shape", [(16,), (6, 1), (1, 1), (6, 16), ()])
def test_factor(shape: tuple[int, ...]) -> None:
    """Wanda's norms of inputs, a number for each row, for all, or for each entry."""
    factor = values("scaled", shape, torch.float64) if shape else torch.tensor(2.0)
    module = prune.nm_structured(linear(), "weight", 2, 4, factor=factor)
    expected = reference.nm_masks([module.weight_orig], [], 2, 4, 1, [factor])[0]
    assert torch.equal(module.weight_mask, expected)


def test_importance_scores_are_ranked_by_magnitude() -> None:
    scores = torch.randn(6, 16)
    module = prune.nm_structured(linear(), "weight", 2, 4, importance_scores=scores)
    assert torch.equal(module.weight_mask, reference.nm_masks([scores], [], 2, 4, 1)[0])


def test_a_convolution_along_its_inputs() -> None:
    module = prune.nm_structured(nn.Conv2d(8, 5, 3), "weight", 2, 4)
    assert prune.check_nm(module.weight, 2, 4, dim=1)
    assert (module.weight_mask.view(5, 2, 4, 9).sum(2) == 2).all()


@pytest.mark.parametrize("seed", range(40))
def test_by_sorting(seed: int) -> None:
    """What is done for tensors that the operators do not take is the same."""
    draw = random.Random(seed)
    shape = [draw.choice([1, 3, 8, 13]) for _ in range(draw.randint(1, 3))]
    t = values(draw.choice(list(KINDS)), tuple(shape), draw.choice(FLOATS))
    kind = draw.choice(["none", "random", "non_binary"])
    old = None if kind == "none" else mask(kind, t.shape, t.dtype)
    m, dim = draw.choice([2, 4, 5]), draw.randrange(-len(shape), len(shape))
    n, is_signed = draw.randint(0, m), draw.random() < 0.5
    factor = None if is_signed else values("normal", (shape[-1],), torch.float32)
    (expected,) = reference.nm_masks(
        [t], [] if old is None else [old], n, m, dim, [factor], is_signed=is_signed
    )
    method = prune.NMStructured(n, m, dim)
    ones = torch.ones_like(t) if old is None else old
    actual = method.pattern.by_sorting(method, ranked_values(t, factor, is_signed), ones)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_without_operators(seed: int) -> None:
    draw = random.Random(seed)
    shape = draw.choice([(4, 4), (8, 12), (4, 8, 3), (8, 4, 1, 2), (0, 8)])
    t = values(draw.choice(list(KINDS)), shape, draw.choice(FLOATS))
    is_signed = draw.random() < 0.5
    factor = None if is_signed else values("normal", (shape[-1],), torch.float32)
    (expected,) = reference.nm_masks([t], [], 2, 4, 1, [factor], is_signed=is_signed, both=True)
    method = prune.NMStructured(2, 4, both=True)
    ranked = ranked_values(t, factor, is_signed)
    assert torch.equal(method.pattern.by_sorting(method, ranked, torch.ones_like(t)), expected)


def test_both_ways() -> None:
    """In a forward and a backward, after which both products of matrices are sparse."""
    module = prune.nm_structured(nn.Linear(16, 8), "weight", 2, 4, both=True)
    (expected,) = reference.nm_masks([module.weight_orig], [], 2, 4, 1, both=True)
    assert torch.equal(module.weight_mask, expected)
    assert_same_bits(module.weight.detach(), (module.weight_orig * expected).detach())
    assert prune.check_nm(module.weight, 2, 4, dim=0)
    assert prune.check_nm(module.weight, 2, 4, dim=1)
    module(torch.randn(3, 16)).square().sum().backward()
    assert torch.equal(module.weight_orig.grad != 0, expected != 0)
    prune.l1_unstructured(module, "weight", 0.5)
    assert int(module.weight_mask.sum()) == 32
    assert not module.weight_mask[expected == 0].any()


def test_both_ways_of_a_convolution() -> None:
    factor = torch.rand(8, 1, 1)
    conv = nn.Conv2d(8, 4, 3)
    prune.nm_structured(conv, "weight", 2, 4, dim=0, factor=factor, both=True)
    (expected,) = reference.nm_masks([conv.weight_orig], [], 2, 4, 1, [factor], both=True)
    assert torch.equal(conv.weight_mask, expected)
    assert (conv.weight_mask.view(1, 4, 2, 4, 9).sum(1) == 2).all()
    assert (conv.weight_mask.view(4, 2, 4, 9).sum(2) == 2).all()


def test_both_ways_by_a_score() -> None:
    scores = torch.randn(8, 16)
    module, other = nn.Linear(16, 8), nn.Linear(16, 8)
    prune.NMStructured.apply(module, "weight", 2, 4, score=lambda t, mask: scores, both=True)
    (expected,) = reference.nm_masks([scores], [], 2, 4, 1, is_signed=True, both=True)
    assert torch.equal(module.weight_mask, expected)
    prune.nm_structured(other, "weight", 2, 4, importance_scores=scores, both=True)
    assert torch.equal(other.weight_mask, reference.nm_masks([scores], [], 2, 4, 1, both=True)[0])


def test_both_ways_under_vmap_for_integers_and_complex_numbers() -> None:
    t = torch.randn(3, 8, 12)
    method = prune.NMStructured(2, 4, both=True)
    expected = [reference.nm_masks([each], [], 2, 4, 1, both=True)[0] for each in t]
    new = torch.func.vmap(lambda x: method.compute_mask(x, torch.ones_like(x)))(t)
    assert torch.equal(new, torch.stack(expected))
    whole = torch.randint(-9, 9, (4, 8))
    assert torch.equal(
        method.compute_mask(whole, torch.ones(4, 8)),
        reference.nm_masks([whole.double()], [], 2, 4, 1, both=True)[0].float(),
    )
    module = nn.Linear(8, 4)
    module.weight = nn.Parameter(torch.randn(4, 8, dtype=torch.complex64))
    prune.nm_structured(module, "weight", 2, 4, both=True)
    expected = reference.nm_masks([module.weight_orig.abs()], [], 2, 4, 1, both=True)
    assert torch.equal(module.weight_mask.real, expected[0])


@pytest.mark.parametrize("theirs", [False, True])
def test_both_ways_starts_anew(theirs: bool) -> None:
    """Upon ones, as upstream's container gives first; not upon what was pruned."""
    method = prune.NMStructured(2, 4, both=True)
    t = torch.randn(4, 8)
    container = (upstream if theirs else prune).PruningContainer()
    method._tensor_name = container._tensor_name = "weight"
    container.add_pruning_method(method)
    new = container.compute_mask(t, torch.ones(4, 8))
    assert torch.equal(new, reference.nm_masks([t], [], 2, 4, 1, both=True)[0])
    for said_of in (method, container):
        with pytest.raises(ValueError, match="an old mask of ones with both=True, got one that"):
            said_of.compute_mask(t, new)
    module = prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.3)
    before = module.weight_mask
    with pytest.raises(ValueError, match="an old mask of ones with both=True"):
        prune.nm_structured(module, "weight", 2, 4, both=True)
    assert module.weight_mask is before


def test_both_ways_needs() -> None:
    for shape, arguments, said in (
        ((4, 8), (1, 4), r"expected 2:4 with both=True, got 1:4"),
        ((4, 8), (4, 8), r"expected 2:4 with both=True, got 4:8"),
        ((6, 8), (2, 4), r"two dims divisible by 4.* got shape \[6, 8\]"),
        ((8, 6), (2, 4), r"two dims divisible by 4.* got shape \[8, 6\]"),
        ((8,), (2, 4), r"two dims divisible by 4.* got shape \[8\]"),
        ((4, 8, 4), (2, 4, -1), r"dim to be 0 or 1 with both=True, got -1"),
    ):
        module = nn.Linear(1, 1)
        for dtype in (torch.float32, torch.complex64):
            module.weight = nn.Parameter(torch.randn(shape, dtype=dtype))
            with pytest.raises(ValueError, match=said):
                prune.nm_structured(module, "weight", *arguments, both=True)
            assert not prune.is_pruned(module)


def test_under_vmap_and_for_integers() -> None:
    t = torch.randn(3, 5, 8)
    method = prune.NMStructured(2, 4)
    new = torch.func.vmap(lambda x: method.compute_mask(x, torch.ones_like(x)))(t)
    assert torch.equal(new, reference.nm_masks([t], [], 2, 4, 2)[0])
    whole = torch.randint(-9, 9, (4, 8))
    expected = reference.nm_masks([whole.double()], [], 2, 4, 1)[0]
    assert torch.equal(method.compute_mask(whole, torch.ones(4, 8)), expected.float())


def test_complex_weights() -> None:
    module = linear()
    module.weight = nn.Parameter(torch.randn(6, 16, dtype=torch.complex64))
    expected = reference.nm_masks([module.weight.abs()], [], 2, 4, 1)[0]
    for _ in range(2):
        prune.nm_structured(module, "weight", 2, 4)
        assert module.weight_mask.dtype == torch.complex64
        assert torch.equal(module.weight_mask.real, expected)


def test_errors_leave_the_module() -> None:
    module = linear()
    for arguments, error, said in (
        ((5, 4), ValueError, "n to be between 0 and m, 4, got 5"),
        ((2, 65), ValueError, "m to be between 1 and 64, got 65"),
        ((2, 4, 2), IndexError, "Invalid index 2"),
        ((2.0, 4), TypeError, "n to be an int, got 2.0"),
        ((2, "4"), TypeError, "m to be an int, got '4'"),
    ):
        with pytest.raises(error, match=said):
            prune.nm_structured(module, "weight", *arguments)
    with pytest.raises(RuntimeError, match="to broadcast"):
        prune.nm_structured(module, "weight", 2, 4, factor=torch.ones(3))
    for factor in (2.0, [1.0], {}):
        with pytest.raises(TypeError, match="factor to be a Tensor, got"):
            prune.nm_structured(module, "weight", 2, 4, factor=factor)
        with pytest.raises(TypeError, match="factor to be a Tensor, got"):
            prune.row_unstructured(module, "weight", 0.5, factor=factor)
    with pytest.raises(TypeError, match=r"a factor.* or a score, got both"):
        prune.NMStructured(2, 4, factor=torch.ones(1), score=lambda t, mask: t)
    assert not prune.is_pruned(module)


def test_check_nm() -> None:
    t = torch.tensor([[1, 0, 2, 0, 3, 4, 0]])
    assert prune.check_nm(t, 2, 4)
    assert not prune.check_nm(t, 1, 4)
    assert not prune.check_nm(torch.tensor([[1, 2, 3, 0]]), 2, 4)
    assert prune.check_nm(t, 1, 4, dim=0)
    with pytest.raises(IndexError):
        prune.check_nm(t, 2, 4, dim=2)


def test_packed() -> None:
    module = prune.nm_structured(linear(), "weight", 2, 4)
    bits = prune.packed(module.weight_mask)
    assert bits.nbytes == module.weight_mask.numel() // 8
    assert torch.equal(prune.unpacked(bits, module.weight.shape), module.weight_mask.bool())
    with pytest.raises(TypeError, match="shape to be a sequence of ints, got 4"):
        prune.unpacked(bits, 4)
