"""global_unstructured over several processes: the masks of one process with the whole tensors."""

from __future__ import annotations

import itertools
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune import globally
from support.compare import assert_same_bits
from support.inputs import mask, values
from support.ranks import SIZES, TESTS, check, failures, names_in
from support.unchanged import assert_unchanged, snapshot


@pytest.mark.parametrize("size", [1, *SIZES])
@pytest.mark.parametrize("name", names_in(__file__))
def test_on_ranks(name: str, size: int) -> None:
    failed = failures(__file__, size)
    assert name not in failed, failed[name]


class Holder(nn.Module):
    """Has a weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def pairs_of(tensors: Any) -> list[tuple[nn.Module, str]]:
    return [(Holder(t), "weight") for t in tensors]


def assert_same_masks(ours: Any, expected: Any) -> None:
    for (module, _), (whole, _) in zip(ours, expected, strict=True):
        new = module.weight_mask
        assert new.placements == module.weight_orig.placements
        assert torch.equal(new.full_tensor(), whole.weight_mask)
        assert_same_bits(module.weight.full_tensor(), whole.weight)


def pairwise(things: list[Any]) -> list[tuple[Any, Any]]:
    """Each with the next, the last with the first."""
    return list(zip(things, things[1:] + things[:1], strict=True))


def meshes() -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    size = dist.get_world_size()
    shapes = [(size,)] if size < 4 else [(size,), (2, 2)]
    return [init_device_mesh("cpu", shape) for shape in shapes]


def wholes(kind: str) -> list[Tensor]:
    """Shapes that no number of ranks divides, with some that are smaller than it."""
    torch.manual_seed(0)
    shapes = ((13, 7), (5, 30), (1, 9), (2, 1, 3))
    dtypes = (torch.float32, torch.float32, torch.bfloat16, torch.float64)
    return [values(kind, s, d) for s, d in zip(shapes, dtypes, strict=True)]


@check
def dtensors_of_all_placements() -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    kinds = itertools.cycle(["normal", "mostly_zeros", "all_equal", "nan"])
    amounts = itertools.cycle([(0.3, 50, 0.5), (0, 1.0), (1, 0.97), (0.01, 0.02, 200)])
    for mesh in meshes():
        placements = list(itertools.product((Shard(0), Shard(1), Replicate()), repeat=mesh.ndim))
        two = itertools.product(placements, repeat=2) if mesh.ndim == 1 else pairwise(placements)
        for first, second in two:
            tensors = wholes(next(kinds))
            expected = pairs_of(tensors)
            ours = pairs_of(
                distribute_tensor(t.clone(), mesh, p)
                for t, p in zip(tensors, itertools.cycle((first, second)), strict=False)
            )
            for amount in next(amounts):
                for pairs in (expected, ours):
                    prune.global_unstructured(pairs, prune.L1Unstructured, amount=amount)
                assert_same_masks(ours, expected)


@check
def masks_before() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    tensors = wholes("normal")
    expected = pairs_of(tensors)
    ours = pairs_of(distribute_tensor(t.clone(), mesh, [Shard(0)]) for t in tensors)
    for kind in ("random", "zeros", "non_binary", "ones"):
        given = mask(kind, tensors[1].shape, torch.float32)
        prune.custom_from_mask(*expected[1], given)
        prune.custom_from_mask(*ours[1], given)
        for pairs in (expected, ours):
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.2)
        assert_same_masks(ours, expected)


@check
def importance_scores_and_shared_parameters() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    tensors = wholes("normal")
    scores = [values("uniform", t.shape, t.dtype) for t in tensors]
    expected = pairs_of(tensors)
    ours = pairs_of(distribute_tensor(t.clone(), mesh, [Shard(1)]) for t in tensors)
    for pairs in (expected, ours):
        other = Holder(pairs[0][0].weight)
        other.weight = pairs[0][0].weight
        pairs.append((other, "weight"))
    prune.global_unstructured(
        expected, prune.L1Unstructured, dict(zip(expected, scores, strict=False)), amount=0.4
    )
    spread = [distribute_tensor(s, mesh, [Shard(1)]) for s in scores]
    prune.global_unstructured(
        ours, prune.L1Unstructured, dict(zip(ours, spread, strict=False)), amount=0.4
    )
    assert_same_masks(ours, expected)


@check
def training_goes_on() -> None:
    """Gradients of pruned entries are zero, and a forward is that of the whole tensor."""
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    (t, *_) = wholes("normal")
    (expected,), (ours,) = pairs_of([t]), pairs_of([distribute_tensor(t.clone(), mesh, [Shard(0)])])
    for pairs in ([expected], [ours]):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
        pairs[0][0].weight.square().sum().backward()
    assert torch.equal(ours[0].weight_orig.grad.full_tensor(), expected[0].weight_orig.grad)


@check
def each_process_has_its_own_tensors() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    tensors = [wholes("mostly_zeros")[: 1 + r] for r in range(size)]
    tensors = [[t + r for t in each] for r, each in enumerate(tensors)]
    tensors[-1] = []  # a process without any
    expected = [pairs_of(each) for each in tensors]
    ours = pairs_of(t.clone() for t in tensors[rank])
    methods = itertools.cycle([prune.L1Unstructured, prune.RandomUnstructured])
    for amount in (0.4, 0.3, 9, 8, 0.0, 0.0, 0.99) if size > 1 else ():
        method = next(methods)
        together = [pair for each in expected for pair in each]
        torch.manual_seed(3)
        prune.global_unstructured(together, method, amount=amount)
        after = torch.get_rng_state()
        torch.manual_seed(3 if rank == 0 else 5)  # the numbers are those of the first process
        before = torch.get_rng_state()
        prune.global_unstructured(ours, method, amount=amount, group=dist.group.WORLD)
        assert torch.equal(torch.get_rng_state(), before if rank > 0 else after)
        for (module, _), (whole, _) in zip(ours, expected[rank], strict=True):
            assert module.weight_mask.dtype == whole.weight_mask.dtype
            assert torch.equal(module.weight_mask, whole.weight_mask)


@check
def a_part_of_the_processes() -> None:
    group = dist.new_group([0])
    if dist.get_rank() == 0:
        (ours,), (expected,) = (pairs_of([t]) for t in [wholes("normal")[0]] * 2)
        prune.global_unstructured([ours], prune.L1Unstructured, amount=0.3, group=group)
        prune.global_unstructured([expected], prune.L1Unstructured, amount=0.3)
        assert torch.equal(ours[0].weight_mask, expected[0].weight_mask)
    else:
        with pytest.raises(ValueError, match="one of the group"):
            prune.global_unstructured(
                pairs_of([torch.ones(3)]), prune.L1Unstructured, amount=1, group=group
            )


def last_fails(what: str, pairs: list[tuple[nn.Module, str]]) -> dict[str, Any]:
    """Arguments with which the last process fails."""
    arguments: dict[str, Any] = {"parameters": pairs, "pruning_method": prune.L1Unstructured}
    arguments["amount"] = 0.5
    if dist.get_rank() != dist.get_world_size() - 1:
        return arguments
    if what == "a name":
        arguments["parameters"] = [*pairs, (pairs[0][0], "nothing")]
    elif what == "an amount":
        arguments["amount"] = 1.5
    elif what == "the method":
        arguments["pruning_method"] = prune.LnStructured
        arguments.update(n=2, dim=0)
    elif what == "scores":
        arguments["importance_scores"] = {pairs[0]: torch.ones(1)}
    return arguments


@check
def a_process_that_fails_fails_all() -> None:
    from unittest import mock

    from fastprune import sharded

    last = dist.get_rank() == dist.get_world_size() - 1
    pairs = pairs_of([t.clone() for t in wholes("normal")])
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.2, group=dist.group.WORLD)
    befores = [(module, snapshot(module)) for module, _ in pairs]
    own = {"a name": AttributeError, "an amount": ValueError, "the method": TypeError}
    own["scores"] = IndexError
    for what, error in own.items():
        expected = error if last else RuntimeError
        with pytest.raises(expected) as caught:
            prune.global_unstructured(**last_fails(what, pairs), group=dist.group.WORLD)
        if not last:
            number = dist.get_world_size() - 1
            assert f"rank {number} failed: {error.__name__}" in str(caught.value)
        for module, before in befores:
            assert_unchanged(module, before)
    # While masks are assigned, after all messages but the vote.
    attach = globally.apply_method

    def fails(*args: Any, **kwargs: Any) -> Any:
        if last and args[1] is pairs[-1][0]:
            raise MemoryError("none left")
        return attach(*args, **kwargs)

    with (
        mock.patch.object(globally, "apply_method", fails),
        pytest.raises(MemoryError if last else sharded.PeerError, match="none left"),
    ):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5, group=dist.group.WORLD)
    for module, before in befores:
        assert_unchanged(module, before)
    # The group is as good as before.
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5, group=dist.group.WORLD)


@check
def an_amount_that_no_process_can_prune() -> None:
    pairs = pairs_of([torch.ones(3)])
    total = 3 * dist.get_world_size()
    with pytest.raises(ValueError, match=rf"amount={total + 1} .*={total}"):
        prune.global_unstructured(
            pairs, prune.L1Unstructured, amount=total + 1, group=dist.group.WORLD
        )


@check
def lists_that_differ() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    if dist.get_world_size() == 1:
        return
    (mesh, *_) = meshes()
    pairs = pairs_of(distribute_tensor(t.clone(), mesh, [Shard(0)]) for t in wholes("normal"))
    if dist.get_rank() == 1:
        pairs[1:3] = pairs[2:0:-1]
    said = r"number 1 weight of Holder, torch.float32, \[5, 30\].*bfloat16, \[1, 9\].* on rank 1"
    with pytest.raises(ValueError, match=said):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
    assert not any(module._forward_pre_hooks for module, _ in pairs)


@check
def what_cannot_be_done_is_refused() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    (spread,) = pairs_of([distribute_tensor(torch.randn(4, 3), mesh, [Shard(0)])])
    (plain,) = pairs_of([torch.randn(4, 3)])
    with pytest.raises(TypeError, match="all parameters to be DTensors, or none"):
        prune.global_unstructured([spread, plain], prune.L1Unstructured, amount=0.5)
    with pytest.raises(NotImplementedError, match=r"L1Unstructured or Random.*Identity"):
        prune.global_unstructured([plain], prune.Identity, group=dist.group.WORLD)
    assert not plain[0]._forward_pre_hooks


@check
def methods_of_a_user_on_dtensors_go_as_before() -> None:
    from torch.distributed.tensor import Replicate, distribute_tensor

    (mesh, *_) = meshes()

    class Mine(upstream.RandomUnstructured):
        pass

    for method, options in (
        (prune.Unstructured, {"score": lambda t, mask: t.abs()}),
        (Mine, {}),
    ):
        ours, theirs = (
            pairs_of(distribute_tensor(t, mesh, [Replicate()]) for t in wholes("normal")[:2])
            for _ in range(2)
        )
        torch.manual_seed(0)
        try:
            upstream.global_unstructured(theirs, method, amount=0.5, **options)
        except RuntimeError:
            with pytest.raises(NotImplementedError, match="custom_from_mask"):
                prune.global_unstructured(ours, method, amount=0.5, **options)
            continue
        torch.manual_seed(0)
        prune.global_unstructured(ours, method, amount=0.5, **options)
        for (module, _), (other, _) in zip(ours, theirs, strict=True):
            assert torch.equal(module.weight_mask.full_tensor(), other.weight_mask.full_tensor())


INF = float("inf")
NORMS = [(2, 0), (1, 1), ("fro", 1), (INF, 0), (0, 1), (3, 0), (-INF, 1), (0.5, 0), (-1, 1)]
METHODS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "l1": lambda m, amount: prune.l1_unstructured(m, "weight", amount),
    "random": lambda m, amount: prune.random_unstructured(m, "weight", amount),
    "random channels": lambda m, amount: prune.random_structured(m, "weight", amount, -1),
    **{
        f"ln {n} {dim}": lambda m, amount, n=n, dim=dim: prune.ln_structured(  # type: ignore[misc]
            m, "weight", amount, n, dim
        )
        for n, dim in NORMS
    },
}


@check
def every_method_on_one_dtensor() -> None:
    """As one process does it with the whole tensor and the seed of the first process."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    kinds = itertools.cycle(["normal", "mostly_zeros", "all_equal", "nan", "inf"])
    amounts = itertools.cycle([(0.3, 1), (0.0, 0.5), (2, 1.0), (0.9, 0.1)])
    for mesh in meshes():
        for placements in itertools.product((Shard(0), Shard(1), Replicate()), repeat=mesh.ndim):
            for name, method in METHODS.items():
                kind = next(kinds)
                (t,) = itertools.islice(wholes(kind), 1)
                (expected, _), (ours, _) = (
                    *pairs_of([t]),
                    *pairs_of([distribute_tensor(t.clone(), mesh, placements)]),
                )
                for amount in next(amounts):
                    torch.manual_seed(5 + dist.get_rank())
                    method(ours, amount)
                    after = torch.rand(3)
                    torch.manual_seed(5)
                    method(expected, amount)
                    if dist.get_rank() == 0:  # whose generator goes on as it would alone
                        assert torch.equal(after, torch.rand(3))
                    else:
                        torch.manual_seed(5 + dist.get_rank())
                        assert torch.equal(after, torch.rand(3))
                    same = torch.equal(ours.weight_mask.full_tensor(), expected.weight_mask)
                    assert same, (name, kind, placements, amount)
                    assert ours.weight_mask.placements == tuple(placements)


@check
def each_with_its_own_amount() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    from fastprune import sharded

    (mesh, *_) = meshes()
    tensors = wholes("normal")
    expected = pairs_of(tensors)
    ours = pairs_of(distribute_tensor(t.clone(), mesh, [Shard(0)]) for t in tensors)
    amounts = [0.3, 7, 0.9, 1]
    for _ in range(2):
        for pairs in (expected, ours):
            prune.local_unstructured(pairs, prune.L1Unstructured, amounts)
        assert_same_masks(ours, expected)
        amounts = [0.5, 0.1, 0, 2]
    before = [snapshot(module) for module, _ in ours]
    last = dist.get_rank() == dist.get_world_size() - 1
    for wrong in (1.5, 10**6):
        with pytest.raises(ValueError if last else sharded.PeerError):
            amounts[-1] = wrong if last else 1
            prune.local_unstructured(ours, prune.L1Unstructured, amounts)
        for (module, _), state in zip(ours, before, strict=True):
            assert_unchanged(module, state)


@check
def norms_of_split_channels() -> None:
    """Exact to the last bits, and the same for every number of processes."""
    from torch.distributed.tensor import Shard, distribute_tensor

    from fastprune.ranks import Piece, indices_along
    from fastprune.spread import _norms

    (mesh, *_) = meshes()
    t = torch.randn(9, 50, generator=torch.Generator().manual_seed(1)) * torch.logspace(-30, 30, 50)
    spread = distribute_tensor(t, mesh, [Shard(1)])
    from fastprune.exchange import GroupExchange

    for n in (1, 2, 3, 0, INF, -INF):
        exchange = GroupExchange([None], [])
        norms = _norms(n, Piece(spread, None), 0, indices_along(spread, 0), exchange)
        expected = torch.linalg.vector_norm(t.double(), n, dim=1)
        assert torch.allclose(norms, expected, rtol=1e-14)
        together: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(together, norms)
        assert all(torch.equal(norms, other) for other in together)
    alone = (t.double().square() * 2.0**200).sum(1)
    assert alone.isfinite().all()


@check
def scores_for_a_dtensor() -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    (mesh, *_) = meshes()
    (t, *_) = wholes("normal")
    scores = values("uniform", t.shape, torch.float64)
    for given in (scores, distribute_tensor(scores, mesh, [Replicate()])):
        (expected, _), (ours, _) = (
            *pairs_of([t]),
            *pairs_of([distribute_tensor(t.clone(), mesh, [Shard(0)])]),
        )
        for _ in range(2):
            prune.l1_unstructured(expected, "weight", 0.3, importance_scores=scores)
            prune.l1_unstructured(ours, "weight", 0.3, importance_scores=given)
            assert ours.weight_mask.dtype == expected.weight_mask.dtype
            assert torch.equal(ours.weight_mask.full_tensor(), expected.weight_mask)


@check
def scores_of_other_dtypes_for_a_dtensor() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    (t, *_) = wholes("normal")
    generator = torch.Generator().manual_seed(1)
    for scores in (
        torch.randint(-50, 50, t.shape, generator=generator),
        torch.randn(t.shape, dtype=torch.complex64, generator=generator),
    ):
        (expected, _), (ours, _) = (
            *pairs_of([t]),
            *pairs_of([distribute_tensor(t.clone(), mesh, [Shard(0)])]),
        )
        prune.l1_unstructured(expected, "weight", 0.3, importance_scores=scores)
        prune.l1_unstructured(ours, "weight", 0.3, importance_scores=scores)
        assert torch.equal(ours.weight_mask.full_tensor(), expected.weight_mask)


@check
def a_mesh_of_some_ranks() -> None:
    """Of which torch has no group, but one for each dim."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from fastprune.sharded import PeerError

    size = dist.get_world_size()
    if size < 3:
        return
    meshes = [DeviceMesh("cpu", m) for m in ([[1], [2]], [[0, 2]])]  # every process makes them
    tensors = wholes("mostly_zeros")
    for mesh, placements in zip(
        meshes, ([Shard(0), Replicate()], [Shard(1), Shard(0)]), strict=True
    ):
        if mesh.get_coordinate() is None:
            continue
        expected = pairs_of(tensors)
        ours = pairs_of(
            distribute_tensor(t.clone(), mesh, placements, src_data_rank=None) for t in tensors
        )
        for method, amount in ((prune.L1Unstructured, 0.3), (prune.RandomUnstructured, 0.4)):
            for pairs in (expected, ours):
                torch.manual_seed(0)
                prune.global_unstructured(pairs, method, amount=amount)
            assert_same_masks(ours, expected)
        for pairs in (expected, ours):
            prune.l1_unstructured(*pairs[0], 5)
            prune.ln_structured(*pairs[1], 0.3, n=2, dim=1)
        assert_same_masks(ours[:2], expected[:2])
        last = mesh.get_rank() == 2
        wrong = {"importance_scores": {ours[0]: torch.ones(1)}} if last else {}
        with pytest.raises(IndexError if last else PeerError, match="shape as parameter"):
            prune.global_unstructured(ours, prune.L1Unstructured, amount=0.1, **wrong)
        assert_same_masks(ours, expected)


@check
def by_the_groups_of_the_dims_of_a_mesh() -> None:
    """As where a mesh of two dims is a part of a larger one."""
    from unittest import mock

    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from fastprune import ranks
    from fastprune.sharded import PeerError

    if dist.get_world_size() < 4:
        return
    mesh = meshes()[-1]
    tensors = wholes("mostly_zeros")
    with mock.patch.object(ranks, "groups_of", lambda _: [mesh.get_group(d) for d in (0, 1)]):
        for placements in ([Shard(0), Shard(1)], [Replicate(), Shard(0)]):
            expected = pairs_of(tensors)
            ours = pairs_of(distribute_tensor(t.clone(), mesh, placements) for t in tensors)
            for method in (prune.L1Unstructured, prune.RandomUnstructured):
                for pairs in (expected, ours):
                    torch.manual_seed(dist.get_rank() if pairs is ours else 0)
                    prune.global_unstructured(pairs, method, amount=0.4)
                assert_same_masks(ours, expected)
            fails = dist.get_rank() == 2
            wrong = {"importance_scores": {ours[0]: torch.ones(1)}} if fails else {}
            said = "shape as parameter" if fails else "rank 2 failed: .*shape as parameter"
            with pytest.raises(IndexError if fails else PeerError, match=said):
                prune.global_unstructured(ours, prune.L1Unstructured, amount=0.1, **wrong)
            assert_same_masks(ours, expected)


@check
def plain_ones_beside_dtensors_each_by_itself() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    first, second, *_ = wholes("normal")
    expected = pairs_of([first, second])
    ours = pairs_of([distribute_tensor(first.clone(), mesh, [Shard(0)]), second])
    for pairs in (expected, ours):
        prune.local_unstructured(pairs, prune.L1Unstructured, [0.3, 0.5])
    assert_same_masks(ours[:1], expected[:1])
    assert torch.equal(ours[1][0].weight_mask, expected[1][0].weight_mask)


@check
def a_method_by_itself() -> None:
    """compute_mask and prune of a DTensor, and a container of upstream's."""
    from torch.distributed.tensor import Shard, distribute_tensor

    (mesh, *_) = meshes()
    (t, *_) = wholes("normal")
    old = (torch.rand(t.shape, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    spread, mask = (distribute_tensor(x, mesh, [Shard(0)]) for x in (t, old))
    for method in (prune.L1Unstructured(0.4), prune.LnStructured(0.4, 2, 0)):
        expected = method.compute_mask(t, old)
        assert torch.equal(method.compute_mask(spread, mask).full_tensor(), expected)
        assert torch.equal(method.prune(spread, mask).full_tensor(), method.prune(t, old))
        assert torch.equal(method.prune(spread).full_tensor(), method.prune(t))


@check
def one_process_fails_at_one_dtensor() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    from fastprune import sharded

    if dist.get_world_size() == 1:
        return
    (mesh, *_) = meshes()
    last = dist.get_rank() == dist.get_world_size() - 1
    (pair,) = pairs_of([distribute_tensor(torch.randn(8, 6), mesh, [Shard(0)])])
    layer = pair[0]
    prune.l1_unstructured(layer, "weight", 0.2)
    before = snapshot(layer)
    for method in METHODS.values():
        with pytest.raises(ValueError if last else sharded.PeerError, match=r"1\.5"):
            method(layer, 1.5 if last else 0.5)
        assert_unchanged(layer, before)
        with pytest.raises((ValueError, sharded.PeerError)):
            method(layer, 48 if last else 0.5)  # more than there are
        assert_unchanged(layer, before)
    scores = torch.ones(8, 6) if not last else torch.ones(8, 7)
    with pytest.raises(AssertionError if last else sharded.PeerError, match="shape"):
        prune.l1_unstructured(layer, "weight", 0.5, importance_scores=scores)
    assert_unchanged(layer, before)


def replicated() -> tuple[nn.Module, nn.Sequential]:
    """A model and what it is of, the same in all processes."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return nn.parallel.DistributedDataParallel(layers), layers


@check
def local_pruning_under_ddp() -> None:
    """All methods give the same masks in all processes if these have the same seed."""
    wrapped, layers = replicated()
    for method in METHODS.values():
        torch.manual_seed(7)
        for layer in (layers[0], layers[2]):
            method(layer, 0.2)
        prune.check_ranks(wrapped)
    wrapped(torch.randn(3, 8)).sum().backward()
    prune.check_ranks(layers)


@check
def masks_that_differ_are_found() -> None:
    size, rank = dist.get_world_size(), dist.get_rank()
    last = rank == size - 1
    wrapped, layers = replicated()
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.check_ranks(wrapped)
    if size == 1:
        return
    if last:
        layers[0].weight_mask[3, 1] = 1 - layers[0].weight_mask[3, 1]
    others = ", ".join(map(str, range(size - 1)))
    said = rf"module.0.weight: .*rank.? {others};.* on rank {size - 1}"
    with pytest.raises(RuntimeError, match=said):
        prune.check_ranks(wrapped)
    if last:
        prune.l1_unstructured(layers[2], "bias", 1)
    with pytest.raises(RuntimeError, match=r"2 that differ .*0.weight.*2.bias: none on"):
        prune.check_ranks(layers)
    prune.remove(layers[0], "weight")
    if last:
        prune.remove(layers[2], "bias")
    prune.check_ranks(layers)
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.in_place(layers)
    prune.check_ranks(layers)
    if last:
        layers[0].weight_mask[3, 1] ^= True
    with pytest.raises(RuntimeError, match=r"0.weight.*torch.bool"):
        prune.check_ranks(layers)


@check
def copies_of_dtensors_that_differ_are_found() -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    if dist.get_world_size() == 1:
        return
    for mesh in meshes():
        for placement in (Replicate(), Shard(0)):
            placements = [placement] * mesh.ndim
            ((module, _),) = pairs_of([distribute_tensor(torch.randn(8, 6), mesh, placements)])
            prune.l1_unstructured(module, "weight", 0.5)
            prune.check_ranks(module)
            if dist.get_rank() == 0:
                module.weight_mask.to_local()[0, 0] = 3
            if placement.is_replicate():  # said in all processes, whatever they were compared with
                with pytest.raises(RuntimeError, match=r"weight: .* on rank 0"):
                    prune.check_ranks(module)
            else:
                prune.check_ranks(module)


@check
def few_bytes_whatever_is_pruned() -> None:
    """As many as scripts/paper_ranks.py says for so many messages."""
    from unittest import mock

    from fastprune import exchange as messages, spread

    paper = runpy.run_path(str(TESTS.parent / "scripts" / "paper_ranks.py"))
    size = dist.get_world_size()
    for entries, dtype, digits in (
        (20_000, torch.float32, 2),
        (2_000_000, torch.float32, 2),
        (2_000_000, torch.bfloat16, 1),
    ):
        made: list[Any] = []

        def exchange(kind: Any, pairs: Any, group: Any, made: list[Any] = made) -> Any:
            made.append(messages.GroupExchange([group], []))
            return made[-1]

        pairs = pairs_of([torch.randn(entries // size).to(dtype)])
        with mock.patch.object(spread, "exchange_of", exchange):
            prune.global_unstructured(
                pairs, prune.L1Unstructured, amount=0.5, group=dist.group.WORLD
            )
        sums = made[0]._sent - 2
        assert made[0].sent == paper["bytes_sent"](size, sums) < 1_000_000
        # Ties may not have to be told apart, and a small bracket may have one digit less or more.
        assert sums <= paper["sums_of"](entries, digits) + 1


KILLED = """if True:
    import datetime, os, signal, sys
    import torch, torch.distributed as dist
    import fastprune as prune
    folder, rank = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group(
        "gloo", store=dist.FileStore(folder + "/store", 3), rank=rank, world_size=3, timeout=timeout
    )
    layer = torch.nn.Linear(50, 40)
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        prune.global_unstructured(
            [(layer, "weight")], prune.L1Unstructured, amount=0.5, group=dist.group.WORLD
        )
    except RuntimeError:
        print("raised", "weight_orig" in dict(layer.named_parameters()), flush=True)
    os._exit(0)
"""


def test_a_process_that_is_killed(tmp_path: Any) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=TESTS, stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    said = [re.sub(r"^\[Gloo\].*\n", "", text, flags=re.MULTILINE) for text in said]  # torch 2.9
    assert [re.sub(r"\s+", " ", text) for text in said] == ["raised False ", "", "raised False "]


def test_group_as_an_argument_of_a_users_method() -> None:
    class Grouped(prune.L1Unstructured):
        def __init__(self, amount: float, group: str) -> None:
            super().__init__(amount)
            self.group = group

    layer = nn.Linear(4, 3)
    prune.global_unstructured([(layer, "weight")], Grouped, amount=0.5, group="all")
    assert (layer.weight_mask == 0).sum() == 6
