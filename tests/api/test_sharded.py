"""Pruned parameters that are spread over processes: DTensors, FSDP2, FSDP1, DDP.

What one process can show stands in tests/parity; here two processes are compared with one that has
the whole tensors.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.ranks import check, failures, names_in
from support.sharding import (
    Training,
    X,
    assert_same,
    assert_same_state,
    by_layer,
    mesh_of,
    model,
    model_pruned,
    model_tied,
    whole,
    whole_model,
)
from support.unchanged import assert_unchanged, snapshot


@pytest.mark.parametrize("name", names_in(__file__))
def test_on_two_ranks(name: str) -> None:
    failed = failures(__file__)
    assert name not in failed, failed[name]


def test_nothing_distributed_is_imported() -> None:
    program = """if True:
        import sys, torch, fastprune as prune
        layer = torch.nn.Linear(4, 3)
        prune.l1_unstructured(layer, "weight", 0.5)
        prune.custom_from_mask(layer, "weight", torch.ones(3, 4))
        layer(torch.ones(1, 4)).sum().backward()
        prune.global_unstructured([(layer, "weight")], prune.L1Unstructured, amount=1)
        prune.remove(layer, "weight")
        assert "torch.distributed.tensor" not in sys.modules
        assert "torch.distributed.fsdp" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- what the checks share ----


def placements(dims: int) -> list[tuple[Any, ...]]:
    """Every way to place a matrix on a mesh."""
    from torch.distributed.tensor import Replicate, Shard

    return list(itertools.product((Shard(0), Shard(1), Replicate()), repeat=dims))


class Scale(nn.Module):
    """Multiplies by its weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


WEIGHT = torch.arange(1.0, 16).view(5, 3) * torch.tensor([1.0, -1, 1])  # does not divide by two
MASK = torch.ones(5, 3).tril()


def distributed(t: Tensor, mesh: Any, placed: Any) -> Any:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(t.clone(), mesh, placed)


@contextlib.contextmanager
def refused(*said: str) -> Iterator[None]:
    """A NotImplementedError, which is a RuntimeError as upstream's is, with these words."""
    with pytest.raises(NotImplementedError) as caught:
        yield
    for words in said:
        assert words in str(caught.value), str(caught.value)


# ---- DTensor ----


def differentiated(layer: nn.Module, x: Any) -> list[Any]:
    """Output, gradient, and the gradient of a gradient penalty."""
    out = layer(x)
    (grad,) = torch.autograd.grad(out.square().sum(), layer.weight_orig, create_graph=True)
    grad.square().sum().backward()
    return [layer.weight_mask, layer.weight, out, grad, layer.weight_orig.grad]


def compare_masks(mesh: Any, weight_placed: Any, mask: Any) -> None:
    layer = Scale(distributed(WEIGHT, mesh, weight_placed))
    expected = Scale(WEIGHT.clone())
    x = torch.full((5, 3), 2.0)
    prune.custom_from_mask(layer, "weight", mask)
    prune.custom_from_mask(expected, "weight", MASK)
    assert layer.weight_mask.placements == layer.weight_orig.placements
    assert layer.weight.placements == layer.weight_orig.placements
    seen = differentiated(layer, distributed(x, mesh, weight_placed))
    for ours, theirs in zip(seen, differentiated(expected, x), strict=True):
        assert_same(ours, theirs)


@check
def masks_given_to_a_dtensor() -> None:
    for mesh in (mesh_of(), mesh_of(1, 2)):
        for weight_placed in placements(mesh.ndim):
            for mask in (MASK, MASK.bool()):
                compare_masks(mesh, weight_placed, mask)
            masks_placed = placements(1) if mesh.ndim == 1 else [weight_placed]
            for mask_placed in masks_placed:
                compare_masks(mesh, weight_placed, distributed(MASK, mesh, mask_placed))
    line, grid = mesh_of(), mesh_of(1, 2)
    compare_masks(line, placements(1)[0], distributed(MASK, grid, placements(2)[1]))


@check
def a_whole_mask_is_placed_without_communication() -> None:
    from torch.distributed.tensor.debug import CommDebugMode

    mesh = mesh_of()
    for placed in placements(1):
        layer, x = Scale(distributed(WEIGHT, mesh, placed)), distributed(WEIGHT, mesh, placed)
        with CommDebugMode() as seen:
            prune.custom_from_mask(layer, "weight", MASK)
            layer(x)
        assert seen.get_total_counts() == 0, placed


@check
def keywords_and_replacing_are_refused() -> None:
    """By a name, in all processes, and nothing is changed."""
    mesh = mesh_of()
    for first in (False, True):
        layer = Scale(distributed(WEIGHT, mesh, placements(1)[0]))
        if first:
            prune.identity(layer, "weight")
        pairs = [(layer, "weight")]
        held = dict(layer.named_parameters())
        hooks = dict(layer._forward_pre_hooks)
        words: dict[str, Any] = {
            "sparsity": 0.5,
            "factor": torch.ones(3),
            "score": lambda t, mask: t,
        }
        for word, given in words.items():
            amounts = {} if word == "sparsity" else {"amount": 2}
            options = {word: given, **amounts}
            with refused("L1Unstructured without " + word):
                prune.l1_unstructured(layer, "weight", **options)
            with refused("LnStructured without " + word):
                prune.ln_structured(layer, "weight", n=2, dim=0, **options)
            with refused("L1Unstructured without " + word):
                prune.global_unstructured(pairs, prune.L1Unstructured, **options)
            with refused("L1Unstructured without " + word):
                prune.local_unstructured(pairs, prune.L1Unstructured, **options)
        with refused("Unstructured without sparsity"):
            prune.Unstructured.apply(layer, "weight", sparsity=0.5, score=lambda t, mask: t)
        if first:
            with refused("for replace=True"):
                prune.l1_unstructured(layer, "weight", 2, replace=True)
            with refused("for replace=True"):
                prune.global_unstructured(pairs, prune.L1Unstructured, amount=2, replace=True)
        assert dict(layer.named_parameters()) == held
        assert dict(layer._forward_pre_hooks) == hooks
        prune.l1_unstructured(layer, "weight", 2)
        assert int(whole(layer.weight_mask).sum()) == 13


@check
def keywords_are_refused_for_a_group() -> None:
    layer = Scale(WEIGHT)
    group = torch.distributed.group.WORLD
    with refused("L1Unstructured without sparsity="):
        prune.global_unstructured(
            [(layer, "weight")], prune.L1Unstructured, sparsity=0.5, group=group
        )
    assert not prune.is_pruned(layer)


@check
def a_whole_mask_gets_its_gradient() -> None:
    mesh = mesh_of()
    for placed in placements(1):
        logits, expected = (torch.rand(5, 3).requires_grad_() for _ in range(2))
        with torch.no_grad():
            expected.copy_(logits)
        pairs = [(Scale(distributed(WEIGHT, mesh, placed)), logits), (Scale(WEIGHT), expected)]
        for layer, mask in pairs:
            prune.custom_from_mask(layer, "weight", mask)
            layer.weight.square().sum().backward()
        assert torch.allclose(logits.grad, expected.grad)


@check
def masks_of_a_dtensor_add_up() -> None:
    mesh = mesh_of()
    for placed in placements(1):
        layer = Scale(distributed(WEIGHT, mesh, placed))
        prune.identity(layer, "weight")
        assert_same(layer.weight_mask, torch.ones(5, 3))
        prune.custom_from_mask(layer, "weight", MASK)
        prune.custom_from_mask(layer, "weight", distributed(MASK.flip(0), mesh, placed))
        assert layer.weight_mask.placements == placed
        assert_same(layer.weight_mask, MASK * MASK.flip(0))


@check
def a_mask_of_another_shape_is_refused() -> None:
    layer = Scale(distributed(WEIGHT, mesh_of(), placements(1)[0]))
    before = layer.weight
    with pytest.raises(AssertionError, match="must match"):
        prune.custom_from_mask(layer, "weight", torch.ones(3, 5))
    assert layer.weight is before and not prune.is_pruned(layer)


@check
def tensor_parallel_layers() -> None:
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5))
    expected = copy.deepcopy(ours)
    parallelize_module(ours, mesh_of(), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for layers in (ours, expected):
        for layer in (layers[0], layers[2]):
            prune.custom_from_mask(layer, "weight", torch.ones(layer.weight.shape).tril())
    trainings = Training(ours), Training(expected)
    for _ in range(2):
        assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-5)
    for layers in (ours, expected):
        prune.remove(layers[0], "weight")
    assert_same_state(ours, expected)
    assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-5)


@check
def parallelized_by_column_after_pruning() -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    torch.manual_seed(0)
    ours = nn.Sequential(prune.l1_unstructured(nn.Linear(7, 6), "weight", 0.5))
    expected = copy.deepcopy(ours)
    parallelize_module(ours, mesh_of(), {"0": ColwiseParallel(use_local_output=False)})
    for layers in (ours, expected):
        layers(X).square().sum().backward()
        prune.remove(layers[0], "weight")
    assert torch.allclose(whole(ours[0].weight.grad), expected[0].weight.grad, atol=1e-6)
    assert_same_state(ours, expected)


@check
def operators_on_dtensors() -> None:
    mesh = mesh_of()
    ops = prune.ops
    expected = MASK * WEIGHT
    for placed in placements(1):
        t = distributed(WEIGHT, mesh, placed).requires_grad_()
        for mask_placed in placements(1):
            mask = distributed(MASK.bool(), mesh, mask_placed)
            product, *_ = products = [ops.masked_mul(t, mask), *ops.masked_muls([t], [mask])]
            with torch.inference_mode():
                products.append(ops.masked_mul(t, mask))
            changed = t.detach().clone()
            if placed == mask_placed:  # a product in place cannot move its mask
                assert ops.masked_mul_(changed, mask) is changed
                products.append(changed)
            for result in products:
                assert_same(result, expected)
            (grad,) = torch.autograd.grad(product.square().sum(), t, create_graph=True)
            assert_same(grad, 2 * expected)
            (second,) = torch.autograd.grad(grad.square().sum(), t)
            assert_same(second, 8 * expected)


@check
def compiled_layers_of_dtensors() -> None:
    mesh = mesh_of()
    for placed in placements(1)[:2]:
        layer = Scale(distributed(WEIGHT, mesh, placed))
        prune.custom_from_mask(layer, "weight", MASK)
        x = distributed(WEIGHT, mesh, placed)
        out = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
        out.sum().backward()
        assert_same(out, MASK * WEIGHT * WEIGHT)
        assert_same(layer.weight_orig.grad, MASK * WEIGHT)


@check
def removed_from_a_dtensor() -> None:
    mesh = mesh_of()
    for placed in placements(1):
        for mask in (MASK, distributed(MASK, mesh, placements(1)[0])):
            layer = Scale(distributed(WEIGHT, mesh, placed))
            parameter = layer.weight
            prune.custom_from_mask(layer, "weight", mask)
            layer(distributed(WEIGHT, mesh, placed)).sum().backward()
            copied = copy.deepcopy(layer)
            assert_same(copied.weight, WEIGHT * MASK)
            assert list(layer.state_dict()) == ["weight_orig", "weight_mask"]
            assert prune.is_pruned(layer)
            prune.remove(layer, "weight")
            assert not prune.is_pruned(layer)
            assert layer.weight is parameter and parameter.placements == placed
            assert list(layer.state_dict()) == ["weight"]
            assert_same(layer.weight, WEIGHT * MASK)
            assert_same(layer.weight.grad, WEIGHT * MASK)


SELECTIONS: dict[str, Callable[[nn.Module], Any]] = {
    "L1Unstructured": lambda m: prune.l1_unstructured(m, "weight", 5),
    "RandomUnstructured": lambda m: prune.random_unstructured(m, "weight", 5),
    "LnStructured": lambda m: prune.ln_structured(m, "weight", 1, 2, 0),
    "RandomStructured": lambda m: prune.random_structured(m, "weight", 1, 0),
    "Unstructured": lambda m: prune.Unstructured.apply(m, "weight", 5, score=lambda t, k: t),
    "global L1Unstructured": lambda m: prune.global_unstructured(
        [(m, "weight")], prune.L1Unstructured, amount=5
    ),
}


@check
def selection_from_a_dtensor_is_right_or_refused() -> None:
    mesh = mesh_of()
    worked = set()
    for placed in placements(1):
        for name, apply in SELECTIONS.items():
            layer, expected = Scale(distributed(WEIGHT, mesh, placed)), Scale(WEIGHT.clone())
            torch.manual_seed(0)
            apply(expected)
            before = layer.weight
            torch.manual_seed(0)
            try:
                apply(layer)
            except RuntimeError as error:
                assert isinstance(error, NotImplementedError)
                words = (name.split()[-1], "weight of Scale", str(placed), "custom_from_mask")
                assert all(word in str(error) for word in words), str(error)
                assert layer.weight is before and not layer._forward_pre_hooks
            else:
                assert_same(layer.weight_mask, expected.weight_mask)
                worked.add((name, str(placed)))
    # What upstream can do, which depends on the release of torch, has to be kept.
    for placed in placements(1):
        layer = Scale(distributed(WEIGHT, mesh, placed))
        with contextlib.suppress(RuntimeError):
            upstream.l1_unstructured(layer, "weight", 5)
            assert ("L1Unstructured", str(placed)) in worked, placed


@check
def a_bad_amount_is_upstreams_error() -> None:
    layer = Scale(distributed(WEIGHT, mesh_of(), placements(1)[2]))
    with pytest.raises(ValueError, match="should be smaller"):
        prune.l1_unstructured(layer, "weight", 16)


# ---- FSDP2 ----


def live(ours: nn.Sequential, expected: nn.Sequential) -> None:
    """Train, give another mask, train, remove, train; compared at each step."""
    trainings = Training(ours), Training(expected)

    def train() -> None:
        assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
        assert_same_state(ours, expected)

    train()
    for _ in range(2):
        for layers in (ours, expected):
            prune.custom_from_mask(layers[0], "weight", torch.ones(9, 7).tril())
            prune.identity(layers[2], "weight")
        assert torch.allclose(whole(ours[0].weight), expected[0].weight, atol=1e-6)
        assert_same_state(ours, expected)
    train()
    shard = ours[0].weight_orig
    for layers in (ours, expected):
        for layer in (layers[0], layers[2]):
            prune.remove(layer, "weight")
    assert ours[0].weight is shard and not prune.is_pruned(ours)
    assert bool((whole(ours[0].weight).triu(1) == 0).all())
    ours.load_state_dict(ours.state_dict())
    assert_same_state(ours, expected)
    train()


@check
def pruned_then_fully_sharded() -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy

    for shard in (whole_model, by_layer):
        ours = model_pruned()
        shard(ours)
        live(ours, model_pruned())
    ours = model_pruned()
    by_layer(ours, offload_policy=CPUOffloadPolicy(pin_memory=False))
    live(ours, model_pruned())


@check
def identity_before_fully_shard_is_enough() -> None:
    for warm in (False, True):
        ours, expected = model(), model()
        for layers in (ours, expected):
            prune.identity(layers[0], "weight")
        whole_model(ours)
        if warm:
            with torch.no_grad():
                ours(X)
        for layers in (ours, expected):
            prune.custom_from_mask(layers[0], "weight", torch.ones(9, 7).tril())
        ours.reshard()
        trainings = Training(ours), Training(expected)
        assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
        assert_same_state(ours, expected)


@check
def compiled_under_fully_shard() -> None:
    ours, expected = model_pruned(), model_pruned()
    whole_model(ours)
    trainings = Training(ours), Training(expected)
    trainings[0].model = torch.compile(ours, backend="aot_eager")
    assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
    for layers in (ours, expected):
        prune.remove(layers[0], "weight")
    assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
    assert_same_state(ours, expected)


@check
def pruned_then_hybrid_sharded() -> None:
    for shape in ((1, 2), (2, 1)):
        ours = model_pruned()
        by_layer(ours, mesh=mesh_of(*shape))
        live(ours, model_pruned())


@check
def sharded_along_another_dim() -> None:
    from torch.distributed.tensor import Shard

    torch.manual_seed(0)
    ours = nn.Sequential(prune.l1_unstructured(nn.Linear(6, 9, bias=False), "weight", 0.5))
    whole_before = ours[0].weight.detach().clone()
    whole_model(ours, shard_placement_fn=lambda p: Shard(1))
    prune.remove(ours[0], "weight")
    assert ours[0].weight.placements == (Shard(1),)
    assert_same(ours[0].weight, whole_before)


@check
def sharded_with_mixed_precision() -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    ours, expected = model_pruned(), model_pruned()
    by_layer(ours, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    out = ours(X)
    lower = copy.deepcopy(expected).bfloat16()
    assert_same(out, lower(X.bfloat16()))
    out.float().square().mean().backward()
    training = Training(ours)
    training.steps()
    pruned = whole(ours[0].weight_orig) * ours[0].weight_mask
    mask = ours[0].weight_mask
    prune.custom_from_mask(ours[0], "weight", torch.ones(9, 7).tril())
    assert_same(ours[0].weight_mask, mask * torch.ones(9, 7).tril())
    prune.remove(ours[0], "weight")
    assert ours[0].weight.dtype == torch.float32
    assert_same(ours[0].weight, pruned.tril())
    training.steps()
    for layer, theirs in zip((ours[0], ours[2]), (lower[0], lower[2]), strict=True):
        prune.remove(theirs, "weight")
        theirs.bias.data = whole(layer.bias).bfloat16()
    prune.remove(ours[2], "weight")
    lower[0].weight.data, lower[2].weight.data = (whole(ours[i].weight).bfloat16() for i in (0, 2))
    assert_same(ours(X), lower(X.bfloat16()))


@check
def sharded_over_tensor_parallel_layers() -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    for shape in ((1, 2), (2, 1)):
        mesh = mesh_of(*shape)
        torch.manual_seed(0)
        ours = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5))
        expected = copy.deepcopy(ours)
        parallelize_module(ours, mesh["b"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for layers in (ours, expected):
            for layer in (layers[0], layers[2]):
                prune.custom_from_mask(layer, "weight", torch.ones(layer.weight.shape).tril())
        fully_shard(ours, mesh=mesh["a"])
        trainings = Training(ours), Training(expected)
        assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
        for layers in (ours, expected):
            prune.custom_from_mask(layers[0], "weight", torch.ones(6, 7).triu())
            for layer in (layers[0], layers[2]):
                prune.remove(layer, "weight")
        assert_same_state(ours, expected)
        assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)


@check
def sharded_after_pruning_and_tensor_parallelism() -> None:
    """Whose mask is replicated over the processes that share the weight."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = mesh_of(1, 2)
    torch.manual_seed(0)
    ours = nn.Sequential(prune.l1_unstructured(nn.Linear(7, 6), "weight", 0.5))
    expected = copy.deepcopy(ours)
    parallelize_module(ours, mesh["b"], {"0": ColwiseParallel(use_local_output=False)})
    fully_shard(ours, mesh=mesh["a"])
    for layers in (ours, expected):
        whole(layers(X)).sum()
        prune.remove(layers[0], "weight")
    assert_same_state(ours, expected)


@check
def removed_while_the_parameters_are_whole() -> None:
    for forward in (torch.no_grad, torch.enable_grad):
        ours, expected = model_pruned(), model_pruned()
        whole_model(ours)
        parameters = list(ours.parameters())
        with forward():
            losses = [layers(X).square().mean() for layers in (ours, expected)]
        assert not hasattr(ours[0].weight_orig, "full_tensor")
        for layers in (ours, expected):
            prune.remove(layers[0], "weight")
        assert any(ours[0].weight is p for p in parameters)
        if losses[0].requires_grad:
            for loss in losses:
                loss.backward()
            assert torch.allclose(whole(ours[0].weight.grad), expected[0].weight.grad, atol=1e-6)
        assert_same_state(ours, expected)
        assert Training(ours).steps() == pytest.approx(Training(expected).steps(), rel=1e-4)


@check
def removing_inside_a_forward_is_refused() -> None:
    for shard in (whole_model, by_layer):
        ours, expected = model_pruned(), model_pruned()
        shard(ours)
        training = Training(ours)
        errors: list[str] = []

        def remove(layer: nn.Module, inputs: Any, output: Any, errors: list[str] = errors) -> None:
            with pytest.raises(RuntimeError, match=r"weight_orig of .* FORWARD") as caught:
                prune.remove(layer, "weight")
            errors.append(str(caught.value))

        handle = ours[0].register_forward_hook(remove, prepend=True)  # before FSDP2's
        losses = training.steps()
        handle.remove()
        assert len(errors) == 2
        assert losses == pytest.approx(Training(expected).steps(), rel=1e-4)
        assert_same_state(ours, expected)


@check
def a_dtensor_mask_under_fully_shard() -> None:
    from torch.distributed.tensor import Shard

    given = torch.ones(9, 7).tril()
    for warm in (False, True):
        ours, expected = model_pruned(), model_pruned()
        whole_model(ours)
        if warm:
            with torch.no_grad():
                ours(X)
        prune.custom_from_mask(ours[0], "weight", distributed(given, mesh_of(), [Shard(0)]))
        prune.custom_from_mask(expected[0], "weight", given)
        assert type(ours[0].weight_mask) is Tensor
        assert_same_state(ours, expected)  # after which the parameters are shards
        assert Training(ours).steps() == pytest.approx(Training(expected).steps(), rel=1e-4)


@check
def tied_weights_under_fully_shard() -> None:
    def tied() -> nn.Sequential:
        layers = model_tied()
        prune.l1_unstructured(layers[2], "weight", 0.5)
        return layers

    ours, expected = tied(), tied()
    whole_model(ours)
    for layers in (ours, expected):
        layers(torch.ones(1, 6)).sum().backward()
        prune.remove(layers[2], "weight")
        layers(torch.ones(1, 6)).sum().backward()
    assert ours[0].weight is ours[2].weight
    assert_same_state(ours, expected)
    assert torch.allclose(whole(ours[0].weight.grad), expected[0].weight.grad, atol=1e-6)


@check
def selection_works_while_the_parameters_are_whole() -> None:
    ours, expected = model_pruned(), model_pruned()
    whole_model(ours)
    trainings = Training(ours), Training(expected)  # of the shards
    for layers in (ours, expected):
        with torch.no_grad():
            layers(X)
        prune.l1_unstructured(layers[0], "weight", 0.5)
    assert_same(ours[0].weight_mask, expected[0].weight_mask)
    assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
    assert_same_state(ours, expected)


@check
def parameters_that_fsdp2_ignores_are_ordinary() -> None:
    layers = model()
    whole_model(layers, ignored_params={layers[0].weight})
    prune.l1_unstructured(layers[0], "weight", 0.5)
    layers(X).square().mean().backward()
    prune.remove(layers[0], "weight")
    assert type(layers[0].weight) is nn.Parameter


@check
def an_unknown_fsdp2_is_refused() -> None:
    from torch.distributed import _composable_state
    from torch.distributed.fsdp import fully_shard

    ours = model_pruned()
    whole_model(ours)
    with mock.patch.object(_composable_state, "_module_state_mapping", {}):
        with refused("weight_orig of", "fully_shard", torch.__version__):
            prune.remove(ours[0], "weight")
        with refused("weight_orig of", torch.__version__):
            prune.custom_from_mask(ours[0], "weight", torch.ones(9, 7))
    kept = _composable_state._module_state_mapping
    with mock.patch.object(_composable_state, "_module_state_mapping"):
        del _composable_state._module_state_mapping
        with refused("weight_orig of", "_module_state_mapping"):
            prune.remove(ours[0], "weight")
        prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)  # which FSDP2 has nothing to do with
    assert _composable_state._module_state_mapping is kept
    params = fully_shard.state(ours)._fsdp_param_group.fsdp_params
    (param,) = (p for p in params if p.sharded_param is ours[0].weight_orig)
    placement = param.__dict__.pop("fsdp_placement")
    before = snapshot(ours[0])
    with refused("weight_orig of", "fsdp_placement"):
        prune.remove(ours[0], "weight")
    assert_unchanged(ours[0], before)
    param.fsdp_placement = placement
    prune.remove(ours[0], "weight")


# ---- FSDP1 and DDP ----


@check
def trained_in_place() -> None:
    def replicated(layers: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(layers)

    for wrap in (replicated, whole_model, by_layer):
        for mask_dtype in (torch.bool, "bits"):
            ours, expected = (
                prune.in_place(model_pruned(), mask_dtype=mask_dtype) for _ in range(2)
            )
            wrapped = wrap(ours)
            trainings = Training(ours if wrapped is None else wrapped), Training(expected)
            for training, layers in zip(trainings, (ours, expected), strict=True):
                prune.in_place(layers, training.optimizer)
            for _ in range(2):
                assert trainings[0].steps() == pytest.approx(trainings[1].steps(), rel=1e-4)
            assert_same_state(ours, expected)
            pruned = expected[0].weight == 0
            assert pruned.sum() == 32
            assert not whole(ours[0].weight)[pruned].any()


@check
def in_place_of_a_dtensor_is_refused() -> None:
    ours = model_pruned()
    whole_model(ours)
    with refused("call in_place before fully_shard"):
        prune.in_place(ours)


def flattened(layers: nn.Module, use_orig_params: bool = True) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    cpu = torch.device("cpu")
    return FullyShardedDataParallel(layers, use_orig_params=use_orig_params, device_id=cpu)


@check
def in_place_of_a_flattened_parameter_is_refused() -> None:
    """By name, whatever came first."""
    said = "weight of Linear", "FullyShardedDataParallel has flattened: use fully_shard"
    for use_orig_params in (True, False):
        ours = model_pruned()
        wrapped = flattened(ours, use_orig_params)
        for layers in (ours, wrapped):
            with refused(*said):
                prune.in_place(layers)
        assert prune.is_pruned(ours)
        Training(wrapped).steps()  # in the ordinary form

        ours = prune.in_place(model_pruned())
        training = Training(flattened(ours, use_orig_params))
        for optimizer in (None, training.optimizer):
            with refused(*said):
                prune.in_place(ours, optimizer)
        with refused(*said):
            training.steps()
        with refused(*said):
            prune.mask_gradients(ours)


class Inputs(nn.Module):
    """Of each process its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.distributed.get_rank())


def masking_under_ddp(optimizer: bool) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor]]:
    """For two steps: gradients that calls of the operator get, those after backward, and masks."""
    from fastprune import masking

    layers = prune.in_place(model_pruned())
    training = Training(nn.parallel.DistributedDataParallel(nn.Sequential(Inputs(), *layers)))
    if optimizer:
        prune.in_place(layers, training.optimizer)
    weights, masks = zip(*((m.weight, m.weight_mask) for m in (layers[0], layers[2])), strict=True)
    called: list[list[Tensor]] = []
    after: list[Tensor] = []

    def counted(ts: list[Tensor], masks: Any) -> None:
        called.append(sorted((t.clone() for t in ts), key=lambda t: -len(t)))  # as the layers
        prune.ops.masked_muls_(ts, masks)

    with mock.patch.object(masking, "masked_muls_", counted):
        for _ in range(2):
            training.model(X).square().mean().backward()
            after += [weight.grad.clone() for weight in weights]
            training.optimizer.step()
            assert not any(weight.grad[~mask].any() for weight, mask in zip(weights, masks))  # noqa: B905
            assert not any(weight[~mask].any() for weight, mask in zip(weights, masks))  # noqa: B905
            training.optimizer.zero_grad()
    return called, after, [*masks, *masks]


def same_on_all(t: Tensor) -> bool:
    others = [torch.empty_like(t) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(others, t)
    return all(torch.equal(other, t) for other in others)


@check
def with_an_optimizer_gradients_are_masked_once_after_the_reduction() -> None:
    called, after, masks = masking_under_ddp(optimizer=True)
    assert [len(ts) for ts in called] == [2, 2]  # a call a step, for both weights
    for grad, got, mask in zip(after, itertools.chain(*called), masks, strict=True):
        assert torch.equal(grad, got)
        assert same_on_all(got)
        assert got[~mask].any()


@check
def without_an_optimizer_gradients_are_masked_before_the_reduction() -> None:
    called, after, masks = masking_under_ddp(optimizer=False)
    # Each as it is accumulated; then both, before and after the step of an optimizer that has not
    # been passed: gradients, and the parameters.
    assert [len(ts) for ts in called] == [1, 1, 2, 2] * 2
    for grads in called:
        assert same_on_all(grads[0]) == (len(grads) == 2)
    for grad, mask in zip(after, masks, strict=True):
        assert same_on_all(grad)
        assert not grad[~mask].any()
        assert grad[mask].any()


@check
def pruned_then_replicated_or_flattened() -> None:
    for wrap in (nn.parallel.DistributedDataParallel, flattened):
        ours, expected = Training(wrap(model_pruned())), Training(model_pruned())
        for _ in range(2):
            assert ours.steps() == pytest.approx(expected.steps(), rel=1e-4)
